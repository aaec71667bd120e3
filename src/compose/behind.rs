//! The last step of a supervisor's start: its agents, which start only after the proof of their cage.
//!
//! Init starts no agent before the proof. The starts wait in init's queue, behind the ports that are
//! requested here first. What the agents need is never made here.

use std::sync::Arc;

use agent::client::ClientError;
use agent::protocol::{Beginning, CageReport};
use supervision::{ChildSpec, FirstStart, Supervisor};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::control::ControlApi;
use super::stores::{Refused, Stores};
use super::{capture, records, tree};
use crate::console::warn;
use crate::plan::Mode;

/// What waits for the proof, and what the agents wait for.
pub struct BehindTheProof {
    /// The cage's report, which comes with the proof.
    pub report: JoinHandle<Result<CageReport, ClientError>>,
    /// The task that writes the trusted roots to where programs look for them.
    pub roots: JoinHandle<Result<(), Refused>>,
    /// The sender that publishes the listeners of the captured ports.
    pub captured: watch::Sender<proxy::Captured>,
    /// The sender that says which ports could not be captured.
    pub followed: watch::Sender<capture::Followed>,
    /// The agents' actors.
    pub specs: Vec<ChildSpec>,
}

impl BehindTheProof {
    /// Starts the agents once everything holds.
    ///
    /// # Errors
    /// The cage could not be proven; at the beginning of a sandbox, also that an agent could not be started.
    pub async fn begin(self, desk: &Arc<ControlApi>, tree: &Supervisor) -> Result<(), Refused> {
        let Self { report, roots, captured, followed, specs } = self;
        let (stores, beginning) = (&desk.stores, desk.beginning);
        roots.await??;
        let proven = async {
            let cage = report.await??;
            cage.steps.iter().for_each(|(what, at)| desk.heart.steps.add(what, *at));
            note_controls(stores, &cage);
            Ok::<_, Refused>(cage)
        };
        let ports = capture::follow(&desk.init, stores, captured, followed);
        // A mistyped program is an error at the start of a sandbox. Later, one agent's failure is no reason
        // for the others not to run.
        let first_start = match beginning {
            Beginning::Sandbox => FirstStart::Fatal,
            _ => FirstStart::Retried,
        };
        let specs = specs.into_iter().map(|spec| spec.first_start(first_start)).collect();
        let started = tree.add_child("", tree::agents(specs));
        let (cage, uncaptured, started) = tokio::join!(biased; proven, ports, started);
        // A cage that could not be proven is reported before anything else.
        let cage = cage?;
        capture::tell(&uncaptured, &cage);
        let _ = desk.cage.set(cage);
        if let Err(error) = started {
            return Err(desk.agents.not_started().map_or_else(|| error.into(), Refused::from));
        }
        match (desk.agents.not_started(), beginning) {
            // An agent that is started only once: its failed start would go unnoticed, since a service goes
            // on without it.
            (Some(why), Beginning::Sandbox) if desk.plan.mode == Mode::Service => return Err(why.into()),
            (None, _) | (_, Beginning::Sandbox) => {}
            // The others run, and the operator can set a policy that shows its program again.
            (Some(why), _) => warn(&why.to_string()),
        }
        Ok(())
    }
}

/// Records what the proof found, before anything runs under it.
fn note_controls(stores: &Stores, cage: &CageReport) {
    use telemetry::metrics;
    let sink = stores.audit.sink();
    for check in &cage.proof {
        metrics::control_missing(check.control.as_str(), false);
    }
    for missing in &cage.missing {
        metrics::control_missing(missing.control.as_str(), true);
        records::record(
            &sink,
            telemetry::audit::Event::ControlMissing {
                control: missing.control.to_string().into(),
                detail: missing.why.as_str().into(),
            },
        );
        warn(&format!("{} is not enforced: {}", missing.control, missing.why));
    }
}
