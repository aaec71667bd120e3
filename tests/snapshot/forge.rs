//! Forged snapshots: each part of one can be anything.

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
    /// Headers in front of its own, as kinds and contents; `None` for the one that a real snapshot has there.
    pub before: Option<Vec<(EntryType, Vec<u8>)>>,
    /// The name in its own header; `None` for the one that a real snapshot has there.
    pub plain_name: Option<&'static str>,
}

impl Member {
    /// Its extended header, as in a real snapshot.
    pub fn extended(&self) -> (EntryType, Vec<u8>) {
        let mut records = record("path", &self.name);
        if !self.target.is_empty() {
            records.extend(record("linkpath", &self.target));
        }
        records.extend(record("mtime", b"1.000000000"));
        (EntryType::XHeader, records)
    }
}

/// A record of an extended header.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| *length == rest + length.to_string().len()).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub fn entry(kind: EntryType, name: &str, target: &str, content: &str) -> Member {
    Member {
        kind,
        name: name.into(),
        target: target.into(),
        content: content.into(),
        mode: 0o644,
        before: None,
        plain_name: None,
    }
}

pub fn a_file(name: &str, content: &str) -> Member {
    entry(EntryType::Regular, name, "", content)
}

pub fn a_directory(name: &str) -> Member {
    Member { mode: 0o755, ..entry(EntryType::Directory, name, "", "") }
}

/// False statements of the manifest about an archive; `None` states the truth.
#[derive(Default, Clone)]
pub struct Lies {
    pub entries: Option<u64>,
    pub bytes: Option<u64>,
    pub archive: Option<u64>,
    pub digest: Option<String>,
}

/// A tar archive of these members.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut put = |header: [u8; 512], content: &[u8]| {
        all.extend(header);
        all.extend(content);
        all.resize(all.len().next_multiple_of(512), 0);
    };
    for member in members {
        for (kind, content) in member.before.clone().unwrap_or_else(|| vec![member.extended()]) {
            put(header(kind, "-", 0o600, content.len() as u64), &content);
        }
        let size = member.content.len() as u64;
        put(header(member.kind, member.plain_name.unwrap_or("-"), member.mode, size), &member.content);
    }
    all.extend([0; 1024]);
    all
}

fn header(kind: EntryType, name: &str, mode: u32, size: u64) -> [u8; 512] {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    *header.as_bytes()
}

/// A compressed archive of a file of `size` zeros.
pub fn bomb(size: u64) -> Vec<u8> {
    let (_, records) = a_file("f", "").extended();
    let mut begin =
        [header(EntryType::XHeader, "-", 0o600, records.len() as u64).as_slice(), &records].concat();
    begin.resize(begin.len().next_multiple_of(512), 0);
    begin.extend(header(EntryType::Regular, "-", 0o644, size));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &begin).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), size + 1024), &mut gzip).unwrap();
    gzip.finish().unwrap()
}

pub fn compressed(plain: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, plain).unwrap();
    gzip.finish().unwrap()
}

/// A whole snapshot file.
pub struct Forged {
    pub state: Vec<Member>,
    pub workspace: Vec<Member>,
    pub lies: Lies,
    /// Bytes that replace the workspace's compressed archive.
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

/// Frames members as `snapshot` does.
pub fn container<'a>(members: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, content) in members {
        all.extend(header(EntryType::Regular, name, 0o600, content.len() as u64));
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

/// Writes a snapshot file for `restore`.
pub fn write(stage: &Stage, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    stage.write(name, bytes)
}
