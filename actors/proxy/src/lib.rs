//! The proxy: the only way out of the sandbox.

pub mod body;
pub mod guard;
pub mod identity;
pub mod limits;
pub mod strict;
pub mod tls;
