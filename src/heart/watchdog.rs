//! When a supervisor that lives but does nothing any more counts as dead. Pure: the time is an argument, and
//! nothing waits here.
//!
//! Once it is ready, it is pinged, and answers from the task that carries out a stop. Time is counted in
//! turns, not by the clock alone: whoever stops or freezes the heart (Ctrl-Z, a control group, a suspended
//! machine) uses up one turn at most, however long it lasts.
//!
//! Must never count the time of a move or of the last records: both have limits of their own, and a
//! supervisor that is about to finish answers nothing.

use std::time::{Duration, Instant};

use crate::waits::{AGENT_READY_WITHIN, GONE_WITHIN, PING_EVERY, READY_WITHIN};

/// Pings in a row that may stay unanswered; the next turn is the supervisor's last.
const UNANSWERED_MAX: u32 = 3;

/// Watches one supervisor.
#[derive(Debug)]
pub struct Watchdog {
    /// When the present turn is over.
    by: Instant,
    /// Turns in which it may say nothing, this one included.
    left: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    /// It hung, and was to be killed.
    Hung,
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
    /// It was to be killed, and isn't gone.
    GoOnWithout,
}

impl Watchdog {
    /// A supervisor was started, which starts so many agents, one after the other, before it is ready.
    pub fn started(now: Instant, agents: usize) -> Self {
        let agents = u32::try_from(agents).unwrap_or(u32::MAX);
        let within = READY_WITHIN.saturating_add(AGENT_READY_WITHIN.saturating_mul(agents));
        Self { by: now + PING_EVERY, left: turns(within), state: State::Starting }
    }

    /// It is ready: from now on it answers.
    pub fn ready(&mut self, now: Instant) {
        *self = Self { by: now + PING_EVERY, left: UNANSWERED_MAX + 1, state: State::Ready };
    }

    /// It answered a ping.
    pub fn answered(&mut self) {
        if self.state == State::Ready {
            self.left = UNANSWERED_MAX + 1;
        }
    }

    /// Whether it hung.
    pub fn has_hung(&self) -> bool {
        self.state == State::Hung
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
        self.left = self.left.saturating_sub(1);
        match (self.state, self.left) {
            (State::Hung, _) => Due::GoOnWithout,
            (_, 0) => {
                (self.state, self.by) = (State::Hung, now + GONE_WITHIN);
                Due::Kill
            }
            (State::Ready, _) => Due::Ping,
            (State::Starting, _) => Due::Nothing,
        }
    }
}

/// How many turns a time is.
fn turns(time: Duration) -> u32 {
    u32::try_from(time.as_secs().div_ceil(PING_EVERY.as_secs())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_is_pinged_for_ever() {
        let now = Instant::now();
        let mut dog = Watchdog::started(now, 1);
        dog.ready(now);
        for _ in 0..1000 {
            assert_eq!(dog.due(dog.by() - Duration::from_millis(1)), Due::Nothing);
            assert_eq!(dog.due(dog.by()), Due::Ping);
            dog.answered();
        }
    }

    #[test]
    fn who_says_nothing_is_killed_after_three_pings() {
        let now = Instant::now();
        let mut dog = Watchdog::started(now, 1);
        dog.ready(now);
        for _ in 0..UNANSWERED_MAX {
            assert_eq!(dog.due(dog.by()), Due::Ping);
        }
        assert_eq!(dog.due(dog.by()), Due::Kill);
    }

    #[test]
    fn a_frozen_heart_counts_one_turn_however_long() {
        for is_ready in [true, false] {
            let mut now = Instant::now();
            let mut dog = Watchdog::started(now, 1);
            if is_ready {
                dog.ready(now);
            }
            now += PING_EVERY * 1000;
            let due = if is_ready { Due::Ping } else { Due::Nothing };
            assert_eq!(dog.due(now), due);
            assert_eq!(dog.due(now), Due::Nothing);
            dog.answered();
            assert_eq!(dog.due(dog.by()), due);
        }
    }

    #[test]
    fn who_never_becomes_ready_is_killed_without_a_ping_and_each_agent_gives_it_time() {
        for agents in [0, 20] {
            let now = Instant::now();
            let mut dog = Watchdog::started(now, agents);
            // No answer to anything.
            dog.answered();
            let mut turns = 1;
            let last = loop {
                match dog.due(dog.by()) {
                    Due::Nothing => turns += 1,
                    other => break other,
                }
            };
            assert_eq!(last, Due::Kill);
            let within = READY_WITHIN + AGENT_READY_WITHIN * u32::try_from(agents).unwrap();
            assert_eq!(PING_EVERY * turns, within);
            assert!(dog.has_hung());
            assert_eq!(dog.due(dog.by()), Due::GoOnWithout);
        }
    }
}
