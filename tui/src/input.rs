//! Keys as the terminal sends them. The terminal must be raw.

use std::io;

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, read};

use crate::keys::Press;

/// Waits for the next key that is known here. Everything else is passed over, pasted text and sizes among it.
///
/// # Errors
/// When the terminal can't be read.
pub fn next() -> io::Result<Press> {
    loop {
        if let Event::Key(key) = read()?
            && let Some(press) = press(key)
        {
            return Ok(press);
        }
    }
}

fn press(key: KeyEvent) -> Option<Press> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let modifiers = key.modifiers.difference(KeyModifiers::SHIFT);
    if modifiers == KeyModifiers::CONTROL {
        return match key.code {
            KeyCode::Char(c) => Some(Press::Ctrl(c.to_ascii_lowercase())),
            _ => None,
        };
    }
    // With Alt or another key it is another key.
    if !modifiers.is_empty() {
        return None;
    }
    Some(match key.code {
        KeyCode::Char(c) => Press::Char(c),
        KeyCode::Up => Press::Up,
        KeyCode::Down => Press::Down,
        KeyCode::PageUp => Press::PageUp,
        KeyCode::PageDown => Press::PageDown,
        KeyCode::Home => Press::Home,
        KeyCode::End => Press::End,
        KeyCode::Tab => Press::Tab,
        KeyCode::BackTab => Press::BackTab,
        KeyCode::Enter => Press::Enter,
        KeyCode::Esc => Press::Escape,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_another_held_is_another_key() {
        let of = |code, modifiers| press(KeyEvent::new(code, modifiers));
        assert_eq!(of(KeyCode::Char('y'), KeyModifiers::NONE), Some(Press::Char('y')));
        assert_eq!(of(KeyCode::Char('?'), KeyModifiers::SHIFT), Some(Press::Char('?')));
        assert_eq!(of(KeyCode::Char('y'), KeyModifiers::ALT), None);
        assert_eq!(of(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Press::Ctrl('c')));
        assert_eq!(of(KeyCode::Char('z'), KeyModifiers::CONTROL), Some(Press::Ctrl('z')));
        assert_eq!(of(KeyCode::Up, KeyModifiers::CONTROL), None);
        assert_eq!(of(KeyCode::BackTab, KeyModifiers::SHIFT), Some(Press::BackTab));
    }
}
