//! A directory tree in a form that can be compared: every name with its metadata and content.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: &'static str,
    /// The nine permission bits; 0 for a link.
    pub mode: u32,
    pub modified: (i64, i64),
    /// Bytes of a file, target of a link.
    pub content: Vec<u8>,
    /// The number of hard links, for a file.
    pub names: u64,
}

/// Everything below `root`, by its path; only directories, files and links.
pub fn tree(root: &Path) -> Result<BTreeMap<OsString, Entry>> {
    let mut all = BTreeMap::new();
    let mut way = vec![root.to_owned()];
    while let Some(dir) = way.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let found = std::fs::symlink_metadata(&path)?;
            let kind = found.file_type();
            let (kind, content) = match () {
                () if kind.is_dir() => ("directory", Vec::new()),
                () if kind.is_symlink() => {
                    ("link", std::fs::read_link(&path)?.into_os_string().into_encoded_bytes())
                }
                () if kind.is_file() => ("file", std::fs::read(&path)?),
                () => continue,
            };
            let entry = Entry {
                kind,
                mode: if kind == "link" { 0 } else { found.mode() & 0o777 },
                modified: (found.mtime(), found.mtime_nsec()),
                content,
                names: if kind == "file" { found.nlink() } else { 0 },
            };
            all.insert(path.strip_prefix(root)?.as_os_str().to_owned(), entry);
            if kind == "directory" {
                way.push(path);
            }
        }
    }
    Ok(all)
}
