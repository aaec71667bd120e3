//! A request's body on its way upstream: the part that was read, and the rest.
//!
//! Where it is watched, it ends in an error before the chunk that would complete a placeholder of a
//! credential.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use policy::Denial;

use crate::answer::Refusal;
use crate::body::BoxError;
use crate::credentials::{Watch, find, unrewritten};
use crate::misleading;
use crate::room::Room;

/// A body as it is sent on: what was read, then the rest.
pub(crate) struct Forwarded {
    read: Bytes,
    trailers: Option<HeaderMap>,
    rest: Option<Incoming>,
    watch: Option<(Watch, Tripped)>,
    /// Its share of the memory that all bodies may take, given back when it is sent.
    _room: Option<Room>,
}

/// Why a body was not read as far as it should be.
#[derive(Debug)]
pub(crate) enum Ungathered {
    /// The client broke it off, or sent it in a form that isn't accepted; the text says how.
    Broken(&'static str),
    /// Other bodies take too much memory.
    NoRoom(Refusal),
}

/// Why a watched body was broken off, if it was.
#[derive(Clone, Default)]
pub(crate) struct Tripped(Arc<OnceLock<Denial>>);

impl Tripped {
    pub(crate) fn denial(&self) -> Option<&Denial> {
        self.0.get()
    }
}

impl Forwarded {
    /// A body of which nothing was read.
    pub(crate) fn untouched(body: Incoming) -> Self {
        Self { read: Bytes::new(), trailers: None, rest: Some(body), watch: None, _room: None }
    }

    /// The part that was read.
    pub(crate) fn read(&self) -> &Bytes {
        &self.read
    }

    /// Whether all of it was read.
    pub(crate) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// Whether trailers came behind what was read.
    pub(crate) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    /// Reads on until it is whole, or longer than `max` bytes, and pays for the bytes from `room`.
    ///
    /// # Errors
    /// It broke off, or there is no room for it.
    pub(crate) async fn gathered(mut self, max: u32, room: &mut Room) -> Result<Self, Ungathered> {
        let limit = usize::try_from(max).unwrap_or(usize::MAX);
        let mut held = BytesMut::from(&*self.read);
        while let Some(rest) = &mut self.rest {
            let Some(frame) = rest.frame().await else {
                self.rest = None;
                break;
            };
            match frame.map_err(|_| Ungathered::Broken("the body broke off"))?.into_data() {
                Ok(data) => {
                    room.pay_for(held.len() + data.len()).map_err(Ungathered::NoRoom)?;
                    held.extend_from_slice(&data);
                }
                Err(other) => self.trailers = other.into_trailers().ok(),
            }
            if held.len() > limit {
                break;
            }
        }
        self.read = held.freeze();
        Ok(self)
    }

    /// Attaches its share of the memory that all bodies may take.
    pub(crate) fn in_room(self, room: Room) -> Self {
        Self { _room: Some(room), ..self }
    }

    /// Replaces the part that was read.
    pub(crate) fn replaced(self, read: Bytes) -> Self {
        Self { read, ..self }
    }

    /// Has it watched for placeholders from here on.
    pub(crate) fn watched(self) -> Self {
        Self { watch: Some(Default::default()), ..self }
    }

    /// Where the reason will be found, should the body be broken off.
    pub(crate) fn tripped(&self) -> Tripped {
        self.watch.as_ref().map(|(_, tripped)| tripped.clone()).unwrap_or_default()
    }

    /// Checks a frame before it passes: drops misleading trailers, and breaks the body off at a placeholder.
    fn look(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        let frame = match frame.into_trailers() {
            Ok(mut trailers) => {
                misleading::drop_from_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        };
        let Some((watch, tripped)) = &mut self.watch else { return Ok(frame) };
        let found = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => watch.finds(data),
            (_, Some(trailers)) => trailers
                .values()
                .find_map(|value| find(value.as_bytes(), 0).map(|place| place.name.to_owned())),
            _ => None,
        };
        match found {
            None => Ok(frame),
            Some(name) => {
                self.rest = None;
                let denial = tripped.0.get_or_init(|| unrewritten(&name));
                Err(denial.detail.clone().into())
            }
        }
    }
}

impl HttpBody for Forwarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = if !self.read.is_empty() {
            Frame::data(std::mem::take(&mut self.read))
        } else if let Some(rest) = &mut self.rest {
            match Pin::new(rest).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other.map_err(Into::into),
            }
        } else if let Some(trailers) = self.trailers.take() {
            Frame::trailers(trailers)
        } else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(self.look(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}
