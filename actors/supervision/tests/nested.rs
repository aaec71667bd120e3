//! Supervisors as children, commands by path, and the tree as data.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so and stops")]

mod common;

use common::*;
use supervision::{
    ChildSpec, ControlError, Event, Failure, NodeKind, Outcome, Restart, StartError, State, StopOrder,
    Strategy, Supervisor, SupervisorSpec, TreeNode,
};
use tokio::time::Instant;

/// root: a, sub (b, c), d.
fn nested(world: &World, ties: Strategy, inner: Strategy) -> SupervisorSpec {
    let sub = SupervisorSpec::new("sub", inner)
        .child(world.child("b").intensity(at_most(1)))
        .child(world.child("c"));
    world.spec(ties, &["a"]).child(ChildSpec::supervisor(sub).backoff(steady(20))).child(world.child("d"))
}

#[tokio::test(start_paused = true)]
async fn a_nested_supervisor_starts_and_stops_in_its_turn() {
    let world = World::default();
    let tree = Supervisor::start(nested(&world, Strategy::OneForOne, Strategy::OneForOne)).await.unwrap();
    assert_eq!(world.trace(), "start a, start b, start c, start d");
    tree.stop(secs(10)).await;
    assert_eq!(world.trace(), "stop d, drop d, stop c, drop c, stop b, drop b, stop a, drop a");
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn what_is_beyond_the_limit_below_is_one_failure_above() {
    let world = World::default();
    let tree = Supervisor::start(nested(&world, Strategy::RestForOne, Strategy::OneForOne)).await.unwrap();
    world.trace();
    world.send("b", Msg::Panic);
    pass(100).await;
    assert_eq!(world.trace(), "drop b, start b");
    world.send("b", Msg::Panic);
    pass(100).await;
    assert_eq!(
        world.trace(),
        "drop b, stop c, drop c, stop d, drop d, start b, start c, start d",
        "the nested supervisor stops its own first, then those after it go, then all come up"
    );
    let sub = tree.tree().await.unwrap().find("sub").unwrap().clone();
    assert_eq!((sub.state, sub.restarts), (State::Up, 1));
    let inner = Failure::Failed { message: "told to panic".into() };
    assert_eq!(sub.last_failure, Some(Failure::Escalated { child: "b".into(), failure: Box::new(inner) }));
    tree.stop(secs(10)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_below_names_the_child() {
    let world = World::default();
    world.starts("c", &[Start::Err]);
    let error =
        Supervisor::start(nested(&world, Strategy::OneForOne, Strategy::OneForOne)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`sub` did not start: could not start: `c`: could not start: pre_start refuses"
    );
    assert!(matches!(error, StartError::Child { .. }));
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn commands_find_their_way_by_path() {
    let world = World::default();
    let tree = Supervisor::start(nested(&world, Strategy::OneForOne, Strategy::OneForOne)).await.unwrap();
    world.trace();
    tree.add_child("sub", world.child("e")).await.unwrap();
    tree.restart_child("sub/b").await.unwrap();
    tree.remove_child("sub/c").await.unwrap();
    tree.add_child("", world.child("f")).await.unwrap();
    assert_eq!(world.trace(), "start e, stop b, drop b, start b, stop c, drop c, start f");
    let unknown = |path: &str| Err(ControlError::Unknown { path: path.into() });
    assert_eq!(tree.remove_child("sub/nobody").await, unknown("sub/nobody"));
    assert_eq!(tree.remove_child("nobody/b").await, unknown("nobody/b"));
    assert_eq!(tree.remove_child("").await, unknown(""));
    assert_eq!(
        tree.add_child("a", world.child("g")).await,
        Err(ControlError::NotASupervisor { path: "a".into() })
    );
    assert!(matches!(tree.add_child("", world.child("no/slash")).await, Err(ControlError::Invalid { .. })));
    tree.restart_child("sub").await.unwrap();
    assert_eq!(
        world.trace(),
        "stop e, drop e, stop b, drop b, start b, start c",
        "restarted, it has its declared children again, as in OTP"
    );
    tree.stop(secs(10)).await;
    assert_eq!(tree.restart_child("a").await, Err(ControlError::Ended));
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_come_up_is_not_added() {
    let world = World::default();
    let tree = world.start(Strategy::OneForAll, &["a"]).await;
    world.starts("b", &[Start::Err]);
    world.trace();
    let failure = Failure::Start { message: "pre_start refuses".into() };
    assert_eq!(
        tree.add_child("", world.child("b")).await,
        Err(ControlError::Start { child: "b".into(), failure })
    );
    assert_eq!(world.trace(), "fail b");
    assert_eq!(tree.tree().await.unwrap().children.len(), 1);
    tree.stop(secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn commands_are_answered_whatever_overtakes_them() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a"]).await;
    world.stops("a", Stop::Slow(millis(500)));
    let (restart, remove, again) =
        tokio::join!(tree.restart_child("a"), tree.remove_child("a"), tree.remove_child("a"));
    assert_eq!(restart, Err(ControlError::Overtaken { child: "a".into() }));
    assert_eq!((remove, again), (Ok(()), Ok(())));
    world.starts("b", &[Start::Hang]);
    let (add, outcome) = tokio::join!(tree.add_child("", world.child("b")), async {
        pass(100).await;
        tree.stop(secs(10)).await
    });
    assert_eq!((add, outcome), (Err(ControlError::Overtaken { child: "b".into() }), Outcome::Stopped));
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn children_may_be_stopped_together() {
    let world = World::default();
    let spec = ["a", "b", "c"].into_iter().fold(
        world.spec(Strategy::OneForOne, &[]).stop_order(StopOrder::Together),
        |spec, name| {
            world.stops(name, Stop::Slow(millis(900)));
            spec.child(world.child(name))
        },
    );
    let tree = Supervisor::start(spec).await.unwrap();
    let asked = Instant::now();
    tree.stop(secs(10)).await;
    assert!(asked.elapsed() < secs(1));
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn the_tree_is_data() {
    let world = World::default();
    let tree = Supervisor::start(nested(&world, Strategy::OneForOne, Strategy::OneForAll)).await.unwrap();
    pass(5000).await;
    world.send("b", Msg::Panic);
    pass(1015).await;
    let root = tree.tree().await.unwrap();
    assert_eq!(root.find("").unwrap().name, "root");
    assert_eq!(root.find("sub").unwrap().kind, NodeKind::Supervisor(Strategy::OneForAll));
    let b = root.find("sub/b").unwrap();
    assert_eq!(b.kind, NodeKind::Actor(Restart::Permanent));
    assert_eq!((b.state, b.restarts), (State::Up, 1));
    assert!((1000..=1010).contains(&b.uptime_ms.unwrap()), "{b:?}");
    assert_eq!(root.find("a").unwrap().uptime_ms, Some(6015));
    let json = serde_json::to_string(&root).unwrap();
    assert_eq!(serde_json::from_str::<TreeNode>(&json).unwrap(), root);
    tree.stop(secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn everything_that_happens_is_told_as_data() {
    let world = World::default();
    let (listener, mut reports) = tokio::sync::broadcast::channel(64);
    let spec = nested(&world, Strategy::OneForOne, Strategy::OneForOne).report_to(listener);
    let tree = Supervisor::start(spec).await.unwrap();
    world.send("b", Msg::Panic);
    pass(100).await;
    let mut told = Vec::new();
    while let Ok(report) = reports.try_recv() {
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(serde_json::from_value::<supervision::Report>(json.clone()).unwrap(), report);
        told.push(format!("{} {}", report.path, json["event"].as_str().unwrap()));
        if let Event::Restarting { attempt, after_ms } = report.event {
            assert_eq!((attempt, after_ms), (1, 10));
        }
    }
    assert_eq!(
        told,
        [
            "a started",
            "sub/b started",
            "sub/c started",
            "sub started",
            "d started",
            "sub/b failed",
            "sub/b restarting",
            "sub/b started",
        ]
    );
    tree.stop(secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn not_even_a_task_is_left() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (world, before) = (World::default(), tasks());
    let tree = Supervisor::start(nested(&world, Strategy::OneForOne, Strategy::OneForOne)).await.unwrap();
    world.send("b", Msg::Panic);
    world.starts("c", &[Start::Hang, Start::Err, Start::PanicInMake]);
    world.send("c", Msg::Kill);
    pass(5_000).await;
    // One is in backoff, and one hangs, when the stop comes.
    world.starts("d", &[Start::Hang]);
    world.send("a", Msg::Panic);
    world.send("d", Msg::Panic);
    pass(15).await;
    assert!(tasks() > before);
    tree.stop(secs(10)).await;
    drop(tree);
    pass(1).await;
    assert_eq!(tasks(), before);
    world.assert_nothing_left();
}
