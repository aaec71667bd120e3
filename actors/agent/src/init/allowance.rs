//! Limits how much of init's time may go into looks at one agent's programs.
//!
//! Init asks the kernel what a program has mapped, and the kernel answers once it has the lock of that
//! memory. A program that keeps its own memory busy, or maps ten thousand libraries, makes looks at itself
//! slow; and since init looks for all agents, the others would wait too. So slow looks are charged to the
//! agent whose program it was, and an agent in debt is refused without a look until enough time has passed.
//! Descriptors that an agent has open, too few to be a flood, are charged in the same way when the agent
//! itself asks. Looks for other agents go through them too, but are nobody's debt: refusing the owner would
//! make none of them shorter. An agent is known by the seccomp listener that its every process is born under,
//! whatever it calls itself.

use super::connects::Origin;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Looks up to this long are free, and of longer ones this much: a look at a program with a thousand
/// libraries takes a millisecond.
const FREE: Duration = Duration::from_millis(2);
/// Looks through an agent's own descriptor tables up to this long are free: enough for four hundred busy
/// processes with thirty descriptors each.
pub(super) const TABLES: Duration = Duration::from_millis(10);
/// Debt that is tolerated: on a machine that is busy elsewhere, looks are slow without anybody's intent.
pub(super) const BORNE: Duration = Duration::from_millis(200);
/// One part in so many of the time that passes pays off debt: the share of init's time that an agent can have
/// in the long run.
const SHARE: u32 = 10;

/// Every agent's debt.
#[derive(Debug, Default)]
pub(super) struct Allowances(HashMap<Origin, Debt>);

#[derive(Debug, Clone, Copy)]
struct Debt {
    owed: Duration,
    at: Instant,
}

impl Debt {
    fn now(&self, now: Instant) -> Duration {
        self.owed.saturating_sub(now.saturating_duration_since(self.at) / SHARE)
    }
}

impl Allowances {
    /// Whether an agent's programs may be looked at.
    pub(super) fn has_left(&self, agent: Origin, now: Instant) -> bool {
        self.0.get(&agent).is_none_or(|debt| debt.now(now) <= BORNE)
    }

    /// Charges an agent for a look at its own descriptor tables.
    pub(super) fn charge_tables(&mut self, agent: Origin, took: Duration, now: Instant) {
        if took > TABLES {
            self.charge(agent, took, now);
        }
    }

    /// Charges an agent for a look that took this long.
    pub(super) fn charge(&mut self, agent: Origin, took: Duration, now: Instant) {
        if took <= FREE {
            return;
        }
        // Drop debts that are paid off: agents come and go for months.
        self.0.retain(|_, debt| !debt.now(now).is_zero());
        let owed = self.0.get(&agent).map_or(Duration::ZERO, |debt| debt.now(now));
        self.0.insert(agent, Debt { owed: owed + (took - FREE), at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Origin = Origin::of(1);
    const OTHER: Origin = Origin::of(2);

    #[test]
    fn quick_looks_are_free_and_slow_ones_are_paid_by_time() {
        let (mut all, start) = (Allowances::default(), Instant::now());
        for _ in 0..100_000 {
            all.charge(ONE, FREE, start);
        }
        assert!(all.has_left(ONE, start) && all.0.is_empty());
        all.charge(ONE, BORNE + FREE, start);
        assert!(all.has_left(ONE, start));
        all.charge(ONE, FREE * 2, start);
        assert!(!all.has_left(ONE, start) && all.has_left(OTHER, start), "it is the one's debt");
        assert!(all.has_left(ONE, start + FREE * SHARE));
        // Nor does credit build up.
        let later = start + BORNE * SHARE * 100;
        all.charge(ONE, BORNE + FREE * 2, later);
        assert!(!all.has_left(ONE, later));
    }

    #[test]
    fn long_looks_at_its_tables_are_paid_too() {
        let (mut all, start) = (Allowances::default(), Instant::now());
        for _ in 0..100_000 {
            all.charge_tables(ONE, TABLES, start);
        }
        assert!(all.has_left(ONE, start) && all.0.is_empty());
        for _ in 0..5 {
            all.charge_tables(ONE, Duration::from_millis(60), start);
        }
        assert!(!all.has_left(ONE, start) && all.has_left(OTHER, start));
        assert!(all.has_left(ONE, start + BORNE * SHARE));
    }

    #[test]
    fn what_is_paid_is_forgotten() {
        let (mut all, start) = (Allowances::default(), Instant::now());
        for agent in 0..1000 {
            all.charge(Origin::of(agent), FREE * 2, start);
        }
        assert_eq!(all.0.len(), 1000);
        all.charge(Origin::of(1000), FREE * 2, start + FREE * SHARE);
        assert_eq!(all.0.len(), 1);
    }
}
