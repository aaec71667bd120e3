//! Checks a file to its last byte, in a process that may do nothing else, before anything is made from it.
//! Returns its manifest, and what it would have a sandbox trust.

use std::fs::File;

use agent::confine;
use agent::plan::Ids;
use agent::snapshot::container::Container;
use agent::snapshot::{SnapshotError, fill};
use operator::approvals::Kept;
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::manifest::{Manifest, Origin};
use super::{MEMBERS, Meter, STATE, WORKSPACE, everything, failure, keeper, mended, reads, records};
use crate::failure::Failure;

/// How many approvals a file may contain: a sandbox's book holds no more (docs/limits.md).
const MAX_ANSWERS: usize = 256;
/// Characters of all approvals together: the checking process may not return more.
const MAX_ANSWERED: usize = 3 << 20;
/// Bytes of a name in a manifest at most.
const MAX_SHOWN: usize = 200;

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The manifest.
    pub manifest: Manifest,
    /// The approvals for good, one line each.
    pub approvals: Vec<String>,
    /// The number of counts of budgets, if the file has any.
    pub budgets: Option<usize>,
}

/// Reads the whole file, unless its manifest says that its content comes to more than `most` bytes.
///
/// # Errors
/// It isn't what [`super::make()`] makes, or it is too large.
pub fn look(file: &File, ids: Ids, most: u64, meter: Meter) -> Result<Found, Failure> {
    let said = confine::run(keeper(ids), reads(file), || {
        let found = judge(file, most, meter).map_err(mended)?;
        serde_json::to_string(&found).map_err(|e| SnapshotError::Refused(e.to_string()))
    });
    let said = said.map_err(|e| failure(e.into()))?;
    serde_json::from_str(&said)
        .map_err(|e| Failure::refused(format!("the result of its check can't be read: {e}")))
}

fn judge(file: &File, most: u64, meter: Meter) -> Result<Found, SnapshotError> {
    let container = Container::open(file, MEMBERS)?;
    let manifest = Manifest::read(&container.manifest)?;
    let members = 1 + usize::from(manifest.workspace.is_some());
    if container.count() != members || manifest.workspace.is_some() == (manifest.origin == Origin::Elsewhere)
    {
        return Err(SnapshotError::Refused("its manifest and its members don't agree".into()));
    }
    let legible =
        |text: &str| text.chars().all(|c| c.is_ascii_graphic() || c == ' ') && text.len() <= MAX_SHOWN;
    if ![&manifest.name, &manifest.made, &manifest.cofferdam].iter().all(|text| legible(text)) {
        return Err(SnapshotError::Refused("its manifest has an invalid name".into()));
    }
    // Checked before anything is decompressed: no more is unpacked than the manifest says.
    if manifest.charged() > most {
        let all = manifest.charged();
        return Err(SnapshotError::NoRoom { path: "all that it says of itself".into(), all, most });
    }
    if [Some(&manifest.state), manifest.workspace.as_ref()]
        .into_iter()
        .flatten()
        .any(|member| member.holds.is_padded())
    {
        return Err(SnapshotError::Refused("its archive is said to be larger than what is in it".into()));
    }
    let in_force = [crate::state::APPROVALS, gateway::budgets::FILE].map(Path::new);
    let [approvals, budgets] = in_force;
    let taken = container
        .read(STATE, &manifest.state.stored, |bytes| {
            fill(bytes, None, records(), manifest.state.holds, &in_force, &mut |bytes| meter(bytes))
        })?
        .taken;
    if let Some(workspace) = &manifest.workspace {
        container.read(WORKSPACE, &workspace.stored, |bytes| {
            fill(bytes, None, everything(), workspace.holds, &[], &mut |bytes| meter(bytes))
        })?;
    }
    let approvals = taken.get(approvals).map(|bytes| answers(bytes)).transpose()?.unwrap_or_default();
    let budgets = taken.get(budgets).map(|bytes| counts(bytes)).transpose()?;
    Ok(Found { manifest, approvals, budgets })
}

/// Counts them with the gateway's own reader, which would go on with them.
fn counts(bytes: &[u8]) -> Result<usize, SnapshotError> {
    gateway::budgets::how_many(bytes).map_err(|e| {
        let file = gateway::budgets::FILE;
        SnapshotError::Refused(format!("its counts of budgets ({file}) can't be read: {e}"))
    })
}

/// Spells a text of the file's maker so that it can't end its quotes, or look like something else.
fn spelt(text: &str) -> String {
    let plain = |c: char| match c {
        '"' | '`' => c.escape_unicode().to_string(),
        ' '..='~' => c.to_string(),
        c => c.escape_unicode().to_string(),
    };
    text.chars().map(plain).collect()
}

fn answers(bytes: &[u8]) -> Result<Vec<String>, SnapshotError> {
    let kept: Kept = serde_json::from_slice(bytes)
        .map_err(|e| SnapshotError::Refused(format!("its approvals can't be read: {e}")))?;
    // New ids are counted upwards from the highest, and must not overflow.
    if kept.highest() > u64::MAX / 2 {
        return Err(SnapshotError::Refused("its approvals have ids out of range".into()));
    }
    let kept = kept.for_good();
    let all: Vec<String> = kept
        .approved()
        .map(|(asked, rule)| {
            let method = rule.method.as_ref().unwrap_or(&asked.method);
            let path = rule.path.as_ref().unwrap_or(&asked.path);
            format!(
                "\"{}\" by \"{}\" (sha256 {})",
                spelt(&format!("{method} {}:{}{path}", asked.host, asked.port)),
                spelt(&asked.binary),
                spelt(&asked.sha256)
            )
        })
        .collect();
    let too_much =
        |what: &str, limit: usize| Err(SnapshotError::TooMuch { what: what.into(), limit: limit as u64 });
    match (all.len(), all.iter().map(String::len).sum::<usize>()) {
        (count, _) if count > MAX_ANSWERS => too_much("the number of its approvals", MAX_ANSWERS),
        (_, length) if length > MAX_ANSWERED => too_much("the length of its approvals", MAX_ANSWERED),
        _ => Ok(all),
    }
}
