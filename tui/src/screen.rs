//! Renders the model into bytes: a frame is what has to be written to the terminal for it to show the model.
//! The caller writes it.

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

/// What the terminal shows at present.
pub struct Screen {
    /// None: not known, so that all of it is drawn anew.
    shown: Option<(Rect, Terminal<CrosstermBackend<Bytes>>)>,
    /// Whether the terminal shows our alternate screen.
    is_entered: bool,
    bytes: Bytes,
}

/// The buffer that is drawn into; shared, since the backend keeps its writer to itself.
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
    /// Makes a screen that knows nothing of what is shown: the first frame takes over the terminal.
    #[must_use]
    pub fn new() -> Self {
        Self { shown: None, is_entered: false, bytes: Bytes::default() }
    }

    /// Makes the next frame take over the terminal and draw everything, since another program has used it.
    pub fn forget(&mut self) {
        (self.shown, self.is_entered) = (None, false);
    }

    /// Returns the bytes that make the terminal show the model.
    pub fn frame(&mut self, model: &Model) -> Vec<u8> {
        let area = Rect::new(0, 0, model.size.0, model.size.1);
        if !std::mem::replace(&mut self.is_entered, true) {
            // Another screen, no cursor, and pasted text told from keys, so that no paste gives an answer.
            let _ = queue!(self.bytes, EnterAlternateScreen, EnableBracketedPaste, Hide);
        }
        if self.shown.as_ref().is_none_or(|(before, _)| *before != area) {
            let _ = queue!(self.bytes, ResetColor, Clear(ClearType::All));
            let options = TerminalOptions { viewport: Viewport::Fixed(area) };
            // A fixed viewport asks the terminal nothing.
            let terminal = Terminal::with_options(CrosstermBackend::new(self.bytes.clone()), options);
            self.shown = terminal.ok().map(|terminal| (area, terminal));
        }
        if let Some((_, terminal)) = &mut self.shown {
            // Writing to the buffer can't fail.
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

/// Returns the bytes that restore the terminal to what it was before the first frame.
#[must_use]
pub fn leave() -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = queue!(bytes, ResetColor, DisableBracketedPaste, Show, LeaveAlternateScreen);
    bytes
}
