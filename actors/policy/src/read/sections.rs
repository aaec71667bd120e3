//! The static sections: filesystem, landlock, process.

use std::path::PathBuf;

use super::Reader;
use crate::model::{Filesystem, Landlock, PathRule, Process};
use crate::yaml::{Node, Value};
use crate::{builtin, fields};

/// Longest path of the filesystem section (PATH_MAX).
const MAX_PATH_BYTES: usize = 4096;
/// Most paths of both lists together.
const MAX_PATHS: usize = 256;

impl Reader<'_> {
    pub(super) fn landlock(&mut self, node: Option<&Node>) -> Landlock {
        let Some(fields) = node.and_then(|n| self.object(n, &fields::LANDLOCK)) else {
            return Landlock::default();
        };
        match self.word(fields.get("compatibility"), &fields::LANDLOCK, "compatibility") {
            Some("best_effort") => Landlock::BestEffort,
            _ => Landlock::HardRequirement,
        }
    }

    pub(super) fn filesystem(&mut self, node: Option<&Node>, landlock: Landlock) -> Filesystem {
        let mut filesystem = self.listed(node);
        if landlock == Landlock::BestEffort {
            let both = filesystem.read_only.iter_mut().chain(&mut filesystem.read_write);
            both.for_each(|rule| rule.optional = true);
        }
        filesystem
    }

    /// The listed paths, or the default ones if the section is missing.
    fn listed(&mut self, node: Option<&Node>) -> Filesystem {
        let Some(node) = node else { return default_filesystem() };
        let Some(fields) = self.object(node, &fields::FILESYSTEM) else {
            return Filesystem::default();
        };
        let include_workdir = self.boolean(fields.get("include_workdir")).unwrap_or(false);
        let read_only = self.each(fields.get("read_only"), |r, n| r.path_rule(n, false));
        let read_write = self.each(fields.get("read_write"), |r, n| r.path_rule(n, true));
        let count = read_only.len() + read_write.len();
        if count > MAX_PATHS {
            self.error(node, format!("{count} paths are listed; at most {MAX_PATHS} may be"));
        }
        Filesystem { include_workdir, read_only, read_write }
    }

    fn path_rule(&mut self, node: &Node, writable: bool) -> Option<PathRule> {
        let (text, optional) = match &node.value {
            Value::Map(_) => {
                let fields = self.object(node, &fields::PATH_RULE)?;
                let optional = self.boolean(fields.get("optional")).unwrap_or(false);
                (self.text(fields.get("path")?)?, optional)
            }
            _ => (self.text(node)?, false),
        };
        let path = self.absolute(node, &text)?;
        if writable && path == "/" {
            self.error(node, "`/` can't be writable").help =
                Some("name the directories that are written".into());
            return None;
        }
        if writable && ["/proc", "/sys"].iter().any(|d| path == *d || path.starts_with(&format!("{d}/"))) {
            self.warning(
                node,
                format!(
                    "`{path}` is mounted read-only in every sandbox; listing it as writable changes nothing"
                ),
            );
        }
        Some(PathRule { path: PathBuf::from(path), optional, origin: self.origin(node.span.clone()) })
    }

    /// Reads an absolute path; refuses dot segments, and removes doubled and trailing slashes.
    fn absolute(&mut self, node: &Node, text: &str) -> Option<String> {
        if text.len() > MAX_PATH_BYTES {
            self.error(node, format!("the path is longer than {MAX_PATH_BYTES} bytes"));
            return None;
        }
        if !text.starts_with('/') {
            self.error(node, "the path must be absolute").help =
                Some("`~` and relative paths mean nothing here; the home is `/sandbox`".into());
            return None;
        }
        if text.split('/').any(|part| part == ".." || part == ".") {
            self.error(node, "the path must have no `.` or `..` in it");
            return None;
        }
        if text.contains('*') {
            self.error(node, "wildcards aren't supported in filesystem paths").help =
                Some("name the directory: all beneath it is covered".into());
            return None;
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        Some(format!("/{}", parts.join("/")))
    }

    pub(super) fn process(&mut self, node: Option<&Node>) -> Process {
        let Some(fields) = node.and_then(|n| self.object(n, &fields::PROCESS)) else {
            return Process::default();
        };
        let run_as_user = fields.get("run_as_user").and_then(|n| self.identity(n, "user"));
        let run_as_group = fields.get("run_as_group").and_then(|n| self.identity(n, "group"));
        Process { run_as_user, run_as_group }
    }

    fn identity(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.loose_text(node)?;
        if text == "sandbox" || text == "1000" {
            return Some(text);
        }
        let number = text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        if number.is_some_and(|number| number != 0) {
            // An id from some image. Its author wanted the agent not to run as root, and it doesn't.
            self.warning(
                node,
                format!("inside the sandbox there is no {what} {text}: the agent is `sandbox` (1000)"),
            )
            .help = Some("write `sandbox`".into());
            return Some(text);
        }
        let message = if text == "root" || number == Some(0) {
            format!("the agent never runs as {text}")
        } else {
            format!("inside the sandbox there is no {what} `{text}`")
        };
        self.error(node, message).help = Some("write `sandbox`".into());
        None
    }
}

/// The filesystem section of a policy that has none: that of the default profile. With no paths at all, no
/// program could run.
fn default_filesystem() -> Filesystem {
    let profile = builtin::profile(builtin::DEFAULT_PROFILE).map(builtin::Builtin::policy);
    // A test makes sure that the built-in profile can be read. If it couldn't, the section would be empty,
    // and no program could run.
    profile.and_then(Result::ok).map(|parsed| parsed.policy.filesystem).unwrap_or_default()
}
