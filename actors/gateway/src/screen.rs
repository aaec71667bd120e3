//! Looks for one provider's key in what that provider answers, and masks it.
//!
//! Known forms only: plain, base64, percent-encoded, JSON-escaped. Answers are the agent's work and pass byte for byte
//! but for the key itself. A key split over any number of chunks is still found: only a tail that could be the
//! beginning of a form is held back, so a stream isn't slowed by it.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{Engine as _, engine::general_purpose};
use bytes::Bytes;
use redactor::Secret;
use zeroize::Zeroizing;

/// Keys shorter than this are placeholders (`EMPTY`, `none`, `ollama`) that occur in ordinary text: not looked for.
pub const MIN_KEY: usize = 8;

/// What stands in the place of a key.
pub const MASK: &[u8] = b"[REDACTED:provider-key]";

/// The forms of one key. Cheap to clone.
#[derive(Clone, Default)]
pub struct Screen {
    forms: Option<Arc<Forms>>,
}

struct Forms {
    search: AhoCorasick,
    needles: Vec<Zeroizing<Vec<u8>>>,
}

impl Screen {
    /// For a key, if there is one.
    pub fn new(key: Option<&Secret>) -> Self {
        let Some(key) = key.map(Secret::expose).filter(|k| k.len() >= MIN_KEY) else {
            return Self::default();
        };
        let needles = forms_of(key);
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(needles.iter().map(|n| n.as_slice()));
        Self { forms: search.ok().map(|search| Arc::new(Forms { search, needles })) }
    }

    /// Whether `bytes` holds the key in any form.
    pub fn finds(&self, bytes: &[u8]) -> bool {
        self.forms.as_ref().is_some_and(|f| f.search.is_match(bytes))
    }

    /// `bytes` with every form of the key masked.
    pub fn mask(&self, bytes: Bytes) -> Bytes {
        match &self.forms {
            Some(forms) if forms.search.is_match(&bytes) => {
                let mut out = Vec::with_capacity(bytes.len());
                forms.search.replace_all_with_bytes(&bytes, &mut out, |_, _, to| {
                    to.extend_from_slice(MASK);
                    true
                });
                out.into()
            }
            _ => bytes,
        }
    }

    /// A sieve for one stream.
    pub fn sieve(&self) -> Sieve {
        Sieve { screen: self.clone(), held: Vec::new() }
    }
}

/// One stream on its way through a [`Screen`].
pub struct Sieve {
    screen: Screen,
    held: Vec<u8>,
}

impl Sieve {
    /// Takes a chunk, gives what may pass now. Without a hit and a doubtful tail that is the chunk itself, uncopied.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        let Some(forms) = self.screen.forms.clone() else { return chunk };
        let chunk = if self.held.is_empty() {
            chunk
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(&chunk);
            joined.into()
        };
        let mut chunk = self.screen.mask(chunk);
        let doubtful = forms.doubtful_tail(&chunk);
        if doubtful > 0 {
            self.held = chunk.split_off(chunk.len() - doubtful).to_vec();
        }
        chunk
    }

    /// The end of the stream: what was held is no key, since it is not whole.
    ///
    /// Still masked: an answer that ends in the middle of the key would give most of it away.
    pub fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        if held.len() >= MIN_KEY { Bytes::from_static(MASK) } else { held.into() }
    }
}

impl Forms {
    /// How many bytes at the end of `bytes` could be the beginning of a form.
    fn doubtful_tail(&self, bytes: &[u8]) -> usize {
        let mut longest = 0;
        for needle in &self.needles {
            let most = bytes.len().min(needle.len().saturating_sub(1));
            for len in (longest + 1..=most).rev() {
                if needle.get(..len).is_some_and(|begin| bytes.ends_with(begin)) {
                    longest = len;
                    break;
                }
            }
        }
        longest
    }
}

/// The key as it may be written in a header, a URL, JSON, or base64 (alone, or as the password of Basic).
fn forms_of(key: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![Zeroizing::new(key.to_vec())];
    let mut add = |form: Vec<u8>| {
        let form = Zeroizing::new(form);
        if form.len() >= MIN_KEY && !forms.contains(&form) {
            forms.push(form);
        }
    };
    // Base64 of the key after 0, 1 or 2 other bytes, without the characters that depend on the neighbours.
    for before in 0..3_usize {
        let mut padded = Zeroizing::new(vec![0; before]);
        padded.extend_from_slice(key);
        let skip = [0, 2, 3].get(before).copied().unwrap_or(0);
        for engine in [&general_purpose::STANDARD_NO_PAD, &general_purpose::URL_SAFE_NO_PAD] {
            let text = engine.encode(&*padded).into_bytes();
            let keep = padded.len() * 8 / 6;
            add(text.get(skip..keep).unwrap_or_default().to_vec());
        }
    }
    let mut percent = Vec::new();
    let mut percent_lower = Vec::new();
    // A slash may be escaped in JSON, and by some writers is.
    let mut json = Vec::new();
    let mut json_slash = Vec::new();
    for b in key {
        if b.is_ascii_alphanumeric() || b"-._~".contains(b) {
            percent.push(*b);
            percent_lower.push(*b);
        } else {
            percent.extend_from_slice(format!("%{b:02X}").as_bytes());
            percent_lower.extend_from_slice(format!("%{b:02x}").as_bytes());
        }
        if matches!(b, b'"' | b'\\') {
            json.push(b'\\');
        }
        if matches!(b, b'"' | b'\\' | b'/') {
            json_slash.push(b'\\');
        }
        json.push(*b);
        json_slash.push(*b);
    }
    add(percent);
    add(percent_lower);
    add(json);
    add(json_slash);
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn screen(key: &str) -> Screen {
        Screen::new(Some(&Secret::new(key.as_bytes().to_vec())))
    }

    fn through(screen: &Screen, chunks: &[&[u8]]) -> Vec<u8> {
        let mut sieve = screen.sieve();
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(&sieve.push(Bytes::copy_from_slice(chunk)));
        }
        out.extend_from_slice(&sieve.finish());
        out
    }

    #[test]
    fn every_form_is_found() {
        let key = "sk-te/st+0123456789\"x";
        let it = screen(key);
        let basic = general_purpose::STANDARD.encode(format!("user:{key}"));
        let safe = general_purpose::URL_SAFE.encode(key);
        let json = serde_json::Value::from(key).to_string();
        for text in [key, &basic, &safe, &json, "sk-te%2Fst%2B0123456789%22x", "sk-te\\/st+0123456789\\\"x"] {
            assert!(it.finds(text.as_bytes()), "{text}");
            assert!(
                !String::from_utf8_lossy(&it.mask(Bytes::from(text.to_owned()))).contains("012345"),
                "{text}"
            );
        }
        assert!(!it.finds(b"sk-test"));
    }

    #[test]
    fn a_placeholder_key_is_not_looked_for() {
        assert_eq!(through(&screen("EMPTY"), &[b"it is EMPTY"]), b"it is EMPTY");
    }

    #[test]
    fn a_stream_that_ends_inside_the_key_does_not_give_it_away() {
        let out = through(&screen("sk-0123456789abcdef"), &[b"x sk-0123456789abcd"]);
        assert_eq!(out, [b"x ", MASK].concat());
    }

    #[test]
    fn ordinary_chunks_are_not_held() {
        let mut sieve = screen("sk-0123456789abcdef").sieve();
        let chunk = Bytes::from_static(b"data: {\"a\":1}\n\n");
        assert_eq!(sieve.push(chunk.clone()), chunk);
    }

    proptest! {
        #[test]
        fn a_split_key_is_caught_and_the_rest_untouched(
            before in "[a-z \n]{0,20}", after in "[a-z \n]{0,20}",
            cuts in proptest::collection::vec(0_usize..80, 0..6),
        ) {
            let key = "sk-0123456789ABCDEF";
            let it = screen(key);
            let text = format!("{before}{key}{after}");
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let wanted = [before.as_bytes(), MASK, after.as_bytes()].concat();
            prop_assert_eq!(through(&it, &chunks), wanted);
        }

        #[test]
        fn text_without_the_key_is_untouched(chunks in proptest::collection::vec("[sk0-9-]{0,8}", 0..12)) {
            let it = screen("sk-0123456789ABCDEF");
            let parts: Vec<&[u8]> = chunks.iter().map(|c| c.as_bytes()).collect();
            let out = through(&it, &parts);
            let whole = parts.concat();
            // Only an unfinished beginning of the key at the very end may be masked.
            prop_assert!(out == whole || out.ends_with(MASK));
        }
    }
}
