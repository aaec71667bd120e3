//! HTTP/2 on a stream of the agent.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::{Served, turned_away};
use crate::answer::{Known, Refusal, without_body};
use crate::conn::Conn;
use crate::grpc;
use crate::limits::{
    KEEP_ALIVE_IDLE, LINGER, MAX_H2_RESET_STREAMS, MAX_H2_STREAMS, MAX_HEAD_BYTES, REFUSED_HELLO,
};
use crate::road;
use crate::sizes::Sizes;
use crate::stall::Watch;

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
    let connection =
        builder(&conn.deps.tracker.sizes_of_agents()).serve_connection(TokioIo::new(stream), service);
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
            () = conn.ended() => {
                tracing::debug!("a client takes nothing of a tunnel that is over: its connection ends");
                return;
            }
            () = conn.revoked(), if !leaving => {
                // GOAWAY; the streams in flight end by their own decisions, which were revoked as well.
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            refusal = &mut overdrawn, if leave_by.is_none() => {
                // Requests are refused for the same reason by themselves, and nothing else on the connection
                // may keep the seat.
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

fn builder(sizes: &Sizes) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
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
        .keep_alive_timeout(KEEP_ALIVE_IDLE);
    builder
}

/// Answers every request of an HTTP/2 client with the same refusal, for [`REFUSED_HELLO`], then closes
/// gracefully.
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
