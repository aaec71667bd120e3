//! The control socket: HTTP/1.1 and JSON for the operator, on both of its ends.
//!
//! The server: [`serve()`](serve::prepare) accepts connections, checks the peer and enforces limits;
//! `service` routes a request and calls [`Control`], the trait of all operations, which is implemented
//! elsewhere. [`approvals`] holds the requests that wait for the operator's decision. The client:
//! [`client::Client`]. What goes over the wire: [`types`], [`fault`], [`frame`], described by `openapi.json`.
//! Only [`actor`] names the actor library.
//!
//! Never here: a TCP listener, a decision about an agent's request, a secret.

pub mod actor;
mod answer;
pub mod approvals;
pub mod client;
pub mod control;
mod exec;
pub mod fault;
pub mod frame;
pub mod limits;
pub mod routes;
pub mod serve;
mod service;
mod tree;
pub mod types;

pub use approvals::Approvals;
pub use client::Client;
pub use control::{Answer, Control, ExecControl, ExecEnds, ExecOutput, ExecSession, Peer};
pub use fault::{Code, Fault};
pub use serve::{Owner, Serving, Unservable, prepare};
pub use service::OPENAPI;
