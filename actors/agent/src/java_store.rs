//! The trusted roots as Java's programs read them: they know no PEM bundle, only a store of their own.
//!
//! The format is JKS, which every Java reads whatever its default; a store of certificates alone is opened without a
//! password, and nothing in it is secret. Holds no other kind of entry.

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
    let certificates = certificates(bundle);
    let mut store = Vec::with_capacity(bundle.len());
    for word in MAGIC {
        store.extend(word.to_be_bytes());
    }
    store.extend(length(&certificates));
    for (number, der) in certificates.iter().enumerate() {
        store.extend(TRUSTED.to_be_bytes());
        text(&mut store, &format!("cofferdam-{number}"));
        // When it was added: nobody asks.
        store.extend([0; 8]);
        text(&mut store, "X.509");
        store.extend(length(der));
        store.extend(der);
    }
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let checksum = Sha1::new().chain_update(password).chain_update(WHITENER).chain_update(&store).finalize();
    store.extend(checksum);
    store
}

/// Four bytes of length: a bundle is far smaller than they can say.
fn length<T>(items: &[T]) -> [u8; 4] {
    u32::try_from(items.len()).unwrap_or(u32::MAX).to_be_bytes()
}

fn text(store: &mut Vec<u8>, text: &str) {
    store.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    store.extend(text.as_bytes());
}

/// The certificates of a bundle (RFC 7468).
fn certificates(bundle: &[u8]) -> Vec<Vec<u8>> {
    let (begin, end) = (Finder::new("-----BEGIN CERTIFICATE-----"), Finder::new("-----END CERTIFICATE-----"));
    let (mut found, mut text, mut rest) = (Vec::new(), Vec::new(), bundle);
    while let Some(body) = begin.find(rest).and_then(|at| rest.get(at + begin.needle().len()..)) {
        rest = body;
        let Some(body) = end.find(body).and_then(|to| body.get(..to)) else { break };
        text.clear();
        for line in body.split(|byte| *byte == b'\n') {
            text.extend_from_slice(line.trim_ascii());
        }
        // One that another begins in has no end of its own, and doesn't decode.
        found.extend(STANDARD.decode(&text));
    }
    found
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
