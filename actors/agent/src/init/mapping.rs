//! A memory mapping of a process, as on a line of proc_pid_maps(5), and in proc_pid_smaps(5) on the line
//! before the report on its pages.

use std::ops::Range;

/// One line of proc_pid_maps(5): `from-to perms offset dev inode   path`.
pub(crate) struct Mapping<'m> {
    pub(crate) range: Range<u64>,
    pub(crate) executable: bool,
    pub(crate) path: &'m [u8],
}

impl<'m> Mapping<'m> {
    /// Parses such a line; `None` for anything else.
    pub(crate) fn read(line: &'m [u8]) -> Option<Self> {
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let (range, permissions) = (std::str::from_utf8(words.next()?).ok()?, words.next()?);
        let (from, to) = range.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let path = words.nth(3).unwrap_or_default().trim_ascii_start();
        Some(Self { range: address(from)?..address(to)?, executable: *permissions.get(2)? == b'x', path })
    }

    pub(crate) fn is_of_a_file(&self) -> bool {
        self.path.starts_with(b"/")
    }

    /// Whether its pages are a file's or the kernel's: a page among them that is the process's own was
    /// written to.
    pub(crate) fn is_of_others(&self) -> bool {
        self.is_of_a_file() || self.path == b"[vdso]"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_none_is_no_mapping() {
        for line in ["", "x", "7f00 r-xp 0 0:0 0", "7f00-7g00 r-xp 0 0:0 0 /x", "7f00-7f10 r"] {
            assert!(Mapping::read(line.as_bytes()).is_none(), "{line:?}");
        }
    }
}
