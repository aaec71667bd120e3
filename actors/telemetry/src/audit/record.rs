//! Makes, parses and checks one line of the log. The hash is taken over the line's own bytes, so that anyone
//! can check it with `sha256sum`: no canonical form of JSON is involved.

use std::fmt;

use jiff::Timestamp;
use redactor::Redactor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::event::{Event, Text, in_hex};
use crate::metrics;

/// The `prev` of the very first record.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The text before the hash.
const HASH_KEY: &str = ",\"hash\":\"";
/// The text after the hash.
const HASH_END: &str = "\"}";
/// Hex digits of SHA-256.
const HASH_LENGTH: usize = 64;
/// Longest text of one field, in bytes, after redaction. No longer text is worth reading; the longest are the
/// paths of URLs.
pub(crate) const TEXT_MAX: usize = 2048;

/// A record's id, unique and ordered by time (UUID version 7, RFC 9562).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordId(Uuid);

impl RecordId {
    /// Makes a new id.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "no two are the same")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position in the chain, from 1.
    pub seq: u64,
    /// When it was recorded.
    pub t: Timestamp,
    /// Its id.
    pub id: RecordId,
    /// What happened, redacted.
    pub event: Value,
    /// Hash of the record before, in hex; zeros for the first.
    pub prev: String,
    /// SHA-256 of the line up to the comma before this field, in hex.
    pub hash: String,
}

impl Record {
    /// The event, typed.
    ///
    /// # Errors
    /// If a later version of cofferdam wrote a kind that this one doesn't know.
    pub fn typed(&self) -> Result<Event, serde_json::Error> {
        serde_json::from_value(self.event.clone())
    }
}

/// Everything of a record but its hash.
#[derive(Serialize)]
struct Unsigned<'a> {
    seq: u64,
    t: Timestamp,
    id: RecordId,
    event: &'a Event,
    prev: &'a str,
}

/// A record that is still to be written.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: RecordId,
    pub(crate) t: Timestamp,
    pub(crate) event: Event,
}

impl Draft {
    pub(crate) fn new(event: Event) -> Self {
        Self::named(RecordId::new(), event)
    }

    pub(crate) fn named(id: RecordId, event: Event) -> Self {
        Self { id, t: Timestamp::now(), event }
    }

    /// Makes every text of the event safe, appends the finished line with its newline, and returns its hash.
    /// Doing it again makes the same line, since safe texts stay as they are.
    pub(crate) fn finish(
        &mut self,
        seq: u64,
        prev: &str,
        redactor: &Redactor,
        lines: &mut Vec<u8>,
    ) -> Result<String, serde_json::Error> {
        self.event.each_text(&mut |text| {
            // Redacted before it is cut: a cut secret would no longer be recognised.
            if let Some((safe, hits)) = redactor.redact_unless_clean(text) {
                hits.iter().for_each(|hit| metrics::redactions(&hit.kind, 1));
                *text = safe.into_inner().into();
            }
            if let Some(cut) = bound(text) {
                *text = cut;
            }
        });
        let begin = lines.len();
        serde_json::to_writer(
            &mut *lines,
            &Unsigned { seq, t: self.t, id: self.id, event: &self.event, prev },
        )?;
        escape(lines, begin);
        // The closing brace comes after the hash.
        lines.pop();
        let hash = in_hex(&Sha256::digest(lines.get(begin..).unwrap_or_default()).into()).to_string();
        for part in [HASH_KEY, &hash, HASH_END, "\n"] {
            lines.extend_from_slice(part.as_bytes());
        }
        Ok(hash)
    }
}

/// Puts the JSON text from `begin` on into ASCII, see [`redactor::ascii`].
fn escape(lines: &mut Vec<u8>, begin: usize) {
    const DELETE: u8 = 0x7f;
    let json = lines.get(begin..).unwrap_or_default();
    if json.is_ascii() && !json.contains(&DELETE) {
        return;
    }
    // It is UTF-8: the encoder writes nothing else.
    let ascii = redactor::ascii::escape_json(&String::from_utf8_lossy(json)).into_owned();
    lines.truncate(begin);
    lines.extend_from_slice(ascii.as_bytes());
}

/// Cuts a text that is too long; `None` if it isn't. The result says how much was cut, and is short enough
/// not to be cut again.
fn bound(text: &str) -> Option<Text> {
    /// `…(+N bytes)`, whatever N.
    const MARK_MAX: usize = 32;
    if text.len() <= TEXT_MAX {
        return None;
    }
    let cut = (0..=TEXT_MAX - MARK_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let gone = text.len() - cut;
    Some(format!("{}…(+{gone} bytes)", text.get(..cut).unwrap_or_default()).into())
}

/// Why a line isn't a valid record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadLine {
    /// It isn't the JSON of a record.
    Malformed,
    /// Its bytes do not have the hash that it states.
    Changed,
}

/// Parses one line (without its newline) and checks its own hash.
pub(crate) fn parse(line: &[u8]) -> Result<Record, BadLine> {
    let record: Record = serde_json::from_slice(line).map_err(|_| BadLine::Malformed)?;
    let tail = HASH_KEY.len() + HASH_LENGTH + HASH_END.len();
    let split = line.len().checked_sub(tail).ok_or(BadLine::Malformed)?;
    let (signed, ending) = line.split_at(split);
    let expected = format!("{HASH_KEY}{}{HASH_END}", record.hash);
    if ending != expected.as_bytes() {
        return Err(BadLine::Malformed);
    }
    if hex::encode(Sha256::digest(signed)) != record.hash {
        return Err(BadLine::Changed);
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redactor::Secret;

    fn operator(detail: &str) -> Draft {
        Draft::new(Event::Operator { action: "exec".into(), uid: Some(1000), detail: Some(detail.into()) })
    }

    fn finish(mut draft: Draft, seq: u64, redactor: &Redactor) -> (Record, String) {
        let mut lines = b"before\n".to_vec();
        let hash = draft.finish(seq, GENESIS, redactor, &mut lines).unwrap();
        let line = String::from_utf8(lines[7..].to_vec()).unwrap();
        let record = parse(line.trim_end().as_bytes()).unwrap();
        assert_eq!((record.hash.as_str(), record.seq), (hash.as_str(), seq));
        assert_eq!((record.t, record.id), (draft.t, draft.id));
        (record, line)
    }

    #[test]
    fn every_text_of_every_kind_is_made_safe() {
        let redactor = Redactor::new([("K", Secret::from("topsecretvalue"))]).unwrap();
        for event in super::super::event::samples("topsecretvalue") {
            let before = serde_json::to_string(&event).unwrap();
            let (record, line) = finish(Draft::new(event), 1, &redactor);
            assert!(before.contains("topsecretvalue"), "{before}");
            assert!(!line.contains("topsecretvalue"), "{line}");
            assert_eq!(
                line.matches("[REDACTED:K]").count(),
                before.matches("topsecretvalue").count(),
                "{line}"
            );
            record.typed().unwrap();
        }
    }

    #[test]
    fn a_line_reads_back_as_the_record_it_was() {
        let redactor = Redactor::new([("K", Secret::from("topsecretvalue"))]).unwrap();
        let draft = operator("x topsecretvalue \u{9b}31m\n\"é");
        let (record, line) = finish(draft, 7, &redactor);
        assert!(line.is_ascii() && line.ends_with("\"}\n") && !line.contains("topsecret"));
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(record.event["detail"], "x [REDACTED:K] \u{9b}31m\n\"é");
    }

    #[test]
    fn a_write_that_is_tried_again_makes_the_same_line() {
        let redactor = Redactor::new([("K", Secret::from("topsecretvalue"))]).unwrap();
        let mut draft = operator(&("topsecretvalue ".to_owned() + &"é".repeat(TEXT_MAX)));
        let mut lines = [Vec::new(), Vec::new()];
        for line in &mut lines {
            draft.finish(1, GENESIS, &redactor, line).unwrap();
        }
        assert_eq!(lines[0], lines[1]);
        assert!(String::from_utf8_lossy(&lines[0]).contains("[REDACTED:K]"));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let redactor = Redactor::new::<&str>([]).unwrap();
        let (_, line) = finish(operator("abc"), 1, &redactor);
        let line = line.trim_end().as_bytes();
        for index in 0..line.len() {
            let mut changed = line.to_vec();
            changed[index] ^= 1;
            assert!(parse(&changed).is_err(), "byte {index}");
        }
    }

    #[test]
    fn long_texts_are_cut_after_redaction() {
        let secret = "s".repeat(40) + "-secret";
        let redactor = Redactor::new([("K", Secret::from(secret.as_str()))]).unwrap();
        let text = "é".repeat(TEXT_MAX / 2 - 5) + &secret + &"z".repeat(5000);
        let (record, line) = finish(operator(&text), 1, &redactor);
        assert!(record.event["detail"].as_str().unwrap().len() <= TEXT_MAX);
        assert!(!line.contains("ssss"));
    }
}
