//! GraphQL over HTTP (<https://graphql.github.io/graphql-over-http/>): which operation of which kind asks for
//! which fields.
//!
//! The operation that `operationName` chooses is judged, by the real names of its root fields: aliases don't
//! count, fragments are followed. Of a request that names its document by hash or id alone, only that hash or
//! id is known.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::json::Json;
use super::{Unreadable, each, shape};

pub(crate) mod document;

use document::{Document, Root};

/// Longest hash or id of a persisted query, in bytes.
const MAX_ID_BYTES: usize = 256;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// Reads.
    Query,
    /// Writes.
    Mutation,
    /// Listens.
    Subscription,
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Query, Self::Mutation, Self::Subscription];

    /// The keyword.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }

    /// The kind that a keyword stands for.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// One GraphQL request of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The request has its document, which was read.
    Written(Selected),
    /// The request has only the hash or id of its document.
    Persisted {
        /// `extensions.persistedQuery.sha256Hash`, `documentId` or `id`.
        id: String,
        /// `operationName`.
        name: Option<&'a str>,
    },
}

/// The facts of an operation that rules judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// What it does.
    pub kind: OperationKind,
    /// Its name.
    pub name: Option<Box<str>>,
    /// The names of its root fields, each once; `None` where a registered operation doesn't list them.
    pub fields: Option<Box<[Box<str>]>>,
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match &self.fields {
            Some(fields) => write!(f, " {{ {} }}", fields.join(" ")),
            None => Ok(()),
        }
    }
}

/// Reads a body: one request or a batch.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Operation<'_>>, Unreadable> {
    each(Json::parse(body)?, request)
}

/// Reads one request object.
pub(super) fn request(value: Json<'_>) -> Result<Operation<'_>, Unreadable> {
    let Json::Map(members) = value else { return shape("it is no GraphQL request object") };
    let (mut query, mut name, mut extensions, mut id) = (None, None, None, None);
    for (key, value) in members {
        match (&*key, value) {
            (_, Json::Null) if matches!(&*key, "query" | "operationName" | "variables" | "extensions") => {}
            ("query", Json::Text(text)) => query = Some(text),
            ("operationName", Json::Text(text)) => name = Some(text),
            ("variables", Json::Map(_)) => {}
            ("extensions", value @ Json::Map(_)) => extensions = Some(value),
            ("id" | "documentId", Json::Text(text)) if id.is_none() => id = Some(text.into_owned()),
            ("query" | "operationName" | "variables" | "extensions" | "id" | "documentId", _) => {
                return shape("a member of the GraphQL request has the wrong type, or two ids are there");
            }
            _ => return shape("a GraphQL request has members that GraphQL over HTTP doesn't know"),
        }
    }
    // Some servers take an empty name for no name; the others refuse it.
    let name = name.filter(|name| !name.is_empty());
    let hash = hash(extensions.as_ref())?;
    match (query.filter(|query| !query.is_empty()), id, hash) {
        (Some(query), None, hash) => {
            if let Some(hash) = hash
                && !hash.eq_ignore_ascii_case(&hex::encode(Sha256::digest(query.as_bytes())))
            {
                return shape("the hash of the persisted query is not that of its document");
            }
            select(&query, name.as_deref()).map(Operation::Written)
        }
        (None, Some(id), None) | (None, None, Some(id)) => persisted(id, name),
        (None, None, None) => shape("the GraphQL request has no `query`"),
        _ => shape("the GraphQL request names its document in two ways"),
    }
}

fn hash(extensions: Option<&Json<'_>>) -> Result<Option<String>, Unreadable> {
    let Some(extensions) = extensions else { return Ok(None) };
    let Some(persisted) = extensions.member("persistedQuery")? else { return Ok(None) };
    match persisted.member("sha256Hash")? {
        Some(Json::Text(hash)) => Ok(Some(hash.to_string())),
        _ => shape("`persistedQuery` has no `sha256Hash`"),
    }
}

fn persisted<'a>(id: String, name: Option<std::borrow::Cow<'a, str>>) -> Result<Operation<'a>, Unreadable> {
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
        return shape("the hash or id of the persisted query is empty, too long or holds control characters");
    }
    let name = match name {
        None => None,
        Some(std::borrow::Cow::Borrowed(name)) => Some(name),
        Some(std::borrow::Cow::Owned(_)) => {
            return shape("`operationName` holds escapes, and no name needs any");
        }
    };
    Ok(Operation::Persisted { id, name })
}

/// Selects the operation that a server would run.
pub(crate) fn select(query: &str, name: Option<&str>) -> Result<Selected, Unreadable> {
    let document = Document::parse(query)?;
    let fragments = fragments(&document)?;
    let mut names: Vec<Option<&str>> = document.operations.iter().map(|operation| operation.name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) || (names.len() > 1 && names.contains(&None))
    {
        return Err(Unreadable::Document("its operations don't have names of their own"));
    }
    let chosen = match (name, document.operations.as_slice()) {
        (None, [only]) => only,
        (None, []) => return Err(Unreadable::Document("it holds no operation")),
        (None, _) => {
            return Err(Unreadable::Document(
                "it holds several operations, and `operationName` chooses none",
            ));
        }
        (Some(name), all) => match all.iter().find(|operation| operation.name == Some(name)) {
            Some(chosen) => chosen,
            None => return Err(Unreadable::Document("`operationName` names none of its operations")),
        },
    };
    let mut fields: Vec<Box<str>> = Vec::new();
    let mut spread: HashSet<&str> = HashSet::new();
    let mut roots: Vec<&Root<'_>> = chosen.roots.iter().collect();
    while let Some(root) = roots.pop() {
        match root {
            Root::Field(field) => fields.push((*field).into()),
            // Each fragment adds its fields once, so that a cycle ends here as well.
            Root::Spread(name) if !spread.insert(name) => {}
            Root::Spread(name) => {
                let fragment = fragments
                    .get(name)
                    .ok_or(Unreadable::Document("it uses a fragment that it doesn't hold"))?;
                roots.extend(fragment.iter());
            }
        }
    }
    fields.sort_unstable();
    fields.dedup();
    Ok(Selected { kind: chosen.kind, name: chosen.name.map(Into::into), fields: Some(fields.into()) })
}

fn fragments<'d, 'a>(document: &'d Document<'a>) -> Result<HashMap<&'a str, &'d [Root<'a>]>, Unreadable> {
    let mut out = HashMap::new();
    for (name, roots) in &document.fragments {
        if out.insert(*name, roots.as_slice()).is_some() {
            return Err(Unreadable::Document("two of its fragments have one name"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> Result<String, Unreadable> {
        let operations = read(body.as_bytes())?;
        let words = operations.iter().map(|operation| match operation {
            Operation::Written(selected) => selected.to_string(),
            Operation::Persisted { id, name } => format!("persisted {id} {}", name.unwrap_or("-")),
        });
        Ok(words.collect::<Vec<_>>().join(", "))
    }

    fn query(text: &str) -> Result<String, Unreadable> {
        said(&serde_json::json!({ "query": text }).to_string())
    }

    #[test]
    fn the_chosen_operation_with_its_real_root_fields() {
        for (text, wanted) in [
            ("{ viewer { login } }", "query { viewer }"),
            (
                "query Q($n: Int = 3) { a: repository(name: \"x\") { id } b: viewer { id } }",
                "query Q { repository viewer }",
            ),
            ("mutation { harmless: deleteRepository(id: 1) { id } }", "mutation { deleteRepository }"),
            (
                "query { ...F } fragment F on Query { viewer { id } ...G } fragment G on Query { secret }",
                "query { secret viewer }",
            ),
            ("{ ... on Query { a ... @include(if: true) { b } } }", "query { a b }"),
            ("{ ...F } fragment F on Query { a ...F }", "query { a }"),
            ("subscription S { added }", "subscription S { added }"),
            ("# query { hidden }\n{ a }", "query { a }"),
            ("{ a(text: \"\"\" } \\\"\"\" query { b }\"\"\") }", "query { a }"),
            ("{ a(x: [1, {y: $z, e: ENUM}], s: \"}\\\"\\u0041\") @skip(if: false) }", "query { a }"),
        ] {
            assert_eq!(query(text).as_deref(), Ok(wanted), "{text}");
        }
        let two = "query A { a } query B { b }";
        let named =
            |name: &str| said(&serde_json::json!({ "query": two, "operationName": name }).to_string());
        assert_eq!(named("B").as_deref(), Ok("query B { b }"));
        assert!(named("C").is_err() && named("").is_err() && query(two).is_err());
        assert_eq!(
            said(r#"[{"query":"{a}"},{"query":"{b}","operationName":null,"variables":{}}]"#).as_deref(),
            Ok("query { a }, query { b }")
        );
    }

    #[test]
    fn what_servers_could_read_differently_is_refused() {
        for text in [
            "",
            " ",
            "# only",
            "query",
            "{",
            "{}",
            "{a}}",
            "{a",
            "{ a { } }",
            "query A { a } query A { b }",
            "{a} query B {b}",
            "{ ...Missing }",
            "{ ...F } fragment F on Q { a } fragment F on Q { b }",
            "fragment F on Q { a }",
            "type Query { a: Int }",
            "extend type Query { a: Int }",
            "schema { query: Q }",
            "{ a() }",
            "query () { a }",
            "{ a(x) }",
            "{ a(x: ) }",
            "{ a(x: [1) }",
            "{ a(x: {y z}) }",
            "{ a(x: \"\n\") }",
            "{ a(x: \"\\x\") }",
            "{ a(x: 01) }",
            "{ a(x: 1a) }",
            "{ a(x: 1.) }",
            "{ a b: }",
            "{ a: }",
            "{ .. F }",
            "{ ... on }",
            "fragment on on Q { a } { a }",
            "{ a @ }",
            "\u{feff}{ a }",
            "{ a } # \u{2028} query B { b }",
            "{ a\u{0} }",
            "{ é }",
            "\"doc\" query { a }",
            "{ a(x: $) }",
            "query ($a) { a }",
            "query ($a: Int = $b) { a }",
            "query ($a: [Int] = [1, $b]) { a }",
            "query ($a: Int @d(x: $a)) { a }",
            "query A B { a }",
            "{ a ; }",
            "fragment F($x: Int) on Q { a } { ...F }",
            "{ a(x: \"\\u{41}\") }",
            "query ($a: [Int) { a }",
            "{ a } junk",
        ] {
            assert!(query(text).is_err(), "{text:?} {:?}", query(text));
        }
        for body in [
            "{}",
            "1",
            "[]",
            r#"{"query":1}"#,
            r#"{"query":"{a}","Query":"{b}"}"#,
            r#"{"query":"{a}","query":"{b}"}"#,
            r#"{"query":"{a}","id":"x"}"#,
            r#"{"id":"x","documentId":"y"}"#,
            r#"{"query":"{a}","doc_id":"7"}"#,
            r#"{"query":"{a}","variables":[]}"#,
            r#"{"query":"{a}","extensions":{"persistedQuery":{"sha256Hash":"00"}}}"#,
            r#"{"extensions":{"persistedQuery":{}}}"#,
            r#"{"extensions":{"persistedQuery":{"sha256Hash":"a","sha256hash":"b"}}}"#,
            r#"{"query":null}"#,
            r#"[[{"query":"{a}"}]]"#,
        ] {
            assert!(said(body).is_err(), "{body} {:?}", said(body));
        }
    }

    #[test]
    fn persisted_queries_are_known_by_their_id_and_a_hash_is_checked() {
        assert_eq!(
            said(r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"abc"}},"operationName":"Q"}"#)
                .as_deref(),
            Ok("persisted abc Q")
        );
        assert_eq!(said(r#"{"documentId":"sha256:abc"}"#).as_deref(), Ok("persisted sha256:abc -"));
        let hash = hex::encode(Sha256::digest(b"{a}"));
        let both =
            format!(r#"{{"query":"{{a}}","extensions":{{"persistedQuery":{{"sha256Hash":"{hash}"}}}}}}"#);
        assert_eq!(said(&both).as_deref(), Ok("query { a }"));
    }
}
