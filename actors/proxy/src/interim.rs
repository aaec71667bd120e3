//! Interim answers (1xx, RFC 9110 section 15.2) that a destination sends before its answer: early hints (RFC
//! 8297) above all.
//!
//! "A proxy MUST forward 1xx responses", and hyper's server can't send them. So they are written to the
//! HTTP/1.1 connection past hyper, at moments when none of hyper's own output is half written
//! ([`super::strict::io`] knows), and only while their request waits for its answer: later ones are dropped,
//! never written into another answer. Not passed on: 100, which is ours to send; 101, which is an answer; and
//! any for a client of HTTP/1.0 (which would take it for its answer) or HTTP/2, or on a connection whose
//! requests go to several destinations.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use tokio::sync::Notify;

use crate::hop;
use crate::limits::{MAX_INTERIM, MAX_INTERIM_BYTES};

/// The interim answers to be written on one connection of an agent. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interim(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Whether anything waits to be written. Saves writers from taking the lock to see that nothing does.
    waits: AtomicBool,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the current request.
    turn: u64,
    /// Whether that request still waits for its answer.
    is_open: bool,
    /// Number of interim answers that have come for it.
    count: usize,
    waiting: BytesMut,
}

impl Interim {
    /// Passes on the interim answers to a request until the returned value is dropped.
    pub(crate) fn expect(&self) -> Expected {
        let mut state = self.0.lock();
        state.turn += 1;
        state.is_open = true;
        state.count = 0;
        Expected { shared: Arc::clone(&self.0), turn: state.turn }
    }

    /// Returns the bytes to be written now, if any. The caller must write all of them before anything else.
    pub(crate) fn take(&self) -> Option<BytesMut> {
        if !self.0.waits.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.0.lock();
        self.0.waits.store(false, Ordering::Release);
        Some(state.waiting.split()).filter(|bytes| !bytes.is_empty())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an interim answer to request number `turn`, if that still waits for its answer.
    fn push(&self, turn: u64, status: StatusCode, headers: &HeaderMap) {
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS)
            || !status.is_informational()
        {
            return;
        }
        let mut state = self.lock();
        if !state.is_open || state.turn != turn || state.count >= MAX_INTERIM {
            return;
        }
        state.count += 1;
        let head = head(status, headers);
        if state.waiting.len() + head.len() > MAX_INTERIM_BYTES {
            return;
        }
        state.waiting.extend_from_slice(&head);
        self.waits.store(true, Ordering::Release);
        drop(state);
        self.arrived.notify_one();
    }
}

/// Returns the bytes of an interim answer: without hop-by-hop fields, which belong to the destination's
/// connection, and without a length, since it has no body.
fn head(status: StatusCode, headers: &HeaderMap) -> BytesMut {
    let mut headers = headers.clone();
    hop::strip(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    let mut head = BytesMut::new();
    head.put_slice(
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("")).as_bytes(),
    );
    for (name, value) in &headers {
        for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.put_slice(piece);
        }
    }
    head.put_slice(b"\r\n");
    head
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Expected {
    shared: Arc<Shared>,
    turn: u64,
}

impl Expected {
    /// Has hyper report the interim answers to this request.
    pub(crate) fn listen<B>(&self, request: &mut Request<B>) {
        let (shared, turn) = (Arc::clone(&self.shared), self.turn);
        hyper::ext::on_informational(request, move |interim| {
            shared.push(turn, interim.status(), interim.headers())
        });
    }

    /// Resolves when an interim answer has come: that wakes the connection's task, which then writes it.
    pub(crate) async fn arrived(&self) {
        self.shared.arrived.notified().await;
    }

    /// Called when the answer is there. Yields once, so that the connection can first write the interim
    /// answers that came with it.
    pub(crate) async fn settled(self) {
        let mut had_its_turn = !self.shared.waits.load(Ordering::Acquire);
        poll_fn(|cx| {
            if had_its_turn {
                return Poll::Ready(());
            }
            had_its_turn = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_open = false;
        state.waiting.clear();
        self.shared.waits.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn hints(link: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::LINK, HeaderValue::from_static(link))])
    }

    fn push(expected: &Expected, status: StatusCode, headers: &HeaderMap) {
        expected.shared.push(expected.turn, status, headers);
    }

    #[test]
    fn one_is_passed_on_without_what_is_its_connections() {
        let interim = Interim::default();
        let expected = interim.expect();
        let mut headers = hints("</a.css>; rel=preload");
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        push(&expected, StatusCode::EARLY_HINTS, &headers);
        push(&expected, StatusCode::PROCESSING, &HeaderMap::new());
        let written = interim.take().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&written),
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        );
        assert_eq!(interim.take(), None);
    }

    #[test]
    fn what_is_ours_to_say_is_not_passed_on() {
        let interim = Interim::default();
        let expected = interim.expect();
        for status in [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS, StatusCode::OK] {
            push(&expected, status, &hints("<a>"));
        }
        assert_eq!(interim.take(), None);
    }

    /// A late one would be written into what another request is answered.
    #[test]
    fn what_comes_late_belongs_to_nobody() {
        let interim = Interim::default();
        let first = interim.expect();
        let (shared, turn) = (Arc::clone(&first.shared), first.turn);
        push(&first, StatusCode::EARLY_HINTS, &hints("<unwritten>"));
        drop(first);
        assert_eq!(interim.take(), None);
        shared.push(turn, StatusCode::EARLY_HINTS, &hints("<between>"));
        let second = interim.expect();
        shared.push(turn, StatusCode::EARLY_HINTS, &hints("<late>"));
        assert_eq!(interim.take(), None);
        push(&second, StatusCode::EARLY_HINTS, &hints("<right>"));
        assert!(interim.take().unwrap().ends_with(b"link: <right>\r\n\r\n"));
    }

    #[test]
    fn an_endless_many_are_bounded() {
        let interim = Interim::default();
        let expected = interim.expect();
        for _ in 0..10 * MAX_INTERIM {
            push(&expected, StatusCode::EARLY_HINTS, &hints("<a>"));
            let _written = interim.take();
        }
        assert_eq!(interim.0.lock().count, MAX_INTERIM);
        let expected = interim.expect();
        let long = HeaderMap::from_iter([(
            header::LINK,
            HeaderValue::from_str(&"y".repeat(MAX_INTERIM_BYTES / 2)).unwrap(),
        )]);
        for _ in 0..4 {
            push(&expected, StatusCode::EARLY_HINTS, &long);
        }
        assert!(interim.take().unwrap().len() <= MAX_INTERIM_BYTES);
    }
}
