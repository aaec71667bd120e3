//! How the end of an actor is told, and that nothing of it is left when the next one starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{
    Address, ChildSpec, Failure, Outcome, Restart, State, Strategy, Supervisor, SupervisorSpec,
};

use crate::common::*;
use crate::{last_failure, state};

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
