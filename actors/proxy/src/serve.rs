//! HTTP on a stream of the agent: HTTP/1.1 behind the strict reader, HTTP/2 where ALPN chose it or its
//! preface says so.

mod farewell;
mod http1;
mod http2;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use policy::Destination;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;

use crate::answer::{Known, Refusal};
use crate::conn::{Conn, Next};
use crate::limits::{HEAD_DEADLINE, KEEP_ALIVE_IDLE};
use crate::outcome;
use crate::strict::Violation;
use crate::strict::io::Remains;
use crate::strict::named::Named;
use crate::tls::Prefixed;
use http1::http1;

pub(crate) use farewell::{farewell, last_words};
pub(crate) use http2::{http2, refuse_http2};

/// What a client of HTTP/2 without TLS begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for what a client begins with: most heads come in one read.
const USUAL_HEAD_BYTES: usize = 4096;

/// Whether a client's first bytes can only become HTTP/2's preface: no HTTP/1 method is called `PRI`.
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
            // The client ended its stream, with or without a first byte: the reader of HTTP/1.1 knows what to
            // answer.
            Ok(_) => return http1(conn, stream, seen).await,
            Err(_) if seen.is_empty() => return None,
            Err(_) => {
                malformed(conn, &mut stream, Violation::Slow, None).await;
                return None;
            }
        }
    }
}

/// Empties a connection's pool onto the shelf and gives back its seat when it is served no more, however that
/// ends.
struct Served<'a>(&'a Conn);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.deps.shelf.put(self.0.pool.close());
        self.0.stand_up();
    }
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
