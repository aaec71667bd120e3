//! What becomes of messages whose actor dies, and of what an actor was lent.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{Address, CallError, ChildSpec, Strategy, Supervisor, SupervisorSpec};
use tokio::time::{Instant, timeout};

use crate::common::*;

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
        assert!(begun.elapsed() < secs(300), "it hardly ever died");
        if round % 4 == 0 {
            let _ = address.cast(Msg::Err);
        }
        round += 1;
        let mut socket = tokio::net::TcpStream::connect(at).await.expect("refused");
        let mut byte = [0];
        // A connection that was accepted in the moment of death may be lost by its own task; that is
        // for a tracker above the actor to hold. Not being refused is for the listener.
        let _ = timeout(secs(60), tokio::io::AsyncReadExt::read(&mut socket, &mut byte))
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
