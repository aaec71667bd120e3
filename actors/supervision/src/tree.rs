//! The tree as data. Each supervisor keeps a board that can be read at any time without asking its task: even
//! a supervisor that is busy or stuck can be looked at.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Failure, Restart, Strategy};

/// One node of the tree, with everything below it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Name among its siblings.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Its state.
    pub state: State,
    /// Milliseconds since it last became ready; none while it is not up.
    pub uptime_ms: Option<u64>,
    /// How often it has come up again, for whatever reason.
    pub restarts: u64,
    /// The last failure, kept after it came up again.
    pub last_failure: Option<Failure>,
    /// Its children in start order.
    pub children: Vec<TreeNode>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// An actor with the given restart type.
    Actor(Restart),
    /// A supervisor with the given strategy.
    Supervisor(Strategy),
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Down, and will be started when its turn comes.
    Waiting,
    /// Being started; not ready yet.
    Starting,
    /// Ready.
    Up,
    /// Asked to stop; not gone yet.
    Stopping,
    /// Failed; will be started again after its wait.
    Backoff,
    /// Ended in good order and not to be started again.
    Finished,
    /// Failed beyond its limit; down until restarted by hand.
    GaveUp,
    /// Down because its supervisor is stopping.
    Stopped,
}

impl TreeNode {
    /// The node at `path` below this one (`""` is this one).
    pub fn find(&self, path: &str) -> Option<&TreeNode> {
        let mut node = self;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            node = node.children.iter().find(|child| child.name == name)?;
        }
        Some(node)
    }
}

/// The published status of one child; replaced as a whole at each change.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) state: State,
    pub(crate) since: Option<Instant>,
    pub(crate) restarts: u64,
    pub(crate) last_failure: Option<Failure>,
}

/// One child's place on the board.
#[derive(Debug)]
pub(crate) struct Plate {
    pub(crate) name: Arc<str>,
    pub(crate) kind: NodeKind,
    pub(crate) status: ArcSwap<Status>,
    /// The board of the supervisor behind it, if it is one and runs.
    pub(crate) below: ArcSwapOption<Board>,
}

/// The published state of one supervisor and its children.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) name: Arc<str>,
    pub(crate) strategy: Strategy,
    pub(crate) since: Instant,
    pub(crate) state: ArcSwap<State>,
    pub(crate) plates: ArcSwap<Vec<Arc<Plate>>>,
}

impl Board {
    pub(crate) fn new(name: Arc<str>, strategy: Strategy) -> Arc<Self> {
        Arc::new(Self {
            name,
            strategy,
            since: Instant::now(),
            state: ArcSwap::from_pointee(State::Starting),
            plates: ArcSwap::default(),
        })
    }

    /// Returns the node of the root, whose board this is.
    pub(crate) fn read(&self) -> TreeNode {
        TreeNode {
            name: self.name.to_string(),
            kind: NodeKind::Supervisor(self.strategy),
            state: **self.state.load(),
            uptime_ms: Some(millis(self.since.elapsed())),
            restarts: 0,
            last_failure: None,
            children: self.children(),
        }
    }

    fn children(&self) -> Vec<TreeNode> {
        self.plates.load().iter().map(|plate| plate.read()).collect()
    }
}

impl Plate {
    fn read(&self) -> TreeNode {
        let status = self.status.load();
        TreeNode {
            name: self.name.to_string(),
            kind: self.kind,
            state: status.state,
            uptime_ms: status.since.map(|since| millis(since.elapsed())),
            restarts: status.restarts,
            last_failure: status.last_failure.clone(),
            children: self.below.load().as_ref().map(|board| board.children()).unwrap_or_default(),
        }
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
