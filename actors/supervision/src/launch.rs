//! Turns a typed child into an untyped one: spawns an actor, links it, and receives its end.
//!
//! Each supervisor has one *link*, a ractor actor that does nothing but receive supervision events and pass
//! each to the keeper of the actor concerned. It never waits and never fails, so no child can stall or kill
//! it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::actor::messages::BoxedState;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorRuntime, Signal, SpawnErr, SupervisionEvent,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::failure::Exit;
use crate::{Address, Failure, Ready};

/// Starts the incarnations of a child, one after another.
pub(crate) trait Launch: Send + Sync {
    /// Begins to start an incarnation. May panic, since it runs the crate user's own code.
    fn launch(&self, link: &Link) -> Result<Launched, Failure>;
}

/// One incarnation, being started.
pub(crate) struct Launched {
    pub(crate) cell: ActorCell,
    /// Resolves when `pre_start` is over, with the handle of the actor's task.
    pub(crate) starting: JoinHandle<Result<JoinHandle<()>, SpawnErr>>,
    pub(crate) ended: Ending,
    /// Resolves when the readiness token is consumed or dropped; `None` if the child has no token.
    pub(crate) ready: Option<oneshot::Receiver<Result<(), Failure>>>,
    pub(crate) seat: Box<dyn Seat>,
}

/// The address of one incarnation.
pub(crate) trait Seat: Send + Sync {
    /// Makes it reachable.
    fn take(&self);
    /// Makes it unreachable. Does nothing if another incarnation took the seat.
    fn leave(&self);
}

impl<M: ractor::Message> Seat for (Address<M>, ActorRef<M>) {
    fn take(&self) {
        self.0.fill(self.1.clone());
    }

    fn leave(&self) {
        self.0.vacate(self.1.get_id());
    }
}

/// [`Launch`] for an actor type.
pub(crate) struct ActorLaunch<A: Actor> {
    address: Address<A::Msg>,
    make: Make<A>,
}

enum Make<A: Actor> {
    Plain(Box<dyn Fn() -> (A, A::Arguments) + Send + Sync>),
    WithReady(Box<dyn Fn(Ready) -> (A, A::Arguments) + Send + Sync>),
}

impl<A: Actor> ActorLaunch<A> {
    pub(crate) fn plain(
        address: Address<A::Msg>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        Self { address, make: Make::Plain(Box::new(make)) }
    }

    pub(crate) fn with_ready(
        address: Address<A::Msg>,
        make: impl Fn(Ready) -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        Self { address, make: Make::WithReady(Box::new(make)) }
    }
}

impl<A: Actor> Launch for ActorLaunch<A> {
    fn launch(&self, link: &Link) -> Result<Launched, Failure> {
        let ((actor, arguments), ready) = match &self.make {
            Make::Plain(make) => (make(), None),
            Make::WithReady(make) => {
                let (token, ready) = Ready::new();
                (make(token), Some(ready))
            }
        };
        let (actor, starting, ended) = link.spawn(actor, arguments)?;
        let cell = actor.get_cell();
        Ok(Launched { cell, starting, ended, ready, seat: Box::new((self.address.clone(), actor)) })
    }
}

/// What ractor reports of an actor's end. May hold the old state: drop it before starting another
/// incarnation.
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) state: Option<BoxedState>,
}

type Waiting = Arc<Mutex<HashMap<ActorId, oneshot::Sender<Ended>>>>;

/// Resolves when the actor has ended; fails if the link is gone. When dropped, removes the actor from the
/// link's table.
pub(crate) struct Ending {
    id: ActorId,
    waiting: Waiting,
    pub(crate) ended: oneshot::Receiver<Ended>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.id);
    }
}

/// The ractor parent of a supervisor's actors.
#[derive(Clone)]
pub(crate) struct Link {
    cell: ActorCell,
    waiting: Waiting,
}

impl Link {
    /// Starts a link. The handle resolves when the link is gone; its children are killed then.
    pub(crate) async fn start() -> Result<(Self, JoinHandle<()>), SpawnErr> {
        let waiting = Waiting::default();
        let (actor, handle) = Actor::spawn(None, LinkActor, waiting.clone()).await?;
        Ok((Self { cell: actor.get_cell(), waiting }, handle))
    }

    /// Ends the link; children that are still there are killed.
    pub(crate) fn cut(&self) {
        self.cell.kill();
    }

    #[allow(clippy::type_complexity, reason = "ractor's own return type")]
    fn spawn<A: Actor>(
        &self,
        actor: A,
        arguments: A::Arguments,
    ) -> Result<(ActorRef<A::Msg>, JoinHandle<Result<JoinHandle<()>, SpawnErr>>, Ending), Failure> {
        // Held during the spawn: the actor may end on another thread before it is in the table, and then the
        // link waits for this lock. The actor gets no name: ractor's registry is global, and frees names
        // late.
        let mut waiting = lock(&self.waiting);
        let (actor, starting) = ActorRuntime::spawn_linked_instant(None, actor, arguments, self.cell.clone())
            .map_err(Failure::start)?;
        let (tx, ended) = oneshot::channel();
        waiting.insert(actor.get_id(), tx);
        drop(waiting);
        let ending = Ending { id: actor.get_id(), waiting: self.waiting.clone(), ended };
        Ok((actor, starting, ending))
    }
}

struct LinkActor;

/// Clears the table when the link ends, so that no keeper waits for an event that cannot come.
struct Forget(Waiting);

impl Drop for Forget {
    fn drop(&mut self) {
        lock(&self.0).clear();
    }
}

impl Actor for LinkActor {
    type Msg = ();
    type State = Forget;
    type Arguments = Waiting;

    async fn pre_start(&self, _: ActorRef<()>, waiting: Waiting) -> Result<Forget, ActorProcessingErr> {
        Ok(Forget(waiting))
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        state: &mut Forget,
    ) -> Result<(), ActorProcessingErr> {
        let (id, ended) = match event {
            SupervisionEvent::ActorTerminated(cell, state, reason) => {
                (cell.get_id(), Ended { exit: exit_of(reason), state })
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                (cell.get_id(), Ended { exit: Exit::Failed(Failure::failed(error)), state: None })
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        let keeper = lock(&state.0).remove(&id);
        // An actor that another actor spawned and linked to this one has no keeper. Its state is
        // dropped here, and may panic in doing so: that must not end the link.
        let unclaimed = match keeper {
            Some(keeper) => keeper.send(ended).err(),
            None => Some(ended),
        };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(unclaimed)));
        Ok(())
    }
}

/// ractor tells a kill, an abort and a stop apart by the reason's text alone.
fn exit_of(reason: Option<String>) -> Exit {
    match reason.as_deref() {
        Some(text) if text == Signal::Kill.to_string() => Exit::Failed(Failure::Killed),
        Some("actor_task_cancelled") => Exit::Failed(Failure::Cancelled),
        _ => Exit::Normal { reason },
    }
}

/// Ignores poisoning: nothing panics while the lock is held, and if it did, the table would still be
/// consistent.
fn lock(
    waiting: &Mutex<HashMap<ActorId, oneshot::Sender<Ended>>>,
) -> MutexGuard<'_, HashMap<ActorId, oneshot::Sender<Ended>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
