//! The trusted roots in the form that Java programs read: they know no PEM bundle, only a store of their own.
//!
//! The format is JKS, which every Java reads whatever its default; a store of certificates alone is opened
//! without a password, and nothing in it is secret. Holds no other kind of entry.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem::Finder;
use sha1::{Digest, Sha1};

/// What a store begins with, and the version of its format.
const MAGIC: [u32; 2] = [0xfeed_feed, 2];
/// The tag of an entry that is a trusted certificate.
const TRUSTED: u32 = 2;
/// The usual password of stores that hold nothing secret; it only keys the checksum.
const PASSWORD: &str = "changeit";
/// Stands between password and content in the checksum.
const WHITENER: &[u8] = b"Mighty Aphrodite";

/// A store with the certificates of a PEM bundle. What is no certificate is left out.
#[must_use]
pub fn of_pem(bundle: &[u8]) -> Vec<u8> {
    // Room for everything, so that it is never reallocated: DER is shorter than its PEM by more than an
    // entry's head.
    let mut store = Vec::with_capacity(bundle.len() + 64);
    for word in MAGIC {
        store.extend(word.to_be_bytes());
    }
    let count_at = hold_length(&mut store);
    let mut count = 0_u32;
    for_each_pem(bundle, |base64| {
        let entry = store.len();
        store.extend(TRUSTED.to_be_bytes());
        text(&mut store, &format!("cofferdam-{count}"));
        // The time at which it was added, which nobody reads.
        store.extend([0; 8]);
        text(&mut store, "X.509");
        let length_at = hold_length(&mut store);
        match STANDARD.decode_vec(base64, &mut store) {
            Ok(()) => {
                let length = store.len() - length_at - size_of::<u32>();
                set_length(&mut store, length_at, u32::try_from(length).unwrap_or(u32::MAX));
                count += 1;
            }
            Err(_) => store.truncate(entry),
        }
    });
    set_length(&mut store, count_at, count);
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let checksum = Sha1::new().chain_update(password).chain_update(WHITENER).chain_update(&store).finalize();
    store.extend(checksum);
    store
}

/// Reserves four bytes for a length that isn't known yet; returns their offset.
fn hold_length(store: &mut Vec<u8>) -> usize {
    let at = store.len();
    store.extend([0; size_of::<u32>()]);
    at
}

fn set_length(store: &mut [u8], at: usize, length: u32) {
    if let Some(bytes) = store.get_mut(at..at + size_of::<u32>()) {
        bytes.copy_from_slice(&length.to_be_bytes());
    }
}

fn text(store: &mut Vec<u8>, text: &str) {
    store.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    store.extend(text.as_bytes());
}

/// Calls `take` with the base64 of each certificate of a bundle (RFC 7468), without its line ends.
fn for_each_pem(bundle: &[u8], mut take: impl FnMut(&[u8])) {
    let (begin, end) = (Finder::new("-----BEGIN CERTIFICATE-----"), Finder::new("-----END CERTIFICATE-----"));
    let (mut base64, mut rest) = (Vec::new(), bundle);
    while let Some(body) = begin.find(rest).and_then(|at| rest.get(at + begin.needle().len()..)) {
        rest = body;
        let Some(body) = end.find(body).and_then(|to| body.get(..to)) else { break };
        base64.clear();
        for line in body.split(|byte| *byte == b'\n') {
            base64.extend_from_slice(line.trim_ascii());
        }
        // A certificate in which another begins has no end of its own, and doesn't decode.
        take(&base64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_each_certificate_and_a_checksum() {
        let pem = "# a root\n-----BEGIN CERTIFICATE-----\nAQID\nBA==\n-----END CERTIFICATE-----\n\
            -----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nBQ==";
        let broken = "-----BEGIN CERTIFICATE-----\nAQ==\n".to_owned() + pem;
        assert_eq!(
            of_pem(broken.as_bytes()),
            of_pem(pem.as_bytes()),
            "one without an end is left out, and no other"
        );
        let store = of_pem(pem.as_bytes());
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1]);
        assert_eq!(store[store.len() - 28..store.len() - 20], [0, 0, 0, 4, 1, 2, 3, 4]);
        // The format's checksum, of an empty store.
        assert_eq!(
            hex::encode(&of_pem(b"")[12..]),
            hex::encode(
                Sha1::new()
                    .chain_update(
                        b"\0c\0h\0a\0n\0g\0e\0i\0tMighty Aphrodite\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\0"
                    )
                    .finalize()
            )
        );
    }
}
