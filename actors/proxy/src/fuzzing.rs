//! Properties of this crate's parsers that must hold for any bytes: one file each, named as its fuzz target.
//!
//! Each property takes raw bytes and panics where it doesn't hold. The fuzz targets (`fuzz/`) call it with
//! new bytes on nightly, the tests below with every file of the corpus on stable. No ordinary build has this
//! module.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property that doesn't hold stops the fuzzer by a panic"
)]

pub mod client_hello;
pub mod dns;
pub mod http_head;
pub mod websocket;

/// Cuts bytes into pieces whose sizes, from 1 to 16, follow from `choice` alone.
fn pieces(bytes: &[u8], choice: u8) -> impl Iterator<Item = &[u8]> {
    let mut dice = u32::from(choice) | 0x100;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = (dice >> 28) as usize + 1;
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_hello_corpus() {
        replay::corpus("client_hello", client_hello::holds);
    }

    #[test]
    fn dns_corpus() {
        replay::corpus("dns", dns::holds);
    }

    #[test]
    fn http_head_corpus() {
        replay::corpus("http_head", http_head::holds);
    }

    #[test]
    fn websocket_corpus() {
        replay::corpus("websocket", websocket::holds);
    }
}
