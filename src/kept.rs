//! Small files of our own in a sandbox's state directory, which one start leaves for the next. As root the gateway has a hand in that
//! directory: what it put there is not ours, and nothing here goes through a link of its.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// No such file needs more.
const MAX: u64 = 4 << 20;

/// What a file of ours holds; none where there is no such file, or what stands there is another's.
///
/// # Errors
/// When it can't be read, or is too large to be one of ours.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_a_link(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

fn is_a_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ELOOP)
}

/// Puts a file of ours there, whole or not at all, whatever stood there; on disk once this returns, name and all.
///
/// # Errors
/// When it can't be written, or is more than is read.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, |anew| fs::rename(anew, path))
}

/// As [`write`], where nothing stands.
///
/// # Errors
/// As there; [`io::ErrorKind::AlreadyExists`] where anything does, a link that leads nowhere too.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, |anew| fs::hard_link(anew, path).and_then(|()| fs::remove_file(anew)))
}

fn put(path: &Path, bytes: &[u8], place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if bytes.len() as u64 > MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // A name that nobody can have taken beforehand.
    let anew = path.with_extension(format!("{:016x}", RandomState::new().hash_one(std::process::id())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&anew)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| place(&anew));
    written.inspect_err(|_| drop(fs::remove_file(&anew)))?;
    // fsync(2): a file's own says nothing of the directory's entry.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes from the working directory what a process left that was killed while it wrote `name`: whatever else `is_of` it. For when nobody
/// else writes.
pub fn clear_away(name: &str, is_of: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(".") else { return };
    for entry in entries.filter_map(Result::ok) {
        let file = entry.file_name();
        if file.to_str().is_some_and(|file| file != name && is_of(file)) {
            let _gone = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_of_our_own_is_read_and_nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(read(&at("places")).unwrap(), None);
        fs::write(at("elsewhere"), "theirs").unwrap();
        std::os::unix::fs::symlink("elsewhere", at("places")).unwrap();
        assert_eq!(read(&at("places")).unwrap(), None);
        write(&at("places"), b"ours").unwrap();
        assert_eq!(read(&at("places")).unwrap().as_deref(), Some(b"ours".as_slice()));
        assert_eq!(fs::read(at("elsewhere")).unwrap(), b"theirs");
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        for taken in ["places", "elsewhere", "dangling"] {
            let error = write_new(&at(taken), b"new").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{taken}");
        }
        write_new(&at("new"), b"new").unwrap();
        assert_eq!(read(&at("new")).unwrap().as_deref(), Some(b"new".as_slice()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left behind");
        write(&at("places"), b"again").unwrap();
        assert_eq!(read(&at("places")).unwrap().as_deref(), Some(b"again".as_slice()));
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&at("pipe")).unwrap(), None);
        fs::write(at("large"), vec![0; MAX as usize + 1]).unwrap();
        assert!(read(&at("large")).is_err());
    }
}
