//! Prepares a permitted request for sending: its head and body with values for their placeholders, or a
//! refusal.
//!
//! Nothing is dialled before this. A body is read whole where it is rewritten, and where it is short; a
//! longer one is watched as it passes, and broken off before the chunk that would complete a placeholder.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use http_body::Body as _;
use policy::{Denial, Generation};
use smol_str::SmolStr;
use zeroize::Zeroizing;

use super::body::{Kind, name_in, rewrite};
use super::placeholder::find;
use super::{Request, Wallet, denied, head, shown};
use crate::answer::Refusal;
use crate::conn::Conn;
use crate::limits::{JUDGED_BODY_DEADLINE, MAX_AHEAD_BYTES, MAX_REWRITTEN_BYTES};
use crate::protocol::Forwarded;
use crate::room::Room;
use crate::strict::Violation;
use crate::verdict::Permitted;

/// A request as it is sent.
pub(crate) struct Sent {
    /// The query, if it differs from the judged one.
    pub(crate) query: Option<Zeroizing<String>>,
    pub(crate) body: Forwarded,
    /// Names of the credentials that are in it.
    pub(crate) carried: Vec<SmolStr>,
}

/// Puts values in the place of a permitted request's placeholders.
///
/// # Errors
/// The denial of the request, or why its body could not be read.
pub(crate) async fn apply(
    conn: &Conn,
    generation: &Generation,
    permitted: &Permitted,
    parts: &mut Parts,
    body: Forwarded,
) -> Result<Sent, Refusal> {
    // A request for the gateway, which adds its own keys and removes the caller's: a placeholder in text for
    // a model is not to be replaced.
    if permitted.granted().grant().is_none() {
        return Ok(Sent { query: None, body, carried: Vec::new() });
    }
    let sent = filled(conn, generation, permitted, parts, body).await;
    sent.map_err(|refusal| match refusal {
        Refusal::Denied(denial) => permitted.but(denial),
        other => other,
    })
}

async fn filled(
    conn: &Conn,
    generation: &Generation,
    permitted: &Permitted,
    parts: &mut Parts,
    body: Forwarded,
) -> Result<Sent, Refusal> {
    let credentials = &*conn.deps.credentials;
    let request = Request::of(permitted);
    let mut wallet = Wallet::new(credentials, request);
    head::path(request.path)?;
    head::headers(&mut parts.headers, &mut wallet)?;
    let query = head::query(&permitted.exchange().query, &mut wallet)?;
    if credentials.is_empty() || body.is_end_stream() {
        return Ok(Sent { query, body, carried: wallet.carried() });
    }
    let kind = Kind::of(&parts.headers);
    let rewrites = || generation.compiled.rewrites(request.to, request.caller, request.path).bodies;
    let body = match kind.filter(|_| rewrites()) {
        Some(kind) => rewritten(conn, &mut parts.headers, kind, body, &mut wallet).await?,
        None => unchanged(conn, &parts.headers, kind, body).await?,
    };
    Ok(Sent { query, body, carried: wallet.carried() })
}

/// A body whose placeholders are replaced.
async fn rewritten(
    conn: &Conn,
    headers: &mut HeaderMap,
    kind: Kind,
    mut body: Forwarded,
    wallet: &mut Wallet<'_>,
) -> Result<Forwarded, Refusal> {
    let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
        let detail = "a compressed body can't be rewritten, and this endpoint rewrites bodies".to_owned();
        return Err(denied(detail, Some("send it without Content-Encoding".to_owned())).into());
    }
    if !body.is_whole() {
        body = hold(conn, body, MAX_REWRITTEN_BYTES, conn.room()).await?;
    }
    if !body.is_whole() {
        return watched(body);
    }
    let Some(filled) = rewrite(kind, body.read(), wallet)? else { return Ok(with_trailers(body)) };
    if headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(filled.len()));
    }
    Ok(with_trailers(body.replaced(Bytes::from_owner(filled))))
}

/// Passes a body on as it is, so no placeholder may be in it. A short body is checked before anything is
/// dialled.
async fn unchanged(
    conn: &Conn,
    headers: &HeaderMap,
    kind: Option<Kind>,
    mut body: Forwarded,
) -> Result<Forwarded, Refusal> {
    let short = stated_length(headers).filter(|length| *length <= MAX_AHEAD_BYTES as usize);
    let mut room = conn.room();
    // Without room it is watched as it passes, which takes none.
    if short.is_some_and(|length| !body.is_whole() && room.pay_for(length).is_ok()) {
        body = hold(conn, body, MAX_AHEAD_BYTES, room).await?;
    }
    if !body.is_whole() {
        return watched(body);
    }
    match name_in(kind, body.read()) {
        Some(name) => Err(unrewritten(&name).into()),
        None => Ok(with_trailers(body)),
    }
}

/// Has trailers, if there are any, checked as they pass.
fn with_trailers(body: Forwarded) -> Forwarded {
    if body.has_trailers() { body.watched() } else { body }
}

/// Checks what was read of a body, and has the rest checked as it passes.
fn watched(body: Forwarded) -> Result<Forwarded, Refusal> {
    match find(body.read(), 0) {
        Some(place) => Err(unrewritten(place.name).into()),
        None => Ok(body.watched()),
    }
}

/// Reads up to `max` bytes of a body.
async fn hold(conn: &Conn, body: Forwarded, max: u32, mut room: Room) -> Result<Forwarded, Refusal> {
    let held = match tokio::time::timeout(JUDGED_BODY_DEADLINE, body.gathered(max, &mut room)).await {
        Ok(held) => held.map_err(|why| conn.ungathered(why))?,
        Err(_) => return Err(Refusal::Malformed(Violation::Slow)),
    };
    Ok(held.in_room(room))
}

fn stated_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The denial for a body that holds a placeholder and is not rewritten, whatever the reason.
pub(crate) fn unrewritten(name: &str) -> Denial {
    denied(
        format!("the body holds the placeholder of credential `{}`, and is not rewritten", shown(name)),
        Some(format!(
            "JSON, form and text bodies of up to {MAX_REWRITTEN_BYTES} bytes are rewritten where the endpoint says \
             `request_body_credential_rewrite: true`"
        )),
    )
}
