//! HTTP/1.1 on a stream of the agent, behind the strict reader.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Connection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::farewell::{last_words, linger};
use super::{Served, malformed, turned_away};
use crate::absence::Absence;
use crate::answer::Refusal;
use crate::body::{Body, BoxError};
use crate::conn::{Conn, Next};
use crate::limits::LINGER;
use crate::road;
use crate::room::Heads;
use crate::strict::io::{Remains, StrictIo};

/// Serves HTTP/1.1 until the connection is done. If it is to become something else, returns that and the
/// stream.
pub(super) async fn http1<T>(conn: &Arc<Conn>, mut stream: T, surplus: BytesMut) -> Option<(Next, Remains<T>)>
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
        // The strict reader counts and times heads; hyper's own limits only have to be no tighter. Its
        // default for the number of fields is as many as the strict reader lets pass, and needs no heap
        // memory.
        .max_buf_size(sizes.buffer)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(strict), service);
    let unspoken = match drive(conn, &mut connection, &heads, &answered).await {
        End::Abandoned => return None,
        End::Over => None,
        End::TurnedOut(refusal) => Some(refusal),
    };
    let parts = connection.into_parts();
    let strict = parts.io.into_inner();
    if let Some(refusal) = unspoken {
        let (known, refusal) = turned_away(conn, refusal);
        last_words(&mut strict.into_remains().stream, &refusal, &known).await;
        return None;
    }
    let (next, remains) = close(conn, strict, answered.load(Ordering::Relaxed)).await?;
    // The strict reader passed nothing after the request that led here, so hyper holds nothing.
    debug_assert!(parts.read_buf.is_empty());
    Some((next, remains))
}

/// How hyper's part of a connection ended.
enum End {
    /// The client went away before it had its answer.
    Abandoned,
    /// It is done.
    Over,
    /// The agent may have no more connections like this one, and no request came on it whose answer could say
    /// so.
    TurnedOut(Refusal),
}

async fn drive<T, S>(
    conn: &Conn,
    connection: &mut Connection<TokioIo<StrictIo<T>>, S>,
    heads: &Heads,
    answered: &AtomicU64,
) -> End
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
{
    let is_unused = || conn.in_flight() == 0 && answered.load(Ordering::Relaxed) == 0;
    let mut overdrawn = pin!(conn.overdrawn(Some(heads)));
    let mut turned_out = None;
    let mut absence = Absence::of(&conn.claim);
    let mut leaving = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut *connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection of the agent ended");
                }
                break;
            }
            // Polled after the connection, which may just have begun or ended a request.
            () = poll_fn(|cx| absence.poll_gone(cx, conn.in_flight() > 0)) => {
                tracing::debug!("a client is gone before its answer");
                return End::Abandoned;
            }
            () = conn.revoked(), if !leaving => {
                // An idle connection ends now. A request in flight ends by its own decision, which was
                // revoked as well.
                leaving = true;
                std::pin::Pin::new(&mut *connection).graceful_shutdown();
            }
            refusal = &mut overdrawn, if turned_out.is_none() => {
                turned_out = Some(refusal);
                // A request is refused for the same reason by itself, and a tunnel needs neither seat nor
                // head memory.
                if is_unused() {
                    break;
                }
            }
        }
    }
    turned_out.filter(|_| is_unused()).map_or(End::Over, End::TurnedOut)
}

/// Answers what is still unanswered, and closes, unless the connection becomes something else.
async fn close<T>(conn: &Conn, mut strict: StrictIo<T>, answered: u64) -> Option<(Next, Remains<T>)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // A body that broke before its request was answered took the request with it: no answer was written.
    let abandoned = strict.heads() > answered;
    let unanswered = strict.unanswered().or(conn.violation().filter(|_| abandoned));
    let named = strict.take_named();
    let mut remains = strict.into_remains();
    if let Some(next) = conn.take_next() {
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
