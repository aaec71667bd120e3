//! The panes: each a list in a frame, of which the rows around the chosen one are in sight.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Block, Widget as _};

use super::row::Row;
use super::{lines, put, standing};
use crate::facts::{Question, Standing, Tone};
use crate::list::first_in_sight;
use crate::theme::Theme;
use crate::watch::{Pane, Watch};

pub(super) fn draw(watch: &Watch, pane: Pane, theme: Theme, place: Rect, buffer: &mut Buffer) {
    let has_keys = watch.pane == pane;
    let frame = if has_keys { theme.focus() } else { theme.aside() };
    let title_style = if has_keys { theme.focus() } else { Style::new() };
    let block = Block::bordered()
        .border_style(frame)
        .title_style(title_style)
        .title(format!(" {} ", title(watch, pane)));
    let mut inner = block.inner(place);
    block.render(place, buffer);
    // With one line there is no room for a heading.
    if inner.height > 1
        && let Some(heading) = heading(pane, theme)
    {
        heading.draw(Rect { height: 1, ..inner }, Style::new(), buffer);
        inner = Rect { y: inner.y + 1, height: inner.height - 1, ..inner };
    }
    let rows = watch.rows(pane);
    if rows == 0 {
        return put(buffer, inner, nothing(watch, pane), theme.aside());
    }
    let chosen = watch.chosen(pane);
    let first = first_in_sight(chosen, rows, inner.height.into());
    for (n, place) in lines(inner).enumerate() {
        let n = first + n;
        let Some(row) = row(watch, pane, n, theme) else { break };
        let over = if has_keys && n == chosen { theme.chosen() } else { Style::new() };
        row.draw(place, over, buffer);
    }
}

fn title(watch: &Watch, pane: Pane) -> String {
    let title = pane.title();
    match pane {
        Pane::Approvals if watch.open() > 0 => {
            format!("{title}: {} of {} open", watch.open(), watch.questions.len())
        }
        Pane::Events if watch.missed > 0 => {
            format!("{title}: {} were missed, see the audit log", watch.missed)
        }
        Pane::Events if watch.event.is_some() => format!("{title}: held, End goes on"),
        _ => title.to_owned(),
    }
}

fn nothing(watch: &Watch, pane: Pane) -> &'static str {
    match pane {
        _ if watch.condition.is_none() => "",
        Pane::Approvals => "nothing was asked",
        Pane::Events => "nothing has happened since",
        Pane::Tree | Pane::Agents | Pane::Figures => "none",
    }
}

/// Widths of columns.
const STATE: usize = 15;
const UP: usize = 8;
const NAME: usize = 18;
const VERDICT: usize = 9;
const TIME: usize = 8;

fn heading(pane: Pane, theme: Theme) -> Option<Row<'static>> {
    let style = theme.aside();
    let row = Row::new();
    match pane {
        Pane::Approvals => {
            Some(row.cell("STATE", STATE, style).cell("ASKED", 6, style).rest("REQUEST, PROGRAM", style))
        }
        Pane::Tree => {
            let row = row.cell("ACTOR", NAME, style).cell("STATE", 9, style).cell("UP", UP, style);
            Some(row.cell("RESTARTS", 8, style).rest("LAST FAILURE", style))
        }
        Pane::Agents => {
            let row = row.cell("AGENT", 12, style).cell("STATE", 9, style).cell("UP", UP, style);
            Some(row.cell("RESTARTS", 8, style).rest("", style))
        }
        Pane::Events | Pane::Figures => None,
    }
}

/// A row of any pane. Its texts are put together first, so that the row can borrow them.
fn row(watch: &Watch, pane: Pane, n: usize, theme: Theme) -> Option<Drawn> {
    let plain = Style::new();
    Some(Drawn(match pane {
        Pane::Approvals => {
            let question = watch.questions.get(n)?;
            vec![
                (state(question), STATE, theme.tone(tone(question.standing))),
                (format!("{}x", question.asked), 6, plain),
                (request(question), usize::MAX, plain),
            ]
        }
        Pane::Events => {
            let event = watch.events.get(n)?;
            vec![
                (event.at.to_string(), TIME, theme.aside()),
                (event.word.to_string(), VERDICT, theme.tone(event.tone)),
                (event.what.to_string(), usize::MAX, plain),
            ]
        }
        Pane::Tree => {
            let part = watch.tree.get(n)?;
            vec![
                (part.name.to_string(), NAME, plain),
                (part.state.to_string(), 9, theme.tone(part.tone)),
                (part.up.to_string(), UP, plain),
                (part.restarts.to_string(), 8, plain),
                (part.failure.to_string(), usize::MAX, theme.tone(Tone::Warn)),
            ]
        }
        Pane::Agents => {
            let agent = watch.agents().get(n)?;
            vec![
                (agent.name.to_string(), 12, plain),
                (agent.state.to_string(), 9, theme.tone(agent.tone)),
                (agent.up.to_string(), UP, plain),
                (agent.restarts.to_string(), 8, plain),
                (agent.about.to_string(), usize::MAX, plain),
            ]
        }
        Pane::Figures => {
            let figure = watch.figures.get(n)?;
            vec![
                (figure.name.to_string(), 22, plain),
                (figure.value.to_string(), usize::MAX, theme.tone(figure.tone)),
            ]
        }
    }))
}

/// A row that owns its texts.
struct Drawn(Vec<(String, usize, Style)>);

impl Drawn {
    fn draw(&self, place: Rect, over: Style, buffer: &mut Buffer) {
        let cells = self.0.iter();
        let row = cells.fold(Row::new(), |row, (text, width, style)| row.cell(text, *width, *style));
        row.draw(place, over, buffer);
    }
}

fn state(question: &Question) -> String {
    match question.standing {
        Standing::Held => format!("HELD ({})", question.held),
        other => standing(other).to_owned(),
    }
}

fn tone(standing: Standing) -> Tone {
    match standing {
        Standing::Held | Standing::Waiting => Tone::Warn,
        Standing::Approved(_) => Tone::Good,
        Standing::Denied => Tone::Bad,
    }
}

/// Returns a request in one line. The host comes before path and program, so that it stays visible however
/// long they are.
fn request(question: &Question) -> String {
    let Question { host, port, method, path, program, .. } = question;
    let host = match host.as_str().contains(':') {
        true => format!("[{host}]"),
        false => host.to_string(),
    };
    format!("{method} {host}:{port}{path}  by {program}")
}
