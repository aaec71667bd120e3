//! The policy: what an agent may reach and touch, as the operator wrote it; here it is checked and compiled.
//!
//! [`parse`] reads a file into a [`Policy`] (and reports every error at once), [`compose()`] adds presets to
//! it, and [`Compiled`] is the matcher made from the result. It answers [`Compiled::connect`] and
//! [`Compiled::request`] without a lock or an allocation, and [`Compiled::explain`] gives its reasons. A
//! [`Store`] holds the [`Generation`] in force; a [`Loader`] replaces it; the [`actor`] calls the loader when
//! the file changes.
//!
//! The crate also holds the types that decisions are made of ([`Host`], [`CanonicalPath`], [`Caller`],
//! [`Denial`] …). It never opens a connection and never inspects a process: it only answers questions.

pub mod actor;
mod approved;
mod as_sent;
mod authority;
mod bare;
mod builtin;
pub mod carried;
mod check;
mod compiled;
mod compose;
pub mod content;
mod decision;
mod diagnostics;
mod diff;
mod document;
mod explain;
mod fields;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod generation;
mod glob;
mod host;
mod model;
pub mod parse_pool;
mod path;
mod program;
mod query;
mod read;
mod reference;
mod regular;
mod reload;
mod renamed;
mod schema;
pub mod second;
mod shares;
pub mod watch;
mod yaml;

pub use approved::{Approved, Unwritable};
pub use authority::{AuthorityError, split_authority};
pub use builtin::{Builtin, DEFAULT_PROFILE, preset, presets, profile, profiles};
pub use compiled::Compiled;
pub use compose::compose;
pub use content::Content;
pub use decision::{
    AddressRule, Allowed, Caller, Denial, Destination, Executable, Grant, Layer, Protocol, RequestFacts,
    Treatment,
};
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use diff::{Change, Effect, diff};
pub use document::quoted;
pub use explain::{Asked, Difference, Explanation, Nearest, Question, QuestionError, Verdict};
pub use fields::nearest;
pub use generation::{Candidate, Generation, Source, Store};
pub use glob::{Glob, GlobError, MAX_GLOB_BYTES};
pub use host::{DomainName, Host, HostError, MAX_LABEL_BYTES, MAX_NAME_BYTES};
pub use model::{
    Access, Binary, Bodies, Endpoint, Entry, Filesystem, GraphqlRule, HostPattern, HostPatternError,
    HttpRule, JsonMatcher, Landlock, Method, Origin, PathPattern, PathPatternError, PathRule, Pointer,
    Policy, Process, QueryMatcher, Rewrites, RpcMethod, RpcRule, Rule, ValueMatcher, WEBSOCKET_TEXT, Written,
};
pub use path::{CanonicalPath, MAX_PATH_BYTES, PathError, PathOptions};
pub use program::NamedProgram;
pub use query::{MAX_PARAMETERS, MAX_QUERY_BYTES, Query, QueryError};
pub use read::{Parsed, Preset, parse, parse_preset};
pub use reference::reference;
pub use regular::open_regular;
pub use reload::{Loader, Observer, Published, Refused, Reloaded, Seen};
pub use renamed::names_another_method;
pub use schema::schema;
pub use shares::{Party, Share, Shares, Spent, TO_WHAT_IS_LEFT};
