//! Small files of our own in a sandbox's state directory, which one start leaves for the next. As root the
//! gateway has a hand in that directory: what it put there is not ours, and nothing here goes through a link
//! of its.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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

/// What a file of ours may be to others: nothing.
pub const OURS_ALONE: u32 = 0o600;

/// Puts a file of ours there, whole or not at all, whatever stood there; on disk once this returns, name and
/// all.
///
/// # Errors
/// When it can't be written, or is more than is read.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Aside::write(path, bytes, OURS_ALONE)?.replace()?;
    settle(path)
}

/// A file that is whole and on disk beside the place that it is for: gone again, unless it takes that.
#[derive(Debug)]
pub struct Aside {
    anew: PathBuf,
    place: PathBuf,
}

impl Aside {
    /// Writes one. The mode is set through the descriptor, under a random name; nothing is done by the final
    /// path afterwards, since that may lead elsewhere by then.
    ///
    /// # Errors
    /// As [`write`].
    pub fn write(place: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        if bytes.len() as u64 > MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // A name that nobody can have taken beforehand.
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

    /// Takes its place from whatever stands there, a link itself and not what it leads to.
    ///
    /// # Errors
    /// When that can't be. Nothing has changed then.
    pub fn replace(self) -> io::Result<()> {
        fs::rename(&self.anew, &self.place)
    }

    /// Takes its place where nothing stands.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where anything does, a link that leads nowhere too. Nothing has
    /// changed then.
    pub fn take(self) -> io::Result<()> {
        fs::hard_link(&self.anew, &self.place)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.anew);
    }
}

/// Has a name on disk, too.
///
/// # Errors
/// When it can't be known that it is.
pub fn settle(path: &Path) -> io::Result<()> {
    // fsync(2): a file's own says nothing of the directory's entry.
    File::open(beside(path))?.sync_all()
}

/// The directory that a path is in.
pub fn beside(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes from the working directory what a process left that was killed while it wrote `name`. For when
/// nobody else writes.
pub fn clear_away(name: &str) {
    clear_away_in(Path::new("."), name);
}

/// The same from another directory.
pub fn clear_away_in(dir: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_str().is_some_and(|file| is_aside(name, file)) {
            let _gone = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file is `name`, or what that was to become when its writer was killed.
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
        // Whoever may write beside it takes the name meanwhile.
        std::os::unix::fs::symlink("victim", at("open")).unwrap();
        assert_eq!(aside.take().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        Aside::write(&at("open"), b"ours", 0o644).unwrap().replace().unwrap();
        assert_eq!((mode(&at("open")), mode(&at("victim"))), (0o644, 0o600));
        assert_eq!(fs::read(at("victim")).unwrap(), b"theirs");
        drop(Aside::write(&at("never"), b"ours", 0o644).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something is left behind");
    }
}
