//! What one agent's requests leave to the others on the way to one provider.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod mock;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use gateway::{
    BoxError, Protocol,
    body::{MAX_BODIES_TOTAL, MAX_BODY},
};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{
    BodyExt as _,
    channel::{Channel, Sender},
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mock::{House, Provider, before_both, both, house, post};
use tokio::{net::TcpListener, time::timeout};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// For what comes at once, or never.
const PATIENCE: Duration = Duration::from_secs(60);

fn embeddings() -> Request<gateway::Body> {
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

/// Answers of embeddings have megabytes. What of them nobody reads must not take up the room of others on the
/// connection.
async fn unread_answers_leave_room_for(agent: u64) {
    let (provider, house) = before_both(Protocol::Http2).await;
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
    is_answered(&house, 1, &provider).await;
    is_answered(&house, 2, &provider).await;
    let mut open = Vec::new();
    for _ in 0..TAKEN {
        let sender = provider.stream(200, JSON);
        open.push((house.ask_as(1, embeddings()).await, sender));
    }
    is_answered(&house, 2, &provider).await;
    is_answered(&house, 3, &provider).await;
}

type Answers = Arc<Mutex<Vec<Sender<Bytes, BoxError>>>>;

/// A provider that answers each request at once and reads nothing of its body. It answers no further than the
/// test does.
async fn hasty_provider(protocol: Protocol) -> (u16, Answers) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = Answers::default();
    let all = answers.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let all = all.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let (sender, body) = Channel::new(64);
                all.lock().unwrap().push(sender);
                // To drop it would say that no more is wanted.
                std::mem::forget(request.into_body());
                async { Ok::<_, Infallible>(Response::new(body)) }
            });
            tokio::spawn(async move {
                let io = TokioIo::new(stream);
                let _ = match protocol {
                    Protocol::Http1 => http1::Builder::new().serve_connection(io, service).await,
                    Protocol::Http2 => {
                        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                    }
                };
            });
        }
    });
    (port, answers)
}

fn long() -> Request<gateway::Body> {
    let text = format!(r#"{{"model":"small","input":"{}"}}"#, "x".repeat(MAX_BODY - 64));
    post("/v1/embeddings", text)
}

/// What is still to be sent is still held: it has been paid for until then, and is let go with the answer.
async fn unread_bodies_are_counted(protocol: Protocol) {
    let (port, answers) = hasty_provider(protocol).await;
    let house = house(protocol, &both(port));
    let mut open = Vec::new();
    let refused = loop {
        let answer = timeout(PATIENCE, house.ask_as(1, long())).await.unwrap();
        if answer.status() != 200 {
            break answer.status().as_u16();
        }
        open.push(answer);
        assert!(open.len() * MAX_BODY <= MAX_BODIES_TOTAL, "{} bodies are held", open.len());
    };
    assert_eq!((refused, open.len()), (503, 4));
    // One of them is over; the others go on.
    let mut last = open.pop().unwrap();
    open.truncate(1);
    let piece = Frame::data(Bytes::from_static(b"more"));
    answers.lock().unwrap().last_mut().unwrap().try_send(piece).unwrap();
    let more = timeout(PATIENCE, last.body_mut().frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(more.into_data().unwrap(), "more");
    open.clear();
    drop(last);
    let free = async {
        let mut again = Vec::new();
        while again.len() < 4 {
            let answer = house.ask_as(1, long()).await;
            if answer.status() == 200 {
                again.push(answer);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("nobody holds them any more");
}

#[tokio::test]
async fn bodies_that_a_provider_of_http1_does_not_read_are_counted_and_let_go() {
    unread_bodies_are_counted(Protocol::Http1).await;
}

#[tokio::test]
async fn bodies_that_a_provider_of_http2_does_not_read_are_counted_and_let_go() {
    unread_bodies_are_counted(Protocol::Http2).await;
}
