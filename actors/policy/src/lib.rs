//! The policy: what an agent may reach and touch, as the operator wrote it, checked and compiled.
//!
//! The crate holds the vocabulary of decisions ([`Host`], [`CanonicalPath`], [`Caller`], [`Denial`] …). It never
//! opens a connection and never reads a process: it is asked, and answers.

mod builtin;
mod check;
mod compiled;
mod compose;
mod decision;
mod diagnostics;
mod diff;
mod document;
mod explain;
mod fields;
mod generation;
mod glob;
mod host;
mod model;
mod path;
mod query;
mod read;
mod schema;
mod yaml;

pub use builtin::{Builtin, DEFAULT_PROFILE, preset, presets, profile, profiles};
pub use compiled::Compiled;
pub use compose::compose;
pub use decision::{
    AddressRule, Allowed, Caller, Denial, Destination, Executable, Grant, Layer, Protocol, RequestFacts,
    Treatment,
};
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use diff::{Change, Effect, diff};
pub use explain::{Asked, Difference, Explanation, Nearest, Question, QuestionError, Verdict};
pub use generation::{Candidate, Generation, Store};
pub use glob::{Glob, GlobError, MAX_GLOB_BYTES};
pub use host::{DomainName, Host, HostError, MAX_LABEL_BYTES, MAX_NAME_BYTES};
pub use model::{
    Access, Binary, Endpoint, Entry, Filesystem, HostPattern, HostPatternError, Landlock, Method, Origin,
    PathPattern, PathPatternError, PathRule, Policy, Process, QueryMatcher, Rule,
};
pub use path::{CanonicalPath, MAX_PATH_BYTES, PathError, PathOptions};
pub use query::{MAX_PARAMETERS, MAX_QUERY_BYTES, Query, QueryError};
pub use read::{Parsed, Preset, parse, parse_preset};
pub use schema::schema;
