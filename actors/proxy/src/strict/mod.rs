//! The strict reading of HTTP/1: nothing reaches the HTTP library that was not judged well-formed here.
//!
//! - [`head`]: one request head, from raw bytes to a [`head::Head`] or a [`Violation`].
//! - [`framing`]: where a body ends, so that the next head is always known to be one.
//! - [`named`]: what a head asked for that is refused.
//! - [`io`]: the adapter between a socket and hyper that applies both.

pub mod framing;
pub mod head;
pub mod io;
pub mod named;

use http::StatusCode;

/// Why bytes from the agent are not HTTP as this proxy accepts it. The connection ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A line that ends in a bare LF, or a CR that no LF follows.
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// The request line is not `METHOD SP TARGET SP HTTP/1.x`.
    #[error("the request line is malformed")]
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1 (HTTP/2 without TLS included).
    #[error("this HTTP version is not spoken here (HTTP/1.1, or HTTP/2 inside TLS)")]
    Version,
    /// The target holds bytes that no target may hold, or has no form that we know.
    #[error("the request target is malformed")]
    Target,
    /// A header line without a proper name, with space before its colon, or folded.
    #[error("a header line is malformed")]
    HeaderLine,
    /// A header value with control bytes.
    #[error("a header value holds control bytes")]
    HeaderValue,
    /// `Content-Length` twice, or not a plain number.
    #[error("Content-Length is not one plain number")]
    ContentLength,
    /// `Transfer-Encoding` is not exactly one `chunked`, or stands on HTTP/1.0.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    TransferEncoding,
    /// Both length headers: two parsers would see two bodies.
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    BothLengths,
    /// No `Host`, or more than one, or one that is malformed.
    #[error("Host must stand exactly once and be well-formed")]
    Host,
    /// The target names one authority and `Host` another.
    #[error("Host and the request target disagree")]
    Disagreement,
    /// An upgrade to something other than WebSocket; one to h2c is not taken, and asks for nothing else.
    #[error("only an upgrade to WebSocket is taken here")]
    Upgrade,
    /// CONNECT with a body, or with a target that is no authority.
    #[error("CONNECT takes HOST:PORT and no body")]
    Connect,
    /// `Expect` is something other than `100-continue`.
    #[error("only `Expect: 100-continue` is known")]
    Expect,
    /// A chunk whose size line, data end or trailer is malformed.
    #[error("the chunked body is malformed")]
    Chunk,
    /// The head is larger than the limits allow.
    #[error("the request head is too large")]
    TooLarge,
    /// The head is long, and too much of other long ones is being read at the same time.
    #[error("too many long request heads are being read at the same time")]
    Crowded,
    /// The head did not arrive within its deadline.
    #[error("the request head took too long")]
    Slow,
}

impl Violation {
    /// The status that the connection ends with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
