//! What may follow a first ClientHello where its bytes are relayed: a server that wants another key has the
//! client send a second hello (RFC 8446 section 4.1.4), and servers go by the name in that.

use super::{HANDSHAKE_RECORD, MAX_RECORD, RECORD_HEADER, reassemble};

/// The "random" of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
const SERVER_HELLO: u8 = 2;
/// Bytes of a ServerHello before its random: kind, length, version.
const BEFORE_RANDOM: usize = 6;
/// Bytes by which a record may be longer when it is encrypted (RFC 5246 section 6.2.3).
const MAX_EXPANSION: usize = 2048;

/// How many bytes the first hello of a stream takes, which must be whole.
#[must_use]
pub(crate) fn first_hello_ends(bytes: &[u8]) -> usize {
    match reassemble(bytes) {
        Ok(Some((_, after))) => bytes.len() - after.len(),
        _ => bytes.len(),
    }
}

/// Whether a server whose answer begins with these bytes asks for a second hello; none while there are too
/// few to know. Also true if the first record ends too early to know: the server may be asking.
#[must_use]
pub(crate) fn asks_again(answer: &[u8]) -> Option<bool> {
    if answer.first().is_some_and(|kind| *kind != HANDSHAKE_RECORD) {
        return Some(false);
    }
    let (&[_, _, _, high, low], message) = answer.split_first_chunk::<RECORD_HEADER>()?;
    if message.first().is_some_and(|kind| *kind != SERVER_HELLO) {
        return Some(false);
    }
    if usize::from(u16::from_be_bytes([high, low])) < BEFORE_RANDOM + RETRY.len() {
        return Some(true);
    }
    Some(*message.get(BEFORE_RANDOM..BEFORE_RANDOM + RETRY.len())? == RETRY)
}

/// What a client sends next that was asked for a second hello.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Too little to tell.
    More,
    /// A record of so many bytes that servers skip before the hello: for compatibility, with early data, an
    /// alert.
    Passed(usize),
    /// The beginning of that hello, whole or not.
    Hello,
    /// Something that no client sends there.
    Odd,
}

/// Looks at the record that the bytes begin with.
#[must_use]
pub(crate) fn next(bytes: &[u8]) -> Next {
    const PASSED: std::ops::RangeInclusive<u8> = 20..=24;
    let Some((&[kind, major, _, high, low], _)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
        return Next::More;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match kind {
        HANDSHAKE_RECORD => Next::Hello,
        _ if !PASSED.contains(&kind) || major != 3 || length > MAX_RECORD + MAX_EXPANSION => Next::Odd,
        _ if bytes.len() < RECORD_HEADER + length => Next::More,
        _ => Next::Passed(RECORD_HEADER + length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::hello::CLIENT_HELLO;

    fn answer(kind: u8, random: [u8; 32]) -> Vec<u8> {
        let message = [&[kind, 0, 0, 84, 3, 3][..], &random, &[0; 50]].concat();
        [&[HANDSHAKE_RECORD, 3, 3, 0, 88][..], &message].concat()
    }

    #[test]
    fn only_a_retry_asks_again() {
        let (retry, hello) = (answer(SERVER_HELLO, RETRY), answer(SERVER_HELLO, [7; 32]));
        assert_eq!((asks_again(&retry), asks_again(&hello)), (Some(true), Some(false)));
        for cut in 0..RECORD_HEADER + BEFORE_RANDOM + RETRY.len() {
            assert_eq!(asks_again(&retry[..cut]), None, "{cut}");
        }
        for other in [&[21, 3, 3, 0, 2, 2, 40][..], b"HTTP/1.1", &answer(CLIENT_HELLO, RETRY)] {
            assert_eq!(asks_again(other), Some(false), "{other:?}");
        }
        // In pieces, as a record that is shorter than what tells it.
        assert_eq!(asks_again(&[HANDSHAKE_RECORD, 3, 3, 0, 1, SERVER_HELLO]), Some(true));
    }

    #[test]
    fn records_before_the_hello_are_passed_over_whole() {
        for (bytes, wanted) in [
            (&[20, 3, 3, 0, 1, 1, 22][..], Next::Passed(6)),
            (&[23, 3, 3, 0, 2, 9, 9], Next::Passed(7)),
            (&[21, 3, 3, 0, 2, 1, 90], Next::Passed(7)),
            (&[23, 3, 3, 0, 2, 9], Next::More),
            (&[22, 3, 3, 0], Next::More),
            (&[22, 3, 3, 0, 9], Next::Hello),
            (&[23, 3, 3, 0xff, 0xff], Next::Odd),
            (&[23, 2, 3, 0, 1, 1], Next::Odd),
            (b"GET / HTTP/1.1", Next::Odd),
        ] {
            assert_eq!(next(bytes), wanted, "{bytes:?}");
        }
    }
}
