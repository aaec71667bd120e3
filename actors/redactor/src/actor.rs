//! The redactor actor: owns the pumps of all streams. Streams, their journals and how far each has come live
//! above it, so its death delays output, but loses, repeats or shows raw none of it.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use thiserror::Error;
use tokio::task::{Id, JoinSet};

use crate::pump::{self, SharedObserver, Stream, Streams};
use crate::shared::SharedRedactor;

/// The actor. Stateless itself.
#[derive(Debug, Default)]
pub struct RedactorActor;

/// Messages to the actor. While it is down they are dropped: none carries anything that matters.
#[derive(Debug)]
pub enum Msg {
    /// The pumps ended, because one of them panicked. Sent by their task; dropped when the actor is down
    /// anyway.
    PumpsEnded,
    /// Fault injection: the handler panics. Sent only where the operator enabled it; dropped while the actor
    /// is down.
    InjectPanic,
}

/// What the actor works on; all of it outlives the actor.
#[derive(Clone)]
pub struct RedactorArguments {
    /// All streams.
    pub streams: Streams,
    /// The redactor in force.
    pub redactor: SharedRedactor,
    /// Notified of what is masked.
    pub observer: SharedObserver,
}

/// Why the actor fails.
#[derive(Debug, Error)]
enum Failure {
    #[error("a pump panicked")]
    PumpPanicked,
}

/// Tells the actor that the pumps ended, however they did.
struct Alarm(ActorRef<Msg>);

impl Drop for Alarm {
    fn drop(&mut self) {
        // Fails only when the actor is gone, and with it the reason to tell it.
        let _ = self.0.cast(Msg::PumpsEnded);
    }
}

impl Actor for RedactorActor {
    type Msg = Msg;
    /// Dropped with the actor, whichever way it ends, and the pumps with it.
    type State = JoinSet<()>;
    type Arguments = RedactorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: RedactorArguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let mut pumps = JoinSet::new();
        let alarm = Alarm(myself);
        pumps.spawn(async move {
            let _alarm = alarm;
            tend(&arguments).await;
        });
        Ok(pumps)
    }

    #[expect(clippy::panic, reason = "fault injection is there to panic")]
    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::PumpsEnded => Err(Failure::PumpPanicked.into()),
            Msg::InjectPanic => panic!("injected fault"),
        }
    }
}

/// Keeps a pump running for every stream. Returns when one panicked.
async fn tend(arguments: &RedactorArguments) {
    let mut pumps = JoinSet::new();
    let mut running: HashMap<Id, Arc<Stream>> = HashMap::new();
    let mut changes = arguments.streams.changes();
    loop {
        changes.mark_unchanged();
        for stream in arguments.streams.all() {
            if running.values().any(|known| known.id() == stream.id()) {
                continue;
            }
            let (arguments, pumped) = (arguments.clone(), Arc::clone(&stream));
            let handle = pumps.spawn(async move {
                pump::run(&arguments.streams, &pumped, &arguments.redactor, &arguments.observer).await;
            });
            running.insert(handle.id(), stream);
        }
        tokio::select! {
            // The sender is held by the registry in our arguments.
            _ = changes.changed() => {}
            Some(ended) = pumps.join_next_with_id() => match ended {
                Ok((id, ())) => drop(running.remove(&id)),
                Err(error) => {
                    if let Some(stream) = running.get(&error.id()) {
                        stream.note_panic();
                    }
                    return;
                }
            }
        }
    }
}
