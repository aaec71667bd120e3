//! What is mounted in this process's view, by proc_pid_mountinfo(5).
//!
//! Must never judge: whoever asks knows what should be there.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug)]
pub struct Mount {
    /// Where it is.
    pub at: PathBuf,
    /// Its own flags, such as `ro` and `nosuid`.
    pub flags: Vec<String>,
    /// Whether it has peers, or a master: what is mounted below one of them is mounted below the others.
    pub propagates: bool,
    /// The filesystem's type.
    pub kind: String,
}

impl Mount {
    /// Whether it has this flag.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}

/// Returns every mount that this process sees, in the kernel's order.
///
/// # Errors
/// `/proc` can't be read.
pub fn own() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// Parses `36 35 98:0 /mnt1 /mnt2 ro,noatime master:1 - ext3 /dev/root rw`: the fifth and sixth fields,
/// whether one of the optional ones says that it propagates, and the one after the dash.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    let at = OsString::from_vec(unescape(fields.next()?)).into();
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let flags = text(fields.next()?).split(',').map(str::to_owned).collect();
    let optional = fields.by_ref().take_while(|field| *field != b"-");
    let propagates = optional
        .fold(false, |any, field| any || field.starts_with(b"shared:") || field.starts_with(b"master:"));
    let kind = text(fields.next()?);
    Some(Mount { at, flags, propagates, kind })
}

/// Decodes a field: space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|d| *byte == b'\\' && d.iter().all(|d| (b'0'..b'8').contains(d)));
        match digits {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(value as u8);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let mount =
            parse(b"36 35 98:0 /mnt1 /a\\040b\\134c ro,nosuid master:1 shared:2 - tmpfs none rw,size=1")
                .unwrap();
        assert_eq!(mount.at.into_os_string().into_vec(), b"/a b\\c");
        assert_eq!(parse(b"36 35 98:0 / / ro - tmpfs none rw").unwrap().at, Path::new("/"));
        let mount = parse(b"36 35 98:0 / /a ro,nosuid master:1 shared:2 - tmpfs none rw,size=1").unwrap();
        assert!(mount.has("ro") && mount.has("nosuid") && !mount.has("rw"));
        assert_eq!(mount.kind, "tmpfs");
        assert!(mount.propagates);
        assert!(!parse(b"36 35 98:0 / / ro unbindable - tmpfs none rw").unwrap().propagates);
        for broken in [&b""[..], b"1 2 3", b"1 2 3 4 /a ro"] {
            assert!(parse(broken).is_none());
        }
    }
}
