//! What `--root` names. An image is named by path *and* digest: [`Reference`] has no other form, so no code
//! behind this can meet a mutable tag.

use super::ImageError;
use super::entry::shown;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub(super) [u8; 32]);

impl Digest {
    /// 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    /// Exactly one spelling, the one of the OCI image specification (descriptor.md, "Registered algorithms").
    fn from_str(text: &str) -> Result<Self, ImageError> {
        // It may come from an image: one line, and nothing that a terminal obeys.
        let wrong = || ImageError::Digest(shown(text.as_bytes()).escape_debug().to_string());
        let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(wrong());
        }
        let mut bytes = [0_u8; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| wrong())?;
        Ok(Self(bytes))
    }
}

/// An image, pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// A layout's directory, or an archive of one.
    pub path: PathBuf,
    /// Digest of its manifest, or of an index that leads to it.
    pub digest: Digest,
}

/// What `--root` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A directory that is a root.
    Directory(PathBuf),
    /// An image.
    Image(Reference),
    /// An image by a name that may mean another one tomorrow: it is refused, with a message that says what to
    /// pin.
    Mutable {
        /// The layout or archive.
        path: PathBuf,
        /// What was typed behind it.
        tag: Option<String>,
    },
}

impl Wanted {
    /// Reads `DIR` or `PATH@sha256:DIGEST`, and looks at what is there.
    ///
    /// # Errors
    /// [`ImageError::Digest`] and [`ImageError::Absent`].
    pub fn parse(given: &Path) -> Result<Self, ImageError> {
        if std::fs::metadata(given).is_ok() {
            return Ok(Self::unpinned(given, None));
        }
        let text = given.to_string_lossy();
        if let Some((path, digest)) = text.rsplit_once('@') {
            return Ok(Self::Image(Reference { path: path.into(), digest: digest.parse()? }));
        }
        match text.rsplit_once(':') {
            Some((path, tag)) if std::fs::metadata(path).is_ok() => {
                Ok(Self::unpinned(Path::new(path), Some(tag.to_owned())))
            }
            _ => Err(ImageError::Absent(text.into_owned())),
        }
    }

    fn unpinned(path: &Path, tag: Option<String>) -> Self {
        let is_root = path.is_dir() && !path.join("oci-layout").exists() && tag.is_none();
        if is_root { Self::Directory(path.to_owned()) } else { Self::Mutable { path: path.to_owned(), tag } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an image says is a digest may be anything.
    #[test]
    fn what_is_no_digest_is_shown_on_one_short_line() {
        let said = format!("sha256:zz\n\u{1b}[2Jfine{}", "x".repeat(1000))
            .parse::<Digest>()
            .unwrap_err()
            .to_string();
        assert!(said.starts_with("sha256:zz\\n\\u{1b}[2Jfine") && said.len() < 300, "{said}");
        assert!(!said.contains(['\n', '\u{1b}']), "{said}");
    }
}
