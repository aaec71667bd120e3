//! Snapshots as somebody else would write them: each part of one can be anything.

use std::path::PathBuf;

use anyhow::Result;
use bed::Stage;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// One entry of an archive.
pub struct Member {
    pub kind: EntryType,
    pub name: Vec<u8>,
    pub target: Vec<u8>,
    pub content: Vec<u8>,
    pub mode: u32,
}

pub fn entry(kind: EntryType, name: &str, target: &str, content: &str) -> Member {
    Member { kind, name: name.into(), target: target.into(), content: content.into(), mode: 0o644 }
}

pub fn a_file(name: &str, content: &str) -> Member {
    entry(EntryType::Regular, name, "", content)
}

pub fn a_directory(name: &str) -> Member {
    Member { mode: 0o755, ..entry(EntryType::Directory, name, "", "") }
}

/// What its manifest says of an archive, where it doesn't say the truth.
#[derive(Default, Clone)]
pub struct Lies {
    pub entries: Option<u64>,
    pub bytes: Option<u64>,
    pub archive: Option<u64>,
    pub digest: Option<String>,
}

/// A tar archive of these.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut all = Vec::new();
    for member in members {
        let mut header = Header::new_gnu();
        let name = &member.name[..member.name.len().min(100)];
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let target = &member.target[..member.target.len().min(100)];
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(member.kind);
        header.set_mode(member.mode);
        header.set_size(member.content.len() as u64);
        header.set_mtime(1);
        header.set_cksum();
        all.extend(header.as_bytes());
        all.extend(&member.content);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.extend([0; 1024]);
    all
}

/// An archive that begins a file of so many zeros, compressed.
pub fn bomb(size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[0] = b'f';
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(1);
    header.set_cksum();
    let piece = compressed(&vec![0; 4 << 20]);
    let pieces = usize::try_from(size >> 22).unwrap();
    [compressed(header.as_bytes()), piece.repeat(pieces), compressed(&[0; 1024])].concat()
}

pub fn compressed(plain: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, plain).unwrap();
    gzip.finish().unwrap()
}

/// A whole file.
pub struct Forged {
    pub state: Vec<Member>,
    pub workspace: Vec<Member>,
    pub lies: Lies,
    /// Instead of the workspace's compressed archive.
    pub stored: Option<Vec<u8>>,
}

impl Forged {
    pub fn of(workspace: Vec<Member>) -> Self {
        Self { state: Vec::new(), workspace, lies: Lies::default(), stored: None }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let plain = archive(&self.workspace);
        let stored = self.stored.clone().unwrap_or_else(|| compressed(&plain));
        let state = compressed(&archive(&self.state));
        let manifest = serde_json::json!({
            "format": 1, "cofferdam": "0.1.0", "name": "forged", "made": "2026-01-01T00:00:00Z", "origin": "own",
            "state": said(&self.state, &state, &Lies::default()),
            "workspace": said(&self.workspace, &stored, &self.lies),
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let members = [("state.tar.gz", state), ("workspace.tar.gz", stored), ("manifest.json", manifest)];
        container(members)
    }
}

/// As `snapshot` frames its members.
pub fn container<'a>(members: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, content) in members {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        all.extend(header.as_bytes());
        all.extend(content);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.extend([0; 1024]);
    all
}

fn said(members: &[Member], stored: &[u8], lies: &Lies) -> serde_json::Value {
    let digest = lies.digest.clone().unwrap_or_else(|| format!("sha256:{}", hex(stored)));
    let bytes: usize = members.iter().map(|member| member.content.len()).sum();
    serde_json::json!({
        "stored": { "digest": digest, "size": stored.len() },
        "holds": {
            "entries": lies.entries.unwrap_or(members.len() as u64),
            "bytes": lies.bytes.unwrap_or(bytes as u64),
            "archive": lies.archive.unwrap_or(archive(members).len() as u64),
        },
        "left_out": { "special": 0, "unreadable": 0, "deep": 0, "mounts": 0, "changed": 0 },
    })
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes one for `restore`.
pub fn write(stage: &Stage, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    stage.write(name, bytes)
}
