//! Writing for people: standard output for results, standard error (`cofferdam: …`) for messages.
//!
//! Never panics on a closed pipe, and colours only where the stream is a terminal and `NO_COLOR` is unset.
//! Which process waits for a reader that has stopped reading, and how long, is up to `outlet`.

mod outlet;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle::{AnsiColor, Color, Style};
use clap::ValueEnum;
use redactor::ascii::escape_json;
use tracing::Level;

use crate::failure::Failure;
pub use outlet::{Messages, flush, queue, wait_briefly};

/// How messages and logs are written: `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
pub enum LogFormat {
    /// Human-readable
    Text,
    /// One JSON object per line
    Json,
}

/// Whether the messages of this process, and of those forked from it, are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Sets the format of messages from now on.
pub fn speak(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Prints a message for people on standard error, or as a JSON object on one line, in the format of the
/// supervisor's log, if that was asked for. For what was done. What the operator should look at is for
/// [`warn`], what failed or was refused for [`fault`].
pub fn say(message: &str) {
    tell(Level::INFO, message);
}

/// As [`say`], at level WARN: the operation continues, and the operator should know.
pub fn warn(message: &str) {
    tell(Level::WARN, message);
}

/// As [`say`], at level ERROR: the operation failed or was refused.
pub fn fault(message: &str) {
    tell(Level::ERROR, message);
}

fn tell(level: Level, message: &str) {
    outlet::put(worded(level, message).as_bytes());
}

/// Returns a message as it is printed: whole lines.
fn worded(level: Level, message: &str) -> String {
    if JSON.load(Ordering::Relaxed) {
        let said = serde_json::json!({
            "timestamp": jiff::Timestamp::now().to_string(), "level": level.as_str(), "fields": { "message": message }, "target": "cofferdam",
        });
        return format!("{}\n", escape_json(&said.to_string()));
    }
    harmless_in_colours(message).lines().map(|line| format!("cofferdam: {line}\n")).collect()
}

/// As [`harmless`], but keeps the colours of our own diagnostics. A message may repeat names out of files
/// that come from somebody else.
fn harmless_in_colours(message: &str) -> String {
    let mut parts = message.split('\x1b');
    let mut shown = harmless(parts.next().unwrap_or_default());
    for part in parts {
        let (colour, rest) = part.split_at(colour_length(part));
        let introduced = if colour.is_empty() { "\\u{1b}" } else { "\x1b" };
        shown.extend([introduced, colour, &harmless(rest)]);
    }
    shown
}

/// Returns how long the colour sequence is that begins here, behind its ESC (ECMA-48, SGR); 0 if there is
/// none, or one that could hide text: no diagnostic of ours sets a background or conceals.
fn colour_length(text: &str) -> usize {
    let Some((codes, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once('m')) else { return 0 };
    let is_ours = |code: &str| matches!(code.parse(), Ok(0..=2 | 31..=36 | 91..=96));
    if codes.split(';').all(is_ours) { codes.len() + 2 } else { 0 }
}

/// Prints text on standard output.
pub fn print(text: &str) -> io::Result<()> {
    put(io::stdout().lock(), text)
}

/// The error says what could not be written: the kernel's own words would leave one to guess, where the
/// command itself writes no file. Its kind stays, since a reader that has seen enough is no failure.
fn put(mut out: impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(unwritable)
}

fn unwritable(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output can't be written: {error}"))
}

/// Standard output, whose errors say that it is what can't be written.
#[derive(Debug)]
pub struct Out(io::Stdout);

impl Out {
    /// Of this process.
    pub fn new() -> Self {
        Self(io::stdout())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(unwritable)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(unwritable)
    }
}

/// Prints a value as indented JSON on standard output, in ASCII, so that an agent's text in it can't affect a
/// terminal.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    put_json(serde_json::to_string_pretty(value))
}

/// As [`print_json`], on one line, for output of one value per line.
pub fn print_json_line(value: &impl serde::Serialize) -> Result<(), Failure> {
    put_json(serde_json::to_string(value))
}

fn put_json(text: serde_json::Result<String>) -> Result<(), Failure> {
    let text = text.map_err(|e| Failure::refused(e.to_string()))?;
    print(&format!("{}\n", escape_json(&text))).map_err(Failure::from)
}

/// Colours for one stream: real ones on a terminal, none elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output.
    pub fn stdout() -> Self {
        Self { on: io::stdout().is_terminal() && wanted() }
    }

    /// For standard error.
    pub fn stderr() -> Self {
        Self { on: io::stderr().is_terminal() && wanted() }
    }

    /// Whether colours are shown.
    pub fn on(self) -> bool {
        self.on
    }

    fn with(self, style: Style, text: &str) -> String {
        if self.on { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn colour(self, colour: AnsiColor, text: &str) -> String {
        self.with(Style::new().fg_color(Some(Color::Ansi(colour))), text)
    }

    /// Colours what was allowed or is in order.
    pub fn good(self, text: &str) -> String {
        self.colour(AnsiColor::Green, text)
    }

    /// Colours what was refused or has failed.
    pub fn bad(self, text: &str) -> String {
        self.colour(AnsiColor::Red, text)
    }

    /// Colours what the operator should look at.
    pub fn warn(self, text: &str) -> String {
        self.colour(AnsiColor::Yellow, text)
    }

    /// Formats a heading.
    pub fn bold(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    /// Formats an aside.
    pub fn dim(self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// As [`harmless`], for text that must stay on one line.
pub fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// How many characters of a text [`quoted`] shows.
const QUOTED: usize = 200;

/// Quotes text that an agent chose and that a person decides by. The text can't end the quotes, holds no
/// command in backticks that could be copied, and no gap that could push what follows out of sight.
/// Everything but printable ASCII is escaped, since letters look alike.
pub fn quoted(text: &str) -> String {
    let mut shown = String::from("\"");
    let mut before = ' ';
    for (n, c) in text.chars().enumerate() {
        if n == QUOTED {
            shown.push('…');
            break;
        }
        match c {
            '"' | '`' => shown.extend(c.escape_unicode()),
            c if !matches!(c, ' '..='~') => shown.extend(c.escape_default()),
            c if c.is_whitespace() && before.is_whitespace() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
        before = c;
    }
    shown.push('"');
    shown
}

/// Makes an agent's text safe for a person's terminal: everything that could move the cursor, set a title or
/// a clipboard, or change the reading direction is escaped.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            // Invisible characters, which could hide in the text: those without width (Unicode's
            // Default_Ignorable_Code_Point), and blanks that are no spaces.
            '\u{ad}'
            | '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}' => {
                shown.extend(c.escape_unicode());
            }
            // Bidirectional controls (Unicode UAX #9): what is read must be what is there.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' => {
                shown.extend(c.escape_unicode());
            }
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Formats rows of cells as a table: columns padded to their widest cell, two spaces between them.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| seen(s)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - seen(cell)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Returns how many columns a cell takes on screen: its characters except colour sequences (`ESC [ … m`).
fn seen(cell: &str) -> usize {
    let mut columns = 0;
    let mut in_escape = false;
    for c in cell.chars() {
        match (in_escape, c) {
            (false, '\x1b') => in_escape = true,
            (false, _) => columns += 1,
            (true, 'm') => in_escape = false,
            (true, _) => {}
        }
    }
    columns
}

/// Quotes a path as one word of a command that is to be copied into a shell.
pub fn as_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    shlex::try_quote(&text).unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_standard_output_is_named_and_a_closed_one_stays_no_failure() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let failure = Failure::from(put(full, "x").unwrap_err());
        assert!(failure.message.starts_with("standard output can't be written: No space"), "{failure:?}");
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert_eq!(Failure::from(put(writer, "x").unwrap_err()).code, 0);
    }

    #[test]
    fn a_table_pads_its_columns_and_leaves_no_trailing_space() {
        let rows = vec![vec!["NAME".into(), "STATE".into()], vec!["a-long-name".into(), "up".into()]];
        assert_eq!(table(&rows), "NAME         STATE\na-long-name  up\n");
    }

    #[test]
    fn an_agents_text_does_nothing_to_a_terminal() {
        assert_eq!(
            harmless("a\tb\n\x1b]0;t\x07\u{202e}ü\u{61c}\r"),
            "a\tb\n\\u{1b}]0;t\\u{7}\\u{202e}ü\\u{61c}\\r"
        );
    }

    #[test]
    fn a_message_keeps_its_colours_and_no_other_sequence() {
        for ours in ["\x1b[1m\x1b[91merror\x1b[0m: x", "\x1b[1;31ma\x1b[2m|"] {
            assert_eq!(harmless_in_colours(ours), ours);
        }
        for (theirs, shown) in [
            ("a\x1b]0;t\x07", "a\\u{1b}]0;t\\u{7}"),
            ("\x1b[8mhidden", "\\u{1b}[8mhidden"),
            ("\x1b[1;30m", "\\u{1b}[1;30m"),
            ("\x1b[31;41m", "\\u{1b}[31;41m"),
            ("\x1b[m \x1b[2Jm \x1b", "\\u{1b}[m \\u{1b}[2Jm \\u{1b}"),
        ] {
            assert_eq!(harmless_in_colours(theirs), shown);
        }
    }

    #[test]
    fn what_is_decided_by_is_spelt_out() {
        assert_eq!(
            quoted("GET a.test/ä\u{3164}\u{430}`x\"  y"),
            "\"GET a.test/\\u{e4}\\u{3164}\\u{430}\\u{60}x\\u{22} \\u{20}y\""
        );
        for unseen in ["a\u{ad}b", "a\u{3164}b", "a\u{e0041}b", "a\u{2062}b"] {
            assert!(harmless(unseen).is_ascii(), "{unseen:?}");
        }
        assert_eq!(harmless("❤\u{fe0f} สวัสดี"), "❤\u{fe0f} สวัสดี");
    }

    #[test]
    fn colours_take_no_columns() {
        let rows = vec![vec!["\x1b[32mup\x1b[0m".into(), "x".into()], vec!["down".into(), "x".into()]];
        assert_eq!(table(&rows), "\x1b[32mup\x1b[0m    x\ndown  x\n");
    }
}
