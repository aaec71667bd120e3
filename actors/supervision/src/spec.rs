//! Children and supervisors as data: what to start, and what to do when it fails.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ractor::Actor;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::launch::{ActorLaunch, Launch};
use crate::tree::NodeKind;
use crate::{Address, Backoff, Beyond, Chance, Intensity, Ready, Report};

/// Longest name of a child, in bytes: names become metric labels and path segments.
pub const NAME_LIMIT: usize = 128;

/// How long a child may take to be ready unless said otherwise.
pub const START_DEADLINE: Duration = Duration::from_secs(10);

/// How long a child may take to stop, before it is killed, unless said otherwise.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How long a killed child may take to be gone before it is left behind and reported as stuck.
/// A kill takes effect at the next await; only code that blocks its thread takes longer.
pub const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// When a child that ended is started again (as in OTP).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always, even if it ended in good order.
    #[default]
    Permanent,
    /// Only if it failed.
    Transient,
    /// Never; it leaves the table when it ends.
    Temporary,
}

/// What it means if a child does not come up the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstStart {
    /// The start of its supervisor fails, or its addition (as in OTP).
    #[default]
    Fatal,
    /// It is a failure like any other; with `one_for_one` no sibling waits for the child.
    Retried,
}

/// Which siblings are restarted with a child (as in OTP).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// None.
    #[default]
    OneForOne,
    /// Those that were started after it, since they depend on it.
    RestForOne,
    /// All.
    OneForAll,
}

/// In which order a supervisor stops its children when it stops itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopOrder {
    /// The last started first, each gone before the next is asked.
    #[default]
    Reverse,
    /// All asked at once: for many children that do not know one another.
    Together,
}

/// One child.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) name: Arc<str>,
    pub(crate) what: What,
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) intensity: Intensity,
    pub(crate) beyond: Beyond,
    pub(crate) first_start: FirstStart,
    pub(crate) start_deadline: Duration,
    pub(crate) stop_deadline: Duration,
}

#[derive(Clone)]
pub(crate) enum What {
    Actor(Arc<dyn Launch>),
    Supervisor(Arc<SupervisorSpec>),
}

impl ChildSpec {
    /// An actor, ready when its `pre_start` returned `Ok`.
    ///
    /// `make` is called at each start, on a task of its own: it may panic, and that is a failed start.
    /// What must outlive the actor is captured by `make` and cloned into the arguments.
    pub fn actor<A: Actor>(
        name: impl Into<Arc<str>>,
        address: Address<A::Msg>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        Self::of(name.into(), What::Actor(Arc::new(ActorLaunch::plain(address, make))))
    }

    /// An actor, ready when it consumes the token that `make` is given.
    pub fn actor_with_ready<A: Actor>(
        name: impl Into<Arc<str>>,
        address: Address<A::Msg>,
        make: impl Fn(Ready) -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        Self::of(name.into(), What::Actor(Arc::new(ActorLaunch::with_ready(address, make))))
    }

    /// A supervisor, ready when all its children are. By default its deadlines are long enough for those of
    /// its children, one after the other. When it is restarted it has the children of `spec` again, without
    /// those added later.
    pub fn supervisor(spec: SupervisorSpec) -> Self {
        let slack = KILL_DEADLINE * 2;
        let sum = |of: fn(&ChildSpec) -> Duration| {
            spec.children.iter().fold(Duration::ZERO, |sum, child| sum.saturating_add(of(child) + slack))
        };
        let start_deadline = START_DEADLINE.saturating_add(sum(|child| child.start_deadline));
        let stop_deadline = STOP_DEADLINE.saturating_add(sum(|child| child.stop_deadline));
        let name = spec.name.clone();
        Self { start_deadline, stop_deadline, ..Self::of(name, What::Supervisor(Arc::new(spec))) }
    }

    fn of(name: Arc<str>, what: What) -> Self {
        Self {
            name,
            what,
            restart: Restart::default(),
            backoff: Backoff::default(),
            intensity: Intensity::default(),
            beyond: Beyond::default(),
            first_start: FirstStart::default(),
            start_deadline: START_DEADLINE,
            stop_deadline: STOP_DEADLINE,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it is started again. Default: always.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// The waits between restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How often it may be restarted.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// What happens when it fails beyond its [`Intensity`].
    #[must_use]
    pub fn beyond(mut self, beyond: Beyond) -> Self {
        self.beyond = beyond;
        self
    }

    /// What a failed first start means.
    #[must_use]
    pub fn first_start(mut self, first_start: FirstStart) -> Self {
        self.first_start = first_start;
        self
    }

    /// How long it may take to be ready; then the start is a failure.
    #[must_use]
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.start_deadline = deadline;
        self
    }

    /// How long it may take to stop; then it is killed.
    #[must_use]
    pub fn stop_deadline(mut self, deadline: Duration) -> Self {
        self.stop_deadline = deadline;
        self
    }

    pub(crate) fn kind(&self) -> NodeKind {
        match &self.what {
            What::Actor(_) => NodeKind::Actor(self.restart),
            What::Supervisor(spec) => NodeKind::Supervisor(spec.strategy),
        }
    }

    /// Returns where this specification, or one below it, is wrong, and why.
    pub(crate) fn fault(&self) -> Option<(String, String)> {
        let name = &*self.name;
        let here = |why: &str| Some((name.to_owned(), why.to_owned()));
        if name.is_empty() || name.len() > NAME_LIMIT {
            return here("a name has 1 to 128 bytes");
        }
        if name.contains('/') || name.chars().any(char::is_control) {
            return here("a name has no `/` and no control characters");
        }
        if let Some(why) = self.backoff.fault() {
            return here(why);
        }
        match &self.what {
            What::Actor(_) => None,
            What::Supervisor(spec) => spec.fault().map(|(at, why)| (format!("{name}/{at}"), why)),
        }
    }
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("kind", &self.kind())
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

/// One supervisor with its children in start order.
#[derive(Clone, Debug)]
pub struct SupervisorSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Which siblings are restarted with a failed child.
    pub strategy: Strategy,
    /// The children in start order; stopped in reverse.
    pub children: Vec<ChildSpec>,
    /// A limit on the restarts of all children together. None by default: each child has its own.
    pub intensity: Option<Intensity>,
    /// How the children are stopped when the supervisor stops.
    pub stop_order: StopOrder,
    /// Where jitter comes from; inherited from the supervisor above if not set.
    pub chance: Option<Chance>,
    /// Where reports go, for a listener that also wants those of the first start. Only the root's is used; by
    /// default reports can be had from [`crate::Supervisor::reports`] once the tree is up.
    pub reports: Option<broadcast::Sender<Report>>,
}

impl SupervisorSpec {
    /// A supervisor without children.
    pub fn new(name: impl Into<Arc<str>>, strategy: Strategy) -> Self {
        Self {
            name: name.into(),
            strategy,
            children: Vec::new(),
            intensity: None,
            stop_order: StopOrder::default(),
            chance: None,
            reports: None,
        }
    }

    /// Adds a child after the others.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// Limits the restarts of all children together; beyond it the supervisor escalates.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = Some(intensity);
        self
    }

    /// Sets how the children are stopped when the supervisor stops.
    #[must_use]
    pub fn stop_order(mut self, order: StopOrder) -> Self {
        self.stop_order = order;
        self
    }

    /// Sets where jitter comes from.
    #[must_use]
    pub fn chance(mut self, chance: Chance) -> Self {
        self.chance = Some(chance);
        self
    }

    /// Sets where reports go.
    #[must_use]
    pub fn report_to(mut self, listener: broadcast::Sender<Report>) -> Self {
        self.reports = Some(listener);
        self
    }

    pub(crate) fn fault(&self) -> Option<(String, String)> {
        let mut seen = HashSet::new();
        self.children.iter().find_map(|child| {
            if !seen.insert(&child.name) {
                return Some((child.name.to_string(), "two children have this name".to_owned()));
            }
            child.fault()
        })
    }
}
