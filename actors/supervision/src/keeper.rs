//! The keeper of one incarnation of one actor: starts it, waits until it is ready, waits until it ends, makes
//! sure that nothing of it is left, and only then reports that it is gone.
//!
//! A keeper never decides anything: it obeys orders and reports what happened.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::ActorCell;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Failure;
use crate::failure::Exit;
use crate::launch::{Ending, Launch, Launched, Link, Seat};
use crate::spec::KILL_DEADLINE;
use crate::tree::millis;

/// What a supervisor orders a keeper to do, or a caller a supervisor. It only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    #[default]
    Run,
    /// Stop in good order, within the deadline.
    Stop,
    /// End at once.
    Kill,
}

/// Waits until the order is at least `level`. Also returns when the sender is gone, which means kill.
pub(crate) async fn ordered(orders: &mut watch::Receiver<Order>, level: Order) {
    let _ = orders.wait_for(|order| *order >= level).await;
}

/// How an incarnation ended.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) exit: Exit,
    /// Whether it was asked to stop and had to be killed.
    pub(crate) forced: bool,
    /// Whether it did not end and its task was left behind.
    pub(crate) stuck: bool,
}

impl Gone {
    pub(crate) fn failed(failure: Failure) -> Self {
        Self { exit: Exit::Failed(failure), forced: false, stuck: false }
    }
}

/// The deadlines of a child.
#[derive(Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) start: Duration,
    pub(crate) stop: Duration,
}

/// Runs one incarnation from start to end.
pub(crate) async fn keep_actor(
    launch: &dyn Launch,
    link: &Link,
    deadlines: Deadlines,
    mut orders: watch::Receiver<Order>,
    ready: impl FnOnce(),
) -> Gone {
    let started = Instant::now();
    let launched = match std::panic::catch_unwind(AssertUnwindSafe(|| launch.launch(link))) {
        Ok(Ok(launched)) => launched,
        Ok(Err(failure)) => return Gone::failed(failure),
        Err(panic) => return Gone::failed(Failure::start(Failure::panic_text(&*panic))),
    };
    let Launched { cell, starting, ended, ready: token, seat } = launched;
    let until = started + deadlines.start;
    let join = match pre_start(&cell, starting, until, deadlines.start, &mut orders).await {
        Ok(join) => join,
        Err(gone) => return gone,
    };
    let mut body = Body { cell, ended, join, seat, forced: false };
    if let Some(token) = token {
        let verdict = tokio::select! { biased;
            () = ordered(&mut orders, Order::Stop) => return body.stop(deadlines.stop, &mut orders).await,
            end = &mut body.ended.ended => return not_ready(body.bury(end.ok()).await, Failure::NotReady),
            said = token => said.unwrap_or(Err(Failure::NotReady)),
            () = sleep_until(until) => Err(timed_out(deadlines.start)),
        };
        if let Err(failure) = verdict {
            body.cell.kill();
            return not_ready(body.bury_within(KILL_DEADLINE).await, failure);
        }
    }
    body.seat.take();
    ready();
    tokio::select! { biased;
        () = ordered(&mut orders, Order::Stop) => body.stop(deadlines.stop, &mut orders).await,
        end = &mut body.ended.ended => body.bury(end.ok()).await,
    }
}

/// Waits for `pre_start`. A start cannot be stopped, only killed: there is no state to stop yet.
async fn pre_start(
    cell: &ActorCell,
    mut starting: JoinHandle<Result<JoinHandle<()>, ractor::SpawnErr>>,
    until: Instant,
    deadline: Duration,
    orders: &mut watch::Receiver<Order>,
) -> Result<JoinHandle<()>, Gone> {
    let failure = tokio::select! { biased;
        () = ordered(orders, Order::Stop) => Failure::Killed,
        over = &mut starting => return match over {
            Ok(Ok(join)) => Ok(join),
            Ok(Err(ractor::SpawnErr::StartupFailed(why))) => Err(Gone::failed(Failure::start(why))),
            Ok(Err(other)) => Err(Gone::failed(Failure::start(other))),
            Err(task) => Err(Gone::failed(task_failure(task))),
        },
        () = sleep_until(until) => timed_out(deadline),
    };
    cell.kill();
    let mut gone = Gone::failed(failure);
    match timeout(KILL_DEADLINE, &mut starting).await {
        // It came up at that very moment: the kill is in its mailbox, ahead of all messages.
        Ok(Ok(Ok(join))) => gone.stuck = !joined(join).await,
        Ok(_) => {}
        Err(_) => {
            starting.abort();
            gone.stuck = true;
        }
    }
    Err(gone)
}

/// A `pre_start` that panics before it returns its future is not caught by ractor: its task dies of it.
fn task_failure(task: tokio::task::JoinError) -> Failure {
    match task.try_into_panic() {
        Ok(panic) => Failure::start(Failure::panic_text(&*panic)),
        Err(_) => Failure::Cancelled,
    }
}

fn timed_out(deadline: Duration) -> Failure {
    Failure::StartTimedOut { deadline_ms: millis(deadline) }
}

/// The exit of an actor that was not ready: its own failure if it has one, else `why`.
fn not_ready(gone: Gone, why: Failure) -> Gone {
    let exit = match gone.exit {
        Exit::Failed(Failure::Killed) | Exit::Normal { .. } => Exit::Failed(why),
        own => own,
    };
    Gone { exit, ..gone }
}

/// An incarnation whose `pre_start` returned.
struct Body {
    cell: ActorCell,
    ended: Ending,
    join: JoinHandle<()>,
    seat: Box<dyn Seat>,
    forced: bool,
}

impl Body {
    /// Asks it to stop, and kills it at the deadline or on order.
    async fn stop(mut self, deadline: Duration, orders: &mut watch::Receiver<Order>) -> Gone {
        // First, so that no message goes into a mailbox that will never be read.
        self.seat.leave();
        self.cell.stop(None);
        let end = tokio::select! { biased;
            end = &mut self.ended.ended => Some(end.ok()),
            () = ordered(orders, Order::Kill) => None,
            () = tokio::time::sleep(deadline) => None,
        };
        match end {
            Some(end) => self.bury(end).await,
            None => {
                self.forced = true;
                self.cell.kill();
                self.bury_within(KILL_DEADLINE).await
            }
        }
    }

    /// Waits for the end of an actor that was killed, and leaves its task behind at the deadline.
    async fn bury_within(mut self, deadline: Duration) -> Gone {
        match timeout(deadline, &mut self.ended.ended).await {
            Ok(end) => self.bury(end.ok()).await,
            Err(_) => {
                self.seat.leave();
                // Takes effect if the task ever reaches an await.
                self.join.abort();
                Gone { exit: Exit::Failed(Failure::Killed), forced: self.forced, stuck: true }
            }
        }
    }

    /// Waits until nothing of an ended actor is left: neither its state nor its task.
    async fn bury(self, end: Option<crate::launch::Ended>) -> Gone {
        self.seat.leave();
        // There was no event: the link was killed, which kills its actors without one.
        let (exit, state) = match end {
            Some(end) => (end.exit, end.state),
            None => (Exit::Failed(Failure::Killed), None),
        };
        // A state's drop may panic, and it may block; neither may hurt the keeper.
        let dropped = tokio::spawn(async move { drop(state) });
        let dropped = timeout(KILL_DEADLINE, dropped).await.is_ok();
        let joined = joined(self.join).await;
        Gone { exit, forced: self.forced, stuck: !(dropped && joined) }
    }
}

/// Waits until a task is over, and aborts it after [`KILL_DEADLINE`]. Returns whether it was over in time.
async fn joined(mut join: JoinHandle<()>) -> bool {
    let over = timeout(KILL_DEADLINE, &mut join).await.is_ok();
    if !over {
        join.abort();
    }
    over
}

/// Runs a keeper's future to its end even if it panics, so that its supervisor always hears of the end.
pub(crate) async fn guarded(keeper: impl Future<Output = Gone>) -> Gone {
    match AssertUnwindSafe(keeper).catch_unwind().await {
        Ok(gone) => gone,
        Err(panic) => Gone::failed(Failure::failed(Failure::panic_text(&*panic))),
    }
}
