//! An open connection for a permitted request: a pooled one, or a new one to an address judged now. The
//! decision is on record before either is handed out.

use std::sync::Arc;
use std::time::Instant;

use crate::address;
use crate::answer::{Known, Refusal};
use crate::conn::Conn;
use crate::outcome;
use crate::pool::{Key, Opening, Turn};
use crate::upstream::{Purpose, Sender, Unopened};
use crate::verdict::Permitted;

/// See the module.
///
/// # Errors
/// No judged address answers, or the decision can't be recorded.
pub(super) async fn connection(
    conn: &Arc<Conn>,
    key: &Key,
    permitted: &Permitted,
    known: &Known,
    started: Instant,
) -> Result<Sender, Refusal> {
    let journal = &*conn.deps.journal;
    let _opening = match turn(conn, key, permitted).await {
        Ready::Open(sender) => {
            outcome::request_allowed(journal, known, permitted, started.elapsed())?;
            return Ok(sender);
        }
        Ready::Opens(opening) => opening,
    };
    let addresses = match conn.take_addresses(&key.addresses) {
        Some(fresh) => fresh,
        None => address::JudgedAddresses::of(&conn.deps, permitted.granted()).await?,
    };
    outcome::request_allowed(journal, known, permitted, started.elapsed())?;
    open(conn, key, permitted, &addresses).await
}

/// An open connection, or leave to open one.
enum Ready<'a> {
    Open(Sender),
    Opens(Option<Opening<'a>>),
}

/// Returns a connection that is open already or that another request has opened meanwhile, or the right to
/// open one.
async fn turn<'a>(conn: &'a Conn, key: &'a Key, permitted: &Permitted) -> Ready<'a> {
    loop {
        if let Some(sender) = pooled(conn, key, permitted).await {
            return Ready::Open(sender);
        }
        let opening = match conn.pool.turn(key).await {
            Turn::Again => continue,
            Turn::Free => None,
            Turn::First(opening) => Some(opening),
        };
        // A connection may have been opened meanwhile.
        let pooled = pooled(conn, key, permitted).await;
        return pooled.map_or(Ready::Opens(opening), Ready::Open);
    }
}

/// Returns a pooled connection that takes this request, or one that an earlier connection of the same caller
/// has left.
async fn pooled(conn: &Conn, key: &Key, permitted: &Permitted) -> Option<Sender> {
    let websocket = permitted.exchange().websocket;
    match conn.pool.take(key).await {
        Some(sender) => (!websocket || sender.takes_websockets().await).then_some(sender),
        // Which of the two protocols a WebSocket needs is found out when its connection is opened.
        None if websocket => None,
        None => {
            let left = conn.deps.shelf.take(key).await?;
            conn.pool.opened(key, &left);
            Some(left)
        }
    }
}

/// Opens a new connection, whatever is pooled.
///
/// # Errors
/// No judged address answers.
pub(super) async fn dial(conn: &Conn, key: &Key, permitted: &Permitted) -> Result<Sender, Refusal> {
    open(conn, key, permitted, &address::JudgedAddresses::of(&conn.deps, permitted.granted()).await?).await
}

/// Dials addresses that were judged a moment ago. For a WebSocket, tries a second protocol if the server
/// doesn't speak the first.
async fn open(
    conn: &Conn,
    key: &Key,
    permitted: &Permitted,
    addresses: &address::JudgedAddresses,
) -> Result<Sender, Refusal> {
    let purpose = if permitted.exchange().websocket { Purpose::WebSocket } else { Purpose::Requests };
    let reach = async |wire| {
        let sender = conn
            .deps
            .upstream
            .open(
                addresses.dial(&conn.deps.tracker, permitted.granted().caller().party).await?,
                &key.destination,
                wire,
                purpose,
            )
            .await?;
        if purpose == Purpose::WebSocket && !sender.takes_websockets().await {
            let why = "the destination speaks HTTP/2, and takes no WebSocket on it (RFC 8441)";
            return Err(Unopened::NotSpoken(Refusal::Unreachable(why.to_owned())));
        }
        Ok(sender)
    };
    let sender = match reach(key.wire).await {
        Err(Unopened::NotSpoken(_)) if purpose == Purpose::WebSocket => {
            let sender = reach(key.wire.otherwise()).await?;
            if !sender.is_http2() {
                // Not pooled: it doesn't speak what its key says.
                return Ok(sender);
            }
            sender
        }
        first => first?,
    };
    conn.pool.opened(key, &sender);
    Ok(sender)
}
