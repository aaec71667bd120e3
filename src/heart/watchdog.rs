//! When a supervisor that lives but does nothing any more counts as dead. Pure: the time is an argument, and
//! nothing waits here.
//!
//! Once it is ready, it is pinged, and answers from the task that carries out a stop. Silence is counted in
//! turns, not by the clock alone: whoever stops or freezes the heart (Ctrl-Z, a control group, a suspended
//! machine) lets one turn at most pass unanswered, however long it lasts.
//!
//! Must never count the time of an ordered stop or of a move: both have limits of their own, and a supervisor
//! that is about to finish answers nothing.

use std::time::Instant;

use crate::waits::{PING_EVERY, READY_WITHIN};

/// Pings in a row that may stay unanswered; the next turn is the supervisor's last.
pub const UNANSWERED_MAX: u32 = 3;

/// Watches one supervisor.
#[derive(Debug)]
pub struct Watchdog {
    /// When the present turn is over.
    by: Instant,
    /// Pings since the last answer; `None` before it was ready.
    unanswered: Option<u32>,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Ping it.
    Ping,
    /// It hangs: kill it.
    Kill,
}

impl Watchdog {
    /// A supervisor was started.
    pub fn started(now: Instant) -> Self {
        Self { by: now + READY_WITHIN, unanswered: None }
    }

    /// It is ready: from now on it answers.
    pub fn ready(&mut self, now: Instant) {
        *self = Self { by: now + PING_EVERY, unanswered: Some(0) };
    }

    /// It answered a ping.
    pub fn answered(&mut self) {
        if let Some(unanswered) = &mut self.unanswered {
            *unanswered = 0;
        }
    }

    /// When to ask next what is due.
    pub fn by(&self) -> Instant {
        self.by
    }

    /// What is due at `now`. Begins the next turn if the present one is over.
    pub fn due(&mut self, now: Instant) -> Due {
        if now < self.by {
            return Due::Nothing;
        }
        self.by = now + PING_EVERY;
        match &mut self.unanswered {
            Some(unanswered) if *unanswered < UNANSWERED_MAX => {
                *unanswered += 1;
                Due::Ping
            }
            Some(_) | None => Due::Kill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_is_pinged_for_ever() {
        let mut now = Instant::now();
        let mut dog = Watchdog::started(now);
        dog.ready(now);
        for _ in 0..1000 {
            assert_eq!(dog.due(now), Due::Nothing);
            now = dog.by();
            assert_eq!(dog.due(now), Due::Ping);
            dog.answered();
        }
    }

    #[test]
    fn who_says_nothing_is_killed_after_three_pings() {
        let mut now = Instant::now();
        let mut dog = Watchdog::started(now);
        dog.ready(now);
        for _ in 0..UNANSWERED_MAX {
            now = dog.by();
            assert_eq!(dog.due(now), Due::Ping);
        }
        now = dog.by();
        assert_eq!(dog.due(now), Due::Kill);
    }

    #[test]
    fn a_frozen_heart_counts_one_turn_however_long() {
        let mut now = Instant::now();
        let mut dog = Watchdog::started(now);
        dog.ready(now);
        now += PING_EVERY * 1000;
        assert_eq!(dog.due(now), Due::Ping);
        assert_eq!(dog.due(now), Due::Nothing);
        dog.answered();
        assert_eq!(dog.due(dog.by()), Due::Ping);
    }

    #[test]
    fn who_never_becomes_ready_is_killed_without_a_ping() {
        let now = Instant::now();
        let mut dog = Watchdog::started(now);
        dog.answered();
        assert_eq!(dog.due(dog.by() - PING_EVERY), Due::Nothing);
        assert_eq!(dog.due(dog.by()), Due::Kill);
    }
}
