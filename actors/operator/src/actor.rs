//! The operator's actor: serves a clone of the control socket. The only file that names ractor.
//!
//! Its death closes the control connections and nothing else; new ones wait in the listen queue until it is
//! back.

use std::{os::unix::net::UnixListener, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use supervision::{Duty, DutyEnded};

use crate::{
    control::Control,
    serve::{Owner, prepare},
};

/// Messages to the operator's actor.
#[derive(Debug)]
pub enum Msg {
    /// Asks whether the actor is serving; for health checks. While the actor is down, the caller waits until
    /// its own deadline.
    Ping {
        /// The answer.
        reply: RpcReplyPort<()>,
    },
    /// The accept loop ended: the actor fails and is restarted. While the actor is down: dropped.
    DutyEnded(DutyEnded),
    /// Makes the handler panic. Sent only when fault injection was enabled at the start. While the actor is
    /// down: dropped.
    InjectPanic,
}

/// The actor's arguments: the same at each start and restart.
#[derive(Clone)]
pub struct Arguments {
    /// The control socket; lives above the actor, which serves a clone of it.
    pub listener: Arc<UnixListener>,
    /// Carries out the operations of the control API.
    pub control: Arc<dyn Control>,
    /// The user who may connect, beside root.
    pub owner: Owner,
}

/// See the module.
#[derive(Debug, Default)]
pub struct OperatorActor;

impl Actor for OperatorActor {
    type Msg = Msg;
    /// The accept loop, and with it the connections.
    type State = Duty;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, given: Arguments) -> Result<Duty, ActorProcessingErr> {
        let serving = prepare(given.listener.try_clone()?, given.control, given.owner)?;
        Ok(Duty::begin(&myself, Msg::DutyEnded, "the accept loop of the control socket", async move {
            serving.run().await;
            Ok(())
        }))
    }

    #[expect(clippy::panic, reason = "fault injection, enabled by the operator alone")]
    async fn handle(&self, _: ActorRef<Msg>, message: Msg, _: &mut Duty) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Ping { reply } => {
                // A caller that gave up is no error here.
                let _ = reply.send(());
                Ok(())
            }
            Msg::DutyEnded(ended) => Err(ended.into()),
            Msg::InjectPanic => panic!("fault injected into the operator"),
        }
    }
}
