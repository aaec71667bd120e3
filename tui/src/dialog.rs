//! Dialogs over the panes: the list of keys, the whole of a row, and an answer that is to be confirmed.
//!
//! A [`Confirm`] shows everything that is approved, however long an agent has made it, and takes a yes only
//! once all of it has been drawn, so that no key that was typed ahead counts.

use crate::Effect;
use crate::facts::{Answer, Question};
use crate::keys::BINDINGS;
use crate::list::{Step, moved};
use crate::text::{Text, columns, wrap};

/// Columns and lines that a sheet's frame takes: borders and padding; borders and the line of keys.
const FRAME: (u16, u16) = (4, 3);
/// Minimal width of the text, in columns, for a yes to be taken: anything narrower can't be read.
const NARROWEST: usize = 16;

/// Names and values, one below the other, in their full length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    pub(crate) title: String,
    lines: Vec<(String, String)>,
    /// Index of the first visible line.
    pub(crate) top: usize,
    /// Number of lines, from the first on, that will have been visible once what is being drawn is on the
    /// terminal.
    drawing: usize,
    /// Number of lines, from the first on, that have been visible.
    seen: usize,
}

impl Sheet {
    /// Makes a sheet of a title and lines, each of a name and a value; either may be empty.
    pub(crate) fn new(title: impl Into<String>, lines: Vec<(String, String)>) -> Self {
        Self { title: title.into(), lines, top: 0, drawing: 0, seen: 0 }
    }

    /// Makes the sheet that lists the keys.
    pub(crate) fn help() -> Self {
        let rows = BINDINGS.iter().map(|binding| (binding.names.to_owned(), binding.does.to_owned()));
        Self::new("keys", rows.collect())
    }

    /// Lays all lines out, wrapped to `width` columns.
    pub(crate) fn layout(&self, width: usize) -> Vec<String> {
        let widest = self.lines.iter().map(|(name, _)| columns(name)).max().unwrap_or(0);
        let indent = if widest == 0 { 0 } else { (widest + 2).min(width / 2) };
        let mut all = Vec::new();
        for (name, value) in &self.lines {
            if name.is_empty() && indent > 0 {
                all.extend(wrap(value, width));
                continue;
            }
            for (n, part) in wrap(value, width.saturating_sub(indent)).into_iter().enumerate() {
                let name = if n == 0 { name.as_str() } else { "" };
                all.push(format!("{}{part}", crate::text::cell(name, indent)));
            }
        }
        all
    }

    /// Scrolls, but never past a line that has not been visible.
    pub(crate) fn scroll(&mut self, step: Step, (width, height): (usize, usize)) {
        let all = self.layout(width).len();
        self.top = moved(self.top, step, all.saturating_sub(height) + 1, height).min(self.seen);
    }

    /// Notes that the visible lines are being drawn.
    pub(crate) fn drawing(&mut self, (_, height): (usize, usize)) {
        self.drawing = self.drawing.max(self.top.saturating_add(height));
    }

    /// Notes that what was being drawn is on the terminal. Asks for a redraw if the sheet is read to its end
    /// by that, since the hint that there is more holds no longer.
    pub(crate) fn drawn(&mut self, inside: (usize, usize)) -> Option<Effect> {
        let was_read = self.is_read(inside);
        self.seen = self.drawing;
        (!was_read && self.is_read(inside)).then_some(Effect::Redraw)
    }

    /// Forgets what was seen: at another size, the lines are others.
    pub(crate) fn resize(&mut self) {
        (self.top, self.drawing, self.seen) = (0, 0, 0);
    }

    /// Whether every line has been visible, and the text is wide enough to be read.
    pub(crate) fn is_read(&self, (width, _): (usize, usize)) -> bool {
        width >= NARROWEST && self.seen >= self.layout(width).len()
    }
}

/// The columns and lines inside a sheet's frame, on a terminal of this size.
pub(crate) fn inside((columns, rows): (u16, u16)) -> (usize, usize) {
    (columns.saturating_sub(FRAME.0).into(), rows.saturating_sub(FRAME.1).into())
}

/// An answer that is to be confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirm {
    /// The question, as it was when the dialog was opened.
    pub(crate) question: Question,
    /// The answer to be given.
    pub(crate) answer: Answer,
    pub(crate) sheet: Sheet,
}

impl Confirm {
    /// Shows exactly what the answer is for.
    pub(crate) fn new(question: Question, answer: Answer) -> Self {
        let sheet = Sheet::new(title(answer), lines(&question, answer));
        Self { question, answer, sheet }
    }
}

/// A dialog over the panes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialog {
    /// To be read.
    Sheet(Sheet),
    /// To be confirmed.
    Confirm(Box<Confirm>),
}

impl Dialog {
    pub(crate) fn sheet(&self) -> &Sheet {
        match self {
            Self::Sheet(sheet) => sheet,
            Self::Confirm(confirm) => &confirm.sheet,
        }
    }

    pub(crate) fn sheet_mut(&mut self) -> &mut Sheet {
        match self {
            Self::Sheet(sheet) => sheet,
            Self::Confirm(confirm) => &mut confirm.sheet,
        }
    }
}

fn title(answer: Answer) -> &'static str {
    match answer {
        Answer::Once => "approve once?",
        Answer::Run => "approve until the sandbox ends?",
        Answer::Good => "approve for good?",
        Answer::Deny => "deny?",
        Answer::Revoke => "revoke?",
    }
}

/// What the answer means, in a sentence.
fn means(question: &Question, answer: Answer) -> &'static str {
    match answer {
        Answer::Once if question.held > 0 => "The request that waits longest goes on, and no other.",
        Answer::Once => {
            "The next such request goes on, if the policy doesn't change before it comes, and no other."
        }
        Answer::Run => "Each such request goes on until the sandbox ends: it becomes an entry of the policy.",
        Answer::Good => "Each such request goes on, also in later runs of this name, until it is revoked.",
        Answer::Deny => "Those that wait, and each that comes again in this run, are refused.",
        Answer::Revoke => {
            "What was answered is taken back: what it allowed ends, and is asked about when it comes again."
        }
    }
}

fn lines(question: &Question, answer: Answer) -> Vec<(String, String)> {
    let Question { id, standing: _, held, asked, host, port, method, path, program, sha256, generation } =
        question;
    let wide = matches!(answer, Answer::Run | Answer::Good);
    let method = match wide && method.as_str() == "GET" {
        true => format!("{method} (and HEAD)"),
        false => method.quoted().to_string(),
    };
    let row = |name: &str, value: String| (name.to_owned(), value);
    vec![
        row("", means(question, answer).to_owned()),
        row("", String::new()),
        row("host", host.quoted().to_string()),
        row("port", port.to_string()),
        row("method", method),
        row("path", path.quoted().to_string()),
        row("query", "any; it isn't shown, nor is the body".to_owned()),
        row("program", program.quoted().to_string()),
        row("sha-256", sha256.to_string()),
        row("asked", format!("{}, {held} held now", times(*asked))),
        row("policy", format!("generation {generation}")),
        row("id", Text::new(id).to_string()),
    ]
}

/// How often, in words.
pub(crate) fn times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_must_have_been_drawn() {
        let lines = (0..30).map(|n| (String::new(), format!("line {n}"))).collect();
        let mut sheet = Sheet::new("t", lines);
        let inside = (20, 10);
        // However many keys come before it is drawn.
        for step in [Step::PageDown, Step::PageDown, Step::PageDown, Step::Last] {
            sheet.scroll(step, inside);
        }
        assert!(sheet.top == 0 && !sheet.is_read(inside));
        let draw = |sheet: &mut Sheet, inside| {
            let before = sheet.seen;
            sheet.drawing(inside);
            assert_eq!(sheet.seen, before, "not before it stands there");
            sheet.drawn(inside);
        };
        draw(&mut sheet, inside);
        sheet.scroll(Step::Last, inside);
        assert_eq!(sheet.top, 10, "nothing is passed over");
        assert!(!sheet.is_read(inside));
        draw(&mut sheet, inside);
        sheet.scroll(Step::PageDown, inside);
        assert!(!sheet.is_read(inside), "it must have been drawn, too");
        sheet.drawn(inside);
        assert!(!sheet.is_read(inside), "what was drawn before it came into sight didn't show it");
        draw(&mut sheet, inside);
        assert!(sheet.is_read(inside));
        sheet.drawing(inside);
        sheet.resize();
        sheet.drawn((20, 11));
        assert!(!sheet.is_read((20, 11)), "a new size begins anew");
        for narrow in [(0, 40), (10, 400), (20, 0)] {
            sheet.resize();
            for _ in 0..100 {
                draw(&mut sheet, narrow);
                sheet.scroll(Step::PageDown, narrow);
            }
            assert!(!sheet.is_read(narrow), "{narrow:?}");
        }
    }
}
