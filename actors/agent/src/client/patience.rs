//! How long init may take for an answer: longer than it takes itself until it gives up what was asked,
//! whatever its cage is at.

use crate::init;
use crate::launch::INIT_PATIENCE;
use crate::protocol::Request;
use std::time::Duration;

/// What is answered in microseconds waits, like everything, for a cage that is being built and proven.
const ANSWER: Duration = INIT_PATIENCE;
/// The cage itself: nobody else ends the first init of a sandbox that hangs over it. A machine on which many
/// start at once may be slow.
const REPORT: Duration = INIT_PATIENCE.saturating_mul(2);
/// A process, from the opening of its program to its start.
const SPAWN: Duration = INIT_PATIENCE.saturating_add(init::STARTED_WITHIN);
/// A search for strays, with as many before it as may be. Whoever asks again has the one that is under way.
const SEARCH: Duration = Duration::from_secs(180);

/// For this question.
pub(super) fn with(request: &Request) -> Duration {
    match request {
        Request::Report => REPORT,
        Request::Spawn { .. } => SPAWN,
        Request::KillStrays { .. } => SEARCH,
        _ => ANSWER,
    }
}
