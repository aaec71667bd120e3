//! A row of a list: cells in columns, each in a style of its own, cut where its column ends.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::text::{cell, columns, fit};

/// A row's cells: text, width, style. The last takes what is left.
pub(super) struct Row<'a> {
    cells: Vec<(&'a str, usize, Style)>,
}

impl<'a> Row<'a> {
    pub(super) fn new() -> Self {
        Self { cells: Vec::new() }
    }

    /// Adds a cell of `width` columns.
    pub(super) fn cell(mut self, text: &'a str, width: usize, style: Style) -> Self {
        self.cells.push((text, width, style));
        self
    }

    /// Adds the last cell, which takes what is left.
    pub(super) fn rest(self, text: &'a str, style: Style) -> Self {
        self.cell(text, usize::MAX, style)
    }

    pub(super) fn draw(&self, place: Rect, over: Style, buffer: &mut Buffer) {
        if place.is_empty() {
            return;
        }
        let (mut x, mut left) = (place.x, usize::from(place.width));
        for (text, width, style) in &self.cells {
            let width = (*width).min(left);
            let text = if width == left { fit(text, width) } else { cell(text, width) };
            buffer.set_stringn(x, place.y, &text, width, *style);
            x = x.saturating_add(u16::try_from(columns(&text)).unwrap_or(u16::MAX));
            left -= width;
            if left == 0 {
                break;
            }
            x = x.saturating_add(1);
            left -= 1;
        }
        buffer.set_style(place, over);
    }
}
