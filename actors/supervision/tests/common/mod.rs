//! An actor that does as it is told, and a log of what really happened, in order.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use supervision::{
    Address, Backoff, Chance, ChildSpec, Intensity, Ready, Restart, Strategy, Supervisor, SupervisorSpec,
};

/// What one start of a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Well,
    Err,
    Panic,
    /// Panics in `make`, before there is an actor.
    PanicInMake,
    /// Panics before `pre_start` has returned its future, which ractor does not catch.
    PanicEarly,
    Hang,
}

/// What one stop of a child does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    #[default]
    Well,
    Hang,
    Panic,
    Err,
    Slow(Duration),
}

pub enum Msg {
    Panic,
    Err,
    Kill,
    StopSelf,
    /// Kills the actor's ractor parent.
    KillParent,
    Hang,
    Ping(RpcReplyPort<u32>),
    /// Never answered: the port is kept until the actor ends.
    Swallow(RpcReplyPort<()>),
    /// Answered by dropping the port.
    Drop(RpcReplyPort<()>),
    Nothing,
}

/// What happened, in order; how many states are alive; and what each child is to do next.
#[derive(Clone, Default)]
pub struct World {
    log: Arc<Mutex<Vec<String>>>,
    alive: Arc<AtomicUsize>,
    starts: Arc<Mutex<HashMap<&'static str, Vec<Start>>>>,
    stops: Arc<Mutex<HashMap<&'static str, Stop>>>,
    addresses: Arc<Mutex<HashMap<&'static str, Address<Msg>>>>,
}

impl World {
    pub fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    /// The log so far, and empties it.
    pub fn trace(&self) -> String {
        std::mem::take(&mut *self.log.lock().unwrap()).join(", ")
    }

    /// States that are alive. Not zero at the end: an actor leaked.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    pub fn starts(&self, name: &'static str, starts: &[Start]) {
        self.starts.lock().unwrap().insert(name, starts.iter().rev().copied().collect());
    }

    pub fn stops(&self, name: &'static str, stop: Stop) {
        self.stops.lock().unwrap().insert(name, stop);
    }

    fn next_start(&self, name: &str) -> Start {
        self.starts.lock().unwrap().get_mut(name).and_then(Vec::pop).unwrap_or(Start::Well)
    }

    pub fn address(&self, name: &'static str) -> Address<Msg> {
        self.addresses.lock().unwrap().entry(name).or_insert_with(|| Address::new(name)).clone()
    }

    pub fn child(&self, name: &'static str) -> ChildSpec {
        let world = self.clone();
        let spec = ChildSpec::actor(name, self.address(name), move || {
            let start = world.next_start(name);
            if start == Start::PanicInMake {
                world.note(format!("fail {name}"));
                panic!("make panics")
            }
            (Puppet, Script { name, start, world: world.clone(), ready: None })
        });
        spec.backoff(steady(10)).start_deadline(secs(1)).stop_deadline(secs(1))
    }

    /// A child with a token, which it gives to `with`.
    pub fn child_with_ready(
        &self,
        name: &'static str,
        with: impl Fn(Ready) -> Option<Ready> + Send + Sync + 'static,
    ) -> ChildSpec {
        let world = self.clone();
        let spec = ChildSpec::actor_with_ready(name, self.address(name), move |ready| {
            let start = world.next_start(name);
            (Puppet, Script { name, start, world: world.clone(), ready: with(ready) })
        });
        spec.backoff(steady(10)).start_deadline(secs(1)).stop_deadline(secs(1))
    }

    pub fn send(&self, name: &'static str, msg: Msg) {
        self.address(name).cast(msg).unwrap();
    }

    /// Starts `names` under one supervisor.
    pub async fn start(&self, strategy: Strategy, names: &[&'static str]) -> Supervisor {
        Supervisor::start(self.spec(strategy, names)).await.unwrap()
    }

    pub fn spec(&self, strategy: Strategy, names: &[&'static str]) -> SupervisorSpec {
        let spec = SupervisorSpec::new("root", strategy).chance(Chance::new(|| 0.0));
        names.iter().fold(spec, |spec, name| spec.child(self.child(name)))
    }

    /// Fails if anything is left of anybody.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.alive(), 0, "an actor leaked");
        for (name, address) in &*self.addresses.lock().unwrap() {
            assert!(!address.is_up(), "the address of {name} is not empty");
        }
    }
}

/// Wanted panics are not printed; others are.
pub fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text =
                text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
            if !(text.contains("panics") || text.contains("told to")) {
                usual(info);
            }
        }));
    });
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The same wait each time.
pub fn steady(ms: u64) -> Backoff {
    Backoff { min: millis(ms), max: millis(ms), jitter: 0.0 }
}

pub fn at_most(restarts: u32) -> Intensity {
    Intensity { restarts, within: secs(3600) }
}

/// Lets everything that can happen within `ms` happen.
pub async fn pass(ms: u64) {
    tokio::time::sleep(millis(ms)).await;
}

pub const RESTARTS: [Restart; 3] = [Restart::Permanent, Restart::Transient, Restart::Temporary];
pub const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll];

pub struct Puppet;

pub struct Script {
    pub name: &'static str,
    pub start: Start,
    pub world: World,
    pub ready: Option<Ready>,
}

/// Says `start` when made and `drop` when nothing of it is left.
pub struct Life {
    name: &'static str,
    world: World,
    handled: u32,
    kept: Vec<RpcReplyPort<()>>,
    _ready: Option<Ready>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.world.note(format!("drop {}", self.name));
        self.world.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Actor for Puppet {
    type Msg = Msg;
    type State = Life;
    type Arguments = Script;

    #[allow(clippy::manual_async_fn, reason = "one start panics before there is a future")]
    fn pre_start(
        &self,
        _: ActorRef<Msg>,
        script: Script,
    ) -> impl Future<Output = Result<Life, ActorProcessingErr>> + Send {
        let Script { name, start, world, ready } = script;
        if start == Start::PanicEarly {
            world.note(format!("fail {name}"));
            panic!("pre_start panics early")
        }
        async move {
            let failing = start != Start::Well && start != Start::Hang;
            if failing {
                world.note(format!("fail {name}"));
            }
            match start {
                Start::Err => return Err("pre_start refuses".into()),
                Start::Panic => panic!("pre_start panics"),
                Start::Hang => {
                    world.note(format!("hang {name}"));
                    std::future::pending::<()>().await;
                }
                _ => {}
            }
            world.note(format!("start {name}"));
            world.alive.fetch_add(1, Ordering::SeqCst);
            Ok(Life { name, world, handled: 0, kept: Vec::new(), _ready: ready })
        }
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, life: &mut Life) -> Result<(), ActorProcessingErr> {
        life.handled += 1;
        match msg {
            Msg::Panic => panic!("told to panic"),
            Msg::Err => return Err("told to fail".into()),
            Msg::Kill => me.kill(),
            Msg::StopSelf => me.stop(Some("told to".into())),
            Msg::KillParent => me.try_get_supervisor().unwrap().kill(),
            Msg::Hang => std::future::pending().await,
            Msg::Ping(reply) => drop(reply.send(life.handled)),
            Msg::Swallow(reply) => life.kept.push(reply),
            Msg::Drop(reply) => drop(reply),
            Msg::Nothing => {}
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, life: &mut Life) -> Result<(), ActorProcessingErr> {
        let stop = life.world.stops.lock().unwrap().get(life.name).copied().unwrap_or_default();
        life.world.note(format!("stop {}", life.name));
        match stop {
            Stop::Well => Ok(()),
            Stop::Hang => std::future::pending().await,
            Stop::Panic => panic!("post_stop panics"),
            Stop::Err => Err("post_stop refuses".into()),
            Stop::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }
}
