//! Replaces placeholders in a request's head: header values, the two halves of Basic, values of the query.
//!
//! Values are written only into what is sent; what was judged stays as it is. In the path, in names of
//! headers and parameters, and spelled with one escape over another, a placeholder is refused.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use policy::{CanonicalPath, Denial, Query, second};
use zeroize::Zeroizing;

use super::placeholder::{self, find};
use super::{Wallet, denied, misplaced};

/// RFC 3986 unreserved characters stay; all else is encoded.
pub(super) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Accepts base64 with and without its padding, as servers do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes with values in them: wiped when dropped.
pub(super) type Filled = Zeroizing<Vec<u8>>;

/// `text` with a value for every placeholder, each written by `encode`; none if there is no placeholder.
pub(super) fn fill(
    text: &[u8],
    wallet: &mut Wallet<'_>,
    encode: impl Fn(&[u8], &mut Vec<u8>),
) -> Result<Option<Filled>, Denial> {
    let Some(mut place) = find(text, 0) else { return Ok(None) };
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut at = 0;
    loop {
        out.extend_from_slice(text.get(at..place.span.start).unwrap_or_default());
        encode(wallet.value(&place)?.expose(), &mut out);
        at = place.span.end;
        match find(text, at) {
            Some(next) => place = next,
            None => break,
        }
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
    Ok(Some(out))
}

/// Writes a value as it is.
pub(super) fn plain(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(value);
}

/// Writes a value percent-encoded, as a part of a query or form.
pub(super) fn encoded(value: &[u8], out: &mut Vec<u8>) {
    percent_encode(value, ENCODED).for_each(|piece| out.extend_from_slice(piece.as_bytes()));
}

/// Refuses a placeholder in the path: paths are judged, recorded and shown.
pub(super) fn path(path: &CanonicalPath) -> Result<(), Denial> {
    match find(path.as_str().as_bytes(), 0) {
        Some(place) => Err(misplaced(place.name, "stand in the path")),
        None => Ok(()),
    }
}

/// Fills the values of a request's header fields.
pub(super) fn headers(headers: &mut HeaderMap, wallet: &mut Wallet<'_>) -> Result<(), Denial> {
    for (name, value) in headers.iter_mut() {
        in_name(name, value)?;
        // Few requests name a second resource: the names of their fields are read once, when they are judged.
        if !wallet.request.seconds.is_empty()
            && second::is_named_by(name.as_str())
            && let Some(place) = find(value.as_bytes(), 0)
        {
            // It was judged as it stands, and names what its server acts on.
            return Err(misplaced(place.name, "stand in a field that names a second resource"));
        }
        if name == header::SEC_WEBSOCKET_KEY
            && let Some(place) = find(value.as_bytes(), 0)
        {
            // The server's answer would give the client a hash of it.
            return Err(misplaced(place.name, "stand in a WebSocket's key"));
        }
        let filled = match name == header::AUTHORIZATION {
            true => match basic(value.as_bytes(), wallet)? {
                Some(filled) => Some(filled),
                None => fill(value.as_bytes(), wallet, plain)?,
            },
            false => fill(value.as_bytes(), wallet, plain)?,
        };
        if let Some(filled) = filled {
            let mut filled = HeaderValue::from_bytes(&filled)
                .map_err(|_| denied(format!("a credential fits no header `{name}`"), None))?;
            // Never indexed by HPACK, never printed by Debug.
            filled.set_sensitive(true);
            *value = filled;
        }
    }
    Ok(())
}

/// Refuses a placeholder in place of a field's name. Since a name has no colon, that was parsed as the field
/// `cofferdam` with the rest as its value.
fn in_name(name: &HeaderName, value: &HeaderValue) -> Result<(), Denial> {
    let (word, rest) = placeholder::PREFIX.split_once(':').unwrap_or_default();
    match name.as_str() == word && value.as_bytes().trim_ascii_start().starts_with(rest.as_bytes()) {
        true => Err(misplaced("", "stand in the name of a header")),
        false => Ok(()),
    }
}

/// User and password of HTTP Basic (RFC 7617), with values for their placeholders; none if there is none in
/// them.
fn basic(value: &[u8], wallet: &mut Wallet<'_>) -> Result<Option<Filled>, Denial> {
    let Some((scheme, rest)) = value.split_at_checked(b"Basic ".len()) else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return Ok(None);
    }
    let Ok(pair) = BASE64.decode(rest.trim_ascii()).map(Zeroizing::new) else { return Ok(None) };
    let Some(filled) = fill(&pair, wallet, plain)? else { return Ok(None) };
    let text = Zeroizing::new(BASE64.encode(&*filled));
    Ok(Some(Zeroizing::new([scheme, text.as_bytes()].concat())))
}

/// The query with values in it; none if it has no placeholder.
pub(super) fn query(query: &Query, wallet: &mut Wallet<'_>) -> Result<Option<Zeroizing<String>>, Denial> {
    let Some(text) = query.as_str().filter(|text| placeholder::holds(text.as_bytes())) else {
        return Ok(None);
    };
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    for (index, part) in text.split('&').enumerate() {
        if index > 0 {
            out.push('&');
        }
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if let Some(place) = find(name.as_bytes(), 0) {
            return Err(misplaced(place.name, "stand in the name of a query parameter"));
        }
        // In canonical form a colon is never escaped, so an escaped one was escaped twice.
        match fill(value.as_bytes(), wallet, encoded)? {
            Some(value) => {
                out.push_str(name);
                out.push('=');
                // Both halves are ASCII: the canonical query is, and so is what is percent-encoded.
                out.push_str(&String::from_utf8_lossy(&value));
            }
            None => out.push_str(part),
        }
    }
    Ok(Some(out))
}
