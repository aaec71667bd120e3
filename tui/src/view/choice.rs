//! The list of sandboxes to choose from.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::dialog::draw_sheet;
use super::{lines, put};
use crate::list::first_in_sight;
use crate::model::Choice;
use crate::text::{Text, cell};
use crate::theme::Theme;

pub(super) fn draw(choice: &Choice, theme: Theme, [top, body, bottom]: [Rect; 3], buffer: &mut Buffer) {
    put(buffer, top, "which sandbox?", theme.heading());
    let chosen = choice.row();
    let first = first_in_sight(chosen, choice.candidates.len(), body.height.into());
    for (n, (candidate, place)) in choice.candidates.iter().skip(first).zip(lines(body)).enumerate() {
        let about: Vec<&str> = candidate.about.iter().map(Text::as_str).collect();
        let line = format!("{}  {}", cell(Text::new(&candidate.name).as_str(), 24), about.join("  "));
        let style = if first + n == chosen { theme.chosen() } else { Style::new() };
        put(buffer, place, &line, style);
    }
    put(buffer, bottom, "Up, Down  Enter choose  ? keys  q quit", theme.aside());
    if let Some(help) = &choice.help {
        let area = top.union(body).union(bottom);
        draw_sheet(help, ("Esc close", theme.aside()), theme.focus(), area, buffer);
    }
}
