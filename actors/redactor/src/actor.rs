//! The redactor actor: owns the pumps of all streams. Streams, their journals and how far each has come live
//! above it, so its death delays output, but loses, repeats or shows raw none of it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{Duty, DutyEnded};
use tokio::task::{Id, JoinSet};

use crate::pump::{self, SharedObserver, Stream, Streams};
use crate::shared::SharedRedactor;

/// The actor. Stateless itself.
#[derive(Debug, Default)]
pub struct RedactorActor;

/// Messages to the actor. While it is down they are dropped: none carries anything that matters.
#[derive(Debug)]
pub enum Msg {
    /// The pumps ended, because one of them panicked: the actor fails.
    DutyEnded(DutyEnded),
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

impl Actor for RedactorActor {
    type Msg = Msg;
    /// The task that keeps the pumps, which end with it.
    type State = Duty;
    type Arguments = RedactorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: RedactorArguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(Duty::begin(&myself, Msg::DutyEnded, "the pumps", async move { tend(&arguments).await }))
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

/// Keeps a pump running for every stream. Returns when one panicked.
async fn tend(arguments: &RedactorArguments) -> io::Result<()> {
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
                    return Err(io::Error::other("a pump panicked"));
                }
            }
        }
    }
}
