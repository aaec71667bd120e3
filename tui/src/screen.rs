//! The terminal's screen as bytes: each frame is what has to be written for the terminal to show it. Whoever
//! has the terminal writes them.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use ratatui::crossterm::queue;
use ratatui::crossterm::style::ResetColor;
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use crate::model::Model;

/// What the terminal shows by now.
pub struct Screen {
    /// None: not known, so that all of it is drawn anew.
    shown: Option<(Rect, Terminal<CrosstermBackend<Bytes>>)>,
    /// Whether it is our screen that the terminal shows.
    is_entered: bool,
    bytes: Bytes,
}

/// Where the drawing goes: the backend has one end and keeps it to itself.
#[derive(Clone, Default)]
struct Bytes(Rc<RefCell<Vec<u8>>>);

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    /// Nothing is known of what is shown: the first frame takes the terminal.
    #[must_use]
    pub fn new() -> Self {
        Self { shown: None, is_entered: false, bytes: Bytes::default() }
    }

    /// To be taken and drawn whole: somebody else has had the terminal.
    pub fn forget(&mut self) {
        (self.shown, self.is_entered) = (None, false);
    }

    /// The bytes that show the model.
    pub fn frame(&mut self, model: &Model) -> Vec<u8> {
        let area = Rect::new(0, 0, model.size.0, model.size.1);
        if !std::mem::replace(&mut self.is_entered, true) {
            // Another screen, no cursor, and pasted text told from keys, so that no paste gives an answer.
            let _ = queue!(self.bytes, EnterAlternateScreen, EnableBracketedPaste, Hide);
        }
        if self.shown.as_ref().is_none_or(|(before, _)| *before != area) {
            let _ = queue!(self.bytes, ResetColor, Clear(ClearType::All));
            let options = TerminalOptions { viewport: Viewport::Fixed(area) };
            // A fixed one asks the terminal nothing.
            let terminal = Terminal::with_options(CrosstermBackend::new(self.bytes.clone()), options);
            self.shown = terminal.ok().map(|terminal| (area, terminal));
        }
        if let Some((_, terminal)) = &mut self.shown {
            // Nothing that is written to can fail.
            let _ = terminal.draw(|frame| model.draw(frame.area(), frame.buffer_mut()));
        }
        std::mem::take(&mut *self.bytes.0.borrow_mut())
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// What gives the terminal back as it was before the first frame.
#[must_use]
pub fn leave() -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = queue!(bytes, ResetColor, DisableBracketedPaste, Show, LeaveAlternateScreen);
    bytes
}
