//! The telemetry actor: owns the audit writer and the metrics endpoint, and fails when one of them ends, so
//! that its supervisor restarts both. All that must survive a restart lives above the actor: the log's queue
//! and file, the recorder, the listener.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use thiserror::Error;
use tokio::task::JoinSet;

use crate::audit::AuditLog;
use crate::metrics::{Recorder, server};

/// The actor. It has no state of its own but its tasks.
#[derive(Debug, Default)]
pub struct TelemetryActor;

/// Its messages. While it is down they are dropped: none carries anything that must not be lost.
#[derive(Debug)]
pub enum Msg {
    /// One of its tasks ended, which none ever should. Sent by the tasks.
    TaskEnded(&'static str),
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

/// How it fails.
#[derive(Debug, Error)]
enum Failure {
    #[error("the task \"{0}\" ended")]
    TaskEnded(&'static str),
    #[error("the metrics listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// Tells the actor that a task ended, however it ended.
struct Alarm {
    actor: ActorRef<Msg>,
    task: &'static str,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Fails only if the actor is gone, which then need not be told.
        let _ = self.actor.cast(Msg::TaskEnded(self.task));
    }
}

impl Actor for TelemetryActor {
    type Msg = Msg;
    /// Dropped when the actor ends in whichever way, which aborts the tasks.
    type State = JoinSet<()>;
    type Arguments = TelemetryArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: TelemetryArguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let mut tasks = JoinSet::new();
        let alarm = |task| Alarm { actor: myself.clone(), task };
        let TelemetryArguments { audit, recorder, listener } = arguments;
        if let Some(listener) = listener {
            let listener = listener.try_clone().map_err(Failure::from)?;
            listener.set_nonblocking(true).map_err(Failure::from)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::from)?;
            let sink = audit.sink();
            let check: server::Check = Arc::new(move || sink.check().map_err(|error| error.to_string()));
            let alarm = alarm("metrics endpoint");
            tasks.spawn(async move {
                let _alarm = alarm;
                server::serve(listener, recorder, check).await;
            });
        }
        let alarm = alarm("audit writer");
        tasks.spawn(async move {
            let _alarm = alarm;
            audit.write().await;
        });
        Ok(tasks)
    }

    #[expect(clippy::panic, reason = "fault injection is there to panic")]
    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::TaskEnded(task) => Err(Failure::TaskEnded(task).into()),
            Msg::InjectPanic => panic!("injected fault"),
        }
    }
}
