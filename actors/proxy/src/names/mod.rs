//! Name resolution inside the sandbox: a resolver that asks no other.
//!
//! A name that the policy allows is answered at once with addresses of our own ([`book`]), and only the
//! connection that follows resolves it outside, by the one road. A name that it doesn't allow does not exist
//! ([`server`]): no resolver outside ever hears it. [`question`] reads questions byte for byte;
//! [`crate::repeats`] decides which refused ones are recorded. Must never answer with an address that another
//! name had a short while ago.

pub mod book;
pub(crate) mod question;
pub mod server;

pub use book::{Book, Bound, MAX_NAMES};
pub use question::MAX_QUERY_BYTES;
pub use server::{
    ASKED_NAMES_PER_MINUTE, MAX_TCP_CLIENTS, NEW_NAMES_PER_MINUTE, QUERIES_PER_MINUTE, Resolver, Sockets,
    TCP_IDLE, TTL,
};
