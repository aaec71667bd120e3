//! A client's frames give the same messages however they arrive, every byte that goes on is one that came,
//! and tungstenite reads the same messages from what goes on.

use std::io::{self, Cursor, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket};

use super::pieces;
use crate::protocol::websocket::frames::{Inbox, Ready, Wrong};

/// What goes on: what was judged, and the frames as they are sent.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    kind: Kind,
    payload: Vec<u8>,
    frames: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
    Control,
}

/// The property. The first byte says how the rest is cut.
pub fn holds(bytes: &[u8]) {
    let Some((&choice, stream)) = bytes.split_first() else { return };
    let (said, end) = read([stream].into_iter());
    let cut = read(pieces(stream, choice));
    assert_eq!((&said, end), (&cut.0, cut.1));
    let sent: Vec<u8> = said.iter().flat_map(|said| said.frames.iter().copied()).collect();
    assert!(sent.len() <= stream.len());
    // Control frames overtake the fragments around them; where there are none nothing changes place.
    if said.iter().all(|said| said.kind != Kind::Control) {
        assert_eq!(sent, stream[..sent.len()]);
    }
    tungstenite_agrees(&said, sent);
}

/// What is judged and sent of these pieces, and the code that ends it.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Said>, Option<u16>) {
    let (mut inbox, mut out) = (Inbox::default(), Vec::new());
    for piece in pieces {
        inbox.raw.extend_from_slice(piece);
        loop {
            let (kind, payload, frames) = match inbox.next() {
                Ok(None) => break,
                Err(Wrong(code, _)) => return (out, Some(code)),
                Ok(Some(Ready::Control(frame))) => (Kind::Control, Vec::new(), frame),
                // The judge refuses it by this code.
                Ok(Some(Ready::Text)) if std::str::from_utf8(&inbox.message).is_err() => {
                    return (out, Some(1007));
                }
                Ok(Some(Ready::Text)) => (Kind::Text, inbox.message.clone(), inbox.take()),
                Ok(Some(Ready::Binary)) => (Kind::Binary, inbox.message.clone(), inbox.take()),
            };
            out.push(Said { kind, payload, frames });
        }
    }
    (out, None)
}

/// A server that reads what is sent sees the messages that were judged, and no other.
fn tungstenite_agrees(said: &[Said], sent: Vec<u8>) {
    let mut server = WebSocket::from_raw_socket(Sent(Cursor::new(sent)), Role::Server, None);
    let mut rest = said.iter();
    loop {
        let theirs = server.read();
        let ours = rest.next();
        match (theirs, ours) {
            (Ok(Message::Text(text)), Some(Said { kind: Kind::Text, payload, .. })) => {
                assert_eq!(text.as_bytes(), payload);
            }
            (Ok(Message::Binary(bytes)), Some(Said { kind: Kind::Binary, payload, .. })) => {
                assert_eq!(&bytes[..], payload);
            }
            (Ok(Message::Ping(_) | Message::Pong(_)), Some(Said { kind: Kind::Control, .. })) => {}
            // Nothing after a close frame is read, and an invalid one ends the reading too.
            (Ok(Message::Close(_)) | Err(_), Some(Said { kind: Kind::Control, .. })) | (Err(_), None) => {
                return;
            }
            (theirs, ours) => panic!("{theirs:?} where we saw {ours:?}"),
        }
    }
}

/// A stream that ends behind what was sent, and takes any answer.
struct Sent(Cursor<Vec<u8>>);

impl Read for Sent {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
