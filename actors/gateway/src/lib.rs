//! `inference.local`: model requests in, answers out, and the provider's key on neither side of it.
//!
//! The steps of a request, each in a file of its own: [`shape`] → [`body`] (its `fields`; long bodies are
//! parsed at a [`policy::parse_pool`]) → [`routes`] → `call` (over the targets, as `failover` says, within
//! the [`budgets`]) → [`ledger`] → `headers` → `outgoing` → `lane` (a `line`, over [`Dial`]) → `answer` →
//! `relay` (through `withhold`) or [`upstream_error`]. [`config`] is the section of cofferdam.yaml,
//! [`credential`] its keys. [`probe`] asks one provider outside any sandbox. Only [`actor`] uses actors;
//! [`Gateway::serve`] works on a snapshot of the routes, whether or not the actor is up.
//!
//! This crate must never open a socket, resolve a name, follow a redirect, or send anything that no route
//! names.

pub mod actor;
mod answer;
pub mod base_url;
pub mod body;
pub mod budgets;
mod call;
mod charset;
pub mod config;
pub mod credential;
#[cfg(test)]
mod documentation;
mod failover;
mod fields;
pub mod glob;
mod headers;
mod health;
mod lane;
pub mod ledger;
mod line;
mod listing;
mod options;
mod outgoing;
mod output;
pub mod probe;
mod programs;
pub mod record;
pub mod refusal;
mod relay;
mod rest;
pub mod routes;
mod serve;
pub mod shape;
mod upstream;
pub mod upstream_error;
pub mod usage;
mod withhold;

pub use credential::Credentials;
pub use failover::TEXT_WITHIN;
pub use headers::MAX_VALUE as MAX_HEADER_VALUE;
pub use health::{Reading as Health, State as HealthState};
pub use lane::{IDLE_LIFE, MAX_IDLE, MAX_SHARED};
pub use ledger::Ledger;
pub use line::{MAX_ANSWER_HEAD, MAX_ANSWER_HEADERS, STREAM_WINDOW};
pub use outgoing::Parts;
pub use relay::Cut;
pub use rest::{MAX_REST, REST};
pub use serve::{Deps, Gateway, MAX_IN_FLIGHT, ProviderStatus};
pub use upstream::{Dial, Dialed, Io, Protocol, Upstream};
pub use upstream_error::Scrub;

/// An error while a body is read.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A streamed body; the same concrete type as the proxy's.
pub type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;
