//! One stream on its way through a [`Screen`]: what waits, what may pass, what is covered.
//!
//! Of what has passed nothing is looked at again: the ways in which it may begin a secret stay open from one chunk to the next
//! ([`Way`]), with no more of its text than they have yet to read. Of what waits most is looked at seldom. So what a byte costs doesn't grow with what
//! came before it, however small the chunks are in which a server sends it.

use std::ops::Range;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::known::Known;
use crate::matching::{Matching, Way};
use crate::screen::{Screen, WRAPPED_MIN};
use crate::spelling::{SPELLED, is_escaped};

/// From so many waiting bytes on, they are looked at again only once a [`SELDOM`]th of them is new: a look for each of many small chunks
/// would take the square of what waits.
const MANY_WAIT: usize = 256;
const SELDOM: usize = 16;

/// One stream on its way through a [`Screen`].
#[derive(Debug)]
pub struct Sieve {
    screen: Screen,
    /// The end of what went on, as far as an open way has yet to read it; then what waits.
    kept: Zeroizing<Vec<u8>>,
    shown: usize,
    /// What of it came since the last look.
    unseen: usize,
    open: Open,
}

/// What may have begun in what went on.
#[derive(Debug, Default)]
struct Open {
    /// Places are in what is kept.
    ways: Vec<Way>,
    /// Up to here one is whole already, and waits for what may make it longer.
    whole: Option<usize>,
}

/// What a look found.
struct Look {
    /// What is to be covered, in order, none over another.
    covered: Vec<Range<usize>>,
    /// What stands behind waits.
    passes: usize,
    open: Open,
}

impl Sieve {
    pub(crate) fn new(screen: Screen) -> Self {
        Self { screen, kept: Zeroizing::default(), shown: 0, unseen: 0, open: Open::default() }
    }

    /// Takes a chunk, gives what may pass now. Without a hit and a doubtful tail that is the chunk itself, uncopied.
    pub fn push(&mut self, mut chunk: Bytes) -> Bytes {
        let Some(known) = self.screen.known() else { return chunk };
        if self.held() >= MANY_WAIT && self.unseen + chunk.len() < self.held() / SELDOM {
            self.unseen += chunk.len();
            self.kept.extend_from_slice(&chunk);
            return Bytes::new();
        }
        self.unseen = 0;
        if !self.kept.is_empty() {
            let mut joined = std::mem::take(&mut *self.kept);
            joined.extend_from_slice(&chunk);
            chunk = joined.into();
        }
        let (shown, open) = (std::mem::take(&mut self.shown), std::mem::take(&mut self.open));
        let Look { covered, passes, mut open } = look(known, &chunk, shown, open, Stage::GoesOn);
        let from = open.ways.iter().map(|way| way.at).fold(passes, usize::min);
        self.kept.extend_from_slice(chunk.get(from..).unwrap_or_default());
        self.shown = passes - from;
        open.ways.iter_mut().for_each(|way| way.at -= from);
        open.whole = open.whole.map(|end| end.saturating_sub(from));
        self.open = open;
        self.screen.let_pass(&chunk, shown..passes, &covered)
    }

    /// The end of the stream: what was held is no secret, since it is not whole.
    ///
    /// Masked where it is nearly one: an answer that ends just before a secret's end would give it away. Not where more is missing: whoever
    /// has a server say their guesses, and sees which of them are masked, would learn a secret letter by letter.
    pub fn finish(&mut self) -> Bytes {
        let rest = Bytes::from(std::mem::take(&mut *self.kept));
        let (shown, open) = (std::mem::take(&mut self.shown), std::mem::take(&mut self.open));
        let Some(known) = self.screen.known() else { return rest };
        let Look { mut covered, passes, .. } = look(known, &rest, shown, open, Stage::Ended);
        if passes < rest.len() {
            covered.push(passes..rest.len());
        }
        self.screen.let_pass(&rest, shown..rest.len(), &covered)
    }

    /// Bytes that wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.kept.len() - self.shown
    }
}

/// Whether a text goes on behind what is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    GoesOn,
    Ended,
}

/// Looks at a text, of which so much has passed. It is decided up to the first place where a secret begins that its end cuts off.
fn look(known: &Known, text: &[u8], shown: usize, open: Open, stage: Stage) -> Look {
    let mut matching = Matching::new(known, text);
    // More than the longest form in its longest spelling is never the beginning of one.
    let near = text.len().saturating_sub(known.longest().saturating_mul(SPELLED));
    let last_line = text.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    let is_cut_off = |at: usize, secret: usize, nearly: bool, passed: bool| match stage {
        Stage::GoesOn => at >= near && (secret >= WRAPPED_MIN || (!passed && at >= last_line)),
        Stage::Ended => nearly,
    };
    let begun = matching.go_on(open.ways);
    let whole = open.whole.max(begun.whole);
    let mut ways = matching.take_parked();
    if begun.cut.is_some_and(|secret| is_cut_off(shown, secret, begun.nearly, true)) {
        return Look { covered: Vec::new(), passes: shown, open: Open { ways, whole } };
    }
    let mut covered = Vec::new();
    let mut at = shown;
    if let Some(end) = whole {
        at = end.max(shown);
        if at > shown {
            covered.push(shown..at);
        }
        // What else began before is interrupted by the mask.
        ways.clear();
        matching.forget();
    }
    let rest = text.get(at..).unwrap_or_default();
    let passes = if is_escaped(rest) {
        loop {
            if at >= text.len() {
                break at;
            }
            let begun = matching.at(at);
            if begun.cut.is_some_and(|secret| is_cut_off(at, secret, begun.nearly, false)) {
                break at;
            }
            match begun.whole {
                Some(end) => {
                    covered.push(at..end);
                    at = end;
                    ways.clear();
                    matching.forget();
                }
                None => {
                    ways.append(&mut matching.take_parked());
                    at += 1;
                }
            }
        }
    } else {
        let tails = known.tails(rest);
        let nearly = |tail: usize| known.is_nearly_one(rest.get(tail..).unwrap_or_default());
        let mut cut_off = tails
            .iter()
            .map(|tail| tail.at)
            .filter(|tail| is_cut_off(at + tail, rest.len() - tail, nearly(*tail), false));
        let mut first = cut_off.next();
        for found in known.all(rest) {
            if first.is_some_and(|first| first <= found.start) {
                break;
            }
            while first.is_some_and(|first| first < found.end) {
                first = cut_off.next();
            }
            covered.push(at + found.start..at + found.end);
            ways.clear();
        }
        first.map_or(text.len(), |first| at + first)
    };
    ways.sort_unstable();
    ways.dedup();
    Look { covered, passes, open: Open { ways, whole: None } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::matching::STEPS;
    use crate::screen::Mask;
    use crate::secret::Secret;

    /// A key whose end may be missing.
    const LONG: &str = "sk-0123456789abcdefgh";

    fn screen(key: &str, mask: Mask) -> Screen {
        Screen::new([&Secret::from(key)], mask).unwrap()
    }

    /// Nothing more is given away, and all of what is no secret arrives.
    #[test]
    fn what_waits_long_is_looked_at_seldom_and_arrives() {
        let key = "k3y-of-many-letters-".repeat(40);
        let screen = screen(&key, Mask::Stars);
        for (text, shown) in
            [(key.clone(), "*".repeat(key.len())), (format!("{}!", &key[..790]), format!("{}!", &key[..790]))]
        {
            let mut sieve = screen.sieve();
            let (mut out, mut looks) = (Vec::new(), 0);
            for byte in text.bytes() {
                out.extend_from_slice(&sieve.push(Bytes::copy_from_slice(&[byte])));
                looks += usize::from(sieve.unseen == 0);
            }
            out.extend_from_slice(&sieve.finish());
            assert_eq!(String::from_utf8_lossy(&out), shown);
            assert!(looks < MANY_WAIT + 40, "{looks} looks at {} bytes", text.len());
        }
    }

    /// What a byte costs doesn't grow with what came before it, whatever that is, a byte a chunk.
    #[test]
    fn each_byte_costs_a_bounded_number_of_steps() {
        const A_BYTE: usize = 100;
        let key = "ghp_0123456789abcdefghijklmnopqrstuvwxyz".repeat(20);
        let screen = screen(&key, Mask::Stars);
        let many = |begin: &str, unit: &str| begin.to_owned() + &unit.repeat(6_000 / unit.len());
        for text in [
            many("gh\n", "\n"),
            many("gh\n", "\r\n \t"),
            many("gh\n", "%0A"),
            many("gh\n", "%250a"),
            many("gh\n", "\\n"),
            many("gh\n", "=\n"),
            many("gh\n", "&#10;"),
            many("", "gh\n"),
            many("", "%\n"),
            many("", "%67\n"),
            many("ghp_\n", "\n"),
            many("ghp_\n", "%0A"),
            many(&key[..700], "\n"),
            many("", "ghp_0123\n"),
            many("", &key[..700]),
        ] {
            let mut sieve = screen.sieve();
            STEPS.set(0);
            for byte in text.bytes() {
                let _ = sieve.push(Bytes::copy_from_slice(&[byte]));
            }
            let _ = sieve.finish();
            let each = STEPS.get() / text.len();
            assert!(each < A_BYTE, "{each} steps a byte of {:?}", &text[..20]);
        }
    }

    /// The obvious sieve: keeps the whole text, and looks at all of it with each chunk, as far back as a secret can begin in it.
    fn obvious(screen: &Screen, chunks: &[&[u8]]) -> Vec<u8> {
        let known = screen.known().unwrap();
        let (mut text, mut shown, mut out) = (Vec::new(), 0, Vec::new());
        for (stage, chunk) in
            chunks.iter().map(|chunk| (Stage::GoesOn, *chunk)).chain([(Stage::Ended, &b""[..])])
        {
            text.extend_from_slice(chunk);
            let last_line = text.iter().rposition(|byte| b"\r\n".contains(byte)).map_or(0, |at| at + 1);
            let mut matching = Matching::new(known, &text);
            let (mut at, mut spans) = (0, Vec::new());
            while at < text.len() {
                let begun = matching.at(at);
                let waits = |secret| match stage {
                    Stage::GoesOn => secret >= WRAPPED_MIN || at >= last_line,
                    Stage::Ended => begun.nearly,
                };
                if begun.cut.is_some_and(waits) {
                    break;
                }
                spans.extend(begun.whole.map(|end| at..end));
                at = begun.whole.unwrap_or(at + 1);
            }
            if stage == Stage::Ended && at < text.len() {
                spans.push(at..text.len());
                at = text.len();
            }
            let hidden = |place: &usize| spans.iter().any(|span| span.contains(place));
            out.extend((shown..at).map(|place| if hidden(&place) { b'*' } else { text[place] }));
            shown = shown.max(at);
        }
        out
    }

    fn through(screen: &Screen, chunks: &[&[u8]]) -> Vec<u8> {
        let mut sieve = screen.sieve();
        let mut out: Vec<u8> = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(&sieve.push(Bytes::copy_from_slice(chunk)));
        }
        out.extend_from_slice(&sieve.finish());
        out
    }

    /// What a text is made of: beginnings of the key, in spellings, and what stands between.
    fn pieces() -> impl Strategy<Value = Vec<String>> {
        let spelled = LONG.chars().map(|c| {
            let code = u32::from(c);
            vec![
                c.to_string(),
                format!("%{code:02x}"),
                format!("\\u{code:04x}"),
                format!("&#{code};"),
                format!("%25{code:02x}"),
            ]
        });
        let letters: Vec<Vec<String>> = spelled.collect();
        let key = (1..=letters.len(), proptest::collection::vec(0..5_usize, LONG.len()), any::<bool>())
            .prop_map(move |(length, how, broken)| {
                let mut text = String::new();
                for (letter, how) in letters.iter().zip(how).take(length) {
                    text.push_str(&letter[how]);
                    if broken && how == 1 {
                        text.push_str("\r\n  ");
                    }
                }
                text
            });
        let between = prop_oneof![
            Just("\n"),
            Just("\r\n \t"),
            Just("=\n"),
            Just("%0A"),
            Just("\\n"),
            Just("&#10;"),
            Just("%"),
            Just("\\"),
            Just("&"),
            Just("x"),
            Just("="),
            Just("sk"),
            Just("s"),
            Just("%250d"),
            Just("%6"),
            Just(" ")
        ]
        .prop_map(str::to_owned);
        proptest::collection::vec(prop_oneof![2 => key, 3 => between], 0..10)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn ways_that_stay_open_find_what_looking_again_finds(
            pieces in pieces(), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12), each in any::<bool>(),
        ) {
            let text = pieces.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            if each {
                cuts = (0..text.len()).collect();
            }
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let screen = screen(LONG, Mask::Stars);
            let (ours, wanted) = (through(&screen, &chunks), obvious(&screen, &chunks));
            prop_assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&wanted), "{:?}", text);
        }
    }
}
