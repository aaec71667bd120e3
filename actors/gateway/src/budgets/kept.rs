//! The counts as stored on disk: one small JSON text with a version, read as a whole or refused.
//!
//! Text that can't be read with certainty is an error, and must never be taken for a count of zero. Where and
//! how the text is stored is up to [`Shelf`].

use std::io;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{
    table::{Count, MAX_KEPT, Which},
    window::Per,
};

/// Name of the file in the sandbox's state directory.
pub const FILE: &str = "budgets.json";
/// Longest text that is read, in bytes: [`MAX_KEPT`] counts need a third of it.
pub const MAX_FILE: usize = 256 * 1024;
/// Version of the text's format.
const VERSION: u32 = 1;

/// Where counts are kept. Both calls may block.
pub trait Shelf: Send + Sync + 'static {
    /// Reads the stored text; `None` if none was ever stored.
    ///
    /// # Errors
    /// The text can't be read, or the file isn't ours.
    fn read(&self) -> io::Result<Option<Vec<u8>>>;
    /// Replaces the text atomically; it is on disk once this returns.
    ///
    /// # Errors
    /// The text can't be written; the earlier one is still there.
    fn write(&self, text: &[u8]) -> io::Result<()>;
}

/// Why counts can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Reading failed with this error.
    #[error("{0}")]
    Io(String),
    /// Longer than [`MAX_FILE`].
    #[error("longer than {MAX_FILE} bytes")]
    TooLong,
    /// The text isn't in our format, or was changed by another program.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Written by a later version of cofferdam.
    #[error("of version {0}, where this cofferdam knows version {VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    budgets: Vec<Written>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    per: Per,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<SmolStr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<SmolStr>,
    window: u64,
    tokens: u64,
    requests: u64,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Serialises counts.
pub(crate) fn text(counts: Vec<Count>) -> Vec<u8> {
    let budgets = counts.into_iter().map(|count| {
        let Count { which: Which { per, provider, model }, window, tokens, requests } = count;
        Written { per, provider, model, window, tokens, requests }
    });
    // Numbers and strings alone: it can't fail.
    serde_json::to_vec(&Text { version: VERSION, budgets: budgets.collect() }).unwrap_or_default()
}

/// The number of counts in a text from elsewhere.
///
/// # Errors
/// When it can't be read, or not with certainty.
pub fn how_many(text: &[u8]) -> Result<usize, Unreadable> {
    counts(Some(text)).map(|counts| counts.len())
}

/// Parses stored counts; no text is no counts.
pub(crate) fn counts(text: Option<&[u8]>) -> Result<Vec<Count>, Unreadable> {
    let Some(text) = text else { return Ok(Vec::new()) };
    if text.len() > MAX_FILE {
        return Err(Unreadable::TooLong);
    }
    let damaged = |e: serde_json::Error| Unreadable::Damaged(format!("no counts of ours: {e}"));
    let Versioned { version } = serde_json::from_slice(text).map_err(damaged)?;
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let Text { budgets, .. } = serde_json::from_slice(text).map_err(damaged)?;
    if budgets.len() > MAX_KEPT {
        return Err(Unreadable::Damaged(format!("more than {MAX_KEPT} counts")));
    }
    let mut counts: Vec<Count> = Vec::with_capacity(budgets.len());
    for Written { per, provider, model, window, tokens, requests } in budgets {
        let which = Which { per, provider, model };
        if window != per.begin(window) || counts.iter().any(|count| count.which == which) {
            return Err(Unreadable::Damaged("a window that no clock has, or one budget twice".into()));
        }
        counts.push(Count { which, window, tokens, requests });
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(per: Per, provider: Option<&str>, tokens: u64) -> Count {
        let which = Which { per, provider: provider.map(SmolStr::new), model: Some("gpt-*".into()) };
        Count { window: per.begin(1_796_040_000), which, tokens, requests: 3 }
    }

    #[test]
    fn what_is_written_is_read() {
        let all = vec![count(Per::Day, None, u64::MAX), count(Per::Minute, Some("a"), 0)];
        assert_eq!(counts(Some(&text(all.clone()))), Ok(all));
        assert_eq!(counts(None), Ok(Vec::new()));
        let longest = |n: usize| Count {
            which: Which {
                per: Per::Minute,
                provider: Some(format!("{n:064}").into()),
                model: Some("\\".repeat(256).into()),
            },
            window: u64::MAX - u64::MAX % 60,
            tokens: u64::MAX,
            requests: u64::MAX,
        };
        let all: Vec<Count> = (0..MAX_KEPT).map(longest).collect();
        assert_eq!(counts(Some(&text(all.clone()))), Ok(all));
    }

    #[test]
    fn what_is_damaged_is_never_nothing() {
        let whole = text(vec![count(Per::Day, None, 5)]);
        for end in 0..whole.len() {
            assert!(matches!(counts(whole.get(..end)), Err(Unreadable::Damaged(_))), "cut at {end}");
        }
        let said = String::from_utf8(whole.clone()).unwrap();
        for (from, to) in [
            ("\"tokens\":5", "\"tokens\":-5"),
            ("\"tokens\":5", "\"tokens\":99999999999999999999999"),
            ("\"tokens\":5,", ""),
            ("\"tokens\":5", "\"tokens\":5,\"more\":1"),
            ("\"day\"", "\"week\""),
            ("\"window\":", "\"window\":1"),
            ("\"budgets\":[", "\"budgets\":[1,"),
        ] {
            let changed = said.replace(from, to);
            assert_ne!(changed, said);
            assert!(matches!(counts(Some(changed.as_bytes())), Err(Unreadable::Damaged(_))), "{changed}");
        }
        let later = said.replace("\"version\":1", "\"version\":2");
        assert_eq!(counts(Some(later.as_bytes())), Err(Unreadable::Version(2)));
        assert_eq!(counts(Some(&vec![b' '; MAX_FILE + 1])), Err(Unreadable::TooLong));
        let twice = text(vec![count(Per::Day, None, 5), count(Per::Day, None, 6)]);
        assert!(matches!(counts(Some(&twice)), Err(Unreadable::Damaged(_))));
        let many = (0..=MAX_KEPT).map(|n| count(Per::Day, Some(&n.to_string()), 1)).collect();
        assert!(matches!(counts(Some(&text(many))), Err(Unreadable::Damaged(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            proptest::prop_assert!(counts(Some(&bytes)).is_err());
        }
    }
}
