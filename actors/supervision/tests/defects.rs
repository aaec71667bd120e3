//! One test for each trap that ractor 0.16.5 sets and for each defect that was found in other
//! supervision layers built on it. Each fails on the naive way of doing it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on says so and stops"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{
    Address, Beyond, CallError, Chance, ChildSpec, ControlError, Event, Failure, Intensity, Outcome, Restart,
    StartError, State, Strategy, Supervisor, SupervisorSpec,
};
use tokio::time::{Instant, timeout};

async fn last_failure(tree: &Supervisor, path: &str) -> Option<Failure> {
    tree.tree().await.unwrap().find(path).unwrap().last_failure.clone()
}

async fn state(tree: &Supervisor, path: &str) -> Option<State> {
    tree.tree().await.unwrap().find(path).map(|node| node.state)
}

// ---- how ractor tells of an end ----

#[tokio::test(start_paused = true)]
async fn a_panic_an_error_and_a_kill_are_failures_and_a_stop_is_not() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &[]).child(world.child("a").restart(Restart::Transient));
    let tree = Supervisor::start(spec).await.unwrap();
    let failed = |message: &str| Some(Failure::Failed { message: message.into() });
    for (msg, failure) in [
        (Msg::Panic, failed("told to panic")),
        (Msg::Err, failed("told to fail")),
        (Msg::Kill, Some(Failure::Killed)),
    ] {
        world.send("a", msg);
        pass(100).await;
        assert_eq!(last_failure(&tree, "a").await, failure);
        assert_eq!(state(&tree, "a").await, Some(State::Up));
    }
    world.send("a", Msg::StopSelf);
    pass(100).await;
    assert_eq!(state(&tree, "a").await, Some(State::Finished));
    tree.stop(secs(1)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_pre_start_that_panics_before_its_future_exists_is_a_failed_start() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a"]).await;
    world.starts("a", &[Start::PanicEarly, Start::PanicInMake]);
    world.trace();
    world.send("a", Msg::Panic);
    pass(15).await;
    assert_eq!(
        last_failure(&tree, "a").await,
        Some(Failure::Start { message: "pre_start panics early".into() })
    );
    pass(100).await;
    assert_eq!(world.trace(), "drop a, fail a, fail a, start a");
    tree.stop(secs(1)).await;
}

#[test]
fn panics_unwind() {
    const { assert!(cfg!(panic = "unwind"), "the crate does not compile otherwise") };
}

// ---- old state and new start ----

/// Panics while it is dropped.
struct Grenade;
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the state panics in its drop")
    }
}

impl Actor for Grenade {
    type Msg = Msg;
    type State = Bomb;
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<Bomb, ActorProcessingErr> {
        Ok(Bomb)
    }
    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, _: &mut Bomb) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::StopSelf => me.stop(None),
            Msg::Kill => me.kill(),
            _ => return Err("told to fail".into()),
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_panics_in_its_drop_harms_nobody() {
    let (world, address) = (World::default(), Address::new("bomb"));
    let bomb = ChildSpec::actor("bomb", address.clone(), || (Grenade, ())).backoff(steady(10));
    let spec = world.spec(Strategy::OneForOne, &["a"]).child(bomb);
    let tree = Supervisor::start(spec).await.unwrap();
    for msg in [Msg::StopSelf, Msg::Kill, Msg::Err] {
        address.cast(msg).unwrap();
        pass(100).await;
    }
    assert_eq!(tree.tree().await.unwrap().find("bomb").unwrap().restarts, 3);
    assert_eq!(tree.tree().await.unwrap().find("a").unwrap().restarts, 0);
    assert_eq!(tree.stop(secs(1)).await, Outcome::Stopped);
    world.assert_nothing_left();
}

/// Owns something of which there is one, and takes its time to let it go.
struct Exclusive;

struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        // Lets others run on this very thread's turn, or the overlap would hide behind its queue.
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(1)));
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Actor for Exclusive {
    type Msg = Msg;
    type State = Held;
    type Arguments = (Arc<AtomicBool>, Arc<AtomicUsize>);
    async fn pre_start(
        &self,
        _: ActorRef<Msg>,
        (one, overlaps): Self::Arguments,
    ) -> Result<Held, ActorProcessingErr> {
        if one.swap(true, Ordering::SeqCst) {
            overlaps.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Held(one))
    }
    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, _: &mut Held) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::StopSelf => me.stop(None),
            Msg::Kill => me.kill(),
            Msg::Ping(reply) => drop(reply.send(0)),
            _ => return Err("told to fail".into()),
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_state_is_dropped_before_the_new_start() {
    let (one, overlaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = Address::new("one");
    let make = {
        let overlaps = overlaps.clone();
        move || (Exclusive, (one.clone(), overlaps.clone()))
    };
    let child = ChildSpec::actor("one", address.clone(), make).backoff(steady(0)).intensity(at_most(1000));
    let tree =
        Supervisor::start(SupervisorSpec::new("root", Strategy::OneForOne).child(child)).await.unwrap();
    for round in 0..150_u64 {
        let _ =
            address.cast([Msg::StopSelf, Msg::Kill, Msg::Err].into_iter().nth(round as usize % 3).unwrap());
        while tree.tree().await.unwrap().children[0].restarts <= round {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        address.call(Msg::Ping, secs(5)).await.unwrap();
    }
    assert_eq!(overlaps.load(Ordering::SeqCst), 0);
    assert_eq!(tree.stop(secs(5)).await, Outcome::Stopped);
}

// ---- mailboxes and addresses ----

#[tokio::test(start_paused = true)]
async fn a_cast_to_a_dead_actor_gives_the_message_back() {
    let world = World::default();
    let address = world.address("a");
    assert!(matches!(address.cast(Msg::Nothing).unwrap_err().message, Msg::Nothing), "never started");
    let tree = world.start(Strategy::OneForOne, &["a"]).await;
    world.send("a", Msg::Panic);
    pass(5).await;
    let undelivered = address.cast(Msg::StopSelf).unwrap_err();
    assert!(matches!(undelivered.message, Msg::StopSelf));
    assert_eq!(undelivered.to_string(), "`a` is down");
    pass(10).await;
    address.cast(Msg::Nothing).unwrap();
    tree.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_next_incarnation() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a"]).await;
    let address = world.address("a");
    assert_eq!(address.call(Msg::Ping, secs(1)).await, Ok(1));
    world.send("a", Msg::Panic);
    pass(5).await;
    assert!(!address.is_up());
    let asked = Instant::now();
    assert_eq!(address.call(Msg::Ping, secs(1)).await, Ok(1), "a new actor: it starts to count anew");
    assert_eq!(asked.elapsed(), millis(5), "as long as the rest of the backoff");
    tree.stop(secs(1)).await;
    let waited = secs(1);
    assert_eq!(address.call(Msg::Ping, waited).await, Err(CallError::Down { name: "a".into(), waited }));
    assert_eq!(address.wait_up(waited).await, Err(CallError::Down { name: "a".into(), waited }));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_mailbox_of_a_dying_actor_fails_at_once() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a"]).await;
    let address = world.address("a");
    world.send("a", Msg::Panic);
    let asked = Instant::now();
    assert_eq!(address.call(Msg::Ping, secs(60)).await, Err(CallError::Lost { name: "a".into() }));
    assert_eq!(asked.elapsed(), Duration::ZERO);
    pass(100).await;
    assert_eq!(address.call(Msg::Drop, secs(60)).await, Err(CallError::Lost { name: "a".into() }));
    let waited = secs(2);
    assert_eq!(
        address.call(Msg::Swallow, waited).await,
        Err(CallError::TimedOut { name: "a".into(), waited })
    );
    assert_eq!(address.call(Msg::Ping, secs(1)).await, Ok(3), "a caller that timed out harms nobody");
    tree.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn names_are_nobodys_but_their_supervisors() {
    let (one, other) = (World::default(), World::default());
    let first = one.start(Strategy::OneForOne, &["a", "b"]).await;
    let second = other.start(Strategy::OneForOne, &["a", "b"]).await;
    one.send("a", Msg::Panic);
    other.send("a", Msg::Panic);
    pass(100).await;
    assert_eq!(one.trace(), "start a, start b, drop a, start a");
    assert_eq!(other.trace(), "start a, start b, drop a, start a");
    first.stop(secs(1)).await;
    second.stop(secs(1)).await;
}

/// Does nothing, slowly.
struct Sluggish;

impl Actor for Sluggish {
    type Msg = supervision::Ticket;
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        _ticket: Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        tokio::time::sleep(secs(1)).await;
        me.kill();
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_is_bounded_by_its_senders_and_a_death_empties_it() {
    let (address, bound) = (Address::new("slow"), supervision::Bound::new(3));
    let child = ChildSpec::actor("slow", address.clone(), || (Sluggish, ())).backoff(steady(10));
    let tree =
        Supervisor::start(SupervisorSpec::new("root", Strategy::OneForOne).child(child)).await.unwrap();
    let mut sent = 0;
    while let Some(ticket) = bound.ticket() {
        address.cast(ticket).unwrap();
        sent += 1;
    }
    assert_eq!((sent, bound.depth()), (3, 3));
    pass(1100).await;
    assert_eq!(bound.depth(), 0, "those that were lost with the actor came back too");
    tree.stop(secs(1)).await;
}

/// Accepts on a listener that it was lent.
struct Acceptor;

impl Actor for Acceptor {
    type Msg = Msg;
    type State = tokio::task::AbortHandle;
    type Arguments = std::net::TcpListener;
    async fn pre_start(
        &self,
        _: ActorRef<Msg>,
        listener: std::net::TcpListener,
    ) -> Result<Self::State, ActorProcessingErr> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accepting = async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::io::AsyncWriteExt::write_all(&mut socket, b"!").await.ok();
            }
        };
        Ok(tokio::spawn(accepting).abort_handle())
    }
    async fn handle(
        &self,
        _: ActorRef<Msg>,
        _: Msg,
        task: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        task.abort();
        Err("told to fail".into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_lives_above_its_actor_refuses_nobody() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let address = Address::new("acceptor");
    let make = move || (Acceptor, listener.try_clone().unwrap());
    let child =
        ChildSpec::actor("acceptor", address.clone(), make).backoff(steady(1)).intensity(at_most(1000));
    let tree =
        Supervisor::start(SupervisorSpec::new("root", Strategy::OneForOne).child(child)).await.unwrap();
    let (begun, mut round) = (std::time::Instant::now(), 0);
    // A cast to one that is down just then has no effect: on a busy machine many haven't.
    while round < 100 || tree.tree().await.unwrap().children[0].restarts <= 5 {
        assert!(begun.elapsed() < secs(60), "it hardly ever died");
        if round % 4 == 0 {
            let _ = address.cast(Msg::Err);
        }
        round += 1;
        let mut socket = tokio::net::TcpStream::connect(at).await.expect("refused");
        let mut byte = [0];
        // A connection that was accepted in the moment of death may be lost by its own task; that is
        // for a tracker above the actor to hold. Not being refused is for the listener.
        let _ = timeout(secs(5), tokio::io::AsyncReadExt::read(&mut socket, &mut byte))
            .await
            .expect("left waiting");
    }
    tree.stop(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_to_a_child_that_was_asked_to_stop() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a"]).await;
    let address = world.address("a");
    // Busy: it will not see the stop, and its mailbox would take anything.
    world.send("a", Msg::Hang);
    pass(1).await;
    let (_, undelivered) = tokio::join!(tree.stop(secs(10)), async {
        pass(10).await;
        address.cast(Msg::Nothing)
    });
    assert!(undelivered.is_err());
}

// ---- a supervisor's own death ----

#[tokio::test(start_paused = true)]
async fn a_killed_link_leaves_nobody_running_and_escalates() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a", "b", "c"]).await;
    let mut reports = tree.reports();
    let asked = Instant::now();
    world.send("b", Msg::KillParent);
    let outcome = timeout(secs(60), tree.outcome()).await.unwrap();
    assert_eq!(outcome, Outcome::Escalated { child: "its link".into(), failure: Failure::Killed });
    assert!(asked.elapsed() < millis(100), "it waited for events that cannot come");
    while let Ok(report) = reports.try_recv() {
        assert!(!matches!(report.event, Event::Stuck | Event::Forced), "{report:?}");
    }
    world.assert_nothing_left();
    assert_eq!(tree.tree().await, Err(ControlError::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_supervisor_itself_stops_the_children_in_reverse() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &["a", "b", "c"]).chance(Chance::new(|| panic!("no chance")));
    let tree = Supervisor::start(spec).await.unwrap();
    world.trace();
    world.send("b", Msg::Panic);
    let outcome = timeout(secs(60), tree.outcome()).await.unwrap();
    let failure = Failure::Failed { message: "no chance".into() };
    assert_eq!(outcome, Outcome::Escalated { child: "itself".into(), failure });
    assert_eq!(world.trace(), "drop b, stop c, drop c, stop a, drop a");
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn escalation_stops_the_others_in_reverse_first() {
    let world = World::default();
    let spec = world
        .spec(Strategy::OneForOne, &["a", "b"])
        .child(world.child("c").intensity(at_most(0)))
        .child(world.child("d"));
    let tree = Supervisor::start(spec).await.unwrap();
    world.trace();
    world.send("c", Msg::Panic);
    let failure = Failure::Failed { message: "told to panic".into() };
    assert_eq!(tree.outcome().await, Outcome::Escalated { child: "c".into(), failure });
    assert_eq!(world.trace(), "drop c, stop d, drop d, stop b, drop b, stop a, drop a");
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_takes_the_tree_with_it() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a", "b"]).await;
    let clone = tree.clone();
    drop(tree);
    pass(1000).await;
    assert_eq!(world.alive(), 2);
    drop(clone);
    pass(1000).await;
    assert_eq!(world.trace(), "start a, start b, stop b, drop b, stop a, drop a");
    world.assert_nothing_left();
}

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

// ---- readiness ----

#[tokio::test(start_paused = true)]
async fn dropping_the_readiness_token_fails_the_start() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &["a"]).child(world.child_with_ready("b", |_| None));
    let error = Supervisor::start(spec).await.unwrap_err();
    assert_eq!(error, StartError::Child { child: "b".into(), failure: Failure::NotReady });
    assert_eq!(world.trace(), "start a, start b, drop b, stop a, drop a");
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_kept_too_long_fails_the_start() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &["a"]).child(world.child_with_ready("b", Some));
    let error = Supervisor::start(spec).await.unwrap_err();
    assert_eq!(
        error,
        StartError::Child { child: "b".into(), failure: Failure::StartTimedOut { deadline_ms: 1000 } }
    );
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_why() {
    let world = World::default();
    let refusing = |ready: supervision::Ready| {
        ready.refuse("port 80 is taken");
        None
    };
    let error =
        Supervisor::start(world.spec(Strategy::OneForOne, &[]).child(world.child_with_ready("b", refusing)))
            .await
            .unwrap_err();
    assert_eq!(error.to_string(), "`b` did not start: could not start: port 80 is taken");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_the_first_time_stops_what_had_started() {
    for start in [Start::Err, Start::Panic, Start::PanicEarly, Start::PanicInMake, Start::Hang] {
        let world = World::default();
        world.starts("c", &[start]);
        let error =
            Supervisor::start(world.spec(Strategy::OneForOne, &["a", "b", "c", "d"])).await.unwrap_err();
        assert!(matches!(error, StartError::Child { child, .. } if child == "c"));
        let trace = world.trace();
        assert!(trace.ends_with("stop b, drop b, stop a, drop a"), "{trace}");
        assert!(!trace.contains("start d"), "{trace}");
        world.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn giving_up_to_wait_for_a_start_stops_the_tree() {
    let world = World::default();
    world.starts("b", &[Start::Hang]);
    let spec = world.spec(Strategy::OneForOne, &["a", "b"]);
    assert!(timeout(millis(100), Supervisor::start(spec)).await.is_err());
    pass(5_000).await;
    assert_eq!(world.trace(), "start a, hang b, stop a, drop a");
    world.assert_nothing_left();
}

// ---- stops ----

#[tokio::test(start_paused = true)]
async fn a_child_that_will_not_stop_is_killed_at_its_deadline() {
    let world = World::default();
    world.stops("b", Stop::Hang);
    let tree = world.start(Strategy::OneForOne, &["a", "b", "c"]).await;
    let mut reports = tree.reports();
    world.trace();
    let asked = Instant::now();
    tree.stop(secs(60)).await;
    assert_eq!(world.trace(), "stop c, drop c, stop b, drop b, stop a, drop a");
    assert!((millis(1000)..millis(1010)).contains(&asked.elapsed()));
    let mut events = Vec::new();
    while let Ok(report) = reports.try_recv() {
        events.push((report.path, report.event));
    }
    let stopped = Event::Stopped { reason: None };
    assert_eq!(events, [("c".into(), stopped.clone()), ("b".into(), Event::Forced), ("a".into(), stopped)]);
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_whole_stop_kills_what_is_left() {
    let world = World::default();
    let spec = ["a", "b", "c"].into_iter().fold(world.spec(Strategy::OneForOne, &[]), |spec, name| {
        world.stops(name, Stop::Hang);
        spec.child(world.child(name).stop_deadline(secs(3600)))
    });
    let tree = Supervisor::start(spec).await.unwrap();
    let asked = Instant::now();
    assert_eq!(tree.stop(secs(2)).await, Outcome::Stopped);
    assert!(asked.elapsed() < millis(2100));
    world.assert_nothing_left();
}

/// Takes for ever to drop its state.
struct Clinging;

struct Clung(Arc<std::sync::Barrier>);

impl Drop for Clung {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| self.0.wait());
    }
}

impl Actor for Clinging {
    type Msg = ();
    type State = Clung;
    type Arguments = Arc<std::sync::Barrier>;
    async fn pre_start(&self, _: ActorRef<()>, gate: Self::Arguments) -> Result<Clung, ActorProcessingErr> {
        Ok(Clung(gate))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_state_that_will_not_drop_is_left_behind_and_told_of() {
    let (address, gate) = (Address::new("clinging"), Arc::new(std::sync::Barrier::new(2)));
    let make = {
        let gate = gate.clone();
        move || (Clinging, gate.clone())
    };
    let child = ChildSpec::actor("clinging", address, make);
    let tree =
        Supervisor::start(SupervisorSpec::new("root", Strategy::OneForOne).child(child)).await.unwrap();
    let mut reports = tree.reports();
    let outcome = timeout(secs(30), tree.stop(secs(20))).await.expect("the tree waits for ever");
    let told = reports.recv().await.unwrap().event;
    gate.wait();
    assert_eq!((outcome, told), (Outcome::Stopped, Event::Stuck));
}

/// Blocks its thread, which no kill can end.
struct Blocker;

impl Actor for Blocker {
    type Msg = (tokio::sync::oneshot::Sender<()>, Arc<std::sync::Barrier>);
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        (entered, gate): Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let _ = entered.send(());
        gate.wait();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_child_that_blocks_its_thread_is_left_behind_and_told_of() {
    let (address, gate) = (Address::new("blocker"), Arc::new(std::sync::Barrier::new(2)));
    let child = ChildSpec::actor("blocker", address.clone(), || (Blocker, ())).stop_deadline(millis(50));
    let tree =
        Supervisor::start(SupervisorSpec::new("root", Strategy::OneForOne).child(child)).await.unwrap();
    let mut reports = tree.reports();
    let (entered, inside) = tokio::sync::oneshot::channel();
    address.cast((entered, gate.clone())).unwrap();
    inside.await.unwrap();
    let outcome = timeout(secs(30), tree.stop(secs(20))).await.expect("the tree waits for ever");
    let told = reports.recv().await.unwrap().event;
    gate.wait();
    assert_eq!((outcome, told), (Outcome::Stopped, Event::Stuck));
}
