//! Reads a YAML tree into a policy: every field is checked, every error is collected, nothing is ignored.
//!
//! Structural errors (unknown, duplicate, missing and mistyped fields) and semantic ones (a host that names
//! too much, a rule that never matches) come out in one list, in the order of the file. A part that can't be
//! read is left out of the result, and the result is discarded if there was any error.

use std::ops::Range;
use std::sync::Arc;

use crate::check;
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::fields::{self, Kind, Object, Support};
use crate::model::{Entry, Origin, Policy};
use crate::yaml::{self, Node, Value};

mod body_rules;
mod endpoint;
mod network;
mod rules;
mod sections;

/// Most errors and warnings that are kept of one text; a file with more is broken as a whole.
const MAX_DIAGNOSTICS: usize = 1000;

/// Help for an operator who gives a preset in place of a policy, or the other way round.
const IS_A_PRESET: &str = "this is a preset, which is added to a policy: use `--preset FILE`, or `presets: [FILE]` in a cofferdam.yaml";
const IS_A_POLICY: &str =
    "write `preset: { name: …, description: … }`; a whole policy is given with `--policy FILE`";

/// A policy that was read, and the warnings about it.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The policy.
    pub policy: Policy,
    /// Warnings, in the order of the file.
    pub warnings: Diagnostics,
}

/// A named set of network entries that can be added to a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// The name that `--preset` takes.
    pub name: Arc<str>,
    /// What it allows, in one line.
    pub description: Arc<str>,
    /// The entries it adds.
    pub(crate) network: Vec<Entry>,
}

impl Preset {
    /// The entries it adds.
    #[must_use]
    pub fn network(&self) -> &[Entry] {
        &self.network
    }
}

/// Reads a policy file. `name` is what messages call it.
///
/// # Errors
/// Every error of the text, at line and column, all at once; warnings are among them too.
pub fn parse(name: &str, text: &str) -> Result<Parsed, Diagnostics> {
    let mut reader = Reader::new(name, text);
    let policy = reader.tree().and_then(|root| reader.policy(&root));
    let (policy, warnings) = reader.finish(policy)?;
    Ok(Parsed { policy, warnings })
}

/// Reads a preset file (`preset: {name, description}` and `network_policies`).
///
/// # Errors
/// As [`parse`].
pub fn parse_preset(name: &str, text: &str) -> Result<(Preset, Diagnostics), Diagnostics> {
    let mut reader = Reader::new(name, text);
    let preset = reader.tree().and_then(|root| reader.preset(&root));
    reader.finish(preset)
}

/// The fields of one object that was read.
struct Fields<'n> {
    span: Range<usize>,
    pairs: Vec<(&'static str, &'n Node)>,
}

impl<'n> Fields<'n> {
    fn get(&self, name: &str) -> Option<&'n Node> {
        self.pairs.iter().find(|(field, _)| *field == name).map(|(_, node)| *node)
    }
}

/// Walks the tree and collects errors and warnings.
struct Reader<'a> {
    name: Arc<str>,
    source: &'a str,
    /// The byte at which each line begins.
    lines: Vec<usize>,
    out: Diagnostics,
}

impl<'a> Reader<'a> {
    fn new(name: &str, source: &'a str) -> Self {
        let ends = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), source, lines, out: Diagnostics::new(name, source) }
    }

    fn finish<T>(self, value: Option<T>) -> Result<(T, Diagnostics), Diagnostics> {
        match value {
            Some(value) if !self.out.has_errors() => {
                let (_, warnings) = self.out.split();
                Ok((value, warnings))
            }
            _ => {
                let mut all = self.out;
                all.sort();
                Err(all)
            }
        }
    }

    fn tree(&mut self) -> Option<Node> {
        match yaml::parse(self.source) {
            Ok(root) => Some(root),
            Err(error) => {
                let item = Diagnostic::error(0..0, error.message);
                self.say(Diagnostic { span: error.span, ..item });
                None
            }
        }
    }

    fn policy(&mut self, root: &Node) -> Option<Policy> {
        let fields = self.object(root, &fields::POLICY)?;
        self.version(&fields);
        let landlock = self.landlock(fields.get("landlock"));
        let filesystem = self.filesystem(fields.get("filesystem_policy"), landlock);
        let process = self.process(fields.get("process"));
        let network = self.network(fields.get("network_policies"));
        self.check_network(&network);
        Some(Policy { filesystem, landlock, process, network })
    }

    fn preset(&mut self, root: &Node) -> Option<Preset> {
        let fields = self.object(root, &fields::PRESET_FILE)?;
        if fields.get("version").is_some() {
            self.version(&fields);
        }
        let head = fields.get("preset").and_then(|node| self.object(node, &fields::PRESET));
        let network = self.network(fields.get("network_policies"));
        self.check_network(&network);
        let head = head?;
        let name = self.text(head.get("name")?)?;
        let description = self.text(head.get("description")?)?;
        Some(Preset { name: name.into(), description: description.into(), network })
    }

    fn version(&mut self, fields: &Fields<'_>) {
        let Some(node) = fields.get("version") else { return };
        if !matches!(node.value, Value::Integer(1)) {
            self.error(node, "the version must be 1").help = Some("write `version: 1`".into());
        }
    }

    /// Checks what shows only when all entries are known.
    fn check_network(&mut self, network: &[Entry]) {
        for contradiction in check::contradictions(network) {
            let mut item =
                Diagnostic::error(contradiction.second.origin.span.clone(), contradiction.to_string());
            item.related = Some((contradiction.first.origin.span.clone(), "the other endpoint".into()));
            self.say(item.help(check::CONTRADICTION_HELP));
        }
    }

    // Readers of values, which the sections use.

    /// Reads a map whose fields are those of `object`; reports fields that are unknown, doubled, missing or
    /// not supported.
    fn object<'n>(&mut self, node: &'n Node, object: &'static Object) -> Option<Fields<'n>> {
        let Value::Map(pairs) = &node.value else {
            self.mistyped(node, &format!("a map ({})", object.name));
            return None;
        };
        let mut out = Fields { span: node.span.clone(), pairs: Vec::new() };
        for (key, value) in pairs {
            let Some(name) = self.key(key) else { continue };
            let Some(field) = object.field(&name) else {
                self.unknown(key, &name, object);
                continue;
            };
            if out.get(field.name).is_some() {
                self.error(key, format!("`{name}` is there twice"));
                continue;
            }
            match field.support {
                Support::Now => out.pairs.push((field.name, value)),
                // `false` turns the feature off, so ignoring the field loses no protection.
                Support::Later(_) if matches!(value.value, Value::Bool(false)) => {}
                Support::Later(feature) => {
                    let message = format!("`{name}` isn't supported yet ({feature})");
                    self.error(key, message).help = Some(
                        "it is refused rather than ignored; take it out, or use a rule that is supported"
                            .into(),
                    );
                }
                Support::Never(why) => {
                    self.error(key, format!("`{name}` isn't supported: {why}"));
                }
            }
        }
        self.missing(node, &out, object);
        Some(out)
    }

    fn missing(&mut self, node: &Node, found: &Fields<'_>, object: &'static Object) {
        for field in object.fields.iter().filter(|f| f.required) {
            if found.get(field.name).is_none() {
                let message = format!("`{}` is missing in this {}", field.name, object.name);
                let item = self.say(Diagnostic::error(node.span.clone(), message));
                if std::ptr::eq(object, &fields::PRESET_FILE) && field.name == "preset" {
                    item.help = Some(IS_A_POLICY.into());
                }
            }
        }
    }

    fn unknown(&mut self, key: &Node, name: &str, object: &'static Object) {
        // Unsupported fields aren't offered as help.
        let known: Vec<&'static str> =
            object.fields.iter().filter(|f| f.support == Support::Now).map(|f| f.name).collect();
        let help = if name == "preset" && std::ptr::eq(object, &fields::POLICY) {
            String::from(IS_A_PRESET)
        } else if name == "<<" {
            String::from("merge keys aren't supported; an alias (`binaries: *shared`) is")
        } else if let Some(near) = fields::nearest(name, &known) {
            format!("did you mean `{near}`?")
        } else if let Some(other) = fields::OBJECTS.iter().find(|o| o.field(name).is_some()) {
            format!("`{name}` belongs in a {}", other.name)
        } else {
            format!("a {} has: {}", object.name, known.join(", "))
        };
        self.error(key, format!("unknown field `{name}` in this {}", object.name)).help = Some(help);
    }

    /// A map's key as text.
    fn key(&mut self, key: &Node) -> Option<String> {
        match &key.value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(_) | Value::Bool(_) | Value::Float => Some(self.source_of(key).to_owned()),
            other => {
                let message = format!("a name is needed here, not {}", other.kind());
                self.error(key, message);
                None
            }
        }
    }

    fn text(&mut self, node: &Node) -> Option<String> {
        match &node.value {
            Value::Text(text) if text.chars().any(char::is_control) => {
                self.error(node, "this text holds a control character");
                None
            }
            Value::Text(text) => Some(text.clone()),
            Value::Integer(_) | Value::Bool(_) | Value::Float => {
                let written = self.source_of(node).to_owned();
                let message = format!("text is needed here, not {}", self.kind_of(node));
                self.error(node, message).help = Some(format!("put it in quotes: \"{written}\""));
                None
            }
            _ => {
                self.mistyped(node, "text");
                None
            }
        }
    }

    /// Text, or a number or boolean that is meant as text.
    fn loose_text(&mut self, node: &Node) -> Option<String> {
        match node.value {
            Value::Integer(_) | Value::Bool(_) | Value::Float => Some(self.source_of(node).to_owned()),
            _ => self.text(node),
        }
    }

    fn boolean(&mut self, node: Option<&Node>) -> Option<bool> {
        let node = node?;
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text)
                if matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off") =>
            {
                self.error(node, format!("`{text}` is text in YAML 1.2")).help =
                    Some("write `true` or `false`".into());
                None
            }
            _ => {
                self.mistyped(node, "`true` or `false`");
                None
            }
        }
    }

    /// Reads one of the words that the field table allows for field `name` of `object`.
    fn word(&mut self, node: Option<&Node>, object: &'static Object, name: &str) -> Option<&'static str> {
        let node = node?;
        let Some(Kind::OneOf(words)) = object.field(name).map(|f| f.kind) else { return None };
        let text = self.text(node)?;
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            let help = match fields::nearest(&text, words) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it is one of {}", words.join(", ")),
            };
            self.error(node, format!("`{text}` is not a value of `{name}`")).help = Some(help);
        }
        found
    }

    fn list<'n>(&mut self, node: Option<&'n Node>) -> Option<&'n [Node]> {
        let node = node?;
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                self.mistyped(node, "a list");
                None
            }
        }
    }

    /// Reads a list, item by item; items that can't be read are left out.
    fn each<T>(
        &mut self,
        node: Option<&Node>,
        mut read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Vec<T> {
        let items = self.list(node).unwrap_or_default();
        items.iter().filter_map(|item| read(self, item)).collect()
    }

    // Reporting errors and warnings.

    /// Names the kind of a value for a message. `0443` is octal to some YAML parsers and decimal to others,
    /// so ours doesn't take it for a whole number; but it isn't a fraction either.
    fn kind_of(&self, node: &Node) -> &'static str {
        let written = self.source_of(node).trim_start_matches(['-', '+']);
        let whole = written.bytes().all(|byte| byte.is_ascii_digit());
        match node.value {
            Value::Float if whole && written.starts_with('0') => "a number that begins with 0",
            _ => node.value.kind(),
        }
    }

    fn mistyped(&mut self, node: &Node, wanted: &str) {
        let message = format!("{wanted} is needed here, not {}", self.kind_of(node));
        self.error(node, message);
    }

    fn error(&mut self, node: &Node, message: impl Into<String>) -> &mut Diagnostic {
        self.say(Diagnostic::error(node.span.clone(), message))
    }

    fn warning(&mut self, node: &Node, message: impl Into<String>) -> &mut Diagnostic {
        self.say(Diagnostic::warning(node.span.clone(), message))
    }

    fn say(&mut self, item: Diagnostic) -> &mut Diagnostic {
        self.out.push_bounded(item, MAX_DIAGNOSTICS)
    }

    fn source_of(&self, node: &Node) -> &'a str {
        self.source.get(node.span.clone()).unwrap_or_default()
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        // Uses the index of lines: every endpoint and rule has an origin, and counting lines from the top
        // each time would make long files slow.
        let line = self.lines.partition_point(|start| *start <= span.start);
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index)).copied().unwrap_or(0);
        let column = self.source.get(start..span.start).map_or(1, |text| text.chars().count() + 1);
        Origin { file: self.name.clone(), line, column, span }
    }
}

#[cfg(test)]
mod tests;
