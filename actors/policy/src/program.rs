//! A program as a section of cofferdam.yaml names it (`credentials`, `inference`): its path, or a map with
//! more to say.
//!
//! A policy file's own `binaries` are read by [`crate::parse`], with their places in the file. Both become a
//! [`Binary`].

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Binary, Glob};

/// A program as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedProgram {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ancestors: Option<bool>,
    allow_foreign_code: bool,
}

impl NamedProgram {
    /// Whether programs that it started count too, if the file says so.
    #[must_use]
    pub fn ancestors(&self) -> Option<bool> {
        self.ancestors
    }

    /// Checks the program. `ancestors` says whether programs that it started count where the file doesn't
    /// say.
    ///
    /// # Errors
    /// What can't be a program, and how to fix it.
    pub fn checked(&self, ancestors: bool) -> Result<Binary, String> {
        if !self.path.starts_with('/') {
            return Err(format!("`{}` is no absolute path inside the sandbox", self.path));
        }
        let path = Glob::path(&self.path).map_err(|why| why.to_string())?;
        let sha256 = match &self.sha256 {
            None => None,
            Some(text) => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| "`sha256` is 64 hexadecimal digits")?;
                Some(bytes)
            }
        };
        let ancestors = self.ancestors.unwrap_or(ancestors);
        Ok(Binary { path, sha256, ancestors, allow_foreign_code: self.allow_foreign_code })
    }
}

impl<'de> Deserialize<'de> for NamedProgram {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            path: String,
            sha256: Option<String>,
            ancestors: Option<bool>,
            #[serde(default)]
            allow_foreign_code: bool,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = NamedProgram;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a program's path, or a map with `path`")
            }

            fn visit_str<E>(self, path: &str) -> Result<NamedProgram, E> {
                let path = path.to_owned();
                Ok(NamedProgram { path, sha256: None, ancestors: None, allow_foreign_code: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NamedProgram, A::Error> {
                let Whole { path, sha256, ancestors, allow_foreign_code } =
                    Whole::deserialize(MapAccessDeserializer::new(map))?;
                Ok(NamedProgram { path, sha256, ancestors, allow_foreign_code })
            }
        }
        from.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_path_or_says_more_and_is_read_back_as_it_was() {
        let read = |text: &str| serde_json::from_str::<NamedProgram>(text);
        let plain = read("\"/usr/bin/gh\"").unwrap();
        assert!(plain.checked(true).unwrap().ancestors && !plain.checked(false).unwrap().ancestors);
        let pinned = format!(r#"{{"path":"/opt/*/a","sha256":"{}","ancestors":false}}"#, "ab".repeat(32));
        let binary = read(&pinned).unwrap().checked(true).unwrap();
        assert!((binary.sha256, binary.ancestors) == (Some([0xab; 32]), false));
        for text in ["\"/usr/bin/gh\"", &pinned, r#"{"path":"/x","allow_foreign_code":true}"#] {
            let it = read(text).unwrap();
            assert_eq!(read(&serde_json::to_string(&it).unwrap()).unwrap(), it);
        }
        for (faulty, why) in
            [("\"gh\"", "no absolute path"), (r#"{"path":"/x","sha256":"ab"}"#, "64 hexadecimal")]
        {
            assert!(read(faulty).unwrap().checked(true).unwrap_err().contains(why), "{faulty}");
        }
        assert!(read(r#"{"path":"/x","sha":"ab"}"#).is_err());
    }
}
