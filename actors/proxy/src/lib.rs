//! The proxy: the only way out of the sandbox.
//!
//! One road, a file a step, each step a type that only the step before can make:
//!
//! ```text
//! listen ─ Accepted ─ strict head ─ intent ─ caller ─ verdict ─ address ─ upstream ─ message/relay ─ outcome
//!          (socket,    (bytes that   (one     (judged  (rule,    (judged   (TLS,      (bodies,        (audit,
//!           tuple)      are HTTP)     name)    who)     which     where)    ALPN)      tunnels)        metrics)
//!                                                       policy)
//! ```
//! [`road`](mod@road) walks it for each request; CONNECT ([`tunnel`](mod@tunnel)), connections to any address
//! ([`capture`](mod@capture)), absolute form, requests inside a tunnel and `inference.local` differ only in
//! how their intent is made. Where an endpoint judges bodies or messages, [`protocol`] reads them on the way;
//! behind the verdict [`credentials`] puts values in the place of placeholders. What no entry names may wait
//! for the operator's word ([`approval`]). Nothing is dialled before it is allowed and on record; whatever
//! fails, fails closed.

mod absence;
pub mod actor;
mod address;
pub mod answer;
pub mod approval;
pub mod body;
pub mod caller;
pub mod credentials;
pub mod guard;
pub mod identity;
pub mod intent;
mod interim;
pub mod limits;
pub mod listen;
pub mod names;
pub mod outcome;
pub mod protocol;
pub mod relay;
pub mod route;
pub mod strict;
pub mod tls;
pub mod tracker;
pub mod trusted;
pub mod upstream;
pub mod verdict;
pub mod witness;

mod capture;
mod conn;
mod forward;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod hop;
mod journal;
mod lent;
mod local;
mod message;
mod misleading;
mod pool;
pub mod repeats;
mod road;
mod room;
mod serve;
pub mod shelf;
mod sizes;
mod splice;
mod ssh;
mod stall;
mod timer;
mod tunnel;
mod websocket;

#[cfg(test)]
mod tests;

pub use body::Body;
pub use caller::{Identify, Identities};
pub use conn::{Deps, LocalService};
pub use identity::{Holder, Processes};
pub use listen::{Captured, Kind, Listener};
pub use tracker::Tracker;
pub use upstream::Upstream;
