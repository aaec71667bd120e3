//! Turns one layer's tar archive into judged entries: names consist of plain components, sizes are bounded,
//! long names are resolved by our own few lines (so that no second parser may see another archive), and what
//! has no place in an image is refused. Touches no filesystem.

use super::bounds::{MAX_DEPTH, MAX_EXTENSION, MAX_FILE, MAX_NAME, MAX_PATH};
use super::{ImageError, refused};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::EntryType;

/// A path below the root, of plain components; empty for the root itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place(PathBuf);

/// Which bytes a name may have, a NUL aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// No control characters, which would steer a terminal: no image needs one.
    Plain,
    /// Any that a filesystem takes: what an agent has made is kept as it is.
    Any,
}

impl Names {
    fn refuse(self, byte: u8) -> bool {
        match self {
            Self::Plain => byte < 0x20 || byte == 0x7f,
            Self::Any => byte == 0,
        }
    }
}

impl Place {
    /// Judges a name of an image's archive.
    pub(crate) fn new(name: &[u8]) -> Result<Self, ImageError> {
        Self::judged(name, Names::Plain)
    }

    /// Judges a name of an archive.
    pub(crate) fn judged(name: &[u8], names: Names) -> Result<Self, ImageError> {
        let wrong = |why: &str| Err(refused(format!("entry {:?}: {why}", shown(name))));
        if name.len() > MAX_PATH {
            return wrong("its name is too long");
        }
        if name.starts_with(b"/") {
            return wrong("its name is absolute");
        }
        if name.iter().any(|byte| names.refuse(*byte)) {
            return wrong("its name holds a control character");
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return wrong("its name leads upwards"),
                part if part.len() > MAX_NAME => return wrong("a part of its name is too long"),
                part => path.push(OsStr::from_bytes(part)),
            }
            depth += 1;
        }
        if depth > MAX_DEPTH {
            return wrong("it lies too deep");
        }
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The directory it lies in, and its name there; none for the root.
    pub(crate) fn split(&self) -> Option<(&Path, &OsStr)> {
        Some((self.0.parent()?, self.0.file_name()?))
    }
}

/// What an entry makes.
#[derive(Debug)]
pub(crate) enum Kind {
    Directory,
    File,
    Link(PathBuf),
    HardLink(Place),
    /// A device or named pipe: skipped.
    Special,
}

/// A judged entry; its bytes, if it is a file, come from the archive's own entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    /// Nine bits: no set-id, no sticky.
    pub(crate) mode: u32,
    /// Seconds since 1970, and nanoseconds after them.
    pub(crate) modified: (i64, u32),
    pub(crate) size: u64,
}

/// What extended headers said about the entry to come.
#[derive(Default)]
pub(crate) struct Extended {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<(i64, u32)>,
}

impl Extended {
    /// Takes an extended header; true when this was one.
    pub(crate) fn take<R: Read>(&mut self, raw: &mut tar::Entry<'_, R>) -> Result<bool, ImageError> {
        match raw.header().entry_type() {
            EntryType::GNULongName => self.name = Some(text(raw)?),
            EntryType::GNULongLink => self.target = Some(text(raw)?),
            EntryType::XHeader => {
                let bytes = read_extension(raw)?;
                self.records(&bytes)?;
            }
            // Applies to all entries that follow; those met in practice hold a comment (git archive).
            EntryType::XGlobalHeader => {
                let mut global = Self::default();
                global.records(&read_extension(raw)?)?;
                if global.name.is_some() || global.target.is_some() || global.size.is_some() {
                    return Err(refused("a global extended header names a file"));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `LENGTH KEY=VALUE\n` (POSIX, pax Extended Header).
    pub(crate) fn records(&mut self, mut bytes: &[u8]) -> Result<(), ImageError> {
        let wrong = || refused("a pax extended header is malformed");
        while !bytes.is_empty() {
            let space = bytes.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
            let (digits, _) = bytes.split_at(space);
            let length: usize = number(digits).and_then(|n| n.try_into().ok()).ok_or_else(wrong)?;
            let record =
                bytes.get(space + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(wrong)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            let (key, value) =
                (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"mtime" => self.modified = seconds(value),
                b"size" => self.size = Some(number(value).ok_or_else(wrong)?),
                key if key.starts_with(b"GNU.sparse.") => return Err(refused("it holds a sparse file")),
                _ => {}
            }
            bytes = bytes.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.name.is_none() && self.target.is_none() && self.size.is_none()
    }
}

/// Judges an entry, together with the extended headers before it.
pub(crate) fn judge<R: Read>(
    raw: &tar::Entry<'_, R>,
    extended: Extended,
    names: Names,
) -> Result<Entry, ImageError> {
    let header = raw.header();
    let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
    let place = Place::judged(&name, names)?;
    let wrong = |why: &str| refused(format!("entry {:?}: {why}", shown(&name)));
    let size = raw.size();
    // With two sizes there are two archives: which of them was judged depends on the reader.
    if extended.size.is_some_and(|said| said != size) {
        return Err(wrong("its extended header gives another size than its header"));
    }
    if size > MAX_FILE {
        return Err(ImageError::TooMuch { what: format!("entry {:?}", shown(&name)), limit: MAX_FILE });
    }
    let target = || -> Result<Vec<u8>, ImageError> {
        let bytes =
            extended.target.clone().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let bytes =
            bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(|| wrong("it is a link to nothing"))?;
        // The kernel takes no longer target (symlink(2)).
        if bytes.len() >= MAX_PATH || bytes.iter().any(|byte| names.refuse(*byte)) {
            return Err(wrong("its target is too long, or holds a control character"));
        }
        Ok(bytes)
    };
    let kind = match header.entry_type() {
        // Archives older than POSIX have no type for directories.
        EntryType::Regular if name.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Link(OsStr::from_bytes(&target()?).into()),
        EntryType::Link => Kind::HardLink(Place::judged(&target()?, names)?),
        EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Special,
        EntryType::GNUSparse => return Err(wrong("it is a sparse file")),
        other => return Err(wrong(&format!("its type {:?} is unknown", char::from(other.as_byte())))),
    };
    if !matches!(kind, Kind::File) && size > 0 {
        return Err(wrong("it is no file, and has content"));
    }
    let mode = header.mode().map_err(|_| wrong("its mode is malformed"))? & 0o777;
    let whole = || Some((header.mtime().ok()?.try_into().ok()?, 0));
    let modified = extended.modified.or_else(whole).unwrap_or_default();
    Ok(Entry { place, kind, mode, modified, size })
}

/// Reads a long name in GNU's form, which ends at its NUL.
fn text<R: Read>(raw: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, ImageError> {
    let mut bytes = read_extension(raw)?;
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    Ok(bytes)
}

fn read_extension<R: Read>(raw: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, ImageError> {
    if raw.size() > MAX_EXTENSION {
        return Err(ImageError::TooMuch { what: "an extended header".into(), limit: MAX_EXTENSION });
    }
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).map_err(|error| refused(format!("an extended header: {error}")))?;
    Ok(bytes)
}

/// `[-]SECONDS[.FRACTION]` (POSIX, pax Extended Header, `mtime`), rounded down to nanoseconds.
fn seconds(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = number(whole.as_bytes())?;
    // Signed at once: there is one more second before the epoch than behind it.
    let whole = if negative { 0_i64.checked_sub_unsigned(whole) } else { 0_i64.checked_add_unsigned(whole) }?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds = u32::try_from(number(digits.as_bytes())?).ok()?;
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => (whole, nanoseconds),
        (true, 0) => (whole, 0),
        (true, nanoseconds) => (whole.checked_sub(1)?, 1_000_000_000 - nanoseconds),
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// Prepares a name for a message: an archive's bytes must not reach a terminal as they are (`{:?}` escapes
/// the rest).
pub(crate) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a snapshot writes them, which must be read back as they were.
    #[test]
    fn every_time_that_a_file_can_have_is_read() {
        for (text, wanted) in [
            ("-9223372036854775808.000000000", Some((i64::MIN, 0))),
            ("-9223372036854775808.5", None),
            ("-9223372036854775807.900000000", Some((i64::MIN, 100_000_000))),
            ("9223372036854775807.999999999", Some((i64::MAX, 999_999_999))),
            ("9223372036854775808", None),
            ("-0.9", Some((-1, 100_000_000))),
            ("-1", Some((-1, 0))),
            ("--1", None),
            ("", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), wanted, "{text}");
        }
    }
}
