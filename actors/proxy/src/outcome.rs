//! The last step of the road: what is put on record.
//!
//! Every decision is recorded before anything is dialled or sent; when the record can't be written the
//! request is refused ([`Refusal::Unavailable`]), so that no byte leaves unrecorded. [`Journal`] is where the
//! audit log is plugged in; the metrics are counted here. Must never be handed a query string, a header or a
//! body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use policy::{Denial, Layer, Party};
use redactor::Guesser;

use telemetry::audit::Verdict as Counted;
use telemetry::metrics;

use crate::answer::{Known, Refusal};
use crate::approval;
use crate::conn::Deps;
use crate::verdict::{Granted, Permitted};

/// Something decided about a connection or request.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    /// What was known: id, destination, method, path, caller, generation.
    pub known: &'a Known,
    /// What was decided.
    pub verdict: Verdict<'a>,
    /// From the parsed head to the verdict, the time for which the request was held for the operator
    /// included.
    pub took: Duration,
}

/// What was decided.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// It goes on.
    Allow {
        /// The layer that had the last word: L4, L7, or inference.
        layer: Layer,
        /// The entry that allowed it.
        policy: Option<&'a str>,
        /// The rule of that entry, in words.
        rule: Option<&'a str>,
        /// `enforcement: audit`: it goes on although this would have refused it.
        audit_only: Option<&'a Denial>,
    },
    /// A tunnel to what no entry names: nothing is dialled for it, and each request in it is put to the
    /// operator.
    Ask,
    /// It is refused.
    Deny(&'a Refusal),
}

/// What records and metrics have in common about a decision. Labels come from the policy and closed sets
/// only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary<'a> {
    /// The layer that had the last word; for a refusal that no layer made, the refusal's code.
    pub(crate) layer: &'static str,
    pub(crate) verdict: Counted,
    /// Name of the policy entry.
    pub(crate) policy: Option<&'a str>,
}

impl<'a> Decision<'a> {
    /// How long the deciding itself took. Were the operator's thinking in it, nobody could tell from the
    /// metric whether decisions are slow.
    fn took_of_its_own(&self) -> Duration {
        self.took.saturating_sub(self.known.held)
    }

    pub(crate) fn summary(&self) -> Summary<'a> {
        let (layer, verdict, policy) = match self.verdict {
            Verdict::Allow { layer, policy, audit_only, .. } => {
                let verdict = if audit_only.is_some() { Counted::Audited } else { Counted::Allowed };
                (layer.as_str(), verdict, policy)
            }
            Verdict::Ask => (Layer::L4.as_str(), Counted::Asked, Some(approval::ENTRY)),
            Verdict::Deny(Refusal::Denied(denial)) => {
                (denial.layer.as_str(), Counted::Denied, denial.policy.as_deref())
            }
            Verdict::Deny(refusal) => (refusal.code(), Counted::Denied, refusal.policy(self.known)),
        };
        Summary { layer, verdict, policy }
    }
}

/// A tunnel or exchange that is over.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What was known of it.
    pub known: Known,
    /// Bytes from the agent.
    pub up: u64,
    /// Bytes to the agent.
    pub down: u64,
    /// Time from its start to its end.
    pub took: Duration,
    /// Status of the answer; none for a tunnel.
    pub status: Option<u16>,
    /// Why it ended, where that was no ordinary end.
    pub fault: Option<String>,
}

/// The record can't be written now, so nothing may go on. Agents see these texts, which therefore don't say
/// what is wrong with the operator's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalFull {
    /// More records wait than there is room for.
    #[error("the audit log is full: records come faster than its disk takes them")]
    Queue,
    /// The disk takes no records.
    #[error("the audit log can't be written")]
    Disk,
    /// The sandbox ends.
    #[error("the audit log is closed: the sandbox ends")]
    Closed,
}

/// Where decisions are recorded. Recording never blocks.
pub trait Journal: Send + Sync + 'static {
    /// Whether records of some more requests would be taken now.
    fn has_room(&self) -> bool;

    /// Waits until there is room, but not for long: after that, recording fails. This is the backpressure on
    /// requests that come faster than the disk takes their records.
    fn room(&self) -> BoxFuture<'_, ()>;

    /// Records a decision, before it takes effect.
    ///
    /// # Errors
    /// [`JournalFull`]: the caller refuses what it was about to do.
    fn decided(&self, decision: &Decision<'_>) -> Result<(), JournalFull>;

    /// Records a lookup of a name that doesn't exist inside. It was refused already, so this can't fail.
    fn name_refused(&self, name: &str, detail: &str, generation: u64);

    /// Records a connection or datagram to a port that is not captured. The kernel has refused it, so this
    /// can't fail.
    fn port_refused(&self, destination: &SocketAddr, detail: &str, generation: u64);

    /// Records that the agent that made this request has guessed at credentials so often that what it reads
    /// comes late from now on. That is in effect already, so this can't fail.
    fn guessed(&self, known: &Known);

    /// Records the end of something allowed. Nothing depends on it, so it can't fail.
    fn finished(&self, finished: &Finished);
}

/// Returns the count of guesses of the agent that reads the answer to a request. When that agent may guess no
/// more, it is recorded.
pub(crate) fn reader(deps: &Deps, party: Party, known: &Known) -> Guesser {
    let (journal, known) = (Arc::clone(&deps.journal), known.clone());
    deps.guesses.of(party.0, move || {
        metrics::guesses_spent();
        journal.guessed(&known);
    })
}

/// Records that a tunnel is opened: an allowed one, or one to a destination that no entry names, each of
/// whose requests the operator is asked about.
///
/// # Errors
/// [`Refusal::Unavailable`] if it can't be recorded.
pub fn tunnel_opened(
    journal: &dyn Journal,
    known: &Known,
    granted: &Granted,
    took: Duration,
) -> Result<(), Refusal> {
    let layer = if granted.grant().is_some() { Layer::L4 } else { Layer::Inference };
    let verdict = match granted.unlisted() {
        Some(_) => Verdict::Ask,
        None => Verdict::Allow {
            layer,
            policy: granted.policy(),
            rule: granted.grant().map(|grant| &*grant.rule),
            audit_only: None,
        },
    };
    record(journal, &Decision { known, verdict, took })
}

/// Records that a request is allowed.
///
/// # Errors
/// [`Refusal::Unavailable`] if it can't be recorded.
pub fn request_allowed(
    journal: &dyn Journal,
    known: &Known,
    permitted: &Permitted,
    took: Duration,
) -> Result<(), Refusal> {
    let layer = match (permitted.granted().grant(), permitted.allowed()) {
        (None, _) => Layer::Inference,
        (_, Some(_)) => Layer::L7,
        (_, None) => Layer::L4,
    };
    let rule = match permitted.allowed() {
        Some(allowed) => Some(&*allowed.rule),
        None => permitted.granted().grant().map(|grant| &*grant.rule),
    };
    let audit_only = permitted.allowed().and_then(|allowed| allowed.audit_only.as_deref());
    let verdict = Verdict::Allow { layer, policy: permitted.policy(), rule, audit_only };
    record(journal, &Decision { known, verdict, took })
}

/// Records a refusal and returns it; returns [`Refusal::Unavailable`] instead if it can't be recorded.
pub fn refused(journal: &dyn Journal, known: &Known, refusal: Refusal, took: Duration) -> Refusal {
    let decision = Decision { known, verdict: Verdict::Deny(&refusal), took };
    match record(journal, &decision) {
        Ok(()) => refusal,
        Err(unavailable) => unavailable,
    }
}

/// An allowing decision that can't be recorded isn't counted: it becomes a refusal, which is counted instead.
fn record(journal: &dyn Journal, decision: &Decision<'_>) -> Result<(), Refusal> {
    let recorded = journal.decided(decision);
    if recorded.is_ok() || matches!(decision.verdict, Verdict::Deny(_)) {
        let Summary { layer, verdict, policy } = decision.summary();
        metrics::decision(layer, verdict, policy.unwrap_or_default());
        metrics::decision_seconds(decision.took_of_its_own());
    }
    recorded.map_err(|full| Refusal::Unavailable(format!("{full}; nothing was sent")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_thinking_is_no_time_of_a_decision() {
        let mut known = Known::nothing("127.0.0.1:9".parse().unwrap());
        let took = Duration::from_millis(60_002);
        let own = |known: &Known| Decision { known, verdict: Verdict::Ask, took }.took_of_its_own();
        assert_eq!(own(&known), took);
        known.held = Duration::from_secs(60);
        assert_eq!(own(&known), Duration::from_millis(2));
    }
}
