//! What a snapshot says of itself: a small JSON text with a version, understood whole or refused.

use agent::snapshot::container::Part;
use agent::snapshot::{Amount, LeftOut, Packed, SnapshotError};
use serde::{Deserialize, Serialize};

/// The form of the file. A change that an older cofferdam would misread makes it another.
const FORMAT: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of the file.
    format: u32,
    /// Whose work it is: cofferdam's version.
    pub cofferdam: String,
    /// The sandbox's name.
    pub name: String,
    /// When, as RFC 3339 has it.
    pub made: String,
    /// Where the agent's files were.
    pub origin: Origin,
    /// cofferdam's own records.
    pub state: Member,
    /// The agent's files.
    pub workspace: Option<Member>,
}

/// Which directory the agent's files were in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The sandbox's own.
    Own,
    /// One that was named with `--workspace`.
    Named,
    /// None: they lie elsewhere, and are not in it.
    Elsewhere,
}

/// A member of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// As it lies in the file.
    pub stored: Part,
    /// What it unpacks to.
    pub holds: Amount,
    /// What was left out of it.
    pub left_out: LeftOut,
}

impl Member {
    /// What was packed.
    pub fn new((stored, Packed { amount, left_out }): (Part, Packed)) -> Self {
        Self { stored, holds: amount, left_out }
    }
}

#[derive(Deserialize)]
struct Form {
    format: u32,
}

impl Manifest {
    /// Of what was just packed.
    pub fn new(name: &str, origin: Origin, state: Member, workspace: Option<Member>) -> Self {
        Self {
            format: FORMAT,
            cofferdam: env!("CARGO_PKG_VERSION").into(),
            name: name.into(),
            made: jiff::Timestamp::now().to_string(),
            origin,
            state,
            workspace,
        }
    }

    /// Bytes of all files in it.
    pub fn bytes(&self) -> u64 {
        self.sum(|amount| amount.bytes)
    }

    /// What it counts as where there is a bound.
    pub fn charged(&self) -> u64 {
        self.sum(Amount::charged)
    }

    fn sum(&self, of: impl Fn(&Amount) -> u64) -> u64 {
        of(&self.state.holds)
            .saturating_add(self.workspace.as_ref().map_or(0, |workspace| of(&workspace.holds)))
    }

    /// What was left out of it, or isn't as it was, a line each.
    pub fn left_out(&self) -> Vec<String> {
        let mut said = Vec::new();
        for (of, member) in [("records", Some(&self.state)), ("workspace", self.workspace.as_ref())] {
            let left_out = member.map(|member| member.left_out).unwrap_or_default();
            let LeftOut { special, unreadable, deep, mounts, changed } = left_out;
            for (count, what) in [
                (special, "devices, pipes or sockets were left out"),
                (
                    unreadable,
                    "files or directories can't be read by the user whose directory it is, and were left out",
                ),
                (deep, "files or directories lie too deep, and were left out"),
                (mounts, "mounted filesystems were left out"),
                (
                    changed,
                    "files changed while they were read, and are of two moments or missing: stop whatever writes there, and make another",
                ),
            ] {
                if count > 0 {
                    said.push(format!("{of}: {count} {what}"));
                }
            }
        }
        said
    }

    /// As text.
    pub fn text(&self) -> Result<Vec<u8>, SnapshotError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| SnapshotError::Refused(e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Another form, or none that this cofferdam understands.
    pub fn read(text: &[u8]) -> Result<Self, SnapshotError> {
        let wrong = |e: serde_json::Error| SnapshotError::Refused(format!("its manifest: {e}"));
        let Form { format } = serde_json::from_slice(text).map_err(wrong)?;
        if format != FORMAT {
            return Err(SnapshotError::Refused(format!(
                "it is of format {format}, and this cofferdam knows format {FORMAT}: use the cofferdam that made it, or a later one"
            )));
        }
        serde_json::from_slice(text).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_named_and_an_unknown_word_refused() {
        let part = Part { digest: "sha256:00".into(), size: 0 };
        let member = Member::new((part, Packed::default()));
        let manifest = Manifest::new("one", Origin::Own, member.clone(), Some(member));
        let text = manifest.text().unwrap();
        assert_eq!(Manifest::read(&text).unwrap(), manifest);
        let text = String::from_utf8(text).unwrap();
        let later = text.replace("\"format\": 1", "\"format\": 2, \"more\": true");
        assert!(Manifest::read(later.as_bytes()).unwrap_err().to_string().contains("format 2"));
        let odd = text.replace("\"format\": 1", "\"format\": 1, \"more\": true");
        assert!(Manifest::read(odd.as_bytes()).unwrap_err().to_string().contains("more"));
    }
}
