//! One HTTP/1 request head, judged byte by byte.
//!
//! Holds the whole grammar that is accepted; the HTTP library parses the same bytes again afterwards and is
//! never asked whether they are well-formed. Must never repair anything: what is odd is refused (RFC 9112
//! allows recipients to be lenient; two lenient parsers in a row are how requests are smuggled).

use super::{Violation, framing::Framing};
use crate::limits::{MAX_HEADERS, MAX_METHOD_BYTES, MAX_TARGET_BYTES};

/// What the connection has to know of a judged head; the rest is read again by the HTTP library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// How the body that follows is delimited.
    pub framing: Framing,
    /// CONNECT or an upgrade to WebSocket: what follows is no HTTP until the answer says otherwise.
    pub tunnel: bool,
}

/// Finds the end of the head in `bytes`: the offset just past its blank line. `from` is how far a former call
/// has looked. A bare LF ends a line here too, so that [`judge`] sees and refuses it at once.
pub fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    let mut line_start = false;
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'\n' if line_start => return Some(at + 1),
            b'\n' => line_start = true,
            b'\r' => {}
            _ => line_start = false,
        }
    }
    None
}

/// Judges the first line of a head that isn't all there yet: whether what came can still become a request.
/// What is no HTTP at all (SOCKS, TLS, SSH) is so refused at once, instead of waited for. `from` is how far a
/// former call has looked. Returns whether the line is whole, and needs no further call.
pub fn judge_beginning(bytes: &[u8], from: usize) -> Result<bool, Violation> {
    let Some(end) = bytes.iter().skip(from).position(|byte| *byte == b'\n').map(|at| from + at) else {
        let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
        let may_be_one = method.len() <= MAX_METHOD_BYTES && method.iter().all(|byte| is_token(*byte));
        return if may_be_one { Ok(false) } else { Err(Violation::RequestLine) };
    };
    let mut lines = Lines { rest: bytes.get(..=end).unwrap_or_default() };
    request_line_of(lines.next_line()?)?;
    Ok(true)
}

/// Judges one whole head (`bytes` ends with its blank line).
pub fn judge(bytes: &[u8]) -> Result<Head, Violation> {
    let mut lines = Lines { rest: bytes };
    let request_line = lines.next_line()?;
    let request = request_line_of(request_line)?;
    let mut seen = Seen::default();
    loop {
        let line = lines.next_line()?;
        if line.is_empty() {
            break;
        }
        seen.count += 1;
        if seen.count > MAX_HEADERS {
            return Err(Violation::TooLarge);
        }
        let (name, value) = field(line)?;
        seen.note(name, value)?;
    }
    if !lines.rest.is_empty() {
        return Err(Violation::LineEnd);
    }
    seen.conclude(&request)
}

/// Splits and judges one field line: a token, a colon right after it, a value without control bytes. The
/// value comes back without the optional white space around it.
pub fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Violation::HeaderLine)?;
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default();
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Violation::HeaderLine);
    }
    if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
        return Err(Violation::HeaderValue);
    }
    Ok((name, trim(value)))
}

/// The `tchar` of RFC 9110 section 5.6.2.
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// The next line without its CR LF. A CR or LF anywhere else is a violation.
    fn next_line(&mut self) -> Result<&'a [u8], Violation> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(Violation::LineEnd)?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        match line {
            [line @ .., b'\r'] if !line.contains(&b'\r') => Ok(line),
            _ => Err(Violation::LineEnd),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

struct RequestLine<'a> {
    connect: bool,
    /// The authority, where the target has one.
    authority: Option<&'a [u8]>,
    version: Version,
}

pub(super) fn is_method(method: &[u8]) -> bool {
    (1..=MAX_METHOD_BYTES).contains(&method.len()) && method.iter().all(|byte| is_token(*byte))
}

fn request_line_of(line: &[u8]) -> Result<RequestLine<'_>, Violation> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Violation::RequestLine);
    };
    if !is_method(method) {
        return Err(Violation::RequestLine);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Violation::Version),
    };
    if target.len() > MAX_TARGET_BYTES {
        return Err(Violation::TooLarge);
    }
    // A fragment is never sent (RFC 9112 section 3.2), and parsers differ on what to do with one.
    if target.is_empty() || target.iter().any(|byte| !byte.is_ascii_graphic() || *byte == b'#') {
        return Err(Violation::Target);
    }
    let connect = method == b"CONNECT";
    let authority = target_authority(connect, target)?;
    // The HTTP library must be able to read the target too: find out here, where we own the answer.
    if http::Uri::try_from(target).is_err() {
        return Err(Violation::Target);
    }
    Ok(RequestLine { connect, authority, version })
}

pub(super) fn target_authority(connect: bool, target: &[u8]) -> Result<Option<&[u8]>, Violation> {
    if connect {
        let ok = is_authority(target) && target.contains(&b':');
        return if ok { Ok(Some(target)) } else { Err(Violation::Connect) };
    }
    if target.starts_with(b"/") {
        return Ok(None);
    }
    let scheme_end = target.windows(3).position(|window| window == b"://").ok_or(Violation::Target)?;
    let (scheme, rest) = target.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Violation::Target);
    }
    let rest = rest.get(3..).unwrap_or_default();
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    if is_authority(authority) { Ok(Some(authority)) } else { Err(Violation::Target) }
}

/// Host, or host and port: no user part, no path, nothing that needs decoding.
fn is_authority(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte))
}

/// What an `Upgrade` field asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Upgrade {
    #[default]
    None,
    /// HTTP/2 in the clear, which Java's client and curl's `--http2` ask for with every first request. It
    /// isn't taken: the request is an ordinary one, and goes on without these fields (RFC 9110 section 7.8).
    Http2,
    WebSocket,
    Other,
}

impl Upgrade {
    fn of(value: &[u8]) -> Self {
        let item = |item: &[u8]| match item {
            b"" => Self::None,
            _ if item.eq_ignore_ascii_case(b"h2c") => Self::Http2,
            _ if item.eq_ignore_ascii_case(b"websocket") => Self::WebSocket,
            _ => Self::Other,
        };
        value.split(|byte| *byte == b',').map(|part| item(trim(part))).max().unwrap_or_default()
    }
}

#[derive(Default)]
struct Seen<'a> {
    count: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: Upgrade,
    connection_upgrade: bool,
}

impl<'a> Seen<'a> {
    fn note(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Violation> {
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.is_some() || !is_authority(value) {
                return Err(Violation::Host);
            }
            self.host = Some(value);
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Violation::ContentLength);
            }
            self.length = Some(decimal(value).ok_or(Violation::ContentLength)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = self.upgrade.max(Upgrade::of(value));
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.connection_upgrade |= list_has(value, b"upgrade");
        } else if name.eq_ignore_ascii_case(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Violation::Expect);
        }
        Ok(())
    }

    fn conclude(self, request: &RequestLine<'_>) -> Result<Head, Violation> {
        if self.chunked && self.length.is_some() {
            return Err(Violation::BothLengths);
        }
        if self.chunked && request.version == Version::Http10 {
            return Err(Violation::TransferEncoding);
        }
        match (self.host, request.authority) {
            (None, _) if request.version == Version::Http11 => return Err(Violation::Host),
            (Some(host), Some(authority)) if !agree(host, authority, request.connect) => {
                return Err(Violation::Disagreement);
            }
            _ => {}
        }
        let framing = match (self.length, self.chunked) {
            (_, true) => Framing::chunked(),
            (Some(length), false) => Framing::length(length),
            (None, false) => Framing::length(0),
        };
        let body = self.chunked || self.length.is_some_and(|length| length > 0);
        if request.connect && (body || self.upgrade != Upgrade::None) {
            return Err(Violation::Connect);
        }
        let asked = self.connection_upgrade && request.version == Version::Http11;
        let websocket = match self.upgrade {
            Upgrade::WebSocket => asked,
            Upgrade::Other if asked => return Err(Violation::Upgrade),
            _ => false,
        };
        // A body before a tunnel has no reader that both sides agree on.
        if websocket && !framing.is_empty() {
            return Err(Violation::BothLengths);
        }
        Ok(Head { framing, tunnel: request.connect || websocket })
    }
}

/// Host and target authority name the same place. Clients of CONNECT often leave the port out of `Host`.
fn agree(host: &[u8], authority: &[u8], connect: bool) -> bool {
    if host.eq_ignore_ascii_case(authority) {
        return true;
    }
    let (host_name, host_port) = split_port(host);
    let (name, port) = split_port(authority);
    if !host_name.eq_ignore_ascii_case(name) {
        return false;
    }
    match (host_port, port) {
        (None, _) if connect => true,
        (None, Some(port)) | (Some(port), None) => port == b"80",
        (a, b) => a == b,
    }
}

fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let after_bracket = authority.iter().rposition(|byte| *byte == b']').map_or(0, |at| at + 1);
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if colon >= after_bracket => {
            (authority.get(..colon).unwrap_or_default(), authority.get(colon + 1..))
        }
        _ => (authority, None),
    }
}

/// A plain number: digits only, no sign, no leading zero, no list, small enough for 63 bits.
pub fn decimal(value: &[u8]) -> Option<u64> {
    let plain = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.iter().all(u8::is_ascii_digit);
    if !plain || value.len() > 18 {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn list_has(value: &[u8], wanted: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|item| trim(item).eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests;
