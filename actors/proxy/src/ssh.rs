//! Tells a refusal in SSH: a disconnect before any key is exchanged (RFC 4253 section 11.1), which clients
//! show.
//!
//! Nothing else of SSH is spoken here, and nothing but the client's first line is looked at.

use crate::answer::{Known, Refusal};

/// What every client of version 2 begins with (RFC 4253 section 4.2).
const HELLO: &[u8] = b"SSH-2.0-";
/// Our own first line: a client reads packets only after one.
const OURS: &[u8] = b"SSH-2.0-cofferdam\r\n";
/// `SSH_MSG_DISCONNECT`.
const DISCONNECT: u8 = 1;
/// `SSH_DISCONNECT_HOST_NOT_ALLOWED_TO_CONNECT`.
const NOT_ALLOWED: u32 = 1;
/// Block size in bytes: a packet is a whole number of blocks, with at least [`MIN_PADDING`] bytes behind its
/// payload (section 6).
const BLOCK: usize = 8;
const MIN_PADDING: usize = 4;

/// Whether a client that began with these bytes understands [`last_words`].
pub(crate) fn begins(seen: &[u8]) -> bool {
    seen.starts_with(HELLO)
}

/// Returns our line and the disconnect.
pub(crate) fn last_words(refusal: &Refusal, known: &Known) -> Vec<u8> {
    let text = format!("cofferdam: {}: {} (request {})", refusal.code(), refusal.detail(), known.request_id);
    let mut payload = vec![DISCONNECT];
    payload.extend(NOT_ALLOWED.to_be_bytes());
    payload.extend(length(text.len()));
    payload.extend(text.bytes());
    // The text's language: none said.
    payload.extend(length(0));
    [OURS, &packet(&payload)].concat()
}

/// Makes a packet: length of what follows, length of the padding, payload, padding.
fn packet(payload: &[u8]) -> Vec<u8> {
    let unpadded = 4 + 1 + payload.len() + MIN_PADDING;
    let padding = MIN_PADDING + unpadded.next_multiple_of(BLOCK) - unpadded;
    let mut packet = length(1 + payload.len() + padding).to_vec();
    // At most eleven.
    packet.push(padding as u8);
    packet.extend(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

fn length(bytes: usize) -> [u8; 4] {
    // Our own text is far shorter than four bytes can count.
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_whole_blocks_with_their_lengths() {
        for bytes in 0..100 {
            let packet = packet(&vec![7; bytes]);
            let said = u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize;
            assert_eq!((packet.len() % BLOCK, said + 4), (0, packet.len()));
            let padding = usize::from(packet[4]);
            assert!(padding >= MIN_PADDING && 1 + bytes + padding == said);
        }
    }

    #[test]
    fn the_words_say_what_was_refused() {
        let refusal = Refusal::Unavailable("not now".to_owned());
        let words = last_words(&refusal, &Known::nothing("127.0.0.1:9".parse().unwrap()));
        assert!(words.starts_with(b"SSH-2.0-cofferdam\r\n"));
        assert!(String::from_utf8_lossy(&words).contains("cofferdam: unavailable: not now"));
        assert!(begins(b"SSH-2.0-OpenSSH_9") && !begins(b"SSH-1.5-x") && !begins(b"SSH"));
    }
}
