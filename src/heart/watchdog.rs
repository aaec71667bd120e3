//! When a supervisor that lives but does nothing any more counts as dead. Pure: the time is an argument, and
//! nothing waits here.
//!
//! While it starts, it says by itself that it is alive, and its start as a whole has a limit. Once it is
//! ready, it is pinged, and answers from the task that carries out a stop. Time is counted in turns, not by
//! the clock alone: whoever stops or freezes the heart (Ctrl-Z, a control group, a suspended machine) uses up
//! one turn at most, however long it lasts.
//!
//! Must never count the time of a move or of the last records: both have limits of their own, and a
//! supervisor that is about to finish answers nothing.

use std::time::{Duration, Instant};

use crate::waits::{AGENT_READY_WITHIN, GONE_WITHIN, PING_EVERY, READY_WITHIN, START_SILENCE};

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
    /// It starts, and must be ready in so many turns, whatever it says until then.
    Starting {
        in_turns: u32,
    },
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
        let in_turns = turns(within);
        Self { by: now + PING_EVERY, left: turns(START_SILENCE), state: State::Starting { in_turns } }
    }

    /// It is ready: from now on it answers.
    pub fn ready(&mut self, now: Instant) {
        *self = Self { by: now + PING_EVERY, left: UNANSWERED_MAX + 1, state: State::Ready };
    }

    /// It answered a ping, or said by itself while it starts that it is alive.
    pub fn heard(&mut self) {
        match self.state {
            State::Starting { .. } => self.left = turns(START_SILENCE),
            State::Ready => self.left = UNANSWERED_MAX + 1,
            State::Hung => {}
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
        if let State::Starting { in_turns } = &mut self.state {
            *in_turns = in_turns.saturating_sub(1);
            self.left = self.left.min(*in_turns);
        }
        match (self.state, self.left) {
            (State::Hung, _) => Due::GoOnWithout,
            (_, 0) => {
                (self.state, self.by) = (State::Hung, now + GONE_WITHIN);
                Due::Kill
            }
            (State::Ready, _) => Due::Ping,
            (State::Starting { .. }, _) => Due::Nothing,
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
            dog.heard();
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
            dog.heard();
            assert_eq!(dog.due(dog.by()), due);
        }
    }

    /// How many turns `dog` has until it is killed, if it is heard of in each.
    fn turns_until_killed(mut dog: Watchdog, is_heard: bool) -> u32 {
        let mut turns = 1;
        loop {
            if is_heard {
                dog.heard();
            }
            match dog.due(dog.by()) {
                Due::Nothing => turns += 1,
                other => {
                    assert_eq!(other, Due::Kill);
                    assert!(dog.has_hung());
                    dog.heard();
                    assert_eq!(dog.due(dog.by()), Due::GoOnWithout);
                    return turns;
                }
            }
        }
    }

    #[test]
    fn who_says_nothing_while_it_starts_is_killed_however_many_agents_there_are() {
        for agents in [0, 20] {
            let dog = Watchdog::started(Instant::now(), agents);
            assert_eq!(PING_EVERY * turns_until_killed(dog, false), START_SILENCE);
        }
    }

    #[test]
    fn who_never_becomes_ready_is_killed_whatever_it_says_and_each_agent_gives_it_time() {
        for agents in [0, 20] {
            let dog = Watchdog::started(Instant::now(), agents);
            let within = READY_WITHIN + AGENT_READY_WITHIN * u32::try_from(agents).unwrap();
            assert_eq!(PING_EVERY * turns_until_killed(dog, true), within);
        }
    }
}
