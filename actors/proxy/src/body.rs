//! The one body type of the house, and makers for the small bodies that the proxy itself answers with.

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

/// Any error that a body can end with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A streamed message body. The gateway uses the same concrete type, so nothing is converted between them.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of no bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is already whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
