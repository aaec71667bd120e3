//! The tour's output: headings, one line per verdict, colours only on a terminal.

use std::io;

use crate::console::{Paint, print, table};

/// The columns of a line's first part, before its verdict.
const WIDTH: usize = 52;
/// How many characters of an answer are shown.
const ANSWER: usize = 96;

/// The screen.
#[derive(Debug, Clone, Copy)]
pub struct Show {
    paint: Paint,
}

impl Show {
    /// Shows the tour on standard output.
    pub fn new() -> Self {
        Self { paint: Paint::stdout() }
    }

    fn line(self, text: &str) -> io::Result<()> {
        print(&format!("{text}\n"))
    }

    /// Prints the opening.
    pub fn opening(self) -> io::Result<()> {
        self.line(&self.paint.bold("cofferdam: an agent behind four layers that deny by default"))?;
        self.aside(
            "its web servers and model provider live in a private network on this machine; nothing leaves it",
        )
    }

    /// A layer's heading.
    pub fn layer(self, name: &str) -> io::Result<()> {
        self.line(&format!("\n{}", self.paint.bold(name)))
    }

    /// One attempt.
    pub fn tried(self, what: &str, worked: bool, right: bool, answer: &str) -> io::Result<()> {
        let verdict = if worked { self.paint.good("allowed") } else { self.paint.bad("refused") };
        let flag = if right { String::new() } else { self.paint.warn("  ← not as it should be") };
        let padding = " ".repeat(WIDTH.saturating_sub(what.chars().count()));
        let answer: String = answer.chars().take(ANSWER).collect();
        self.line(&format!("  {what}{padding} {verdict}  {}{flag}", self.paint.dim(&answer)))
    }

    /// Prints which rule decided what, from the audit log.
    pub fn rules(self, decisions: &[Vec<String>]) -> io::Result<()> {
        self.layer("on record")?;
        for row in table(decisions).lines() {
            self.line(&format!("  {row}"))?;
        }
        Ok(())
    }

    /// Prints that a part was killed, and whether it came back.
    pub fn killed(
        self,
        part: &str,
        counted: u64,
        longest: std::time::Duration,
        after: Option<&str>,
    ) -> io::Result<()> {
        let padding = " ".repeat(WIDTH.saturating_sub(part.len() + 5));
        let state = after.map_or_else(|| self.paint.bad("not back"), |detail| self.paint.good(detail));
        self.line(&format!(
            "  kill {part}{padding} {state}  {}",
            self.paint
                .dim(&format!("the agent counted on to {counted}; longest pause {} ms", longest.as_millis()))
        ))
    }

    /// The tree, as `cofferdam tree` prints it.
    pub fn text(self, text: &str) -> io::Result<()> {
        for row in text.lines() {
            self.line(&format!("  {row}"))?;
        }
        Ok(())
    }

    /// Prints the overall result.
    pub fn verdict(self, surprises: usize, gaps: usize, lost: usize) -> io::Result<()> {
        let word = |n: usize, fine: &str, bad: &str| {
            if n == 0 { self.paint.good(fine) } else { self.paint.bad(&format!("{n} {bad}")) }
        };
        self.layer("in the end")?;
        self.line(&format!(
            "  {}",
            word(surprises, "every verdict as it should be", "verdicts not as they should be")
        ))?;
        self.line(&format!("  {}", word(gaps, "not one number missing", "numbers missing")))?;
        self.line(&format!("  {}", word(lost, "every killed part came back", "parts did not come back")))
    }

    /// Prints the result of a check.
    pub fn check(self, good: bool, text: &str) -> io::Result<()> {
        let text = if good { self.paint.good(text) } else { self.paint.bad(text) };
        self.line(&format!("  {text}"))
    }

    /// An aside.
    pub fn aside(self, text: &str) -> io::Result<()> {
        self.line(&format!("  {}", self.paint.dim(text)))
    }
}
