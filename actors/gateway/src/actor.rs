//! The gateway's actor: publishes routes, sweeps connections, reports the providers' health. The only file
//! that uses ractor.
//!
//! All its state is in [`Gateway`], which is owned above the actor: a restarted actor goes on with the table
//! in force, the kept connections and the streams under way. No request waits for the actor.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use supervision::{Duty, DutyEnded};

use crate::{
    Gateway, ProviderStatus,
    config::{Faults, Inference},
};

/// Interval at which kept connections are checked.
pub const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// A message to the gateway's actor.
#[derive(Debug)]
pub enum Msg {
    /// Put a new section in force. While the actor is down, the caller waits within its deadline; the table
    /// in force stays.
    Publish {
        /// The section, boxed to keep the message small.
        inference: Box<Inference>,
        /// All faults, if any.
        reply: RpcReplyPort<Result<(), Faults>>,
    },
    /// Report every provider with its health. While the actor is down, the caller waits within its deadline.
    Status {
        /// The answer.
        reply: RpcReplyPort<Vec<ProviderStatus>>,
    },
    /// Close kept connections that are too old. While the actor is down, the message is dropped; the next one
    /// comes soon.
    Sweep,
    /// The timer ended: the actor fails. While the actor is down, the message is dropped.
    DutyEnded(DutyEnded),
    /// Panic in the handler. Sent only when fault injection was enabled at the start. While the actor is
    /// down, the message is dropped.
    InjectPanic,
}

/// The gateway's actor; see the module.
#[derive(Debug, Default)]
pub struct GatewayActor;

/// The actor's state: nothing that a restart could lose.
pub struct State {
    gateway: Gateway,
    _timer: Duty,
}

impl Actor for GatewayActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Gateway;

    async fn pre_start(&self, myself: ActorRef<Msg>, gateway: Gateway) -> Result<State, ActorProcessingErr> {
        let me = myself.clone();
        let timer = Duty::begin(&myself, Msg::DutyEnded, "the timer", async move {
            let mut tick = tokio::time::interval(SWEEP_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let _gone = me.cast(Msg::Sweep);
            }
        });
        Ok(State { gateway, _timer: timer })
    }

    #[expect(clippy::panic, reason = "fault injection, enabled by the operator alone")]
    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Publish { inference, reply } => {
                let published = state.gateway.publish(&inference);
                match &published {
                    Ok(()) => tracing::info!(routes = inference.routes.len(), "inference routes published"),
                    Err(faults) => {
                        tracing::warn!(%faults, "inference routes not published; those in force stay")
                    }
                }
                // The caller may have given up.
                let _ = reply.send(published);
            }
            Msg::Status { reply } => {
                let _ = reply.send(state.gateway.status());
            }
            Msg::Sweep => {
                let kept = state.gateway.sweep();
                tracing::trace!(kept, "provider connections swept");
            }
            Msg::DutyEnded(ended) => return Err(ended.into()),
            Msg::InjectPanic => panic!("fault injected into the gateway"),
        }
        Ok(())
    }
}
