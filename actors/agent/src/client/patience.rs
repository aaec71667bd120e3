//! How long init may take for an answer: longer than init itself takes to give up what was asked, in whatever
//! state its cage is.

use crate::init;
use crate::launch::INIT_PATIENCE;
use crate::protocol::Request;
use std::time::Duration;

/// For all other requests. They are answered in microseconds, but wait, like every request, for a cage that
/// is being built and proven.
const ANSWER: Duration = INIT_PATIENCE;
/// For the cage itself: if the first init of a sandbox hangs over it, nothing else ends that. A machine on
/// which many sandboxes start at once may be slow.
const REPORT: Duration = INIT_PATIENCE.saturating_mul(2);
/// For a process, from the opening of its program to its start.
const SPAWN: Duration = INIT_PATIENCE.saturating_add(init::STARTED_WITHIN);
/// For a search for strays, with as many before it as there may be. Asking again joins the search that is
/// under way.
const SEARCH: Duration = Duration::from_secs(180);

/// How long an agent's start may take in all: init's table is read, and the agent's strays are searched for
/// between two attempts to start its process. Whoever waits for a start must wait longer.
pub const OF_A_START: Duration = ANSWER.saturating_add(SPAWN.saturating_mul(2)).saturating_add(SEARCH);

/// Returns the time limit for this question.
pub(super) fn with(request: &Request) -> Duration {
    match request {
        Request::Report => REPORT,
        Request::Spawn { .. } => SPAWN,
        Request::KillStrays { .. } => SEARCH,
        _ => ANSWER,
    }
}
