//! A directory tree as it can be compared: every name with what there is to know of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: &'static str,
    /// Nine bits; none of a link.
    pub mode: u32,
    pub modified: (i64, i64),
    /// Bytes of a file, target of a link.
    pub content: Vec<u8>,
    /// How many names it has, of a file.
    pub names: u64,
}

/// Everything below, by its path; what is no directory, file or link is none.
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
