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

/// What the operator's actor can be told.
#[derive(Debug)]
pub enum Msg {
    /// Whether it is serving; for health checks. Down: the caller waits with its deadline.
    Ping {
        /// The answer.
        reply: RpcReplyPort<()>,
    },
    /// The accept loop ended, which it never does by itself: the actor fails and is started anew. Down:
    /// dropped.
    Ended,
    /// Panic in the handler. Sent only when fault injection was enabled at the start. Down: dropped.
    InjectPanic,
}

/// What a start needs; the same for each.
#[derive(Clone)]
pub struct Arguments {
    /// The control socket; lives above the actor, which serves a clone of it.
    pub listener: Arc<UnixListener>,
    /// What can be asked and done.
    pub control: Arc<dyn Control>,
    /// Who may connect, beside root.
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
        // The loop in a task of its own tells us if it panics; the watch over it ends with it.
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
                // A caller that gave up is no fault of ours.
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
