//! Every key in one table, used by [`crate::Model::update`] and by the help. docs/term.md lists the same
//! keys; a test compares.

use crate::facts::Answer;

/// A key that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    /// A character.
    Char(char),
    /// A letter with Ctrl.
    Ctrl(char),
    /// Arrow.
    Up,
    /// Arrow.
    Down,
    /// A page back.
    PageUp,
    /// A page on.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// The next pane.
    Tab,
    /// The pane before.
    BackTab,
    /// Enter.
    Enter,
    /// Escape.
    Escape,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// One row back.
    Up,
    /// One row on.
    Down,
    /// A page back.
    PageUp,
    /// A page on.
    PageDown,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// The next pane.
    Next,
    /// The pane before.
    Previous,
    /// Show the whole of the row; in the list of sandboxes, open the chosen one.
    Open,
    /// Close the dialog.
    Close,
    /// Begin an answer to the question, to be confirmed.
    Say(Answer),
    /// Yes: give the answer that is shown.
    Confirm,
    /// No: give none.
    Refuse,
    /// Show the keys.
    Help,
    /// Back to the shell for a while.
    Suspend,
    /// Quit.
    Quit,
}

/// Keys of one meaning.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    /// Which keys.
    pub keys: &'static [Press],
    /// As people name them.
    pub names: &'static str,
    /// What they do.
    pub action: Action,
    /// The same in words.
    pub does: &'static str,
}

const fn key(keys: &'static [Press], names: &'static str, action: Action, does: &'static str) -> Binding {
    Binding { keys, names, action, does }
}

/// All keys.
pub const BINDINGS: &[Binding] = &[
    key(&[Press::Up, Press::Char('k')], "Up, k", Action::Up, "one row up"),
    key(&[Press::Down, Press::Char('j')], "Down, j", Action::Down, "one row down"),
    key(&[Press::PageUp], "PageUp", Action::PageUp, "a page up"),
    key(&[Press::PageDown, Press::Char(' ')], "PageDown, Space", Action::PageDown, "a page down"),
    key(&[Press::Home], "Home", Action::First, "the first row"),
    key(&[Press::End], "End", Action::Last, "the last row; events go on coming in sight there"),
    key(&[Press::Tab], "Tab", Action::Next, "the next pane"),
    key(&[Press::BackTab], "Shift-Tab", Action::Previous, "the pane before"),
    key(&[Press::Enter], "Enter", Action::Open, "the whole of a row; the sandbox, in the list of sandboxes"),
    key(&[Press::Escape], "Esc", Action::Close, "close what lies above the panes; no answer is given"),
    key(&[Press::Char('a')], "a", Action::Say(Answer::Once), "approve the question once"),
    key(&[Press::Char('r')], "r", Action::Say(Answer::Run), "approve it until the sandbox ends"),
    key(&[Press::Char('g')], "g", Action::Say(Answer::Good), "approve it for good, in later runs too"),
    key(&[Press::Char('d')], "d", Action::Say(Answer::Deny), "deny it"),
    key(&[Press::Char('x')], "x", Action::Say(Answer::Revoke), "revoke what was answered"),
    key(&[Press::Char('y')], "y", Action::Confirm, "yes: give the answer that is shown"),
    key(&[Press::Char('n')], "n", Action::Refuse, "no: give none"),
    key(&[Press::Char('?')], "?", Action::Help, "the keys"),
    key(&[Press::Ctrl('z')], "Ctrl-Z", Action::Suspend, "back to the shell; `fg` comes back here"),
    key(&[Press::Char('q'), Press::Ctrl('c')], "q, Ctrl-C", Action::Quit, "quit; the sandbox goes on"),
];

/// Returns what a key does; `None` if it does nothing.
#[must_use]
pub fn action(press: Press) -> Option<Action> {
    BINDINGS.iter().find(|binding| binding.keys.contains(&press)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_meanings_and_no_meaning_two_rows() {
        let keys: Vec<Press> = BINDINGS.iter().flat_map(|binding| binding.keys).copied().collect();
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[n + 1..].contains(key), "{key:?}");
        }
        for (n, binding) in BINDINGS.iter().enumerate() {
            assert!(BINDINGS[n + 1..].iter().all(|other| other.action != binding.action), "{binding:?}");
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_each() {
        let page = include_str!("../../docs/term.md");
        let (_, section) = page.split_once("\n## Keys\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<String> = BINDINGS
            .iter()
            .map(|binding| format!("| `{}` | {} |", binding.names.replace(", ", "` `"), binding.does))
            .collect();
        assert_eq!(rows, wanted);
    }
}
