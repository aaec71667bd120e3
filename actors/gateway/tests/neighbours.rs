//! What one agent's requests leave to the others on the way to one provider.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod mock;

use std::time::Duration;

use bytes::Bytes;
use gateway::Protocol;
use http_body::Frame;
use http_body_util::BodyExt as _;
use mock::{House, Provider, both, house, post};
use tokio::time::timeout;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// For what comes at once, or never.
const PATIENCE: Duration = Duration::from_secs(20);

fn embeddings() -> http::Request<gateway::Body> {
    post("/v1/embeddings", r#"{"model":"small","input":"x"}"#)
}

async fn is_answered(house: &House, agent: u64, provider: &Provider) {
    provider.whole(200, JSON, r#"{"data":[]}"#).await;
    let asking = async {
        let answer = house.ask_as(agent, embeddings()).await;
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
    };
    let answered = timeout(PATIENCE, asking).await.expect("another agent's requests stand in the way");
    assert_eq!(answered, (200, Bytes::from_static(br#"{"data":[]}"#)));
}

/// Answers of embeddings have megabytes. What of them nobody reads must not take up the room of others on the connection.
async fn unread_answers_leave_room_for(agent: u64) {
    let provider = Provider::start().await;
    let house = house(Protocol::Http2, &both(provider.port));
    is_answered(&house, agent, &provider).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        let mut sender = provider.stream(200, JSON);
        unread.push(house.ask_as(1, embeddings()).await);
        // Until nothing more fits.
        let piece = || Frame::data(Bytes::from(vec![b' '; 16 * 1024]));
        while timeout(Duration::from_millis(100), sender.send(piece())).await.is_ok() {}
    }
    is_answered(&house, agent, &provider).await;
}

#[tokio::test]
async fn answers_that_one_agent_does_not_read_hold_up_nobody_elses() {
    unread_answers_leave_room_for(2).await;
}

#[tokio::test]
async fn answers_that_an_agent_does_not_read_hold_up_no_other_of_its_own() {
    unread_answers_leave_room_for(1).await;
}

#[tokio::test]
async fn one_agent_does_not_use_up_the_streams_that_a_provider_takes() {
    const TAKEN: u32 = 10;
    let provider = Provider::taking(TAKEN).await;
    let house = house(Protocol::Http2, &both(provider.port));
    for agent in [1, 2] {
        is_answered(&house, agent, &provider).await;
        // Its connection is kept by a task.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut open = Vec::new();
    for _ in 0..TAKEN {
        let sender = provider.stream(200, JSON);
        open.push((house.ask_as(1, embeddings()).await, sender));
    }
    is_answered(&house, 2, &provider).await;
    is_answered(&house, 3, &provider).await;
}
