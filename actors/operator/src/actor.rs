//! The operator's actor: serves a clone of the control socket. The only file that names ractor.
//!
//! Its death closes the control connections and nothing else; new ones wait in the listen queue until it is
//! back.

use std::{os::unix::net::UnixListener, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

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
    /// The accept loop ended, which it never does by itself: the actor fails and is restarted. While the
    /// actor is down: dropped.
    Ended,
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

/// Ends the accept loop, and with it the connections, when the actor ends, however it ends.
pub struct Serving(tokio::task::JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for OperatorActor {
    type Msg = Msg;
    type State = Serving;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        given: Arguments,
    ) -> Result<Serving, ActorProcessingErr> {
        let serving = prepare(given.listener.try_clone()?, given.control, given.owner)?;
        // The accept loop runs in a task of its own, so that a panic in it is noticed by the task that awaits
        // it. If the awaiting task is dropped, the loop ends too.
        let inner = tokio::spawn(serving.run());
        let guard = AbortOnDrop(inner);
        Ok(Serving(tokio::spawn(async move {
            let mut guard = guard;
            let _ = (&mut guard.0).await;
            let _ = myself.cast(Msg::Ended);
        })))
    }

    #[expect(clippy::panic, reason = "fault injection, enabled by the operator alone")]
    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        _: &mut Serving,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Ping { reply } => {
                // A caller that gave up is no error here.
                let _ = reply.send(());
                Ok(())
            }
            Msg::Ended => Err("the accept loop of the control socket ended".into()),
            Msg::InjectPanic => panic!("fault injected into the operator"),
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
