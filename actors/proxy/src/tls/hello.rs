//! A strict look at a TLS ClientHello before anything answers it: which name does the client ask for?
//!
//! Follows RFC 8446 sections 4.1.2 and 5.1 (TLS 1.2 has the same layout), RFC 6066 section 3 (SNI), RFC 7301
//! (ALPN). What is judged here is relayed byte for byte, so everything that two parsers could read
//! differently is refused: duplicate extensions, lengths that don't add up, several names, odd names. Nothing
//! here answers or decrypts.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use policy::{DomainName, Host};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::prefixed::Prefixed;

mod retry;

pub(crate) use retry::{Next, asks_again, first_hello_ends, next};

/// Most bytes of a ClientHello with its record headers. Post-quantum key shares and session tickets make some
/// 2 to 4 KiB; a client that needs more is none that we know.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;
/// Bytes read at a time.
const READ: usize = 4096;

/// Longest record payload (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXT_SERVER_NAME: u16 = 0;
const EXT_ALPN: u16 = 16;
/// Encrypted ClientHello (RFC 9849); clients also send it without a meaning ("GREASE").
const EXT_ENCRYPTED_HELLO: u16 = 0xfe0d;
/// Most extensions of one hello; real ones have under 20.
const MAX_EXTENSIONS: usize = 64;
/// Most protocols of one ALPN list.
const MAX_PROTOCOLS: usize = 32;

/// What a client asks for, as far as it says so in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name in SNI, lower case.
    pub server_name: Option<DomainName>,
    /// The protocols in ALPN, in the client's order.
    pub alpn: Vec<Vec<u8>>,
    /// Whether an encrypted inner hello is there, which may ask for another name. It may be ignored only
    /// where TLS is terminated (the inner part is then never read by anyone); see [`Hello::check`].
    pub encrypted: bool,
}

/// What the first bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The hello is not whole yet.
    NeedMore,
    /// This is not TLS.
    NotTls,
    /// A whole ClientHello.
    Hello(Hello),
    /// TLS, but not in a form that can be judged.
    Bad(BadHello),
}

/// Why a ClientHello is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// More than [`MAX_HELLO_BYTES`].
    #[error("the ClientHello is longer than {MAX_HELLO_BYTES} bytes")]
    TooLong,
    /// A record header that no TLS client sends.
    #[error("the TLS record is malformed")]
    Record,
    /// The first handshake message is another one, or something follows it in its record.
    #[error("the first TLS message is not a ClientHello alone")]
    NotAHello,
    /// Lengths that don't add up, or fields outside their ranges.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// The same extension twice.
    #[error("the ClientHello has an extension twice")]
    Duplicate,
    /// SNI with several names, an unknown kind of name, or a name that is none.
    #[error("the server name (SNI) is malformed")]
    ServerName,
    /// An empty protocol name, or too many.
    #[error("the protocol list (ALPN) is malformed")]
    Alpn,
}

/// Why a hello doesn't fit its destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// SNI names another host.
    #[error("the TLS client asks for `{asked}`, the connection was opened to `{destination}`")]
    Name {
        /// The name in SNI.
        asked: DomainName,
        /// Where the connection goes.
        destination: Host,
    },
    /// There is no SNI to judge, and the bytes would be relayed.
    #[error("the TLS client doesn't say which host it asks for (no SNI)")]
    NoName,
    /// An encrypted hello, and the bytes would be relayed.
    #[error("the TLS client hides which host it asks for (encrypted ClientHello)")]
    Encrypted,
}

impl Hello {
    /// Whether the hello asks for the host that the connection was opened to. When its bytes will be
    /// `relayed` unread, it must say so beyond doubt: by SNI, and without an encrypted inner hello.
    ///
    /// # Errors
    /// The [`Mismatch`].
    pub fn check(&self, destination: &Host, relayed: bool) -> Result<(), Mismatch> {
        if relayed && self.encrypted {
            return Err(Mismatch::Encrypted);
        }
        match (&self.server_name, destination) {
            (Some(asked), Host::Name(name)) if asked == name => Ok(()),
            (Some(asked), _) => {
                Err(Mismatch::Name { asked: asked.clone(), destination: destination.clone() })
            }
            (None, Host::Name(_)) if relayed => Err(Mismatch::NoName),
            (None, _) => Ok(()),
        }
    }
}

/// Reads the beginning of a stream. Asked again with more bytes it answers anew from the start; the cost is
/// bounded by [`MAX_HELLO_BYTES`].
#[must_use]
pub fn parse_hello(bytes: &[u8]) -> Parsed {
    // Bytes beyond the limit are never looked at, so that it doesn't matter how much came at a time.
    let bytes = bytes.get(..MAX_HELLO_BYTES).unwrap_or(bytes);
    match reassemble(bytes) {
        Ok(Some((message, _))) => match parse_message(&message) {
            Ok(hello) => Parsed::Hello(hello),
            Err(bad) => Parsed::Bad(bad),
        },
        Ok(None) if bytes.first().is_some_and(|first| *first != HANDSHAKE_RECORD) => not_a_handshake(bytes),
        Ok(None) if bytes.len() >= MAX_HELLO_BYTES => Parsed::Bad(BadHello::TooLong),
        Ok(None) => Parsed::NeedMore,
        Err(bad) => Parsed::Bad(bad),
    }
}

/// Judges a stream that doesn't begin with a handshake record. Records that some servers skip before the
/// hello are TLS, too, and could hide a name behind them. Only whole records of these kinds count, since
/// other protocols begin with the same bytes.
fn not_a_handshake(bytes: &[u8]) -> Parsed {
    // change_cipher_spec, and an alert of either level; of a heartbeat any request.
    let (version, ends): (&[u8], &[&[u8]]) = match bytes {
        [0x14, rest @ ..] => (rest, &[&[0, 1, 1]]),
        [0x15, rest @ ..] => (rest, &[&[0, 2, 1], &[0, 2, 2]]),
        [0x18, rest @ ..] => (rest, &[&[0]]),
        _ => return Parsed::NotTls,
    };
    let end = match version {
        [] | [3] => return Parsed::NeedMore,
        [3, 0..=4, end @ ..] => end,
        _ => return Parsed::NotTls,
    };
    if ends.iter().any(|whole| end.starts_with(whole)) {
        return Parsed::Bad(BadHello::Record);
    }
    if ends.iter().any(|whole| whole.starts_with(end)) { Parsed::NeedMore } else { Parsed::NotTls }
}

/// A handshake message, taken out of its records, and the bytes that follow them.
type Reassembled<'a> = (Vec<u8>, &'a [u8]);

/// The first handshake message, once it is whole.
fn reassemble(mut bytes: &[u8]) -> Result<Option<Reassembled<'_>>, BadHello> {
    if bytes.first().is_some_and(|first| *first != HANDSHAKE_RECORD) {
        return Ok(None);
    }
    let mut message = Vec::new();
    loop {
        // A wrong header is refused at its first wrong byte: a client that stops there must not make us wait.
        match bytes {
            [] | [HANDSHAKE_RECORD] | [HANDSHAKE_RECORD, 3, ..] => {}
            _ => return Err(BadHello::Record),
        }
        let Some((&[_, _, _, high, low], rest)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MAX_RECORD {
            return Err(BadHello::Record);
        }
        message.extend_from_slice(rest.get(..length).unwrap_or(rest));
        let wanted = wanted(&message)?;
        if message.len() > MAX_HELLO_BYTES || wanted.is_some_and(|w| w > MAX_HELLO_BYTES) {
            return Err(BadHello::TooLong);
        }
        let Some((_, after)) = rest.split_at_checked(length) else {
            // This record is not whole yet. What is there of it may already be too much for the message.
            return if wanted.is_some_and(|w| message.len() > w) {
                Err(BadHello::NotAHello)
            } else {
                Ok(None)
            };
        };
        match wanted {
            Some(wanted) if message.len() > wanted => return Err(BadHello::NotAHello),
            Some(wanted) if message.len() == wanted => return Ok(Some((message, after))),
            _ => bytes = after,
        }
    }
}

/// The message's whole length as its header states it, once that is there.
fn wanted(message: &[u8]) -> Result<Option<usize>, BadHello> {
    match message {
        [] => Ok(None),
        [kind, ..] if *kind != CLIENT_HELLO => Err(BadHello::NotAHello),
        [_, a, b, c, ..] => {
            let body = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX);
            Ok(Some(body.saturating_add(4)))
        }
        _ => Ok(None),
    }
}

/// Reads fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], BadHello> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(BadHello::Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadHello> {
        let (head, tail) = self.0.split_first_chunk().ok_or(BadHello::Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, BadHello> {
        self.array().map(u16::from_be_bytes)
    }

    /// A vector with a length of one byte before it.
    fn vec8(&mut self) -> Result<&'a [u8], BadHello> {
        let [n] = self.array()?;
        self.bytes(n.into())
    }

    /// A vector with a length of two bytes before it.
    fn vec16(&mut self) -> Result<&'a [u8], BadHello> {
        let n = self.u16()?;
        self.bytes(n.into())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// RFC 8446 section 4.1.2.
fn parse_message(message: &[u8]) -> Result<Hello, BadHello> {
    let mut fields = Fields(message);
    let _header = fields.bytes(4)?;
    let [major, _minor] = fields.array()?;
    let _random = fields.bytes(32)?;
    let session = fields.vec8()?;
    let suites = fields.vec16()?;
    let compressions = fields.vec8()?;
    let bad = major != 3
        || session.len() > 32
        || suites.is_empty()
        || suites.len() % 2 != 0
        || !compressions.contains(&0);
    if bad {
        return Err(BadHello::Malformed);
    }
    let mut hello = Hello { server_name: None, alpn: Vec::new(), encrypted: false };
    if fields.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Fields(fields.vec16()?);
    if !fields.is_empty() {
        return Err(BadHello::Malformed);
    }
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vec16()?;
        if seen.contains(&kind) {
            return Err(BadHello::Duplicate);
        }
        if seen.len() >= MAX_EXTENSIONS {
            return Err(BadHello::Malformed);
        }
        seen.push(kind);
        match kind {
            EXT_SERVER_NAME => hello.server_name = Some(server_name(body).map_err(|_| BadHello::ServerName)?),
            EXT_ALPN => hello.alpn = protocols(body).map_err(|_| BadHello::Alpn)?,
            EXT_ENCRYPTED_HELLO => hello.encrypted = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 section 3: a list, of which exactly one host name may be there.
fn server_name(body: &[u8]) -> Result<DomainName, BadHello> {
    let mut body = Fields(body);
    let mut list = Fields(body.vec16()?);
    let [kind] = list.array()?;
    let name = list.vec16()?;
    if kind != 0 || !list.is_empty() || !body.is_empty() {
        return Err(BadHello::ServerName);
    }
    let name = std::str::from_utf8(name).map_err(|_| BadHello::ServerName)?;
    DomainName::parse(name).map_err(|_| BadHello::ServerName)
}

/// RFC 7301 section 3.1.
fn protocols(body: &[u8]) -> Result<Vec<Vec<u8>>, BadHello> {
    let mut body = Fields(body);
    let mut list = Fields(body.vec16()?);
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let name = list.vec8()?;
        if name.is_empty() || protocols.len() >= MAX_PROTOCOLS {
            return Err(BadHello::Alpn);
        }
        protocols.push(name.to_vec());
    }
    if protocols.is_empty() || !body.is_empty() {
        return Err(BadHello::Alpn);
    }
    Ok(protocols)
}

/// What a stream begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// TLS, with this hello.
    Tls(Hello),
    /// Something else.
    NotTls,
}

/// Why no greeting came.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The hello can't be judged.
    #[error("{0}")]
    Bad(#[from] BadHello),
    /// The client closed before its hello was whole.
    #[error("the connection ended before its first message was whole")]
    Closed,
    /// The client took too long.
    #[error("the first message did not come in time")]
    TimedOut,
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads a stream's beginning, within `deadline` in all, and gives the stream back as if it were unread.
///
/// # Errors
/// [`HelloError`]; the stream is gone then.
pub async fn read_hello<T: AsyncRead + Unpin>(
    mut stream: T,
    deadline: Duration,
) -> Result<(Greeting, Prefixed<T>), HelloError> {
    let mut bytes = BytesMut::with_capacity(READ);
    let reading = async {
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(HelloError::Closed);
            }
            match parse_hello(&bytes) {
                Parsed::NeedMore => bytes.reserve(READ),
                Parsed::NotTls => return Ok(Greeting::NotTls),
                Parsed::Hello(hello) => return Ok(Greeting::Tls(hello)),
                Parsed::Bad(bad) => return Err(bad.into()),
            }
        }
    };
    let greeting = timeout(deadline, reading).await.map_err(|_| HelloError::TimedOut)??;
    Ok((greeting, Prefixed::new(bytes.freeze(), stream)))
}

#[cfg(test)]
mod tests;
