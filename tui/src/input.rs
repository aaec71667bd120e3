//! Parses the bytes that a terminal sends into keys: those that [`crate::keys`] knows, and nothing else.
//!
//! crossterm's own reader is not used: when a key and a new size come at the same moment, it withholds the
//! key until the next one comes, and a terminal that is gone keeps it busy for ever. Pasted text is not read
//! as keys, so that no paste gives an answer.

use crate::keys::Press;

/// Maximal number of parameter bytes that are kept of a sequence: no known key has more.
const MAX_PARAMETERS: usize = 16;

/// Reads bytes as they come, however they are cut.
#[derive(Debug, Default)]
pub struct Keys {
    state: State,
    /// Whether the bytes are inside a bracketed paste.
    is_paste: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    /// After ESC: the key itself, or the beginning of a sequence.
    Escape,
    /// Behind `ESC [`, with the parameters so far.
    Sequence(Vec<u8>),
    /// Behind `ESC O`.
    Shifted,
}

impl Keys {
    /// Returns the keys that these bytes complete.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Press> {
        bytes.iter().filter_map(|byte| self.byte(*byte)).collect()
    }

    /// Whether the last bytes are an incomplete key: then [`Self::silence`] is due if no more come for a
    /// moment.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !matches!(self.state, State::Ground)
    }

    /// Called when no more bytes have come: a pending ESC was the key itself.
    pub fn silence(&mut self) -> Option<Press> {
        match std::mem::take(&mut self.state) {
            State::Escape => self.unless_pasted(Press::Escape),
            _ => None,
        }
    }

    fn byte(&mut self, byte: u8) -> Option<Press> {
        match std::mem::take(&mut self.state) {
            State::Ground => match byte {
                0x1b => {
                    self.state = State::Escape;
                    None
                }
                byte => self.unless_pasted(plain(byte)?),
            },
            State::Escape => {
                self.state = match byte {
                    b'[' => State::Sequence(Vec::new()),
                    b'O' => State::Shifted,
                    0x1b => State::Escape,
                    // With Alt held, it is another key.
                    _ => State::Ground,
                };
                if byte == 0x1b { self.unless_pasted(Press::Escape) } else { None }
            }
            State::Shifted => self.unless_pasted(arrow(byte)?),
            State::Sequence(mut parameters) => match byte {
                b' '..=b'?' => {
                    if parameters.len() < MAX_PARAMETERS {
                        parameters.push(byte);
                    }
                    self.state = State::Sequence(parameters);
                    None
                }
                0x1b => {
                    self.state = State::Escape;
                    None
                }
                byte => self.sequence(&parameters, byte),
            },
        }
    }

    fn sequence(&mut self, parameters: &[u8], end: u8) -> Option<Press> {
        let press = match (parameters, end) {
            (b"200", b'~') => {
                self.is_paste = true;
                return None;
            }
            (b"201", b'~') => {
                self.is_paste = false;
                return None;
            }
            (b"1" | b"7", b'~') => Press::Home,
            (b"4" | b"8", b'~') => Press::End,
            (b"5", b'~') => Press::PageUp,
            (b"6", b'~') => Press::PageDown,
            (b"", b'Z') => Press::BackTab,
            (b"" | b"1", end) => arrow(end)?,
            // With a modifier held, it is another key.
            _ => return None,
        };
        self.unless_pasted(press)
    }

    fn unless_pasted(&self, press: Press) -> Option<Press> {
        (!self.is_paste).then_some(press)
    }
}

fn plain(byte: u8) -> Option<Press> {
    match byte {
        b'\t' => Some(Press::Tab),
        b'\r' | b'\n' => Some(Press::Enter),
        0x01..=0x1a => Some(Press::Ctrl(char::from(byte - 1 + b'a'))),
        b' '..=b'~' => Some(Press::Char(char::from(byte))),
        // No known key is outside ASCII.
        _ => None,
    }
}

fn arrow(end: u8) -> Option<Press> {
    match end {
        b'A' => Some(Press::Up),
        b'B' => Some(Press::Down),
        b'H' => Some(Press::Home),
        b'F' => Some(Press::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[(&[u8], Press)] = &[
        (b"y", Press::Char('y')),
        (b"?", Press::Char('?')),
        (b"\x03", Press::Ctrl('c')),
        (b"\x1a", Press::Ctrl('z')),
        (b"\r", Press::Enter),
        (b"\t", Press::Tab),
        (b"\x1b[Z", Press::BackTab),
        (b"\x1b[A", Press::Up),
        (b"\x1bOB", Press::Down),
        (b"\x1b[H", Press::Home),
        (b"\x1b[1~", Press::Home),
        (b"\x1bOF", Press::End),
        (b"\x1b[5~", Press::PageUp),
        (b"\x1b[6~", Press::PageDown),
    ];

    /// Read at once, and byte by byte.
    #[test]
    fn keys_are_read_however_they_are_cut() {
        let (all, wanted): (Vec<&[u8]>, Vec<Press>) = KEYS.iter().copied().unzip();
        let all = all.concat();
        assert_eq!(Keys::default().read(&all), wanted);
        let mut keys = Keys::default();
        let cut: Vec<Press> = all.iter().flat_map(|byte| keys.read(&[*byte])).collect();
        assert_eq!(cut, wanted);
        assert!(!keys.is_waiting());
    }

    #[test]
    fn escape_is_a_key_once_nothing_follows() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"\x1b"), []);
        assert!(keys.is_waiting());
        assert_eq!(keys.silence(), Some(Press::Escape));
        assert_eq!(keys.read(b"\x1b\x1b"), [Press::Escape]);
        assert_eq!(keys.silence(), Some(Press::Escape));
        assert_eq!(keys.read(b"\x1b[1"), []);
        assert_eq!(keys.silence(), None, "a broken sequence is no key");
        assert_eq!(keys.read(b"q"), [Press::Char('q')]);
    }

    #[test]
    fn what_is_pasted_or_held_with_another_key_is_none() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"\x1b[200~ay\x03\x1b[A\x1b\x1bay\x1b[201~n"), [Press::Char('n')]);
        assert_eq!(keys.read(b"\x1by\x1b[1;5A\x1b[1;2Hn"), [Press::Char('n')]);
        assert_eq!(keys.read("ÿäy".as_bytes()), [Press::Char('y')]);
    }

    /// After any bytes, later keys are still read, and nothing grows.
    #[test]
    fn no_bytes_keep_a_later_key_from_being_read() {
        let mut keys = Keys::default();
        let mut seed = 1_u32;
        for _ in 0..2000 {
            let noise: Vec<u8> = (0..40)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"\x1b[O~;0123456789ayHZ\x00\xff\x7f"[(seed >> 16) as usize % 22]
                })
                .collect();
            keys.read(&noise);
            keys.silence();
            keys.read(b"\x1b[201~");
            assert_eq!(keys.read(b"q"), [Press::Char('q')], "{noise:?}");
        }
        keys.read(&[b"\x1b["[..].to_vec(), vec![b'1'; 1 << 16]].concat());
        let State::Sequence(parameters) = &keys.state else { panic!("{keys:?}") };
        assert!(parameters.len() <= MAX_PARAMETERS);
    }
}
