//! `network_policies`: entries and their binaries.

use std::collections::HashMap;
use std::sync::Arc;

use super::Reader;
use crate::fields;
use crate::model::{Binary, Endpoint, Entry};
use crate::yaml::{Node, Value};
use crate::{Approved, Glob};

/// Programs that run any script they are given: an entry that names one covers every script.
const INTERPRETERS: [&str; 12] =
    ["python", "python3", "node", "bun", "deno", "bash", "sh", "dash", "zsh", "perl", "ruby", "php"];

impl Reader<'_> {
    pub(super) fn network(&mut self, node: Option<&Node>) -> Vec<Entry> {
        let Some(node) = node else { return Vec::new() };
        let pairs = match &node.value {
            Value::Map(pairs) => pairs.as_slice(),
            // `network_policies:` with nothing behind it: no network.
            Value::Null => &[],
            _ => {
                self.mistyped(node, "a map of entries");
                &[]
            }
        };
        let mut out: Vec<Entry> = Vec::new();
        let mut keys: HashMap<String, ()> = HashMap::new();
        let mut names: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        for (key, value) in pairs {
            let Some(name) = self.key(key) else { continue };
            if keys.insert(name.clone(), ()).is_some() {
                self.error(key, format!("there are two entries `{name}`"));
            }
            let Some(entry) = self.entry(key, &name, value) else { continue };
            if let Some(other) = names.insert(entry.name.clone(), entry.key.clone())
                && other != entry.key
            {
                self.warning(
                    key,
                    format!("the entries `{other}` and `{name}` have one name, `{}`", entry.name),
                )
                .help = Some("logs and metrics can't tell them apart".into());
            }
            out.push(entry);
        }
        out
    }

    fn entry(&mut self, key_node: &Node, key: &str, node: &Node) -> Option<Entry> {
        let fields = self.object(node, &fields::ENTRY)?;
        let name = fields.get("name").and_then(|node| self.text(node)).unwrap_or_else(|| key.to_owned());
        if name.is_empty() || key.is_empty() {
            self.error(key_node, "an entry must have a name");
        }
        if Approved::is_key(key) {
            self.warning(key_node, format!("the entry `{key}` is called as what an operator approved is")).help =
                Some("as the policy's own `cofferdam approvals revoke` can't take it back: take it out, or give it another name".into());
        }
        let endpoints = self.each(fields.get("endpoints"), Self::endpoint);
        if let Some(node) = fields.get("endpoints")
            && matches!(&node.value, Value::List(items) if items.is_empty())
        {
            self.warning(node, format!("the entry `{key}` has no endpoint, so it allows nothing"));
        }
        let binaries = match fields.get("binaries") {
            Some(node) => Some(self.binaries(node, key, &endpoints)),
            None => {
                self.warning(
                    key_node,
                    format!("the entry `{key}` names no binaries: any program may use it"),
                )
                .help = Some("list the programs under `binaries`".into());
                None
            }
        };
        Some(Entry { key: key.into(), name: name.into(), endpoints, binaries, approved: false })
    }

    fn binaries(&mut self, node: &Node, key: &str, endpoints: &[Endpoint]) -> Vec<Binary> {
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            self.warning(
                node,
                format!("the entry `{key}` has an empty list of binaries: no program may use it"),
            );
        }
        let uninspected = endpoints.iter().any(|e| e.protocol.is_none());
        self.each(Some(node), |reader, item| reader.binary(item, uninspected))
    }

    fn binary(&mut self, node: &Node, uninspected: bool) -> Option<Binary> {
        let fields = self.object(node, &fields::BINARY)?;
        let ancestors = self.boolean(fields.get("ancestors")).unwrap_or(true);
        let allow_foreign_code = self.boolean(fields.get("allow_foreign_code")).unwrap_or(false);
        let sha256 = fields.get("sha256").map(|node| self.sha256(node));
        let path = fields.get("path").and_then(|node| self.binary_path(node, uninspected));
        // A pin that can't be read was reported; it must never be taken for no pin.
        let sha256 = sha256.map_or(Some(None), |pin| pin.map(Some))?;
        Some(Binary { path: path?, sha256, ancestors, allow_foreign_code })
    }

    fn binary_path(&mut self, path_node: &Node, uninspected: bool) -> Option<Glob> {
        let text = self.text(path_node)?;
        if !text.starts_with('/') && text != "**" {
            self.error(path_node, "the path of a binary must be absolute").help =
                Some("it is the program's own file, after symbolic links (`readlink -f`)".into());
            return None;
        }
        if text.split('/').any(|part| part == "." || part == "..") || text.contains("//") {
            self.error(path_node, "the path of a binary must have no `.`, `..` or `//` in it");
            return None;
        }
        let path = match Glob::path(&text) {
            Ok(path) => path,
            Err(error) => {
                self.error(path_node, error.to_string());
                return None;
            }
        };
        if is_everything(&text) {
            self.warning(path_node, format!("`{text}` is every program")).help =
                Some("name the programs that need this entry".into());
        } else if uninspected && is_interpreter(&text) {
            self.warning(
                path_node,
                format!("`{text}` runs any script, and this entry relays bytes unread"),
            )
            .help = Some("give the endpoints `protocol: rest` and rules".into());
        }
        Some(path)
    }

    fn sha256(&mut self, node: &Node) -> Option<[u8; 32]> {
        let text = self.loose_text(node)?;
        let mut out = [0; 32];
        if hex::decode_to_slice(&text, &mut out).is_err() {
            self.error(node, "a SHA-256 is 64 hex digits").help = Some("`sha256sum FILE` prints it".into());
            return None;
        }
        Some(out)
    }
}

/// Whether a binary pattern covers nearly every program.
fn is_everything(text: &str) -> bool {
    matches!(
        text,
        "**" | "/**" | "/*" | "/usr/**" | "/usr/bin/*" | "/usr/bin/**" | "/bin/*" | "/sandbox/**" | "/tmp/**"
    )
}

/// Whether the last part of a path is an interpreter, with or without a version or wildcard behind it.
fn is_interpreter(text: &str) -> bool {
    let file = text.rsplit('/').next().unwrap_or_default();
    let stem = file.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '*');
    INTERPRETERS.contains(&file) || INTERPRETERS.contains(&stem)
}
