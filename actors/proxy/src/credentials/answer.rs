//! Searches the answers of destinations that may receive a credential, so that an echo doesn't bring it into
//! the sandbox.
//!
//! Each byte of a value becomes a `*`, so that lengths and framing stay true. Answers can be searched only if
//! they come in clear and in order, so compression, ranges and character sets aren't asked for. Answers of
//! other destinations never come here.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use policy::second::is_spelled;
use redactor::{Guesser, Mask, Pieces, RedactorError, Screen, Secret, Sieve};

use super::charset;
use crate::body::BoxError;

/// Fields by which HTTP, gRPC and Connect say that bytes are compressed, besides the transfer coding.
const ENCODINGS: [&str; 3] = ["content-encoding", "grpc-encoding", "connect-content-encoding"];
/// Fields that ask for ranges, deltas, compressed messages or other character sets, in which no value would
/// be found. A server may always answer with the whole (RFC 9110 section 14.2).
const UNSEARCHABLE: [&str; 9] = [
    "accept-charset",
    "accept-encoding",
    "range",
    "request-range",
    "x-ms-range",
    "if-range",
    "a-im",
    "grpc-accept-encoding",
    "connect-accept-encoding",
];

/// The values that are searched for. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Values {
    screen: Screen,
    /// The same in lower case, as names of header fields are.
    names: Screen,
}

/// Keeps credentials out of one answer, and the answer's reader from guessing them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    values: Values,
    guesser: Guesser,
}

impl Values {
    pub(super) fn new<'s>(values: impl Iterator<Item = &'s Secret>) -> Result<Self, RedactorError> {
        let values: Vec<&Secret> = values.collect();
        let small: Vec<Secret> =
            values.iter().map(|value| Secret::new(value.expose().to_ascii_lowercase())).collect();
        Ok(Self { screen: Screen::new(values, Mask::Stars)?, names: Screen::new(&small, Mask::Stars)? })
    }

    /// The guard of an answer; `guesser` stands for the answer's reader.
    pub(super) fn kept_from(&self, guesser: Guesser) -> Guard {
        Guard { values: self.clone(), guesser }
    }
}

impl Guard {
    /// Makes a request ask for an answer that can be searched.
    pub(crate) fn asks_in_clear(headers: &mut HeaderMap) {
        // Also matches other spellings that some program reads as one of these names.
        let asks = |name: &HeaderName| UNSEARCHABLE.iter().any(|own| is_spelled(own, name.as_str()));
        let asking: Vec<HeaderName> = headers.keys().filter(|name| asks(name)).cloned().collect();
        for name in asking {
            headers.remove(name);
        }
        charset::ask_for_none(headers);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }

    /// Whether an answer can be searched: it is not compressed, is in a character set that is searched, and
    /// is neither a range nor a delta. None of these was asked for.
    pub(crate) fn is_clear(status: StatusCode, headers: &HeaderMap) -> bool {
        let all = |name: &str, clear: &[u8]| {
            headers.get_all(name).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(clear))
        };
        !matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::IM_USED)
            && ENCODINGS.iter().all(|name| all(name, b"identity"))
            && all("transfer-encoding", b"chunked")
            && charset::is_clear(headers)
    }

    /// Masks values in header fields (also of trailers). A field with one in its name is removed.
    pub(crate) fn headers(&self, headers: &mut HeaderMap) {
        let named: Vec<HeaderName> = headers
            .keys()
            .filter(|name| self.values.names.finds(name.as_str().as_bytes()))
            .cloned()
            .collect();
        for name in named {
            headers.remove(name);
        }
        for value in headers.values_mut() {
            if let Some(masked) = self.values.screen.masked(value.as_bytes()) {
                *value = HeaderValue::from_bytes(&masked).unwrap_or(HeaderValue::from_static(""));
            }
        }
    }

    /// For tests of what isn't a credential's doing.
    #[cfg(test)]
    pub(crate) fn for_tests(values: &[Secret], guesser: Guesser) -> Self {
        Values::new(values.iter()).expect("few values").kept_from(guesser)
    }

    /// The search itself, for one stream.
    pub(crate) fn sieve(&self) -> Sieve {
        self.values.screen.sieve(self.guesser.clone())
    }

    /// An answer's body, searched.
    pub(crate) fn body<B>(&self, inner: B) -> Screened<B> {
        Screened {
            inner,
            guard: self.clone(),
            pieces: Pieces::default(),
            sieve: self.sieve(),
            trailers: None,
        }
    }
}

/// A body on its way through a [`Guard`].
pub(crate) struct Screened<B> {
    inner: B,
    guard: Guard,
    /// The part of the last frame that isn't searched yet.
    pieces: Pieces,
    sieve: Sieve,
    /// Trailers that wait until what the sieve held back is out.
    trailers: Option<HeaderMap>,
}

impl<B> Screened<B> {
    /// Returns what the sieve held back, at the end of the data.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.sieve.finish();
        (!rest.is_empty()).then(|| Frame::data(rest))
    }

    /// Number of bytes that were received and not passed on yet.
    fn waiting(&self) -> usize {
        self.pieces.left() + self.sieve.held()
    }
}

impl<B> HttpBody for Screened<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        loop {
            if let Some(piece) = ready!(this.pieces.poll_next(cx)) {
                let data = this.sieve.push(piece);
                if data.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => return Poll::Ready(this.rest().map(Ok)),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Ok(data) => this.pieces.put(data),
                Err(other) => {
                    let Ok(mut trailers) = other.into_trailers() else { continue };
                    this.guard.headers(&mut trailers);
                    return Poll::Ready(Some(Ok(match this.rest() {
                        Some(rest) => {
                            this.trailers = Some(trailers);
                            rest
                        }
                        None => Frame::trailers(trailers),
                    })));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.waiting() == 0 && self.trailers.is_none()
    }

    /// Masking doesn't change a length.
    fn size_hint(&self) -> SizeHint {
        let (inner, held) = (self.inner.size_hint(), self.waiting() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, Full};
    use redactor::{Guesses, PIECE};

    use super::*;

    const KEY: &str = "ghp_0123456789abcdefgh";

    /// Whatever a server sends at once, others have their turns while it is searched; and all of it arrives,
    /// as long as it says.
    #[tokio::test]
    async fn a_turn_passes_a_piece_at_most() {
        let guard = Guard::for_tests(&[Secret::from(KEY)], Guesses::default().of(1, || {}));
        let filler = "%".repeat(PIECE - 7);
        let text = format!("{filler}{KEY}{filler}{KEY}{filler}{filler}");
        let mut body = guard.body(Full::new(Bytes::from(text.clone())));
        let (mut turns, mut out) = (vec![0], Vec::new());
        loop {
            assert_eq!(body.size_hint().exact(), Some((text.len() - out.len()) as u64));
            assert_eq!(body.is_end_stream(), out.len() == text.len());
            match body.frame().now_or_never() {
                None => {
                    turns.push(0);
                    tokio::task::yield_now().await;
                }
                Some(None) => break,
                Some(Some(frame)) => {
                    let data = frame.unwrap().into_data().unwrap();
                    *turns.last_mut().unwrap() += data.len();
                    out.extend_from_slice(&data);
                }
            }
        }
        assert!(String::from_utf8(out).unwrap() == text.replace(KEY, &"*".repeat(KEY.len())));
        // And what waited.
        assert!(turns.len() >= 5 && turns.iter().all(|turn| *turn < PIECE + 1024), "{turns:?}");
    }
}
