//! Restarts, what overtakes them, and their limits.

use supervision::{Beyond, ControlError, Intensity, Outcome, StartError, State, Strategy, Supervisor};
use tokio::time::{Instant, timeout};

use crate::common::*;
use crate::state;

// ---- restarts, and what overtakes them ----

#[tokio::test(start_paused = true)]
async fn a_stop_overtakes_a_restart_that_is_due() {
    for strategy in STRATEGIES {
        let world = World::default();
        let tree = Supervisor::start(
            world
                .spec(strategy, &[])
                .child(world.child("a"))
                .child(world.child("b").backoff(steady(3_600_000))),
        )
        .await
        .unwrap();
        world.send("b", Msg::Panic);
        pass(10).await;
        assert_eq!(state(&tree, "b").await, Some(State::Backoff));
        world.trace();
        let asked = Instant::now();
        tree.stop(secs(60)).await;
        assert!(asked.elapsed() < secs(1), "it waited for the backoff");
        pass(7_200_000).await;
        assert!(!world.trace().contains("start"), "a wait outlived its tree");
        world.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_overtakes_a_start_that_hangs() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &["a"]).child(world.child("b").start_deadline(secs(3600)));
    let tree = Supervisor::start(spec).await.unwrap();
    world.starts("b", &[Start::Hang]);
    world.send("b", Msg::Panic);
    pass(100).await;
    assert_eq!(state(&tree, "b").await, Some(State::Starting));
    let asked = Instant::now();
    tree.stop(secs(60)).await;
    assert!(asked.elapsed() < secs(1));
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_child_in_backoff_is_still_in_the_table() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &[]).child(world.child("a").backoff(steady(1000)));
    let tree = Supervisor::start(spec).await.unwrap();
    world.send("a", Msg::Panic);
    pass(100).await;
    let node = tree.tree().await.unwrap().children[0].clone();
    assert_eq!((node.name.as_str(), node.state, node.uptime_ms), ("a", State::Backoff, None));
    let taken = tree.add_child("", world.child("a")).await;
    assert_eq!(taken, Err(ControlError::Duplicate { name: "a".into() }));
    tree.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_removed_in_backoff_stays_dead() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &["b"]).child(world.child("a").backoff(steady(1000)));
    let tree = Supervisor::start(spec).await.unwrap();
    world.send("a", Msg::Panic);
    pass(100).await;
    tree.remove_child("a").await.unwrap();
    world.trace();
    pass(60_000).await;
    assert_eq!(world.trace(), "");
    assert_eq!(state(&tree, "a").await, None);
    tree.stop(secs(1)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn an_existing_name_is_refused_with_data_and_harms_nobody() {
    let world = World::default();
    let tree = world.start(Strategy::OneForAll, &["a", "b"]).await;
    world.trace();
    assert_eq!(tree.add_child("", world.child("a")).await, Err(ControlError::Duplicate { name: "a".into() }));
    pass(1000).await;
    assert_eq!(world.trace(), "");
    let twice = world.spec(Strategy::OneForOne, &["a", "a"]);
    let why = "two children have this name".into();
    assert_eq!(Supervisor::start(twice).await.unwrap_err(), StartError::Invalid { at: "a".into(), why });
    assert_eq!(world.trace(), "", "nothing was started");
    tree.stop(secs(1)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_timed_out_harms_nobody() {
    let world = World::default();
    let tree = world.start(Strategy::RestForOne, &["a", "b"]).await;
    world.starts("c", &[Start::Hang]);
    world.trace();
    let impatient = timeout(millis(100), tree.add_child("", world.child("c"))).await;
    assert!(impatient.is_err());
    pass(10_000).await;
    assert_eq!(world.trace(), "hang c", "a and b were left alone");
    assert_eq!(state(&tree, "c").await, None, "it did not come up, so it is out of the table");
    assert_eq!(tree.add_child("", world.child("c")).await, Ok(()));
    tree.stop(secs(1)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_waits_for_the_second_before_it_starts_the_third() {
    let world = World::default();
    let slow = {
        let world = world.clone();
        // Ready a second after its start, each time.
        move |ready: supervision::Ready| {
            let world = world.clone();
            tokio::spawn(async move {
                tokio::time::sleep(millis(500)).await;
                world.note("ready b");
                ready.ready();
            });
            None
        }
    };
    let spec = world
        .spec(Strategy::RestForOne, &["a"])
        .child(world.child_with_ready("b", slow))
        .child(world.child("c"));
    let tree = Supervisor::start(spec).await.unwrap();
    assert_eq!(world.trace(), "start a, start b, ready b, start c");
    world.send("a", Msg::Panic);
    pass(10_000).await;
    assert_eq!(world.trace(), "drop a, stop c, drop c, stop b, drop b, start a, start b, ready b, start c");
    tree.stop(secs(5)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_failed_restart_of_a_group_keeps_the_table() {
    let world = World::default();
    let tree = world.start(Strategy::OneForAll, &["a", "b", "c"]).await;
    world.starts("b", &[Start::Err, Start::Err]);
    world.send("c", Msg::Panic);
    pass(5).await;
    let names =
        |tree: &supervision::TreeNode| tree.children.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&tree.tree().await.unwrap()), ["a", "b", "c"]);
    pass(1000).await;
    let after = tree.tree().await.unwrap();
    assert_eq!(names(&after), ["a", "b", "c"]);
    assert!(after.children.iter().all(|child| child.state == State::Up));
    tree.stop(secs(5)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn one_hanging_start_does_not_hold_up_the_restart_of_another() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a", "b"]).await;
    world.starts("a", &[Start::Hang]);
    world.trace();
    world.send("a", Msg::Panic);
    pass(50).await;
    world.send("b", Msg::Panic);
    pass(50).await;
    assert_eq!(world.trace(), "drop a, hang a, drop b, start b");
    tree.stop(secs(5)).await;
    world.assert_nothing_left();
}

// ---- limits ----

#[tokio::test(start_paused = true)]
async fn intensity_zero_means_never() {
    let world = World::default();
    let child = world.child("a").intensity(Intensity { restarts: 0, within: secs(1) }).beyond(Beyond::GiveUp);
    let tree = Supervisor::start(world.spec(Strategy::OneForOne, &["b"]).child(child)).await.unwrap();
    world.trace();
    world.send("a", Msg::Panic);
    pass(10_000).await;
    assert_eq!(world.trace(), "drop a");
    assert_eq!(state(&tree, "a").await, Some(State::GaveUp));
    assert_eq!(state(&tree, "b").await, Some(State::Up));
    tree.restart_child("a").await.unwrap();
    assert_eq!(world.trace(), "start a");
    tree.stop(secs(5)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_hand_counts_against_nothing() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &[]).child(world.child("a").intensity(at_most(1)));
    let tree = Supervisor::start(spec).await.unwrap();
    for _ in 0..5 {
        tree.restart_child("a").await.unwrap();
    }
    world.send("a", Msg::Panic);
    pass(100).await;
    assert_eq!(tree.tree().await.unwrap().children[0].restarts, 6);
    world.send("a", Msg::Panic);
    assert!(matches!(tree.outcome().await, Outcome::Escalated { .. }));
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_has_a_limit_of_its_own() {
    let world = World::default();
    let tree = Supervisor::start(world.spec(Strategy::OneForOne, &["a", "b", "c"]).intensity(at_most(2)))
        .await
        .unwrap();
    for name in ["a", "b", "c"] {
        world.send(name, Msg::Panic);
        pass(100).await;
    }
    assert!(matches!(tree.outcome().await, Outcome::Escalated { child, .. } if child == "c"));
    world.assert_nothing_left();
}
