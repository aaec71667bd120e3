//! The policy: what an agent may reach and touch, as the operator wrote it, checked and compiled.
//!
//! The crate holds the vocabulary of decisions ([`Host`], [`CanonicalPath`], [`Caller`], [`Denial`] …). It never
//! opens a connection and never reads a process: it is asked, and answers.

mod decision;
mod host;
mod path;
mod query;

pub use decision::{
    AddressRule, Allowed, Caller, Denial, Destination, Executable, Grant, Layer, Protocol, RequestFacts,
    Treatment,
};
pub use host::{DomainName, Host, HostError, MAX_LABEL_BYTES, MAX_NAME_BYTES};
pub use path::{CanonicalPath, MAX_PATH_BYTES, PathError, PathOptions};
pub use query::{MAX_PARAMETERS, MAX_QUERY_BYTES, Query, QueryError};
