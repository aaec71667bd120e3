//! One line of the log: made, parsed and checked. The hash is over the line's own bytes, so that anyone can check
//! it with `sha256sum`: no canonical form of JSON is involved.

use std::fmt;

use jiff::Timestamp;
use redactor::Redactor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::event::Event;

/// The `prev` of the very first record.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What stands before the hash.
const HASH_KEY: &str = ",\"hash\":\"";
/// What stands after it.
const HASH_END: &str = "\"}";
/// Hex digits of SHA-256.
const HASH_LENGTH: usize = 64;
/// Longest text of one field, in bytes, after redaction. A URL's path is the longest that is worth reading.
pub(crate) const TEXT_MAX: usize = 2048;

/// A record's own name, unique in time order (UUID version 7, RFC 9562).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordId(Uuid);

impl RecordId {
    pub(crate) fn new() -> Self {
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
    /// Its name.
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
    /// When a later version of cofferdam wrote a kind that this one doesn't know.
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
    event: &'a Value,
    prev: &'a str,
}

/// A record that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: RecordId,
    pub(crate) t: Timestamp,
    pub(crate) event: Event,
}

impl Draft {
    pub(crate) fn new(event: Event) -> Self {
        Self { id: RecordId::new(), t: Timestamp::now(), event }
    }

    /// The finished record and its line, newline included.
    pub(crate) fn finish(
        &self,
        seq: u64,
        prev: &str,
        redactor: &Redactor,
    ) -> Result<(Record, String), serde_json::Error> {
        let mut event = serde_json::to_value(&self.event)?;
        make_safe(&mut event, redactor);
        let unsigned = Unsigned { seq, t: self.t, id: self.id, event: &event, prev };
        let json = serde_json::to_string(&unsigned)?;
        let mut line = redactor::ascii::escape_json(&json).into_owned();
        // The closing brace comes after the hash.
        line.pop();
        let hash = hex::encode(Sha256::digest(line.as_bytes()));
        line.push_str(HASH_KEY);
        line.push_str(&hash);
        line.push_str(HASH_END);
        line.push('\n');
        let record = Record { seq, t: self.t, id: self.id, event, prev: prev.to_owned(), hash };
        Ok((record, line))
    }
}

/// Redacts and bounds every text in the value.
fn make_safe(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => {
            // Redacted before it is cut: a cut secret would no longer be recognised.
            let shown = redactor.redact(text).into_inner();
            *text = bounded(shown);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| make_safe(item, redactor)),
        Value::Object(fields) => fields.values_mut().for_each(|item| make_safe(item, redactor)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let cut = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let gone = text.len() - cut;
        text.truncate(cut);
        text.push_str(&format!("…(+{gone} bytes)"));
    }
    text
}

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadLine {
    /// It is no JSON of a record.
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

    #[test]
    fn a_line_reads_back_as_the_record_it_was() {
        let redactor = Redactor::new([("K", Secret::from("topsecretvalue"))]).unwrap();
        let draft = operator("x topsecretvalue \u{9b}31m\n\"é");
        let (record, line) = draft.finish(7, GENESIS, &redactor).unwrap();
        assert!(line.is_ascii() && line.ends_with("\"}\n") && !line.contains("topsecret"));
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(parse(line.trim_end().as_bytes()).unwrap(), record);
        assert_eq!(record.event["detail"], "x [REDACTED:K] \u{9b}31m\n\"é");
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let redactor = Redactor::new::<&str>([]).unwrap();
        let (_, line) = operator("abc").finish(1, GENESIS, &redactor).unwrap();
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
        let (record, line) = operator(&text).finish(1, GENESIS, &redactor).unwrap();
        assert!(record.event["detail"].as_str().unwrap().len() < TEXT_MAX + 32);
        assert!(!line.contains("ssss"));
    }
}
