//! Parses YAML text into a tree in which every node knows its place in the source.
//!
//! The only module that uses the YAML library. It refuses what a policy never needs (several documents, merge
//! keys, deep or huge trees, YAML 1.1 booleans) and checks no field: that is left to [`crate::read`], so that
//! all of a file's errors come out together.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;
use serde_yaml::options::{DuplicateKeyPolicy, MergeKeyPolicy};

/// Longest policy text, in bytes: a thousand entries need a fifth of it.
pub(crate) const MAX_POLICY_BYTES: usize = 1024 * 1024;
/// Most nodes of the tree (scalars, lists and maps), aliases expanded.
const MAX_NODES: usize = 200_000;
/// Deepest nesting; the schema needs nine levels.
const MAX_DEPTH: usize = 24;
/// Most aliases: enough to share a list of binaries among entries, too few for a bomb.
const MAX_ALIASES: usize = 1000;

/// Most parser events that aliases may repeat: enough for the shared lists of a large policy, and a hundredth
/// of a second's work.
const MAX_REPEATED: usize = 20_000;

/// A value and the bytes of the source it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Range<usize>,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    /// A float; its value isn't kept, since no field takes one.
    Float,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// The kind of value, in words for a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a number",
            Self::Float => "a fractional number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// The text isn't valid YAML, or is larger than a policy may be.
#[derive(Debug)]
pub(crate) struct YamlError {
    pub(crate) message: String,
    pub(crate) span: Option<Range<usize>>,
}

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Node, YamlError> {
    if text.len() > MAX_POLICY_BYTES {
        let message = format!("the policy is longer than {MAX_POLICY_BYTES} bytes");
        return Err(YamlError { message, span: None });
    }
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_depth: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
            max_documents: 1,
        },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: MAX_REPEATED },
        // Duplicates are passed on, so that [`crate::read`] reports every one of them, not only the first.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        // The written text counts: a person who reads the file doesn't decode base64, and a tag without
        // effect was meant to have one.
        ignore_binary_tag_for_string: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let node: Node = serde_yaml::from_str_with_options(text, options).map_err(|e| error(&e, text))?;
    Ok(node)
}

fn error(error: &serde_yaml::Error, text: &str) -> YamlError {
    let full = error.without_snippet().to_string();
    // The caret shows the position, so the library's own words for it are cut off.
    let message = match full.find(" at line ") {
        Some(at) => full.get(..at).unwrap_or(&full).to_owned(),
        None => full,
    };
    let span = error.location().and_then(|at| {
        let start = byte_of(text, at.line(), at.column())?;
        let length = text.get(start..)?.chars().next().map_or(0, char::len_utf8);
        Some(start..start + length)
    });
    // For a second document the library's message names a Rust type.
    if message.contains("Documents {") {
        return YamlError { message: "a policy is one document: this begins another".into(), span };
    }
    let bound = match message.as_str() {
        "recursion limit exceeded" => Some("Depth"),
        other => other.strip_prefix("budget breached: "),
    };
    let message = match bound {
        Some(bound) => format!("no policy needs so much: {}", above(bound)),
        None => format!("this is not valid YAML: {message}"),
    };
    YamlError { message, span }
}

/// Words for the bound that was exceeded, by the library's name for it.
fn above(bound: &str) -> String {
    match bound.split(' ').next().unwrap_or_default() {
        "Depth" => format!("it is nested deeper than {MAX_DEPTH} levels"),
        "Aliases" => format!("it has more than {MAX_ALIASES} aliases"),
        "Nodes" | "Events" => format!("it has more than {MAX_NODES} values"),
        _ => "it is larger than a policy may be".to_owned(),
    }
}

/// The byte offset of a line and column (both from 1, in characters). The library's scanner errors carry no
/// byte offset.
fn byte_of(text: &str, line: u64, column: u64) -> Option<usize> {
    let mut rest = text;
    for _ in 1..line {
        let end = rest.find('\n')?;
        rest = rest.get(end + 1..)?;
    }
    let skip = usize::try_from(column.saturating_sub(1)).ok()?;
    let in_line: usize = rest.chars().take(skip).take_while(|c| *c != '\n').map(char::len_utf8).sum();
    Some(text.len() - rest.len() + in_line)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(d)?;
        let at = spanned.referenced.span();
        let start = at.byte_offset().and_then(|x| usize::try_from(x).ok()).unwrap_or(0);
        let len = at.byte_len().and_then(|x| usize::try_from(x).ok()).unwrap_or(0);
        Ok(Self { value: spanned.value, span: start..start + len })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Float)
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Value::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_changes_nothing_unseen() {
        // base64 of "api.x.org".
        let node = parse("host: !!binary YXBpLngub3Jn").unwrap();
        let Value::Map(pairs) = node.value else { panic!("a map") };
        assert!(matches!(&pairs[0].1.value, Value::Text(text) if text == "YXBpLngub3Jn"), "{pairs:?}");
        for tag in ["!secret", "!!python/object:os.system", "!<tag:example.org,2000:x>"] {
            for text in [format!("a: {tag} b"), format!("{tag} a: b"), format!("a: {tag} [b]")] {
                let refused = parse(&text).unwrap_err();
                assert!(refused.message.contains("tag"), "{text}: {}", refused.message);
            }
        }
        assert!(parse("a: !!str 1\nb: !!seq [c]\nd: ! e").is_ok(), "those that only say what it is");
    }

    fn shape(text: &str) -> String {
        fn go(node: &Node, text: &str) -> String {
            match &node.value {
                Value::List(items) => {
                    format!("[{}]", items.iter().map(|i| go(i, text)).collect::<Vec<_>>().join(" "))
                }
                Value::Map(pairs) => {
                    let pairs: Vec<_> =
                        pairs.iter().map(|(k, v)| format!("{}:{}", go(k, text), go(v, text))).collect();
                    format!("{{{}}}", pairs.join(" "))
                }
                other => format!("{}={:?}", other.kind(), &text[node.span.clone()]),
            }
        }
        match parse(text) {
            Ok(node) => go(&node, text),
            Err(e) => format!("{} {:?}", e.message, e.span),
        }
    }

    #[test]
    fn every_node_knows_its_place() {
        assert_eq!(
            shape("a: [1, x]\n\"b\": {c: true, d: no, e: 1.5}\n"),
            "{text=\"a\":[a number=\"1\" text=\"x\"] text=\"\\\"b\\\"\":{text=\"c\":a boolean=\"true\" \
             text=\"d\":text=\"no\" text=\"e\":a fractional number=\"1.5\"}}"
        );
    }

    #[test]
    fn duplicates_and_merge_keys_are_passed_on_for_the_reader_to_refuse() {
        assert_eq!(shape("a: 1\na: 2\n"), "{text=\"a\":a number=\"1\" text=\"a\":a number=\"2\"}");
        assert_eq!(shape("<<: {a: 1}\n"), "{text=\"<<\":{text=\"a\":a number=\"1\"}}");
    }

    #[test]
    fn bombs_and_depth_are_refused() {
        let deep = "[".repeat(5000);
        for too_deep in [&deep, &format!("{}{}", "[".repeat(30), "]".repeat(30))] {
            let told = parse(too_deep).unwrap_err().message;
            assert!(told.contains("nested deeper than 24 levels") && !told.contains('{'), "{told}");
        }
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..10 {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        let started = std::time::Instant::now();
        assert!(parse(&bomb).is_err());
        assert!(started.elapsed().as_secs() < 60);
        assert!(parse("a: 1\n---\nb: 2\n").unwrap_err().message.starts_with("a policy is one document"));
        assert!(parse(&" ".repeat(MAX_POLICY_BYTES + 1)).is_err());
    }

    #[test]
    fn a_syntax_error_has_a_place() {
        let error = parse("a: 1\n  b: [\n").unwrap_err();
        assert!(error.span.is_some(), "{error:?}");
        assert!(!error.message.contains("line "), "{}", error.message);
    }
}
