//! Ctrl-C typed at the agent's terminal: which one ends the sandbox.
//!
//! A program that reads its terminal line by line (termios(3), `ICANON`) leaves Ctrl-C to the terminal, which
//! turns it into a signal. Then a second Ctrl-C soon after the first ends the sandbox, as a second SIGINT
//! does without `-t`. A program that reads key by key (an editor, a shell's prompt, an agent's own screen)
//! gives Ctrl-C its own meaning, perhaps twice in a row, and gets every one. This module only counts.

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
        let interrupt = terminal.interrupt();
        let now = Instant::now();
        keys.iter().any(|key| self.is_second(Some(*key) == interrupt, now))
    }

    /// Counts one key. Any other key in between resets the count: the operator goes on working, so the first
    /// interrupt has done what it was for.
    fn is_second(&mut self, interrupts: bool, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.last, interrupts.then_some(now));
        interrupts && before.is_some_and(|before| now.duration_since(before) <= SECOND_INTERRUPT)
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
        assert!(!interrupts.is_second(true, now));
        assert!(!interrupts.is_second(true, now + SECOND_INTERRUPT + Duration::from_millis(1)));
        assert!(interrupts.is_second(true, now + SECOND_INTERRUPT + Duration::from_secs(1)));
    }

    #[test]
    fn whoever_types_something_else_goes_on() {
        let now = Instant::now();
        let mut interrupts = Interrupts::default();
        assert!(
            [true, false, true, false].map(|interrupts_it| interrupts.is_second(interrupts_it, now))
                == [false; 4]
        );
        assert!(!interrupts.is_second(true, now) && interrupts.is_second(true, now));
    }
}
