//! A snapshot's manifest: a small JSON text with a version. It is understood completely or refused.

use agent::snapshot::container::Part;
use agent::snapshot::{Amount, LeftOut, Packed, SnapshotError};
use serde::{Deserialize, Serialize};

/// The version of the file's format. A change that an older cofferdam would misread gets another number.
const FORMAT: u32 = 1;

/// A snapshot's manifest; see the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of the file.
    format: u32,
    /// The version of the cofferdam that made it.
    pub cofferdam: String,
    /// The sandbox's name.
    pub name: String,
    /// When it was made, as RFC 3339 writes it.
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
    /// None: the agent's files are elsewhere, and not in the snapshot.
    Elsewhere,
}

/// A member of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The member as it is stored in the file.
    pub stored: Part,
    /// What it unpacks to.
    pub holds: Amount,
    /// What was left out of it.
    pub left_out: LeftOut,
}

impl Member {
    /// Describes a member that was just packed.
    pub fn new((stored, Packed { amount, left_out }): (Part, Packed)) -> Self {
        Self { stored, holds: amount, left_out }
    }
}

#[derive(Deserialize)]
struct Form {
    format: u32,
}

impl Manifest {
    /// Makes the manifest of what was just packed.
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

    /// Returns the bytes of all files in the snapshot.
    pub fn bytes(&self) -> u64 {
        self.sum(|amount| amount.bytes)
    }

    /// Returns what the content counts as against a limit.
    pub fn charged(&self) -> u64 {
        self.sum(Amount::charged)
    }

    fn sum(&self, of: impl Fn(&Amount) -> u64) -> u64 {
        of(&self.state.holds)
            .saturating_add(self.workspace.as_ref().map_or(0, |workspace| of(&workspace.holds)))
    }

    /// Returns what was left out, or changed while it was read, one line each.
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

    /// Returns the manifest as JSON text.
    pub fn text(&self) -> Result<Vec<u8>, SnapshotError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| SnapshotError::Refused(e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// It has another format, or is nothing that this cofferdam understands.
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
