//! Replaces placeholders in bodies and messages that were read whole: JSON, forms, text.
//!
//! Pure functions: exactly the strings that hold a placeholder are written anew, every other byte stays. A
//! body that can't be read strictly is refused if it might hold one.

use http::{HeaderMap, header};
use percent_encoding::percent_decode;
use policy::Denial;
use policy::content::Json;
use smol_str::SmolStr;
use zeroize::Zeroizing;

use super::head::{Filled, encoded, fill, plain};
use super::placeholder::{find, holds};
use super::{Credentials, Request, Wallet, denied, misplaced, shown};

/// The formats of bodies in which placeholders are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `application/json`, and `application/…+json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `text/…`.
    Text,
}

impl Kind {
    /// The kind that `Content-Type` names; none for any other type, and if there are several such fields.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(header::CONTENT_TYPE).iter();
        let (Some(said), None) = (all.next(), all.next()) else { return None };
        let essence = said.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Some(Self::Json),
            "application/x-www-form-urlencoded" => Some(Self::Form),
            other if other.starts_with("application/") && other.ends_with("+json") => Some(Self::Json),
            other if other.starts_with("text/") => Some(Self::Text),
            _ => None,
        }
    }
}

/// `body` with values for its placeholders; none if it has none.
pub(super) fn rewrite(kind: Kind, body: &[u8], wallet: &mut Wallet<'_>) -> Result<Option<Filled>, Denial> {
    match kind {
        Kind::Json => json(body, wallet),
        Kind::Form => form(body, wallet),
        Kind::Text => fill(body, wallet, plain),
    }
}

/// The name of the first placeholder in a body that nothing is replaced in; in JSON and forms also under
/// escapes.
pub(super) fn name_in(kind: Option<Kind>, body: &[u8]) -> Option<String> {
    let mut name = find(body, 0).map(|place| place.name.to_owned());
    let mut look = |text: &[u8]| {
        if let Some(place) = find(text, 0) {
            name.get_or_insert_with(|| place.name.to_owned());
        }
    };
    match kind {
        Some(Kind::Json) if body.contains(&b'\\') => strings(body, |token| {
            if let Some(text) = token.decoded() {
                look(text.as_bytes());
            }
        }),
        Some(Kind::Form) if body.contains(&b'%') => {
            body.split(|byte| *byte == b'&').flat_map(|part| part.splitn(2, |byte| *byte == b'=')).for_each(
                |half| {
                    look(&decoded(half));
                },
            );
        }
        _ => {}
    }
    name
}

/// Puts values in a WebSocket message for its placeholders. `rewritten` is the message's text, if it may be
/// rewritten; else a placeholder is refused. Text that is JSON is rewritten as JSON. Returns the message with
/// the names of the credentials that it then carries; none if it has no placeholder.
pub(crate) fn in_message(
    credentials: &Credentials,
    request: Request<'_>,
    message: &[u8],
    rewritten: Option<&str>,
) -> Result<Option<(Filled, Vec<SmolStr>)>, Denial> {
    if credentials.is_empty() {
        return Ok(None);
    }
    let Some(name) = name_in(Some(Kind::Json), message) else { return Ok(None) };
    let Some(text) = rewritten else {
        return Err(denied(
            format!(
                "the message holds the placeholder of credential `{}`, and is not rewritten",
                shown(&name)
            ),
            Some("text is rewritten where the endpoint says `websocket_credential_rewrite: true`".to_owned()),
        ));
    };
    let mut wallet = Wallet::new(credentials, request);
    let filled = match Json::parse(text.as_bytes()) {
        Ok(_) => json(text.as_bytes(), &mut wallet)?,
        Err(_) => fill(text.as_bytes(), &mut wallet, plain)?,
    };
    Ok(filled.map(|filled| (filled, wallet.carried())))
}

/// A string of a JSON text, with its quotes.
struct Token<'a> {
    raw: &'a [u8],
    start: usize,
    /// Whether it names a member.
    key: bool,
}

impl Token<'_> {
    /// The string's text; none if it is not valid.
    fn decoded(&self) -> Option<Zeroizing<String>> {
        serde_json::from_slice(self.raw).ok().map(Zeroizing::new)
    }
}

/// Every string of a JSON text, in order.
fn strings<'a>(text: &'a [u8], mut each: impl FnMut(Token<'a>)) {
    let mut at = 0;
    while let Some(start) = text.get(at..).and_then(|rest| memchr::memchr(b'"', rest)).map(|found| at + found)
    {
        let mut end = start + 1;
        loop {
            match text.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return,
            }
        }
        at = end + 1;
        let behind = text.get(at..).unwrap_or_default().trim_ascii_start();
        let raw = text.get(start..at).unwrap_or_default();
        each(Token { raw, start, key: behind.first() == Some(&b':') });
    }
}

fn json(text: &[u8], wallet: &mut Wallet<'_>) -> Result<Option<Filled>, Denial> {
    if name_in(Some(Kind::Json), text).is_none() {
        return Ok(None);
    }
    if let Err(why) = Json::parse(text) {
        return Err(denied(
            format!("a body with a placeholder can't be rewritten: it is no strict JSON: {why}"),
            None,
        ));
    }
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut at = 0;
    let mut result = Ok(());
    strings(text, |token| {
        if result.is_err() {
            return;
        }
        let Some(said) = token.decoded().filter(|said| holds(said.as_bytes())) else { return };
        result = match find(said.as_bytes(), 0).filter(|_| token.key) {
            Some(place) => Err(misplaced(place.name, "stand in the name of a JSON member")),
            None => fill(said.as_bytes(), wallet, plain).map(|filled| {
                let filled = filled.unwrap_or_default();
                out.extend_from_slice(text.get(at..token.start).unwrap_or_default());
                // Text with a value in it should be valid UTF-8; if it isn't, an empty string is written.
                let filled = std::str::from_utf8(&filled).unwrap_or_default();
                let _into_memory = serde_json::to_writer(&mut *out, filled);
                at = token.start + token.raw.len();
            }),
        };
    });
    result?;
    out.extend_from_slice(text.get(at..).unwrap_or_default());
    Ok(Some(out))
}

/// One half of a form's pair: `+` is a space there.
fn decoded(half: &[u8]) -> Filled {
    let spaced: Vec<u8> = half.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Zeroizing::new(percent_decode(&spaced).collect())
}

fn form(text: &[u8], wallet: &mut Wallet<'_>) -> Result<Option<Filled>, Denial> {
    if name_in(Some(Kind::Form), text).is_none() {
        return Ok(None);
    }
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    for (index, part) in text.split(|byte| *byte == b'&').enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        let mut halves = part.splitn(2, |byte| *byte == b'=');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next());
        if let Some(place) = find(&decoded(name), 0) {
            return Err(misplaced(place.name, "stand in the name of a form's field"));
        }
        match value.map(|value| fill(&decoded(value), wallet, plain)).transpose()?.flatten() {
            Some(filled) => {
                out.extend_from_slice(name);
                out.push(b'=');
                encoded(&filled, &mut out);
            }
            None => out.extend_from_slice(part),
        }
    }
    Ok(Some(out))
}
