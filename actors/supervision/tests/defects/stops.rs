//! Stops, and a supervisor's own death: nobody is left running.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{
    Address, Chance, ChildSpec, ControlError, Event, Failure, Outcome, Strategy, Supervisor, SupervisorSpec,
};
use tokio::time::{Instant, timeout};

use crate::common::*;

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
