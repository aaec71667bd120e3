//! Every document that our parser accepts is accepted by apollo-parser too, with the same operations and
//! fragments and the same root fields, and a selected operation has the fields that its fragments lead to. A
//! document means the same in a WebSocket message as in a body.

use std::collections::BTreeSet;

use apollo_parser::cst::{CstNode, Definition as Theirs, Selection, SelectionSet};

use serde_json::json;

use crate::content::graphql::document::{Document, Root};
use crate::content::graphql::select;
use crate::content::{Operation, SocketMessage, socket};

/// An operation (`query`, …) or a `fragment`, its name, and the selections at its root; a spread's name has
/// three dots in front.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Definition {
    head: String,
    name: Option<String>,
    roots: Vec<String>,
}

/// The property.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    said(text);
    let Some(ours) = ours(text) else { return };
    if ours.is_empty() {
        assert!(select(text, None).is_err());
        return;
    }
    let theirs = theirs(text).unwrap_or_else(|| panic!("accepted by us alone: {ours:?}"));
    assert_eq!(ours, theirs);
    for definition in theirs.iter().filter(|definition| definition.head != "fragment") {
        let Ok(selected) = select(text, definition.name.as_deref()) else { continue };
        let mut fields = BTreeSet::new();
        reach(definition, &theirs, &mut BTreeSet::new(), &mut fields);
        let own: BTreeSet<&str> = selected.fields.iter().flatten().map(|field| &**field).collect();
        assert_eq!((selected.kind.as_str(), own), (definition.head.as_str(), fields));
    }
}

/// Checks that a document reads the same in a message, in both WebSocket protocols.
fn said(document: &str) {
    let alone = (!document.is_empty()).then(|| select(document, None).ok()).flatten();
    for kind in ["subscribe", "start"] {
        let message = json!({ "id": "1", "type": kind, "payload": { "query": document } }).to_string();
        let read = match socket::read(&message) {
            Ok(SocketMessage::Operation(Operation::Written(read))) => Some(read),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        };
        assert_eq!(read, alone);
    }
}

/// Collects the fields at the root, following fragments.
fn reach<'d>(
    from: &'d Definition,
    all: &'d [Definition],
    seen: &mut BTreeSet<&'d str>,
    out: &mut BTreeSet<&'d str>,
) {
    for root in &from.roots {
        let Some(name) = root.strip_prefix("...") else {
            out.insert(root);
            continue;
        };
        let mut fragments = all.iter().filter(|d| d.head == "fragment" && d.name.as_deref() == Some(name));
        let (Some(fragment), None) = (fragments.next(), fragments.next()) else {
            panic!("`{name}` is not exactly one fragment");
        };
        if seen.insert(name) {
            reach(fragment, all, seen, out);
        }
    }
}

fn roots(set: &SelectionSet, out: &mut Vec<String>) -> Option<()> {
    for selection in set.selections() {
        match selection {
            Selection::Field(field) => out.push(field.name()?.text().to_string()),
            Selection::FragmentSpread(spread) => {
                out.push(format!("...{}", spread.fragment_name()?.name()?.text()));
            }
            Selection::InlineFragment(inline) => roots(&inline.selection_set()?, out)?,
        }
    }
    Some(())
}

/// The reading of apollo-parser. It doesn't skip commas everywhere, as the specification (section 2.1.7)
/// demands, so they are removed first; those in strings too, since strings aren't compared.
pub(crate) fn theirs(text: &str) -> Option<Vec<Definition>> {
    let tree = apollo_parser::Parser::new(&text.replace(',', " ")).parse();
    if tree.errors().len() > 0 {
        return None;
    }
    let mut out = Vec::new();
    for definition in tree.document().definitions() {
        let (head, name, set) = match definition {
            Theirs::OperationDefinition(operation) => (
                operation.operation_type().map_or("query".into(), |kind| kind.source_string()),
                operation.name().map(|name| name.text().to_string()),
                operation.selection_set()?,
            ),
            Theirs::FragmentDefinition(fragment) => (
                "fragment".to_owned(),
                Some(fragment.fragment_name()?.name()?.text().to_string()),
                fragment.selection_set()?,
            ),
            _ => return None,
        };
        let mut found = Vec::new();
        roots(&set, &mut found)?;
        out.push(Definition { head: head.trim().to_owned(), name, roots: found });
    }
    out.sort();
    Some(out)
}

/// The reading of our own parser.
pub(crate) fn ours(text: &str) -> Option<Vec<Definition>> {
    let document = Document::parse(text).ok()?;
    let words = |roots: &[Root<'_>]| {
        let words = roots.iter().map(|root| match root {
            Root::Field(name) => (*name).to_owned(),
            Root::Spread(name) => format!("...{name}"),
        });
        words.collect()
    };
    let operations = document.operations.iter().map(|operation| Definition {
        head: operation.kind.as_str().to_owned(),
        name: operation.name.map(str::to_owned),
        roots: words(&operation.roots),
    });
    let fragments = document.fragments.iter().map(|(name, roots)| Definition {
        head: "fragment".to_owned(),
        name: Some((*name).to_owned()),
        roots: words(roots),
    });
    let mut out: Vec<Definition> = operations.chain(fragments).collect();
    out.sort();
    Some(out)
}
