//! Executable GraphQL documents (<https://spec.graphql.org/October2021/>), read strictly: operations,
//! fragments, root fields.
//!
//! What stands below the root is checked for syntax and not kept. Type definitions, descriptions, byte order
//! marks and the unusual separators that some parsers take for line ends are refused. Tokens and depth are
//! bounded.

use super::OperationKind;
use crate::content::Unreadable;

/// Most tokens of a document: far beyond any that is written by hand.
pub const MAX_GRAPHQL_TOKENS: usize = 16_384;
/// Deepest nesting of selections, values and types.
pub const MAX_GRAPHQL_DEPTH: usize = 64;

/// A document.
#[derive(Debug, Default)]
pub(crate) struct Document<'a> {
    pub(crate) operations: Vec<Definition<'a>>,
    pub(crate) fragments: Vec<(&'a str, Vec<Root<'a>>)>,
}

/// An operation.
#[derive(Debug)]
pub(crate) struct Definition<'a> {
    pub(crate) kind: OperationKind,
    pub(crate) name: Option<&'a str>,
    pub(crate) roots: Vec<Root<'a>>,
}

/// A selection at the root of an operation or fragment. The selections of an inline fragment count as those
/// of the set that holds it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Root<'a> {
    Field(&'a str),
    Spread(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// One of `! $ ( ) : = @ [ ] { }`.
    Sign(u8),
    /// `...`
    Spread,
    Name(&'a str),
    Number,
    Text,
    End,
}

type Read<T> = Result<T, Unreadable>;

fn fault<T>() -> Read<T> {
    Err(Unreadable::Document("it is no executable GraphQL"))
}

impl<'a> Document<'a> {
    pub(crate) fn parse(text: &'a str) -> Read<Self> {
        let odd = |c: char| {
            (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
        };
        if text.chars().any(odd) {
            return Err(Unreadable::Document(
                "it holds control characters, line separators or a byte order mark",
            ));
        }
        let mut reader = Reader { rest: text, next: Token::End, tokens: 0, depth: 0, constant: false };
        reader.advance()?;
        let mut out = Self::default();
        while reader.next != Token::End {
            reader.definition(&mut out)?;
        }
        Ok(out)
    }
}

struct Reader<'a> {
    rest: &'a str,
    next: Token<'a>,
    tokens: usize,
    depth: usize,
    /// Whether the parser is in variable definitions, where values must be constant.
    constant: bool,
}

impl<'a> Reader<'a> {
    // Tokens.

    /// Takes the next token and reads the one behind it as the look-ahead.
    fn advance(&mut self) -> Read<Token<'a>> {
        self.tokens += 1;
        if self.tokens > MAX_GRAPHQL_TOKENS {
            return Err(Unreadable::Document("it has too many tokens"));
        }
        let token = self.lex()?;
        Ok(std::mem::replace(&mut self.next, token))
    }

    fn lex(&mut self) -> Read<Token<'a>> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', ',']);
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = comment.trim_start_matches(|c| c != '\n' && c != '\r'),
                None => break,
            }
        }
        let Some(first) = self.rest.bytes().next() else { return Ok(Token::End) };
        match first {
            b'!' | b'$' | b'(' | b')' | b':' | b'=' | b'@' | b'[' | b']' | b'{' | b'}' => {
                self.skip(1);
                Ok(Token::Sign(first))
            }
            b'.' if self.rest.starts_with("...") => {
                self.skip(3);
                Ok(Token::Spread)
            }
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let end = self
                    .rest
                    .find(|c: char| c != '_' && !c.is_ascii_alphanumeric())
                    .unwrap_or(self.rest.len());
                let name = self.rest.get(..end).unwrap_or_default();
                self.skip(end);
                Ok(Token::Name(name))
            }
            _ => fault(),
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn number(&mut self) -> Read<Token<'a>> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-')))
            .unwrap_or(self.rest.len());
        let text = self.rest.get(..end).unwrap_or_default();
        // GraphQL's numbers are JSON's.
        match super::Json::parse(text.as_bytes()) {
            Ok(super::Json::Number(_)) => {
                self.skip(end);
                Ok(Token::Number)
            }
            _ => fault(),
        }
    }

    fn string(&mut self) -> Read<Token<'a>> {
        if let Some(mut body) = self.rest.strip_prefix("\"\"\"") {
            loop {
                let Some((before, after)) = body.split_once("\"\"\"") else { return fault() };
                body = after;
                // `\"""` is three quotes of the text, whatever stands before the backslash.
                if !before.ends_with('\\') {
                    self.rest = body;
                    return Ok(Token::Text);
                }
            }
        }
        self.skip(1);
        loop {
            let Some(at) = self.rest.find(['"', '\\', '\n', '\r']) else { return fault() };
            let sign = self.rest.as_bytes().get(at).copied();
            self.skip(at + 1);
            match sign {
                Some(b'"') => return Ok(Token::Text),
                Some(b'\\') => {
                    let escape = self.rest.bytes().next();
                    let digits = match escape {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 0,
                        Some(b'u') => 4,
                        _ => return fault(),
                    };
                    let hex = self.rest.get(1..1 + digits).unwrap_or_default();
                    if hex.len() != digits || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                        return fault();
                    }
                    self.skip(1 + digits);
                }
                _ => return fault(),
            }
        }
    }

    fn takes(&mut self, sign: u8) -> Read<bool> {
        if self.next != Token::Sign(sign) {
            return Ok(false);
        }
        self.advance()?;
        Ok(true)
    }

    fn expect(&mut self, sign: u8) -> Read<()> {
        if self.takes(sign)? { Ok(()) } else { fault() }
    }

    fn name(&mut self) -> Read<&'a str> {
        match self.advance()? {
            Token::Name(name) => Ok(name),
            _ => fault(),
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        if self.depth == MAX_GRAPHQL_DEPTH {
            return Err(Unreadable::Document("it is nested too deeply"));
        }
        self.depth += 1;
        let out = read(self);
        self.depth -= 1;
        out
    }

    // The grammar.

    fn definition(&mut self, out: &mut Document<'a>) -> Read<()> {
        let mut roots = Vec::new();
        if self.next == Token::Sign(b'{') {
            self.selections(Some(&mut roots))?;
            out.operations.push(Definition { kind: OperationKind::Query, name: None, roots });
            return Ok(());
        }
        let word = self.name()?;
        if word == "fragment" {
            let name = self.name()?;
            if name == "on" || self.name()? != "on" {
                return fault();
            }
            self.name()?;
            self.directives()?;
            self.selections(Some(&mut roots))?;
            out.fragments.push((name, roots));
            return Ok(());
        }
        let Some(kind) = OperationKind::of(word) else { return fault() };
        let name = match self.next {
            Token::Name(_) => Some(self.name()?),
            _ => None,
        };
        if self.takes(b'(')? {
            self.variables()?;
        }
        self.directives()?;
        self.selections(Some(&mut roots))?;
        out.operations.push(Definition { kind, name, roots });
        Ok(())
    }

    fn variables(&mut self) -> Read<()> {
        self.constant = true;
        loop {
            self.expect(b'$')?;
            self.name()?;
            self.expect(b':')?;
            self.kind()?;
            if self.takes(b'=')? {
                self.value()?;
            }
            self.directives()?;
            if self.takes(b')')? {
                self.constant = false;
                return Ok(());
            }
        }
    }

    /// A type.
    fn kind(&mut self) -> Read<()> {
        if self.takes(b'[')? {
            self.deeper(Self::kind)?;
            self.expect(b']')?;
        } else {
            self.name()?;
        }
        self.takes(b'!')?;
        Ok(())
    }

    fn directives(&mut self) -> Read<()> {
        while self.takes(b'@')? {
            self.name()?;
            self.arguments()?;
        }
        Ok(())
    }

    fn arguments(&mut self) -> Read<()> {
        if !self.takes(b'(')? {
            return Ok(());
        }
        loop {
            self.name()?;
            self.expect(b':')?;
            self.value()?;
            if self.takes(b')')? {
                return Ok(());
            }
        }
    }

    fn value(&mut self) -> Read<()> {
        match self.advance()? {
            Token::Sign(b'$') if !self.constant => self.name().map(drop),
            Token::Number | Token::Text | Token::Name(_) => Ok(()),
            Token::Sign(b'[') => {
                while !self.takes(b']')? {
                    self.deeper(Self::value)?;
                }
                Ok(())
            }
            Token::Sign(b'{') => {
                while !self.takes(b'}')? {
                    self.name()?;
                    self.expect(b':')?;
                    self.deeper(Self::value)?;
                }
                Ok(())
            }
            _ => fault(),
        }
    }

    /// `{ … }`. At the root, the selections are collected in `roots`.
    fn selections(&mut self, mut roots: Option<&mut Vec<Root<'a>>>) -> Read<()> {
        self.expect(b'{')?;
        loop {
            self.deeper(|reader| reader.selection(roots.as_deref_mut()))?;
            if self.takes(b'}')? {
                return Ok(());
            }
        }
    }

    fn selection(&mut self, roots: Option<&mut Vec<Root<'a>>>) -> Read<()> {
        if self.next == Token::Spread {
            self.advance()?;
            return self.spread(roots);
        }
        let mut name = self.name()?;
        if self.takes(b':')? {
            name = self.name()?;
        }
        if let Some(roots) = roots {
            roots.push(Root::Field(name));
        }
        self.arguments()?;
        self.directives()?;
        match self.next {
            Token::Sign(b'{') => self.selections(None),
            _ => Ok(()),
        }
    }

    /// Behind `...`.
    fn spread(&mut self, roots: Option<&mut Vec<Root<'a>>>) -> Read<()> {
        if let Token::Name(name) = self.next {
            self.advance()?;
            if name != "on" {
                if let Some(roots) = roots {
                    roots.push(Root::Spread(name));
                }
                return self.directives();
            }
            self.name()?;
        }
        self.directives()?;
        self.selections(roots)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::graphql::{holds, ours, theirs};

    #[test]
    fn bombs_end_early() {
        for (open, close) in [("{ a ", "}"), ("{ a(x: [", ""), ("{ ... ", "}"), ("query ($a: [", "")] {
            let text = format!("{}{}", open.repeat(20_000), close.repeat(20_000));
            assert!(Document::parse(&text).is_err());
        }
        let deep = format!("{}{}", "{ a ".repeat(MAX_GRAPHQL_DEPTH), "}".repeat(MAX_GRAPHQL_DEPTH));
        assert!(Document::parse(&deep).is_ok());
        assert!(Document::parse(&format!("{{ a {deep} }}")).is_err());
        assert!(Document::parse(&format!("{{ {} }}", "a ".repeat(MAX_GRAPHQL_TOKENS))).is_err());
        assert!(Document::parse(&format!("{{ a(x: [{}1]) }}", "[".repeat(1_000_000))).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Whatever our parser accepts, another parser accepts too, and reads the same.
        #[test]
        fn never_more_lenient_than_another_parser(
            text in "(query|mutation|fragment|on|F|a|b|\\{|\\}|\\{ a|\\}|\\(|\\)|x: 1|x: \"\\}\"|\\$v|: Int|:|\\[|\\]|\\.\\.\\.|\\.\\.\\. F|@d|!|=|-1|#c\\n|,|\"\"\"s\"\"\"| ){0,16}"
        ) {
            holds(text.as_bytes());
        }

        #[test]
        fn documents_that_are_well_formed_are_read(
            fields in prop::collection::vec("(a|b: c|d\\(x: \\[1, \"\\}\"\\]\\)|e \\{ f \\}|\\.\\.\\. F|\\.\\.\\. on Q \\{ g \\}|h @skip\\(if: true\\))", 1..6),
            kind in "(query|mutation|subscription)( N)?(\\(\\$v: \\[Int!\\]! = \\[1\\]\\))?",
        ) {
            let text = format!("{kind} {{ {} }} fragment F on Q {{ z }}", fields.join(" "));
            prop_assert!(ours(&text).is_some(), "{}", text);
            prop_assert_eq!(ours(&text), theirs(&text), "{}", text);
        }

        #[test]
        fn no_input_panics(text in ".{0,64}") {
            let _ = Document::parse(&text);
        }
    }
}
