//! Reads files that the operator names: whole, up to a limit, and without waiting.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Bytes of a file of certificates at most: twenty times the size of the bundles that systems ship.
const CERTIFICATES_MAX: u64 = 4 << 20;

/// Returns a path made absolute, so that it holds in any working directory.
///
/// # Errors
/// It is empty, or relative to a working directory that is gone.
pub fn lasting(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Failure::refused(format!(
            "{}: this shell's working directory is gone: `cd` to one that is there, or give a path that begins with /",
            path.display()
        )),
        _ => Failure::from(e),
    })
}

/// Reads a file of at most `max` bytes. `mend` is the remedy to suggest if there is no such file.
///
/// # Errors
/// It doesn't exist, isn't a plain file, is too large, or isn't UTF-8.
pub fn read(path: &Path, max: u64, mend: &str) -> Result<String, Failure> {
    let told = |why: String| Failure::refused(format!("{}: {why}", path.display()));
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => told(format!("there is no such file: {mend}")),
        io::ErrorKind::PermissionDenied => {
            told("you may not read it: name another, or have its owner let you".into())
        }
        _ => told(e.to_string()),
    };
    let file = if is_stdin(path) {
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else if is_descriptor(path) {
        // A descriptor that the shell passes may be a pipe, whose writer the shell has started.
        File::open(path)
    } else {
        policy::open_regular(path)
    };
    let mut bytes = Vec::new();
    file.map_err(failed)?.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(told(format!("more than {max} bytes, which no such file needs")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let (before, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        told(format!("line {line} is not UTF-8: save the file as UTF-8 text"))
    })
}

/// Reads a PEM file of certificates that the configuration names as `what`.
///
/// # Errors
/// As [`read`].
pub fn read_certificates(path: &Path, what: &str) -> Result<String, Failure> {
    let mend = "name the right one, by its path from the configuration file";
    read(path, CERTIFICATES_MAX, mend).map_err(|why| Failure::refused(format!("{what} {}", why.message)))
}

/// Whether a path leads to an open descriptor of this process: `<(…)` of a shell, `/dev/stdin`. To every
/// other process the same path means something else.
pub fn is_descriptor(path: &Path) -> bool {
    is_stdin(path) || ["/dev/fd", "/proc/self/fd", "/dev/stdin"].iter().any(|place| path.starts_with(place))
}

/// Whether standard input is meant, as commands write it; a file of that name is `./-`.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_and_what_is_too_large_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        std::fs::write(&file, "12345").unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let why = |path: &Path, max| read(path, max, "write it").unwrap_err().message;
        assert_eq!(read(&file, 5, "").unwrap(), "12345");
        assert!(why(&file, 4).contains("more than 4 bytes"));
        std::fs::write(&file, b"a\nb\xff").unwrap();
        assert!(why(&file, 9).contains("line 2 is not UTF-8"));
        assert!(why(&pipe, 4).contains("it is a pipe"));
        assert!(why(&dir.path().join("none"), 4).ends_with("no such file: write it"));
        assert!(is_descriptor(Path::new("/dev/fd/63")) && !is_descriptor(&file));
        assert!(is_stdin(Path::new("-")) && !is_stdin(Path::new("./-")));
    }
}
