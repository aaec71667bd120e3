//! The model, drawn. Everything fits into whatever size there is, down to nothing; what doesn't fit is left
//! out, from the right and the bottom.

mod choice;
mod dialog;
mod header;
mod panes;
mod row;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;

use crate::facts::{Answer, Standing};
use crate::model::{Model, Stage};
use crate::text::fit;
use crate::watch::{Pane, Watch};

/// Size in columns and rows below which the pane with the focus is shown alone.
const ALL_PANES: (u16, u16) = (60, 18);

impl Model {
    /// Draws all of it.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let [top, body, bottom] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
        match &self.stage {
            Stage::Choosing(choice) => choice::draw(choice, self.theme, [top, body, bottom], buffer),
            Stage::Watching(watch) => {
                header::draw(watch, self.theme, top, buffer);
                for (pane, place) in places(watch, body) {
                    panes::draw(watch, pane, self.theme, place, buffer);
                }
                header::bottom(watch, self.theme, bottom, buffer);
                if let Some(above) = &watch.dialog {
                    dialog::draw(above, watch.note.as_ref(), self.theme, area, buffer);
                }
            }
        }
    }
}

/// Returns the place of each pane: all of them, the one with the focus having more room, or that one alone.
fn places(watch: &Watch, body: Rect) -> Vec<(Pane, Rect)> {
    let focus = watch.pane;
    if body.width < ALL_PANES.0 || body.height < ALL_PANES.1 {
        return vec![(focus, body)];
    }
    let more =
        |panes: &[Pane], usual: u16| Constraint::Fill(usual + if panes.contains(&focus) { 2 } else { 0 });
    let below = [Pane::Tree, Pane::Agents, Pane::Figures];
    // As high as its rows, up to a third of the height: mostly there are few questions.
    let questions = u16::try_from(watch.questions.len()).unwrap_or(u16::MAX).saturating_add(3);
    let questions = Constraint::Length(questions.clamp(5, (body.height / 3).max(5)));
    let [approvals, events, rest] =
        Layout::vertical([questions, more(&[Pane::Events], 2), more(&below, 3)]).areas(body);
    let [tree, right] = Layout::horizontal([more(&[Pane::Tree], 3), more(&below[1..], 3)]).areas(rest);
    let [agents, figures] =
        Layout::vertical([more(&[Pane::Agents], 2), more(&[Pane::Figures], 3)]).areas(right);
    vec![
        (Pane::Approvals, approvals),
        (Pane::Events, events),
        (Pane::Tree, tree),
        (Pane::Agents, agents),
        (Pane::Figures, figures),
    ]
}

/// Writes one line of text at a place, cut to its width.
fn put(buffer: &mut Buffer, place: Rect, text: &str, style: Style) {
    if !place.is_empty() {
        let width = usize::from(place.width);
        buffer.set_stringn(place.x, place.y, fit(text, width), width, style);
    }
}

/// The lines of a place, one rectangle each.
fn lines(place: Rect) -> impl Iterator<Item = Rect> {
    place.rows()
}

/// Where a question stands, in a word.
pub(crate) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Held => "HELD",
        Standing::Waiting => "waiting",
        Standing::Denied => "denied",
        Standing::Approved(Answer::Run) => "approved (run)",
        Standing::Approved(Answer::Good) => "approved (good)",
        Standing::Approved(_) => "approved (once)",
    }
}
