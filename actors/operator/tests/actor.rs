//! The row of the table for the operator: open control connections are lost, and nothing else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod house;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use house::{House, unserved};
use operator::{
    Owner,
    actor::{Arguments, Msg, OperatorActor},
};
use ractor::{Actor, ActorRef};

async fn start(house: &House) -> (ActorRef<Msg>, tokio::task::JoinHandle<()>) {
    let arguments = Arguments {
        listener: Arc::new(house.listener.try_clone().unwrap()),
        control: house.control.clone(),
        owner: Owner::this_process(),
    };
    Actor::spawn(None, OperatorActor, arguments).await.unwrap()
}

#[tokio::test]
async fn a_crash_loses_open_connections_and_refuses_none() {
    let house = unserved();
    let mut worst = Duration::ZERO;
    for round in 0..20 {
        let (actor, ended) = start(&house).await;
        let mut events = house.client.events().await.unwrap();
        assert!(house.client.status().await.is_ok());
        actor.cast(Msg::InjectPanic).unwrap();
        let _ = ended.await;
        let end = tokio::time::timeout(Duration::from_secs(60), events.next()).await.expect("in time");
        assert!(end.is_none_or(|e| e.is_err()), "round {round}: the stream goes on");
        // Asked while nobody serves: it waits in the listen queue.
        let client = house.client.clone();
        let began = Instant::now();
        let asking = tokio::spawn(async move { client.status().await });
        tokio::task::yield_now().await;
        let (actor, ended) = start(&house).await;
        assert!(asking.await.unwrap().is_ok(), "round {round}: refused");
        worst = worst.max(began.elapsed());
        actor.stop(None);
        let _ = ended.await;
    }
    eprintln!("worst of 20 restarts, with an answer: {worst:?}");
}

#[tokio::test]
async fn it_answers_while_it_serves() {
    let house = unserved();
    let (actor, ended) = start(&house).await;
    assert!(ractor::call_t!(actor, |reply| Msg::Ping { reply }, 60_000).is_ok());
    actor.stop(None);
    let _ = ended.await;
}
