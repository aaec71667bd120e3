//! References to keys, and how one is resolved on the operator's side.
//!
//! The CLI resolves every reference once, before the sandbox exists; from then on the keys live as
//! [`Secret`]s in zeroizing memory of the supervisor. A key is never an argument, never in an environment
//! that something inherits, never in an error: errors name the reference.

use std::{
    fmt,
    io::{ErrorKind, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize as _, Zeroizing};

use crate::secret::Secret;

/// Longest key, in bytes. The longest in use are JWTs of a few KiB.
pub const MAX_KEY: usize = 8 * 1024;

const HOW: &str = "not a reference: write env:NAME, file:/absolute/path (mode 0600 or stricter) or systemd:NAME; \
                   a literal key is refused, since it would lie readable in this file (if that was one, change it)";

/// Where a key is to be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// An environment variable of the operator's.
    Env(String),
    /// A file that only its owner can read.
    File(PathBuf),
    /// A credential that systemd gave the unit (`LoadCredential=`).
    Systemd(String),
}

impl Reference {
    /// Parses `env:NAME`, `file:/path` or `systemd:NAME`.
    ///
    /// # Errors
    /// What to write instead. The text itself is not in it: it may be a key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && name.chars().all(word) => Ok(Self::Env(name.into())),
            Some(("env", _)) => {
                Err("env: wants the name of an environment variable: letters, digits and `_`")
            }
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            Some(("file", _)) => Err("file: wants an absolute path"),
            Some(("systemd", name)) if systemd_name(name) => Ok(Self::Systemd(name.into())),
            Some(("systemd", _)) => Err("systemd: wants the name of a credential, without slashes"),
            _ => Err(HOW),
        }
    }

    /// The file that it leads to, where it leads to one.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Env(_) => None,
            Self::File(path) => Some(path.clone()),
            Self::Systemd(name) => Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name)),
        }
    }

    /// Reads the key. For the CLI, before the start, on the operator's side.
    ///
    /// # Errors
    /// Names the reference and how to mend it, never the key.
    pub fn resolve(&self) -> Result<Secret, Unresolved> {
        let otherwise = "it holds a space, a control or a non-ASCII byte, so it can't be a key";
        self.read(u8::is_ascii_graphic, otherwise)
    }

    /// As [`Self::resolve`], for a private key in PEM form, which has lines and spaces.
    ///
    /// # Errors
    /// Names the reference and how to mend it, never the key.
    pub fn resolve_pem(&self) -> Result<Secret, Unresolved> {
        let text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        self.read(text, "it holds a control or a non-ASCII byte, so it can't be in PEM form")
    }

    fn read(&self, fits: impl Fn(&u8) -> bool, otherwise: &str) -> Result<Secret, Unresolved> {
        let fault = |why: String| Unresolved { reference: self.to_string(), why };
        let mut key = match self {
            Self::Env(name) => Zeroizing::new(
                std::env::var(name)
                    .map_err(|_| fault(format!("{name} is not set in the environment: export it first")))?
                    .into_bytes(),
            ),
            Self::File(_) | Self::Systemd(_) => {
                let path = self.file().ok_or_else(|| {
                    fault(
                        "no CREDENTIALS_DIRECTORY: use LoadCredential= in the unit, and start by systemd"
                            .into(),
                    )
                })?;
                read_private(&path).map_err(fault)?
            }
        };
        while key.last().is_some_and(u8::is_ascii_whitespace) {
            key.pop();
        }
        if key.is_empty() {
            return Err(fault("it is empty: put the key there".into()));
        }
        if !key.iter().all(fits) {
            return Err(fault(otherwise.into()));
        }
        if key.len() > MAX_KEY {
            return Err(fault(format!("it is longer than {MAX_KEY} bytes")));
        }
        let secret = Secret::new(key.to_vec());
        key.zeroize();
        Ok(secret)
    }
}

fn systemd_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/') && !name.contains('\0')
}

/// Opens once, judges what was opened, reads at most what a key may hold.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let file = std::fs::OpenOptions::new()
        .read(true)
        // A FIFO in its place must not hang the start.
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound => format!("{shown} is not there: put the key there, with mode 0600"),
            ErrorKind::PermissionDenied => {
                format!("{shown} can't be read: it must belong to the user who starts the sandbox")
            }
            _ => format!("{shown}: {e}"),
        })?;
    let meta = file.metadata().map_err(|e| format!("{shown}: {e}"))?;
    if !meta.is_file() {
        return Err(format!("{shown} is not a regular file: name the file that holds the key"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(format!(
            "{shown}: mode {:04o} lets others read the key: chmod 600 {}",
            meta.mode() & 0o7777,
            // Quoted as one word of a shell; a path with a NUL names no file.
            shlex::try_quote(&path.to_string_lossy()).unwrap_or_default()
        ));
    }
    let mut key = Zeroizing::new(Vec::with_capacity(MAX_KEY + 2));
    file.take(MAX_KEY as u64 + 2).read_to_end(&mut key).map_err(|e| format!("{shown}: {e}"))?;
    Ok(key)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// A reference that leads to no usable key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("credential {reference}: {why}")]
pub struct Unresolved {
    /// The reference as written.
    pub reference: String,
    /// Why, and how to mend it.
    pub why: String,
}

/// What stands where a reference is wanted. If that isn't one, nothing of it is kept: it may be a literal
/// key.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// `env:`, `file:` or `systemd:`.
    Reference(Reference),
    /// Something else, perhaps the key itself: dropped while it was read.
    Refused(&'static str),
}

impl Credential {
    /// The reference, unless it was refused.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Reference(reference) => Some(reference),
            Self::Refused(_) => None,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(reference) => write!(f, "{reference}"),
            Self::Refused(_) => f.write_str("[REDACTED]"),
        }
    }
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // A serde error would be printed with the source line, and so with the key: judged later instead.
        let text = Zeroizing::new(String::deserialize(from)?);
        Ok(match Reference::parse(&text) {
            Ok(reference) => Self::Reference(reference),
            Err(reason) => Self::Refused(reason),
        })
    }
}

impl Serialize for Credential {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Reference(reference) => to.collect_str(reference),
            Self::Refused(_) => to.serialize_str("[REDACTED]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn references_parse_and_print_back() {
        for text in ["env:OPENAI_API_KEY", "file:/etc/cofferdam/key", "systemd:nvidia"] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
        for text in ["sk-abc", "env:", "env:A B", "file:key", "systemd:../x", "systemd:", "vault:x", "ENV:X"]
        {
            let why = Reference::parse(text).unwrap_err();
            assert!(!why.contains("sk-abc"));
        }
    }

    #[test]
    fn a_file_must_be_private_and_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sk-123456789\n").unwrap();
        let reference = Reference::File(path.clone());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let fault = reference.resolve().unwrap_err().to_string();
        assert!(fault.contains("chmod 600"), "{fault}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(reference.resolve().unwrap().expose(), b"sk-123456789");
        assert!(Reference::File(dir.path().into()).resolve().is_err());
        assert!(Reference::File(dir.path().join("none")).resolve().is_err());
    }

    #[test]
    fn an_unfit_key_is_refused_without_being_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for bad in ["", "\n\n", "two words", "line\nbreak", "caf\u{e9}secret"] {
            std::fs::write(&path, bad).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let fault = Reference::File(path.clone()).resolve().unwrap_err().to_string();
            assert!(
                !fault.contains("words") && !fault.contains("secret") && !fault.contains("break"),
                "{fault}"
            );
        }
    }
}
