//! Ctrl-C typed at a terminal of the agent's own: which one is the operator's last word.
//!
//! A program that reads its terminal line by line (termios(3), `ICANON`) leaves Ctrl-C to the terminal, which makes a signal of it. A second
//! one soon after another ends the sandbox, as a second SIGINT does without `-t`. One that takes key by key (an editor, a shell's prompt, an
//! agent's own screen) gives Ctrl-C a meaning of its own, twice in a row perhaps, and gets every one. Never here: anything but counting.

use std::time::Instant;

use super::terminal::Terminal;
use crate::heart::SECOND_INTERRUPT;

/// The interrupts of one terminal so far.
#[derive(Default)]
pub struct Interrupts {
    last: Option<Instant>,
}

impl Interrupts {
    /// Whether these keys hold the second interrupt in a row, at a terminal that makes signals of them.
    pub fn end_with(&mut self, keys: &[u8], terminal: &Terminal) -> bool {
        let Some(interrupt) = terminal.interrupt().filter(|interrupt| keys.contains(interrupt)) else {
            return false;
        };
        let typed = keys.iter().filter(|key| **key == interrupt).count();
        self.are_two(typed, Instant::now())
    }

    fn are_two(&mut self, typed: usize, now: Instant) -> bool {
        let before = self.last.replace(now);
        typed > 1 || before.is_some_and(|before| now.duration_since(before) <= SECOND_INTERRUPT)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn two_in_a_row_and_no_two_far_apart() {
        let now = Instant::now();
        let mut interrupts = Interrupts::default();
        assert!(!interrupts.are_two(1, now));
        assert!(!interrupts.are_two(1, now + SECOND_INTERRUPT + Duration::from_millis(1)));
        assert!(interrupts.are_two(1, now + SECOND_INTERRUPT + Duration::from_secs(1)));
        assert!(Interrupts::default().are_two(2, now));
    }
}
