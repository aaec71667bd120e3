//! What each named host answers.

pub mod crates;
pub mod deb;
pub mod git;
pub mod grpc;
pub mod packages;
pub mod pattern;
pub(crate) mod redis;
pub(crate) mod ssh;
pub mod web;
mod websocket;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::recorder::Recorder;

/// A body that a site reads whole may be this long.
const WHOLE_MAX: usize = 16 << 20;

/// One request's surroundings.
#[derive(Debug)]
pub struct Visit<'a> {
    /// The name the client used.
    pub host: &'a str,
    /// Its number in the recorder.
    pub number: u64,
    /// Where its body is noted.
    pub recorder: &'a Recorder,
}

impl Visit<'_> {
    /// Reads a body whole, up to a bound, and notes it. `None` when it broke off or is too long.
    pub async fn read(&self, mut body: Incoming) -> Option<Bytes> {
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.ok()?.into_data() {
                whole.extend_from_slice(&data);
            }
            if whole.len() > WHOLE_MAX {
                return None;
            }
        }
        self.recorder.body(self.number, &whole);
        Some(whole.into())
    }
}

/// A query parameter's value, as written.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A query parameter read as a number, else the default.
pub fn number(query: Option<&str>, name: &str, default: u64) -> u64 {
    parameter(query, name).and_then(|v| v.parse().ok()).unwrap_or(default)
}
