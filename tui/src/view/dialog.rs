//! Draws a dialog over the panes.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Block, Clear, Widget as _};

use super::{lines, put};
use crate::dialog::{Dialog, Sheet, inside};
use crate::facts::Tone;
use crate::theme::Theme;
use crate::watch::Note;

pub(super) fn draw(dialog: &Dialog, note: Option<&Note>, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let room = inside((area.width, area.height));
    let sheet = dialog.sheet();
    let (keys, tone) = match (dialog, note) {
        (Dialog::Confirm(_), Some(note)) if note.is_bad => (note.text.clone(), Tone::Bad),
        (Dialog::Confirm(_), _) if sheet.is_read(room) => ("y yes   n no".to_owned(), Tone::Good),
        (Dialog::Confirm(_), _) => ("there is more: Down, PageDown   n no".to_owned(), Tone::Warn),
        (Dialog::Sheet(_), _) => ("Esc close".to_owned(), Tone::Plain),
    };
    let frame = match dialog {
        Dialog::Confirm(_) => theme.tone(Tone::Warn),
        Dialog::Sheet(_) => theme.focus(),
    };
    draw_sheet(sheet, (&keys, theme.tone(tone)), frame, area, buffer);
}

/// A sheet in its frame, with a line of keys below.
pub(super) fn draw_sheet(sheet: &Sheet, keys: (&str, Style), frame: Style, area: Rect, buffer: &mut Buffer) {
    let (width, height) = inside((area.width, area.height));
    let all = sheet.layout(width);
    // As high as it needs to be: what lies below stays in sight.
    let needed = u16::try_from(all.len()).unwrap_or(u16::MAX).saturating_add(3).min(area.height);
    let place = Rect { y: area.y + (area.height - needed) / 2, height: needed, ..area };
    Clear.render(place, buffer);
    let block = Block::bordered().border_style(frame).title_style(frame).title(format!(" {} ", sheet.title));
    let inner = block.inner(place);
    block.render(place, buffer);
    let pad = u16::from(inner.width > 2);
    let inner = Rect { x: inner.x + pad, width: inner.width - 2 * pad, ..inner };
    let text = Rect { height: inner.height.saturating_sub(1), ..inner };
    for (line, place) in all.iter().skip(sheet.top).take(height).zip(lines(text)) {
        put(buffer, place, line, Style::new());
    }
    let last = Rect { y: inner.bottom().saturating_sub(1), height: inner.height.min(1), ..inner };
    put(buffer, last, keys.0, keys.1);
}
