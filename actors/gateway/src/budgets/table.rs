//! The counts of all budgets: what is used, what is held for requests in flight, and whether one more request
//! may go.
//!
//! Pure arithmetic: no clock, no file, no lock. `now` is always the wall clock in seconds since the epoch. A
//! window is only ever replaced by a later one, so setting the clock back doesn't reset any count.

use smol_str::SmolStr;

use super::{estimate::Estimate, window::Per};
use crate::glob::Glob;

/// Most counts that are kept, including those of budgets that were removed from the configuration.
pub const MAX_KEPT: usize = 256;

/// A budget's identity, which doesn't change with its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    /// Its windows.
    pub per: Per,
    /// The only provider whose requests count; `None` is all.
    pub provider: Option<SmolStr>,
    /// The pattern of the only models whose requests count, by the agent's name for them; `None` is all.
    pub model: Option<SmolStr>,
}

/// The limits of a budget in force.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub tokens: Option<u64>,
    pub requests: Option<u64>,
    pub model: Option<Glob>,
}

/// What was used of one budget, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Count {
    pub which: Which,
    /// The window's beginning, in seconds since the epoch.
    pub window: u64,
    pub tokens: u64,
    pub requests: u64,
}

#[derive(Debug)]
struct Row {
    count: Count,
    /// `None` for a budget that was removed from the configuration. Its count is kept until its window is
    /// over, in case it comes back.
    limits: Option<Limits>,
    /// Tokens held for requests in flight, and the number of those requests that hold any.
    held: u64,
    in_flight: u64,
    /// Tokens that these requests may use beyond what is held: not available to others, but not counted as
    /// used.
    beyond: u64,
}

/// The row and the window in which a reservation is held.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    which: Which,
    window: u64,
    /// Whether the budget limits tokens.
    pub of_tokens: bool,
}

/// Why a request may not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// The budget that has no room.
    pub which: Which,
    /// Its limit, of tokens or of requests.
    pub limit: u64,
    /// Whether that is its limit of tokens or of requests.
    pub counts: Counts,
    /// When its window ends, in seconds since the epoch.
    pub ends: u64,
    /// Whether something of it is left, but less than this request may use beside the requests in flight.
    pub crowded: bool,
}

/// What a budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Tokens.
    Tokens,
    /// Requests.
    Requests,
}

/// One budget as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The budget.
    pub which: Which,
    /// Tokens used, those held for requests in flight among them, and the limit.
    pub tokens: (u64, Option<u64>),
    /// Requests sent, and the limit.
    pub requests: (u64, Option<u64>),
    /// When its window ends, in seconds since the epoch.
    pub ends: u64,
}

/// The counts of all budgets; see the module.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Puts budgets in force. A budget that was there before keeps its count.
    pub fn configure(&mut self, budgets: Vec<(Which, Limits)>, now: u64) {
        self.rows.iter_mut().for_each(|row| row.limits = None);
        for (which, limits) in budgets {
            match self.rows.iter_mut().find(|row| row.count.which == which) {
                Some(row) => row.limits = Some(limits),
                None => {
                    let window = which.per.begin(now);
                    let count = Count { which, window, tokens: 0, requests: 0 };
                    self.rows.push(Row { count, limits: Some(limits), held: 0, in_flight: 0, beyond: 0 });
                }
            }
        }
        self.roll(now);
    }

    /// Restores stored counts. Where a budget was counted meanwhile, the larger number wins.
    pub fn restore(&mut self, kept: Vec<Count>, now: u64) {
        for count in kept {
            match self.rows.iter_mut().find(|row| row.count.which == count.which) {
                Some(row) if count.window > row.count.window => row.count = count,
                Some(row) if count.window == row.count.window => {
                    row.count.tokens = row.count.tokens.max(count.tokens);
                    row.count.requests = row.count.requests.max(count.requests);
                }
                Some(_) => {}
                None => self.rows.push(Row { count, limits: None, held: 0, in_flight: 0, beyond: 0 }),
            }
        }
        self.roll(now);
    }

    /// Whether any budget is in force.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(|row| row.limits.is_none())
    }

    /// Begins the windows that are due, and drops counts that are no longer needed.
    pub fn roll(&mut self, now: u64) {
        self.rows.retain(|row| row.limits.is_some() || row.count.which.per.begin(now) <= row.count.window);
        for row in &mut self.rows {
            let begin = row.count.which.per.begin(now);
            if begin > row.count.window {
                // Requests in flight count in the window in which they began.
                (row.count.window, row.count.tokens, row.count.requests) = (begin, 0, 0);
                (row.held, row.in_flight, row.beyond) = (0, 0, 0);
            }
        }
        while self.rows.len() > MAX_KEPT
            && let Some(at) = self.rows.iter().position(|row| row.limits.is_none())
        {
            self.rows.remove(at);
        }
    }

    /// Holds what one request may use of all budgets that it counts in, or nothing of any if one has no room.
    pub fn admit(
        &mut self,
        provider: &str,
        model: &str,
        estimate: Estimate,
        now: u64,
    ) -> Result<Vec<Hold>, Box<Spent>> {
        self.roll(now);
        let counts_in = |row: &&mut Row| {
            let which = &row.count.which;
            row.limits.as_ref().is_some_and(|limits| {
                which.provider.as_ref().is_none_or(|named| named == provider)
                    && limits.model.as_ref().is_none_or(|glob| glob.matches(model))
            })
        };
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(counts_in).collect();
        for row in &rows {
            row.has_room(estimate.most()).map_err(Box::new)?;
        }
        let mut holds = Vec::with_capacity(rows.len());
        for row in &mut rows {
            row.count.requests = row.count.requests.saturating_add(1);
            row.held = row.held.saturating_add(estimate.total());
            row.in_flight += u64::from(estimate.total() > 0);
            row.beyond = row.beyond.saturating_add(estimate.beyond);
            let of_tokens = row.limits.as_ref().is_some_and(|limits| limits.tokens.is_some());
            holds.push(Hold { which: row.count.which.clone(), window: row.count.window, of_tokens });
        }
        Ok(holds)
    }

    /// Replaces what was held by `used`.
    pub fn settle(&mut self, holds: &[Hold], held: Estimate, used: u64) {
        self.let_go(holds, held, |count| count.tokens = count.tokens.saturating_add(used));
    }

    /// Undoes a reservation of which nothing was sent.
    pub fn cancel(&mut self, holds: &[Hold], held: Estimate) {
        self.let_go(holds, held, |count| count.requests = count.requests.saturating_sub(1));
    }

    fn let_go(&mut self, holds: &[Hold], held: Estimate, count: impl Fn(&mut Count)) {
        for hold in holds {
            let same = |row: &&mut Row| row.count.which == hold.which && row.count.window == hold.window;
            if let Some(row) = self.rows.iter_mut().find(same) {
                row.held = row.held.saturating_sub(held.total());
                row.in_flight = row.in_flight.saturating_sub(u64::from(held.total() > 0));
                row.beyond = row.beyond.saturating_sub(held.beyond);
                count(&mut row.count);
            }
        }
    }

    /// The counts to be stored. What is held counts as used, so that it stays used if the process is killed.
    pub fn kept(&self) -> Vec<Count> {
        let kept = |row: &Row| Count { tokens: row.used().saturating_add(row.beyond), ..row.count.clone() };
        self.rows.iter().map(kept).collect()
    }

    /// Every budget in force.
    pub fn standing(&self) -> Vec<Standing> {
        let standing = |row: &Row| {
            let limits = row.limits.as_ref()?;
            Some(Standing {
                which: row.count.which.clone(),
                tokens: (row.used(), limits.tokens),
                requests: (row.count.requests, limits.requests),
                ends: row.ends(),
            })
        };
        self.rows.iter().filter_map(standing).collect()
    }
}

impl Row {
    fn used(&self) -> u64 {
        self.count.tokens.saturating_add(self.held)
    }

    fn ends(&self) -> u64 {
        self.count.window.saturating_add(self.count.which.per.seconds())
    }

    /// Checks whether one more request may go that may use `tokens` tokens. If no other is in flight, it may
    /// go as long as anything is left, however little.
    fn has_room(&self, tokens: u64) -> Result<(), Spent> {
        let Some(limits) = &self.limits else { return Ok(()) };
        let spent = |limit, counts, crowded| {
            Err(Spent { which: self.count.which.clone(), limit, counts, ends: self.ends(), crowded })
        };
        if let Some(limit) = limits.requests
            && self.count.requests >= limit
        {
            return spent(limit, Counts::Requests, false);
        }
        let Some(limit) = limits.tokens.filter(|_| tokens > 0) else { return Ok(()) };
        if self.count.tokens >= limit {
            return spent(limit, Counts::Tokens, false);
        }
        if self.in_flight > 0 && self.used().saturating_add(self.beyond).saturating_add(tokens) > limit {
            return spent(limit, Counts::Tokens, true);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
