//! Diagnostics: everything that is wrong with a policy file, each at its place, said so that it can be fixed.
//!
//! [`Diagnostics`] is a list with its source. `Display` prints it as a compiler prints errors,
//! [`Diagnostics::render`] can colour it, `Serialize` is for `--json`. The output quotes the file: policies
//! hold no secrets.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is accepted; the rule is risky or does less than it says.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong or risky.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// The bytes of the source that it is about; `None` when it is about the whole, or about another file.
    pub span: Option<Range<usize>>,
    /// Another place that belongs to it, and why.
    pub related: Option<(Range<usize>, String)>,
}

impl Diagnostic {
    /// An error at some bytes of the source.
    #[must_use]
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            help: None,
            span: Some(span),
            related: None,
        }
    }

    /// A warning at some bytes of the source.
    #[must_use]
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// Adds how to fix it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Everything found in one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    name: Arc<str>,
    source: Arc<str>,
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// An empty list for the text called `name`.
    #[must_use]
    pub fn new(name: &str, source: &str) -> Self {
        Self { name: name.into(), source: source.into(), items: Vec::new() }
    }

    /// A list of one error about the whole.
    #[must_use]
    pub fn whole(name: &str, message: impl Into<String>) -> Self {
        let mut out = Self::new(name, "");
        out.push(Diagnostic { span: None, ..Diagnostic::error(0..0, message) });
        out
    }

    /// Adds one.
    pub fn push(&mut self, item: Diagnostic) {
        self.items.push(item);
    }

    /// Adds a diagnostic, replacing the last one if there are `limit` already, and returns it so that the
    /// caller can complete it.
    #[expect(clippy::indexing_slicing, reason = "one has just been added")]
    pub(crate) fn push_bounded(&mut self, item: Diagnostic, limit: usize) -> &mut Diagnostic {
        self.items.truncate(limit.saturating_sub(1));
        self.items.push(item);
        let last = self.items.len() - 1;
        &mut self.items[last]
    }

    /// The items, in the order of the source.
    #[must_use]
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether an error is among them.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|d| d.severity == Severity::Error)
    }

    /// The name of the text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Line and column (both from 1; the column counts characters) of an item.
    #[must_use]
    pub fn position(&self, item: &Diagnostic) -> Option<(usize, usize)> {
        item.span.as_ref().map(|span| position(&self.source, span.start))
    }

    /// One line: the first error, and how many more there are. For logs and replies.
    #[must_use]
    pub fn summary(&self) -> String {
        let Some(first) = self.items.iter().find(|d| d.severity == Severity::Error).or(self.items.first())
        else {
            return format!("{}: nothing to report", self.name);
        };
        let place = match self.position(first) {
            Some((line, column)) => format!("{}:{line}:{column}", self.name),
            None => self.name.to_string(),
        };
        let more = match self.items.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        format!("{place}: {}{more}", first.message)
    }

    /// All of it, with the source lines; `colour` for a terminal.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for item in &self.items {
            if !out.is_empty() {
                out.push_str("\n\n");
            }
            out.push_str(&renderer.render(&[self.group(item)]));
        }
        out
    }

    fn group<'a>(&'a self, item: &'a Diagnostic) -> Group<'a> {
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(item.message.as_str()));
        if let Some(span) = &item.span {
            let mut snippet = Snippet::source(&*self.source)
                .path(&*self.name)
                .annotation(AnnotationKind::Primary.span(within(&self.source, span)));
            if let Some((span, label)) = &item.related {
                let related = AnnotationKind::Context.span(within(&self.source, span)).label(label.as_str());
                snippet = snippet.annotation(related);
            }
            group = group.element(snippet);
        } else {
            group = group.element(annotate_snippets::Origin::path(&*self.name));
        }
        if let Some(help) = &item.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }

    /// Sorts the items by their place in the source; those about the whole text come first.
    pub(crate) fn sort(&mut self) {
        self.items.sort_by_key(|d| d.span.as_ref().map(|s| s.start));
    }

    /// Parts the list into errors and warnings.
    pub(crate) fn split(mut self) -> (Self, Self) {
        self.sort();
        let (errors, warnings) = self.items.into_iter().partition(|d| d.severity == Severity::Error);
        let part = |items| Self { name: self.name.clone(), source: self.source.clone(), items };
        (part(errors), part(warnings))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// One item with its place worked out, for JSON.
#[derive(Serialize)]
struct Row<'a> {
    severity: Severity,
    message: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    source: Option<&'a str>,
    help: Option<&'a str>,
}

impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let rows: Vec<Row<'_>> = self
            .items
            .iter()
            .map(|item| {
                let place = self.position(item);
                Row {
                    severity: item.severity,
                    message: &item.message,
                    line: place.map(|p| p.0),
                    column: place.map(|p| p.1),
                    source: place.and_then(|(line, _)| self.source.lines().nth(line - 1)),
                    help: item.help.as_deref(),
                }
            })
            .collect();
        let mut out = s.serialize_struct("Diagnostics", 2)?;
        out.serialize_field("file", &*self.name)?;
        out.serialize_field("diagnostics", &rows)?;
        out.end()
    }
}

/// Line and column, both from 1, of a byte of the source.
fn position(source: &str, at: usize) -> (usize, usize) {
    let at = at.min(source.len());
    let before = source.as_bytes().get(..at).unwrap_or_default();
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let column = source.get(start..at).map_or(1, |s| s.chars().count() + 1);
    (line, column)
}

/// A span cut to its first line, on character boundaries, so that whole maps aren't underlined.
fn within(source: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let end = floor(span.end.max(start));
    let text = source.get(start..end).unwrap_or_default();
    let first = text.lines().next().unwrap_or_default().trim_end();
    start..start + first.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostics {
        let mut out = Diagnostics::new("p.yaml", "version: 2\nfoo: é1\n");
        out.push(Diagnostic::error(9..10, "the version must be 1").help("write `version: 1`"));
        out.push(Diagnostic::warning(18..19, "odd"));
        out
    }

    #[test]
    fn plain_text_names_line_and_column_and_quotes_the_source() {
        let text = sample().to_string();
        assert!(text.contains("error: the version must be 1"), "{text}");
        assert!(text.contains("p.yaml:1:10"), "{text}");
        assert!(text.contains("version: 2"), "{text}");
        assert!(text.contains("help: write `version: 1`"), "{text}");
        assert!(text.contains("p.yaml:2:7"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(sample().render(true).contains('\u{1b}'));
    }

    #[test]
    fn json_has_a_row_an_item() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["file"], "p.yaml");
        assert_eq!(json["diagnostics"][0]["line"], 1);
        assert_eq!(json["diagnostics"][0]["column"], 10);
        assert_eq!(json["diagnostics"][0]["source"], "version: 2");
        assert_eq!(json["diagnostics"][1]["severity"], "warning");
        assert_eq!(json["diagnostics"][1]["column"], 7);
    }

    #[test]
    fn a_summary_is_one_line() {
        assert_eq!(sample().summary(), "p.yaml:1:10: the version must be 1 (and 1 more)");
    }

    #[test]
    fn odd_spans_dont_panic() {
        for span in [0..0, 17..18, 100..200, 0..1000] {
            let mut d = Diagnostics::new("p", "version: 2\nfoo: é1\n");
            d.push(Diagnostic::error(span, "x"));
            assert!(!d.to_string().is_empty());
        }
        let mut d = Diagnostics::new("p", "");
        d.push(Diagnostic::error(0..1, "x"));
        assert!(!d.to_string().is_empty());
    }
}
