//! The reference of the schema as Markdown: one table an object, made from the field tables.
//!
//! `docs/policy.md` holds the output between two markers; a test keeps it current.

use std::fmt::Write;

use crate::fields::{Kind, OBJECTS, Object, PORTS, Support};

/// The tables of every object of the schema.
#[must_use]
pub fn reference() -> String {
    let mut out = String::new();
    for object in OBJECTS {
        table(&mut out, object);
    }
    out
}

fn table(out: &mut String, object: &Object) {
    let _ = write!(out, "\n#### {}\n\n| field | type | |\n|---|---|---|\n", object.name);
    for field in object.fields.iter().filter(|f| f.support == Support::Now) {
        let needed = if field.required { "**Needed.** " } else { "" };
        let _ = writeln!(out, "| `{}` | {} | {needed}{} |", field.name, kind(&field.kind), field.doc);
    }
    let names = |wanted: fn(&Support) -> bool| {
        let names: Vec<String> =
            object.fields.iter().filter(|f| wanted(&f.support)).map(|f| format!("`{}`", f.name)).collect();
        names.join(", ")
    };
    let later = names(|s| matches!(s, Support::Later(_)));
    if !later.is_empty() {
        let _ = writeln!(
            out,
            "\nPart of the schema, refused until their feature is here (`false` is accepted): {later}."
        );
    }
    let never = names(|s| matches!(s, Support::Never(_)));
    if !never.is_empty() {
        let _ = writeln!(out, "\nPart of OpenShell's schema, refused for good: {never}.");
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::Loose => "text".into(),
        Kind::Number => "number".into(),
        Kind::Port => format!("number, {} to {}", PORTS.start(), PORTS.end()),
        Kind::OneOf(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        Kind::Bool => "boolean".into(),
        Kind::Integer(low, high) if low == high => format!("`{low}`"),
        Kind::Integer(low, high) => format!("number, {low} to {high}"),
        Kind::List(item) => format!("list of: {}", self::kind(item)),
        Kind::Map(value) => format!("map to: {}", self::kind(value)),
        Kind::Object(object) => object.name.into(),
        Kind::Either(kinds) => kinds.iter().map(self::kind).collect::<Vec<_>>().join(" or "),
    }
}
