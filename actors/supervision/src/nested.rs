//! Supervisors as children: the keeper of a whole tree, as there is one for an actor.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Failure;
use crate::SupervisorSpec;
use crate::command::{COMMANDS_WAITING, Command};
use crate::failure::Exit;
use crate::keeper::{Deadlines, Gone, Order, ordered};
use crate::machine::End;
use crate::shell::{Inbox, Surroundings, run};
use crate::tree::{Board, millis};

/// A tree whose task runs. Dropping it kills the tree.
pub(crate) struct Planted {
    pub(crate) orders: watch::Sender<Order>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) started: oneshot::Receiver<()>,
    pub(crate) task: JoinHandle<End>,
}

/// Begins to start a supervisor.
pub(crate) fn plant(spec: Arc<SupervisorSpec>, around: Surroundings) -> (Planted, Arc<Board>) {
    let board = Board::new(spec.name.clone(), spec.strategy);
    let (orders, obey) = watch::channel(Order::Run);
    let (commands, inbox) = mpsc::channel(COMMANDS_WAITING);
    let (up, started) = oneshot::channel();
    let inbox = Inbox { orders: obey, commands: inbox, started: up };
    let task = tokio::spawn(run(spec, around, board.clone(), inbox));
    (Planted { orders, commands, started, task }, board)
}

/// Runs one incarnation of a nested supervisor from start to end.
pub(crate) async fn keep_supervisor(
    mut tree: Planted,
    deadlines: Deadlines,
    orders: &mut watch::Receiver<Order>,
    ready: impl FnOnce(),
) -> Gone {
    let until = Instant::now() + deadlines.start;
    tokio::select! { biased;
        () = ordered(orders, Order::Stop) => return stop(tree, deadlines, orders).await,
        started = &mut tree.started => match started {
            Ok(()) => ready(),
            // It ended instead; its task's result tells why.
            Err(_) => return gone(tree.task.await, false),
        },
        () = sleep_until(until) => {
            let stopped = stop(tree, deadlines, orders).await;
            let failed = Gone::failed(Failure::StartTimedOut { deadline_ms: millis(deadlines.start) });
            return Gone { exit: failed.exit, ..stopped };
        }
    }
    tokio::select! { biased;
        () = ordered(orders, Order::Stop) => stop(tree, deadlines, orders).await,
        end = &mut tree.task => gone(end, false),
    }
}

/// Stops a tree in order; kills it at its deadline or on order.
async fn stop(mut tree: Planted, deadlines: Deadlines, orders: &mut watch::Receiver<Order>) -> Gone {
    tree.orders.send_replace(Order::Stop);
    tokio::select! { biased;
        end = &mut tree.task => return gone(end, false),
        () = ordered(orders, Order::Kill) => {}
        () = sleep(deadlines.stop) => {}
    }
    tree.orders.send_replace(Order::Kill);
    // Bounded: every keeper leaves a child behind that will not end.
    gone(tree.task.await, true)
}

fn gone(end: Result<End, tokio::task::JoinError>, forced: bool) -> Gone {
    let exit = match end {
        Ok(End::Stopped) => Exit::Normal { reason: None },
        Ok(End::Escalated { child, failure }) => {
            Exit::Failed(Failure::Escalated { child, failure: Box::new(failure) })
        }
        Ok(End::StartFailed { child, failure }) => {
            Exit::Failed(Failure::start(format_args!("`{child}`: {failure}")))
        }
        Err(task) => Exit::Failed(Failure::failed(task)),
    };
    Gone { exit, forced, stuck: false }
}
