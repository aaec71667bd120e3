//! HTTP on a stream of the agent: HTTP/1.1 behind the strict reader, HTTP/2 where ALPN chose it or its preface says so.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use policy::Destination;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::absence::Absence;
use crate::answer::{Known, Refusal, without_body};
use crate::conn::{Conn, Next};
use crate::grpc;
use crate::limits::{
    HEAD_DEADLINE, KEEP_ALIVE_IDLE, LINGER, MAX_H2_RESET_STREAMS, MAX_H2_STREAMS, MAX_HEAD_BYTES,
    MAX_LINGER_BYTES, REFUSED_HELLO,
};
use crate::outcome;
use crate::road;
use crate::room::Heads;
use crate::stall::Watch;
use crate::strict::Violation;
use crate::strict::io::{Remains, StrictIo};
use crate::strict::named::Named;
use crate::tls::Prefixed;

/// Empties a connection's pool and gives back its seat when it is served no more, however that ends.
struct Served<'a>(&'a Conn);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.pool.close();
        self.0.stand_up();
    }
}

/// Serves HTTP/1.1 until the connection is done, or is to become something else: then what is left of it comes back.
pub(crate) async fn http1<T>(conn: &Arc<Conn>, mut stream: T, surplus: BytesMut) -> Option<(Next, Remains<T>)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    let _served = Served(conn);
    if let Err(full) = conn.sit() {
        let (known, refusal) = turned_away(conn, full);
        last_words(&mut stream, &refusal, &known).await;
        return None;
    }
    let sizes = conn.deps.tracker.sizes_of_agents();
    let heads = Heads::new(conn.deps.tracker.head_room(conn.claim.party()));
    let strict = StrictIo::new(stream, surplus, heads.clone());
    conn.watch(strict.fault());
    conn.passes_interim(strict.interim());
    let answered = Arc::new(AtomicU64::new(0));
    let service = service_fn(|request| {
        let (conn, answered) = (Arc::clone(conn), Arc::clone(&answered));
        async move {
            let answer = road::answer(conn, request).await;
            answered.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .auto_date_header(false)
        // The strict reader counts and times heads; the library's own limits only have to be no tighter. Its default for the
        // number of fields is as many as the strict reader lets pass, and takes no memory of the heap.
        .max_buf_size(sizes.buffer)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(strict), service);
    let mut overdrawn = pin!(conn.overdrawn(Some(&heads)));
    let mut turned_out = None;
    let mut absence = Absence::of(&conn.claim);
    let mut leaving = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut connection => break ended,
            // Behind the connection, which may just have begun a request or ended one.
            () = poll_fn(|cx| absence.poll_gone(cx, conn.in_flight() > 0)) => {
                tracing::debug!("a client is gone before its answer");
                return None;
            }
            () = conn.revoked(), if !leaving => {
                // Idle, it ends now. What is in flight ends by its own decision, which fell as well.
                leaving = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            refusal = &mut overdrawn, if turned_out.is_none() => {
                turned_out = Some(refusal);
                // A request is refused for it by itself, and a tunnel needs neither.
                if conn.in_flight() == 0 && answered.load(Ordering::Relaxed) == 0 {
                    break Ok(());
                }
            }
        }
    };
    let unspoken = turned_out.filter(|_| conn.in_flight() == 0 && answered.load(Ordering::Relaxed) == 0);
    if let Err(error) = ended {
        tracing::debug!(%error, "connection of the agent ended");
    }
    let parts = connection.into_parts();
    if let Some(refusal) = unspoken {
        let (known, refusal) = turned_away(conn, refusal);
        last_words(&mut parts.io.into_inner().into_remains().stream, &refusal, &known).await;
        return None;
    }
    let mut strict = parts.io.into_inner();
    // A body that broke before its request had an answer took the request with it: nothing of one was written.
    let abandoned = strict.heads() > answered.load(Ordering::Relaxed);
    let unanswered = strict.unanswered().or(conn.violation().filter(|_| abandoned));
    let named = strict.take_named();
    let mut remains = strict.into_remains();
    if let Some(next) = conn.take_next() {
        // The strict reader passed nothing behind the request that led here, so the library holds nothing.
        debug_assert!(parts.read_buf.is_empty());
        return Some((next, remains));
    }
    if let Some(violation) = unanswered {
        malformed(conn, &mut remains.stream, violation, named).await;
    } else if conn.was_refused() {
        linger(&mut remains.stream).await;
    } else {
        let _gone = timeout(LINGER, remains.stream.shutdown()).await;
    }
    None
}

/// Answers a head that never became a request.
async fn malformed<T>(conn: &Conn, stream: &mut T, violation: Violation, named: Option<Named>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut known = conn.known();
    if let Some(Named { method, authority }) = named {
        known.method = Some(method);
        let place = || {
            let (authority, default_port) = authority?;
            Destination::of_authority(&authority, default_port).ok()
        };
        known.destination = known.destination.or_else(place);
    }
    let refusal = Refusal::Malformed(violation);
    let refusal = outcome::refused(&*conn.deps.journal, &known, refusal, Duration::ZERO);
    last_words(stream, &refusal, &known).await;
}

/// Puts on record what is refused before there is a request.
fn turned_away(conn: &Conn, refusal: Refusal) -> (Known, Refusal) {
    let known = conn.known();
    let refusal = outcome::refused(&*conn.deps.journal, &known, refusal, Duration::ZERO);
    (known, refusal)
}

/// Writes a refusal on a connection that no HTTP library serves (any more), and closes it.
pub(crate) async fn last_words<T>(stream: &mut T, refusal: &Refusal, known: &Known)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    farewell(stream, &refusal.raw(known)).await;
}

/// Writes what a client is to read last, and closes.
pub(crate) async fn farewell<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T, words: &[u8]) {
    let written = async {
        stream.write_all(words).await?;
        stream.flush().await
    };
    if let Ok(Ok(())) = timeout(LINGER, written).await {
        linger(stream).await;
    }
}

/// Closes, but lets the peer read what was written: with unread bytes in the queue the kernel would reset instead.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T) {
    let drain = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut thrown = [0; 4096];
        let mut left = MAX_LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut thrown).await {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                _ => return,
            }
        }
    };
    let _at_most = timeout(LINGER, drain).await;
}

/// Answers whatever a client of HTTP/2 asks with one refusal, for as long as it takes to read it.
pub(crate) async fn refuse_http2<T>(stream: T, refusal: &Refusal, known: &Known)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let in_grpc = grpc::asked(request.method(), request.headers());
        let response = without_body(request.method(), grpc::refused(in_grpc, refusal, known));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.auto_date_header(false).max_concurrent_streams(MAX_H2_STREAMS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    if timeout(REFUSED_HELLO, &mut connection).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _at_most = timeout(LINGER, connection).await;
    }
}

/// What a client of HTTP/2 without TLS begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for what a client begins with: most heads come in one read.
const USUAL_HEAD_BYTES: usize = 4096;

/// Whether these first bytes of a client can only become HTTP/2's preface: no method of HTTP/1 is called so.
pub(crate) fn begins_http2(seen: &[u8]) -> bool {
    const METHOD: &[u8] = b"PRI ";
    seen.len() >= METHOD.len() && (PREFACE.starts_with(seen) || seen.starts_with(PREFACE))
}

/// Serves what a client begins with, `seen` included: HTTP/2 if that is its preface, else HTTP/1.1.
pub(crate) async fn either<T>(
    conn: &Arc<Conn>,
    mut stream: T,
    mut seen: BytesMut,
) -> Option<(Next, Remains<T>)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    loop {
        if seen.starts_with(PREFACE) {
            http2(conn, Prefixed::new(seen.freeze(), stream)).await;
            return None;
        }
        if !PREFACE.starts_with(&seen) {
            return http1(conn, stream, seen).await;
        }
        let patience = if seen.is_empty() { KEEP_ALIVE_IDLE } else { HEAD_DEADLINE };
        seen.reserve(USUAL_HEAD_BYTES);
        match timeout(patience, stream.read_buf(&mut seen)).await {
            Ok(Ok(1..)) => {}
            // It ended, before or after it began: the reader of HTTP/1.1 knows what to say.
            Ok(_) => return http1(conn, stream, seen).await,
            Err(_) if seen.is_empty() => return None,
            Err(_) => {
                malformed(conn, &mut stream, Violation::Slow, None).await;
                return None;
            }
        }
    }
}

/// Serves HTTP/2 until the connection is done or idle for too long.
pub(crate) async fn http2<T>(conn: &Arc<Conn>, stream: T)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let _served = Served(conn);
    if let Err(full) = conn.sit() {
        let (known, refusal) = turned_away(conn, full);
        return refuse_http2(stream, &refusal, &known).await;
    }
    let answers = Watch::default();
    let sizes = conn.deps.tracker.sizes_of_agents();
    let service = {
        let (conn, answers) = (Arc::clone(conn), answers.clone());
        service_fn(move |request| {
            let (conn, answers) = (Arc::clone(&conn), answers.clone());
            async move {
                let answer = road::answer(conn, request).await;
                Ok::<_, Infallible>(answer.map(|body| answers.over(body)))
            }
        })
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(false)
        // RFC 8441: a WebSocket is a stream like any other.
        .enable_connect_protocol()
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_pending_accept_reset_streams(MAX_H2_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_H2_RESET_STREAMS)
        .initial_stream_window_size(sizes.stream_window)
        .initial_connection_window_size(sizes.connection_window)
        .max_send_buf_size(sizes.send)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        // Finds peers that are gone, and peers that stopped reading.
        .keep_alive_interval(KEEP_ALIVE_IDLE)
        .keep_alive_timeout(KEEP_ALIVE_IDLE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut stalled = pin!(answers.stalled());
    let mut overdrawn = pin!(conn.overdrawn(None));
    let mut leave_by = None;
    let mut busy = Instant::now();
    let mut leaving = false;
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection of the agent ended");
                }
                return;
            }
            () = &mut stalled => {
                tracing::debug!("a client takes nothing of an answer: its connection ends");
                return;
            }
            () = conn.revoked(), if !leaving => {
                // GOAWAY; the streams in flight end by their own decisions, which fell as well.
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            refusal = &mut overdrawn, if leave_by.is_none() => {
                // Requests are refused for it by themselves, and nothing else on it may keep the seat.
                if conn.in_flight() == 0 {
                    turned_away(conn, refusal);
                }
                connection.as_mut().graceful_shutdown();
                leave_by = Some(Instant::now() + LINGER);
            }
            () = tokio::time::sleep_until(leave_by.unwrap_or(busy)), if leave_by.is_some() => return,
            () = tokio::time::sleep(KEEP_ALIVE_IDLE / 4) => {
                if conn.in_flight() > 0 {
                    busy = Instant::now();
                } else if busy.elapsed() >= KEEP_ALIVE_IDLE {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
