//! Properties of this crate's parsers that must hold for all input: one file a property, named as its fuzz
//! target.
//!
//! Each property takes raw bytes and panics where it doesn't hold. The fuzz targets (`fuzz/`) call it with
//! new bytes on nightly, the tests below with every file of the corpus on stable. No ordinary build has this
//! module.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property that doesn't hold stops the fuzzer by a panic"
)]

pub mod graphql;
pub mod json_rpc;
pub mod path;
pub mod policy_parser;

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphql_corpus() {
        replay::corpus("graphql", graphql::holds);
    }

    #[test]
    fn json_rpc_corpus() {
        replay::corpus("json_rpc", json_rpc::holds);
    }

    #[test]
    fn path_corpus() {
        replay::corpus("path", path::holds);
    }

    #[test]
    fn policy_parser_corpus() {
        replay::corpus("policy_parser", policy_parser::holds);
    }
}
