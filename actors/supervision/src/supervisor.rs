//! The handle to a running tree.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;

use crate::command::{Command, Op};
use crate::keeper::Order;
use crate::machine::End;
use crate::nested::{Planted, plant};
use crate::report::Reports;
use crate::shell::Surroundings;
use crate::tree::Board;
use crate::{ChildSpec, ControlError, Outcome, Report, StartError, SupervisorSpec, TreeNode};

/// A running tree. Clones are handles to the same tree; when the last is dropped the tree is stopped,
/// in order, in the background.
#[derive(Clone)]
#[must_use = "the tree stops when its last handle is dropped"]
pub struct Supervisor {
    tree: Arc<Tree>,
}

struct Tree {
    orders: watch::Sender<Order>,
    commands: mpsc::Sender<Command>,
    board: Arc<Board>,
    reports: Reports,
    outcome: watch::Receiver<Option<End>>,
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.order(Order::Stop);
    }
}

impl Tree {
    fn order(&self, order: Order) {
        self.orders.send_modify(|now| *now = (*now).max(order));
    }

    async fn end(&self) -> End {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(End::Stopped),
            // The runtime was shut down, and the tree with it.
            Err(_) => End::Stopped,
        }
    }
}

impl Supervisor {
    /// Starts a tree and waits until every child in it is ready.
    ///
    /// If a child does not come up, what had come up is stopped again in reverse order and the failure
    /// is returned: the first start is not retried (as in OTP). Dropping the future does the same.
    pub async fn start(spec: SupervisorSpec) -> Result<Self, StartError> {
        if let Some((at, why)) = spec.fault() {
            return Err(StartError::Invalid { at, why });
        }
        let reports = Reports::new(spec.reports.clone());
        let chance = spec.chance.clone().unwrap_or_default();
        let around = Surroundings { path: String::new(), reports: reports.clone(), chance };
        let (Planted { orders, commands, started, task }, board) = plant(Arc::new(spec), around);
        let (tell, outcome) = watch::channel(None);
        let keep = orders.clone();
        tokio::spawn(async move {
            let end = task.await.unwrap_or(End::Stopped);
            // Held until now: a tree without a sender of orders would kill itself.
            drop(keep);
            tell.send_replace(Some(end));
        });
        let tree = Arc::new(Tree { orders, commands, board, reports, outcome });
        if started.await.is_ok() {
            return Ok(Self { tree });
        }
        match tree.end().await {
            End::Stopped => Err(StartError::Stopped),
            End::StartFailed { child, failure } | End::Escalated { child, failure } => {
                Err(StartError::Child { child, failure })
            }
        }
    }

    /// Returns the tree as it is now. Asks no task, so it answers even if the tree is busy.
    pub async fn tree(&self) -> Result<TreeNode, ControlError> {
        if self.tree.outcome.borrow().is_some() {
            return Err(ControlError::Ended);
        }
        Ok(self.tree.board.read())
    }

    /// Adds a child below the supervisor at `path` (`""` is the root), after its other children, and
    /// waits until it is ready. If it does not come up it is taken out again.
    ///
    /// The command is carried out even if the caller stops waiting for the answer.
    pub async fn add_child(&self, path: &str, child: ChildSpec) -> Result<(), ControlError> {
        if let Some((at, why)) = child.fault() {
            return Err(ControlError::Invalid { at, why });
        }
        self.command(path, Op::Add(Box::new(child))).await
    }

    /// Stops the child at `path` and takes it out of the table. Its siblings are not touched.
    pub async fn remove_child(&self, path: &str) -> Result<(), ControlError> {
        self.command(path, Op::Remove).await
    }

    /// Restarts the child at `path` now, with those that the strategy ties to it, and waits until it is
    /// ready. Counts against no limit; a child in backoff, finished or given up is started at once.
    pub async fn restart_child(&self, path: &str) -> Result<(), ControlError> {
        self.command(path, Op::Restart).await
    }

    /// Subscribes to the reports of what happens from now on, in the whole tree.
    pub fn reports(&self) -> broadcast::Receiver<Report> {
        self.tree.reports.subscribe()
    }

    /// Stops the tree, each child within its own deadline, last one first; after `deadline` whatever
    /// still runs is killed at once. Returns when nothing is left.
    pub async fn stop(&self, deadline: Duration) -> Outcome {
        self.tree.order(Order::Stop);
        if timeout(deadline, self.tree.end()).await.is_err() {
            self.tree.order(Order::Kill);
        }
        self.outcome().await
    }

    /// Waits for the tree to end, and says why it did.
    pub async fn outcome(&self) -> Outcome {
        match self.tree.end().await {
            End::Stopped => Outcome::Stopped,
            End::Escalated { child, failure } | End::StartFailed { child, failure } => {
                Outcome::Escalated { child, failure }
            }
        }
    }

    async fn command(&self, path: &str, op: Op) -> Result<(), ControlError> {
        let (command, answer) = Command::new(path, op);
        self.tree.commands.send(command).await.map_err(|_| ControlError::Ended)?;
        answer.await.unwrap_or(Err(ControlError::Ended))
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("name", &self.tree.board.name).finish_non_exhaustive()
    }
}
