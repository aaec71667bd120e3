//! Opens a file by its name without ever blocking: a pipe in its place must not hold up the reader.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK};

/// Opens a regular file for reading. Follows links; never waits for another process.
///
/// # Errors
/// The file can't be opened, or isn't a regular file; the error then says what it is.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe blocks until another process opens it for writing (fifo(7)).
    let flags = O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(io::Error::other(format!("it is {}, not a regular file", word(kind))))
}

fn word(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_opened_and_nobody_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe, link) = (dir.path().join("file"), dir.path().join("pipe"), dir.path().join("link"));
        std::fs::write(&file, "x").unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(open_regular(&file).is_ok() && open_regular(&link).is_ok());
        for (path, what) in
            [(pipe.as_path(), "a pipe"), (dir.path(), "a directory"), (Path::new("/dev/null"), "a device")]
        {
            assert_eq!(
                open_regular(path).unwrap_err().to_string(),
                format!("it is {what}, not a regular file")
            );
        }
        assert_eq!(open_regular(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
