//! What the heart tells a supervisor to begin with, and what the supervisor is to put on record.

use serde::{Deserialize, Serialize};

use super::ExitStatus;

/// What a supervisor begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beginning {
    /// With a new sandbox.
    Sandbox,
    /// With another cage of a sandbox, in which nothing runs yet.
    Cage,
    /// With the cage that was to be left for another. The other is gone, so the agents that were stopped for
    /// it start again.
    SameCage,
    /// With what a supervisor that died left running.
    Succession,
}

/// Events that may not be on record yet: the next supervisor writes them down, and says so by
/// [`super::ToHeart::OnRecord`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// How supervisors died, oldest first, the last [`DEATHS_MAX`] of them.
    pub deaths: Vec<Death>,
    /// The agents have moved to another cage, or are back in their own.
    pub moved: Option<Moved>,
}

/// How a supervisor died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Death {
    /// It could not be started, or nobody knows how it ended.
    Unknown,
    /// It ended by itself, or somebody ended it.
    Ended(ExitStatus),
    /// It did nothing any more, and the heart killed it.
    Hung,
}

impl From<Option<ExitStatus>> for Death {
    fn from(status: Option<ExitStatus>) -> Self {
        status.map_or(Self::Unknown, Self::Ended)
    }
}

/// Deaths of supervisors that are remembered until they are on record. Each is numbered there, so that a gap
/// shows.
pub const DEATHS_MAX: usize = 64;

/// A move of the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The operator who wanted it, where the supervisor before died before it finished, and may not have put
    /// it on record.
    pub wanted_by: Option<u32>,
}

impl News {
    /// Notes that a supervisor died.
    pub fn died(&mut self, how: Death) {
        if self.deaths.len() >= DEATHS_MAX {
            self.deaths.remove(0);
        }
        self.deaths.push(how);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_deaths_are_remembered() {
        let mut news = News::default();
        (0..100).for_each(|code| news.died(Death::Ended(ExitStatus::Code(code))));
        assert_eq!(news.deaths.len(), DEATHS_MAX);
        assert_eq!(news.deaths.last(), Some(&Death::Ended(ExitStatus::Code(99))));
    }
}
