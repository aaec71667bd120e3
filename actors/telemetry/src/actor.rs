//! The telemetry actor: owns the audit writer and the metrics endpoint, and fails when one of them ends, so
//! that its supervisor restarts both. All that must survive a restart lives above the actor: the log's queue
//! and file, the recorder, the listener.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{Duty, DutyEnded};

use crate::audit::AuditLog;
use crate::metrics::{Recorder, server};

/// The actor. It has no state of its own but its duties.
#[derive(Debug, Default)]
pub struct TelemetryActor;

/// Its messages. While it is down they are dropped: none carries anything that must not be lost.
#[derive(Debug)]
pub enum Msg {
    /// The audit writer or the metrics endpoint ended: the actor fails.
    DutyEnded(DutyEnded),
    /// Fault injection: the handler panics. Sent only where the operator enabled it; dropped while the actor
    /// is down.
    InjectPanic,
}

/// What the actor works on; all of it outlives the actor.
#[derive(Debug, Clone)]
pub struct TelemetryArguments {
    /// The audit log.
    pub audit: AuditLog,
    /// The recorder.
    pub recorder: Recorder,
    /// The metrics listener, if there is one; each incarnation uses a clone.
    pub listener: Option<Arc<std::net::TcpListener>>,
}

impl Actor for TelemetryActor {
    type Msg = Msg;
    /// The audit writer, and the metrics endpoint where there is one.
    type State = Vec<Duty>;
    type Arguments = TelemetryArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: TelemetryArguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let TelemetryArguments { audit, recorder, listener } = arguments;
        let mut duties = Vec::with_capacity(2);
        if let Some(listener) = listener {
            let listener = listener.try_clone()?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let sink = audit.sink();
            let check: server::Check = Arc::new(move || sink.check().map_err(|error| error.to_string()));
            duties.push(Duty::begin(&myself, Msg::DutyEnded, "the metrics endpoint", async move {
                server::serve(listener, recorder, check).await;
                Ok(())
            }));
        }
        duties.push(Duty::begin(&myself, Msg::DutyEnded, "the audit writer", async move {
            audit.write().await;
            Ok(())
        }));
        Ok(duties)
    }

    #[expect(clippy::panic, reason = "fault injection is there to panic")]
    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::DutyEnded(ended) => Err(ended.into()),
            Msg::InjectPanic => panic!("injected fault"),
        }
    }
}
