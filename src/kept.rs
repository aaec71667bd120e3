//! Small files of our own in a sandbox's state directory, which one start leaves for the next. If cofferdam
//! was started as root, the gateway can write to that directory too: its files don't count as ours, and no
//! link of its is followed.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// How a directory is opened in whose place others may have put a link: not through it.
pub const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Bytes of such a file at most; none needs more.
const MAX: u64 = 4 << 20;

/// Reads a file of ours. `None` if there is no such file, or what is there isn't a plain file of our own
/// user's.
///
/// # Errors
/// It can't be read, or is too large to be one of ours.
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

/// The mode of our files: others have no access.
pub const OURS_ALONE: u32 = 0o600;

/// Writes a file of ours, completely or not at all, and replaces whatever was there. When this returns, its
/// content and its name are on disk.
///
/// # Errors
/// It can't be written, or is larger than what [`read`] accepts.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Aside::write(path, bytes, OURS_ALONE)?.replace()?;
    settle(path)
}

/// A complete file on disk, beside the place that it is for. Dropping it removes it, unless it was moved to
/// that place.
#[derive(Debug)]
pub struct Aside {
    anew: PathBuf,
    place: PathBuf,
}

impl Aside {
    /// Writes one. The mode is set by descriptor while the file has a random name. Nothing is done through
    /// the final path afterwards, since that may lead elsewhere by then.
    ///
    /// # Errors
    /// As [`write()`].
    pub fn write(place: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        if bytes.len() as u64 > MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // A random name, so that no other process can have made the file beforehand.
        let anew = place.with_extension(format!("{:016x}", RandomState::new().hash_one(std::process::id())));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(OURS_ALONE).open(&anew)?;
        let aside = Self { anew, place: place.to_owned() };
        if mode != OURS_ALONE {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(aside)
    }

    /// Moves it to its place, and replaces whatever is there: a link itself, not what it leads to.
    ///
    /// # Errors
    /// It can't be moved. Nothing has changed then.
    pub fn replace(self) -> io::Result<()> {
        fs::rename(&self.anew, &self.place)
    }

    /// Moves it to its place if nothing is there.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if anything is there, even a dangling link. Nothing has changed then.
    pub fn take(self) -> io::Result<()> {
        fs::hard_link(&self.anew, &self.place)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.anew);
    }
}

/// Syncs the directory of `path`, so that the file's name is on disk too.
///
/// # Errors
/// It can't be known whether the name is on disk.
pub fn settle(path: &Path) -> io::Result<()> {
    // fsync(2) of a file doesn't cover its directory entry.
    File::open(beside(path))?.sync_all()
}

/// Returns the directory that a path is in.
pub fn beside(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes from the working directory what a process left that was killed while it wrote `name`. No other
/// process may be writing it.
pub fn clear_away(name: &str) {
    clear_away_in(Path::new("."), name);
}

/// As [`clear_away`], in the directory `dir`.
pub fn clear_away_in(dir: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_str().is_some_and(|file| is_aside(name, file)) {
            let _gone = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file is `name`, or a temporary file for it that was left when its writer was killed.
pub fn is_of(name: &str, file: &str) -> bool {
    file == name || is_aside(name, file)
}

fn is_aside(name: &str, file: &str) -> bool {
    let is_ours =
        |rest: &str| rest.len() == 16 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    file.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')).is_some_and(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_writer_left_is_told_from_what_an_operator_laid_beside() {
        let dir = tempfile::tempdir().unwrap();
        let aside = Aside::write(&dir.path().join("counts.json"), b"1", OURS_ALONE).unwrap();
        let left = aside.anew.file_name().unwrap().to_str().unwrap();
        assert!(is_aside("counts.json", left) && is_of("counts.json", left), "{left}");
        assert!(is_of("counts.json", "counts.json") && !is_aside("counts.json", "counts.json"));
        for theirs in ["counts.json.bak", "counts.old", "counts.0123456789ABCDEF", "count.0123456789abcdef"] {
            assert!(!is_of("counts.json", theirs), "{theirs}");
        }
    }

    fn put_new(path: &Path) -> io::Result<()> {
        Aside::write(path, b"new", OURS_ALONE)?.take()
    }

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
            let error = put_new(&at(taken)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{taken}");
        }
        put_new(&at("new")).unwrap();
        assert_eq!(read(&at("new")).unwrap().as_deref(), Some(b"new".as_slice()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left behind");
        write(&at("places"), b"again").unwrap();
        assert_eq!(read(&at("places")).unwrap().as_deref(), Some(b"again".as_slice()));
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&at("pipe")).unwrap(), None);
        fs::write(at("large"), vec![0; MAX as usize + 1]).unwrap();
        assert!(read(&at("large")).is_err());
    }

    #[test]
    fn a_file_has_its_mode_before_its_name_and_leaves_nothing_where_it_takes_none() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        write(&at("victim"), b"theirs").unwrap();
        let aside = Aside::write(&at("open"), b"ours", 0o644).unwrap();
        assert!(!at("open").exists() && mode(&aside.anew) == 0o644);
        // Another process that may write to the directory takes the name meanwhile.
        std::os::unix::fs::symlink("victim", at("open")).unwrap();
        assert_eq!(aside.take().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        Aside::write(&at("open"), b"ours", 0o644).unwrap().replace().unwrap();
        assert_eq!((mode(&at("open")), mode(&at("victim"))), (0o644, 0o600));
        assert_eq!(fs::read(at("victim")).unwrap(), b"theirs");
        drop(Aside::write(&at("never"), b"ours", 0o644).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something is left behind");
    }
}
