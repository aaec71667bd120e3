//! How things look, with colours and without. What a colour says is always said in words, too.

use ratatui::style::{Color, Modifier, Style};

use crate::facts::Tone;

/// Colours, where they are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    pub colours: bool,
}

impl Theme {
    fn colour(self, colour: Color, without: Modifier) -> Style {
        match self.colours {
            true => Style::new().fg(colour),
            false => Style::new().add_modifier(without),
        }
    }

    pub(crate) fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Good => self.colour(Color::Green, Modifier::empty()),
            Tone::Bad => self.colour(Color::Red, Modifier::BOLD),
            Tone::Warn => self.colour(Color::Yellow, Modifier::BOLD),
            Tone::Plain => Style::new(),
        }
    }

    /// Asides: headings of columns, the line of keys.
    pub(crate) fn aside(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The frame of the pane that has the focus.
    pub(crate) fn focus(self) -> Style {
        self.colour(Color::Cyan, Modifier::BOLD)
    }

    /// The chosen row.
    pub(crate) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(crate) fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}
