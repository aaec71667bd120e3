//! HTTP/2 peers that grant no window: what waits for them ends, and gives back what it holds.
//!
//! Time is the runtime's own, and streams are in memory, so that hours pass at once and nothing else does.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use policy::{Destination, Host};
use tokio::io::duplex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::bed::{Bed, ENDLESS, LARGE, LARGE_BYTES, LARGE_WHOLE, SHORT, SHORT_BYTES, rest};
use crate::body::{Body, empty};
use crate::caller::Claim;
use crate::conn::Conn;
use crate::intent::Scope;
use crate::limits::WRITE_STALL;
use crate::serve;

/// A client of HTTP/2 at the gateway, and the task that serves it.
async fn client(bed: &Bed) -> (SendRequest<Body>, JoinHandle<()>) {
    client_with(bed, Builder::new(TokioExecutor::new())).await
}

async fn client_with(bed: &Bed, builder: Builder<TokioExecutor>) -> (SendRequest<Body>, JoinHandle<()>) {
    let destination = Destination { host: Host::parse("inference.local").unwrap(), port: 80 };
    let (deps, who) = (Arc::clone(&bed.deps), Arc::clone(&bed.deps.identify));
    let claim = Arc::new(Claim::new(who, bed.proxy, bed.inference));
    let conn = Arc::new(Conn::new(deps, Scope::Fixed { destination, tls: false }, claim));
    let (theirs, ours) = duplex(64 * 1024);
    let served = tokio::spawn(async move { serve::http2(&conn, ours).await });
    let (sender, connection) = builder.handshake(TokioIo::new(theirs)).await.unwrap();
    tokio::spawn(connection);
    (sender, served)
}

/// Window of a client that reads little at a time.
const WINDOW: usize = 16 * 1024;

fn small_window() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW as u32);
    builder
}

async fn get(sender: &mut SendRequest<Body>, path: &str) -> Response<Incoming> {
    let request = Request::get(format!("http://inference.local{path}")).body(empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_ends_with_its_connection() {
    for path in [ENDLESS, LARGE, LARGE_WHOLE] {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let (mut sender, served) = client_with(&bed, small_window()).await;
        let _unread = get(&mut sender, path).await;
        timeout(WRITE_STALL * 2, served).await.unwrap_or_else(|_| panic!("{path} ends")).unwrap();
        // What the answer held is gone as well, since its end was recorded.
        while !bed.journal.lines().iter().any(|line| line.starts_with("end Some(200)")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_slowly_goes_on() {
    let bed = Bed::new(&rest("up.test", 1)).await;
    let (mut sender, served) = client(&bed).await;
    let mut slow = get(&mut sender, ENDLESS).await.into_body();
    for _ in 0..8 {
        tokio::time::sleep(WRITE_STALL / 2).await;
        // As much as a window: reading less grants no room at all (hyper's receivers wait for half of one).
        let mut read = 0;
        while read < 4 * 1024 * 1024 {
            let frame = http_body_util::BodyExt::frame(&mut slow).await.unwrap().unwrap();
            read += frame.data_ref().map_or(0, |data| data.len());
        }
    }
    assert!(!served.is_finished());
}

/// A receiver with a small window takes a large chunk in a time that is many times the bound.
#[tokio::test(start_paused = true)]
async fn a_large_chunk_that_is_taken_slowly_goes_on() {
    let bed = Bed::new(&rest("up.test", 1)).await;
    let (mut sender, _served) = client_with(&bed, small_window()).await;
    let mut slow = get(&mut sender, LARGE).await.into_body();
    let mut read = 0;
    while read < 2 * LARGE_BYTES {
        let before = read;
        while read < 2 * LARGE_BYTES && read < before + WINDOW {
            let frame = http_body_util::BodyExt::frame(&mut slow).await.unwrap();
            let frame = frame.unwrap_or_else(|error| panic!("after {read} bytes: {error}"));
            read += frame.data_ref().map_or(0, |data| data.len());
        }
        tokio::time::sleep(WRITE_STALL / 2).await;
    }
    assert_eq!(read, 2 * LARGE_BYTES);
}

/// An answer also goes on if its receiver takes less than a frame in all that time, whether or not the sender
/// is done with it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_taken_by_the_kilobyte_goes_on() {
    const LITTLE: usize = 1024;
    for path in [LARGE, LARGE_WHOLE, SHORT] {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(LITTLE as u32);
        let (mut sender, _served) = client_with(&bed, builder).await;
        let mut slow = get(&mut sender, path).await.into_body();
        let mut read = 0;
        while read < SHORT_BYTES {
            tokio::time::sleep(WRITE_STALL / 2).await;
            let frame = http_body_util::BodyExt::frame(&mut slow).await.unwrap();
            let frame = frame.unwrap_or_else(|error| panic!("{path}, after {read} bytes: {error}"));
            read += frame.data_ref().map_or(0, |data| data.len());
        }
    }
}

/// An answer that isn't read is noticed even if its sender is done with it.
#[tokio::test(start_paused = true)]
async fn the_end_of_an_answer_that_nobody_reads_ends_its_connection() {
    let bed = Bed::new(&rest("up.test", 1)).await;
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1024);
    let (mut sender, served) = client_with(&bed, builder).await;
    let _unread = get(&mut sender, SHORT).await;
    timeout(WRITE_STALL * 2, served).await.expect("it ends").unwrap();
}
