//! The first line: which sandbox, and how it is. The last line: what came of the last key, or which keys
//! there are.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::put;
use crate::facts::Tone;
use crate::text::columns;
use crate::theme::Theme;
use crate::watch::{Pane, Watch};

pub(super) fn draw(watch: &Watch, theme: Theme, place: Rect, buffer: &mut Buffer) {
    let mut at = place;
    let mut say = |text: &str, style: Style| {
        put(buffer, at, text, style);
        let taken = u16::try_from(columns(text)).unwrap_or(u16::MAX).saturating_add(2).min(at.width);
        at = Rect { x: at.x + taken, width: at.width - taken, ..at };
    };
    say(watch.name.as_str(), theme.heading());
    if let Some(why) = &watch.away {
        say("DISCONNECTED", theme.tone(Tone::Bad));
        return say(&format!("reconnecting ({why}); what is shown may be old"), theme.tone(Tone::Warn));
    }
    let Some(condition) = &watch.condition else { return say("asking…", theme.aside()) };
    say(condition.state.as_str(), theme.tone(condition.tone));
    match watch.open() {
        0 => {}
        1 => say("1 question", theme.tone(Tone::Warn)),
        many => say(&format!("{many} questions"), theme.tone(Tone::Warn)),
    }
    if !condition.missing.is_empty() {
        let missing: Vec<&str> = condition.missing.iter().map(crate::Text::as_str).collect();
        say(&format!("MISSING: {}", missing.join(", ")), theme.tone(Tone::Bad));
    }
    say(&format!("up {}", condition.up), Style::new());
    say(&format!("policy generation {}", condition.generation), Style::new());
    if condition.missing.is_empty() {
        say("every control enforced", theme.aside());
    }
}

pub(super) fn bottom(watch: &Watch, theme: Theme, place: Rect, buffer: &mut Buffer) {
    match &watch.note {
        Some(note) => {
            put(buffer, place, &note.text, theme.tone(if note.is_bad { Tone::Bad } else { Tone::Good }))
        }
        None => put(buffer, place, hint(watch.pane), theme.aside()),
    }
}

fn hint(pane: Pane) -> &'static str {
    match pane {
        Pane::Approvals => {
            "a once  r this run  g for good  d deny  x revoke  Enter whole  Tab next pane  ? keys  q quit"
        }
        _ => "Up, Down  Enter whole row  Tab next pane  ? keys  q quit",
    }
}
