//! Carries out what a supervisor's machine decides: one task for each supervisor, one keeper task for each
//! child.
//!
//! The task never waits for a child. It waits for orders, news and commands, in this order of
//! precedence, so that a stop overtakes a restart that is due.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::command::{Command, Op};
use crate::keeper::{Deadlines, Gone, Order, guarded, keep_actor};
use crate::launch::Link;
use crate::machine::{Effect, End, Key, Machine, Policy, Token};
use crate::nested::keep_supervisor;
use crate::report::Reports;
use crate::spec::What;
use crate::tree::{Board, Plate, State, Status};
use crate::{Chance, ChildSpec, ControlError, Failure, SupervisorSpec};

/// What a supervisor gets from the one above.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// Path of this supervisor; empty for the root.
    pub(crate) path: String,
    pub(crate) reports: Reports,
    pub(crate) chance: Chance,
}

impl Surroundings {
    /// The path of a child.
    pub(crate) fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

/// News from a keeper or a timer.
enum News {
    Ready { key: Key, incarnation: u64 },
    Gone { key: Key, incarnation: u64, gone: Gone },
    HoldOver { key: Key, turn: u64 },
}

/// A timer that is aborted when dropped (a tokio task would outlive its handle).
struct Timer(AbortHandle);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A running incarnation. Dropping it kills the child.
struct Kept {
    orders: watch::Sender<Order>,
    /// Where commands for children below go, if it is a supervisor.
    below: Option<mpsc::Sender<Command>>,
    task: JoinHandle<()>,
}

/// What the shell holds of a child.
struct Child {
    spec: ChildSpec,
    plate: Arc<Plate>,
    kept: Option<Kept>,
    timer: Option<Timer>,
}

/// The ends of a supervisor's channels that its task holds.
pub(crate) struct Inbox {
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Told when all children are up for the first time.
    pub(crate) started: oneshot::Sender<()>,
}

struct Shell {
    around: Surroundings,
    machine: Machine,
    link: Link,
    board: Arc<Board>,
    children: BTreeMap<Key, Child>,
    next_key: Key,
    replies: HashMap<Token, oneshot::Sender<Result<(), ControlError>>>,
    next_token: Token,
    news: mpsc::UnboundedSender<News>,
    started: Option<oneshot::Sender<()>>,
    end: Option<End>,
}

/// Runs a supervisor until nothing of it is left. Boxed: supervisors contain supervisors.
pub(crate) fn run(
    spec: Arc<SupervisorSpec>,
    around: Surroundings,
    board: Arc<Board>,
    inbox: Inbox,
) -> BoxFuture<'static, End> {
    Box::pin(async move {
        let (link, link_task) = match Link::start().await {
            Ok(started) => started,
            Err(error) => {
                return End::StartFailed { child: "its link".into(), failure: Failure::start(error) };
            }
        };
        let Inbox { mut orders, commands, started } = inbox;
        let (news, hear) = mpsc::unbounded_channel();
        let chance = spec.chance.clone().unwrap_or_else(|| around.chance.clone());
        let machine =
            Machine::new(spec.strategy, spec.stop_order, spec.intensity, chance.clone(), Instant::now());
        let mut shell = Shell {
            around: Surroundings { chance, ..around },
            machine,
            link,
            board,
            children: BTreeMap::new(),
            next_key: 0,
            replies: HashMap::new(),
            next_token: 0,
            news,
            started: Some(started),
            end: None,
        };
        let run = shell.run(&spec, &mut orders, commands, hear, link_task);
        let end = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(end) => end,
            // A panic of ours, or of the injected source of jitter. Even then nothing may be left running.
            Err(panic) => {
                shell.abandon(&mut orders).await;
                let failure = Failure::failed(Failure::panic_text(&*panic));
                End::Escalated { child: "itself".to_owned(), failure }
            }
        };
        shell.link.cut();
        shell.board.state.store(Arc::new(State::Stopped));
        end
    })
}

impl Shell {
    async fn run(
        &mut self,
        spec: &SupervisorSpec,
        orders: &mut watch::Receiver<Order>,
        mut commands: mpsc::Receiver<Command>,
        mut hear: mpsc::UnboundedReceiver<News>,
        mut link_task: JoinHandle<()>,
    ) -> End {
        for child in &spec.children {
            let key = self.enter(child.clone());
            self.machine.declare(key, child.name.clone(), Policy::from(child));
        }
        self.machine.begin();
        let (mut obeyed, mut linked, mut open) = (Order::Run, true, true);
        loop {
            self.carry_out_all();
            if let Some(end) = self.end.take() {
                return end;
            }
            tokio::select! { biased;
                order = raised(orders, obeyed), if obeyed < Order::Kill => {
                    obeyed = order;
                    self.machine.at(Instant::now());
                    if order == Order::Kill { self.machine.kill() } else { self.machine.stop() }
                    self.board.state.store(Arc::new(State::Stopping));
                }
                _ = &mut link_task, if linked => {
                    linked = false;
                    self.machine.at(Instant::now());
                    self.machine.fail(Failure::Killed);
                }
                Some(news) = hear.recv() => self.take_note(news),
                command = commands.recv(), if open => match command {
                    Some(command) => self.obey(command),
                    None => open = false,
                },
            }
        }
    }

    fn take_note(&mut self, news: News) {
        self.machine.at(Instant::now());
        match news {
            News::Ready { key, incarnation } => self.machine.ready(key, incarnation),
            News::Gone { key, incarnation, gone } => {
                if let Some(child) = self.children.get_mut(&key) {
                    child.kept = None;
                    child.plate.below.store(None);
                }
                self.machine.gone(key, incarnation, gone);
            }
            News::HoldOver { key, turn } => self.machine.hold_over(key, turn),
        }
    }

    /// Gives a child its key and its plate on the board.
    fn enter(&mut self, spec: ChildSpec) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        let status = Status { state: State::Waiting, since: None, restarts: 0, last_failure: None };
        let plate = Arc::new(Plate {
            name: spec.name.clone(),
            kind: spec.kind(),
            status: ArcSwap::from_pointee(status),
            below: ArcSwapOption::empty(),
        });
        self.children.insert(key, Child { spec, plate, kept: None, timer: None });
        self.show_all();
        key
    }

    fn show_all(&self) {
        let plates = self.children.values().map(|child| child.plate.clone()).collect();
        self.board.plates.store(Arc::new(plates));
    }

    fn obey(&mut self, command: Command) {
        let Command { path, mut rest, op, reply } = command;
        self.machine.at(Instant::now());
        let refuse = |reply: oneshot::Sender<_>, error| drop(reply.send(Err(error)));
        let own = match op {
            Op::Add(_) => rest.is_empty(),
            Op::Remove | Op::Restart => rest.len() == 1,
        };
        if !self.machine.is_running() {
            return refuse(reply, ControlError::NotUp { path: self.around.path.clone() });
        }
        let token = self.next_token;
        let key = rest.front().and_then(|name| self.machine.named(name)).map(|slot| slot.key);
        match (op, key) {
            (Op::Add(spec), _) if own => {
                if self.machine.named(&spec.name).is_some() {
                    return refuse(reply, ControlError::Duplicate { name: spec.name.to_string() });
                }
                let (name, policy) = (spec.name.clone(), Policy::from(&*spec));
                self.expect(reply);
                let key = self.enter(*spec);
                self.machine.add(key, name, policy, token);
            }
            (Op::Remove, Some(key)) if own => {
                self.expect(reply);
                self.machine.remove(key, token);
            }
            (Op::Restart, Some(key)) if own => {
                self.expect(reply);
                self.machine.restart(key, token);
            }
            (op, Some(key)) => {
                let name = rest.pop_front().unwrap_or_default();
                self.forward(key, &name, Command { path, rest, op, reply });
            }
            (_, None) => refuse(reply, ControlError::Unknown { path }),
        }
    }

    fn expect(&mut self, reply: oneshot::Sender<Result<(), ControlError>>) {
        self.replies.insert(self.next_token, reply);
        self.next_token += 1;
    }

    fn forward(&self, key: Key, name: &str, command: Command) {
        let path = self.around.below(name);
        let (command, error) = match self.children.get(&key).map(|child| (&child.spec.what, &child.kept)) {
            Some((What::Supervisor(_), Some(Kept { below: Some(below), .. }))) => {
                match below.try_send(command) {
                    Ok(()) => return,
                    // Full or gone: it is not keeping up, or not there.
                    Err(back) => (back.into_inner(), ControlError::NotUp { path }),
                }
            }
            Some((What::Supervisor(_), _)) => (command, ControlError::NotUp { path }),
            _ => (command, ControlError::NotASupervisor { path }),
        };
        let _ = command.reply.send(Err(error));
    }

    fn carry_out_all(&mut self) {
        for effect in self.machine.effects() {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { key, incarnation } => self.start(key, incarnation),
            Effect::Stop { key } => self.order(key, Order::Stop),
            Effect::Kill { key } => self.order(key, Order::Kill),
            Effect::Hold { key, turn, wait } => self.hold(key, turn, wait),
            Effect::Forget { key } => {
                self.children.remove(&key);
                self.show_all();
            }
            Effect::Changed { key } => {
                if let (Some(slot), Some(child)) = (self.machine.slot(key), self.children.get(&key)) {
                    child.plate.status.store(Arc::new(slot.status(self.machine.is_stopping())));
                }
            }
            Effect::Report { key: None, event } => {
                self.around.reports.tell(self.around.path.clone(), event);
            }
            Effect::Report { key: Some(key), event } => {
                if let Some(child) = self.children.get(&key) {
                    self.around.reports.tell(self.around.below(&child.spec.name), event);
                }
            }
            Effect::Reply { token, answer } => {
                if let Some(reply) = self.replies.remove(&token) {
                    // The caller may have gone away meanwhile: that is no concern of the tree.
                    let _ = reply.send(answer);
                }
            }
            Effect::Started => {
                self.board.state.store(Arc::new(State::Up));
                if let Some(started) = self.started.take() {
                    let _ = started.send(());
                }
            }
            Effect::Done(end) => self.end = Some(end),
        }
    }

    fn start(&mut self, key: Key, incarnation: u64) {
        let Some(child) = self.children.get_mut(&key) else { return };
        let (orders, mut obey) = watch::channel(Order::Run);
        let deadlines = Deadlines { start: child.spec.start_deadline, stop: child.spec.stop_deadline };
        let tell = self.news.clone();
        let ready = {
            let tell = tell.clone();
            // Sending fails only when the supervisor is gone, and then its children are being killed.
            move || drop(tell.send(News::Ready { key, incarnation }))
        };
        let (keeper, below): (BoxFuture<'static, Gone>, _) = match &child.spec.what {
            What::Actor(launch) => {
                let (launch, link) = (launch.clone(), self.link.clone());
                let keeper = async move { keep_actor(&*launch, &link, deadlines, obey, ready).await };
                (Box::pin(keeper), None)
            }
            What::Supervisor(spec) => {
                let path = self.around.below(&spec.name);
                let around = Surroundings { path, ..self.around.clone() };
                let (tree, board) = crate::nested::plant(spec.clone(), around);
                child.plate.below.store(Some(board));
                let below = tree.commands.clone();
                let keeper = async move { keep_supervisor(tree, deadlines, &mut obey, ready).await };
                (Box::pin(keeper), Some(below))
            }
        };
        let task = tokio::spawn(async move {
            let gone = guarded(keeper).await;
            let _ = tell.send(News::Gone { key, incarnation, gone });
        });
        child.timer = None;
        child.kept = Some(Kept { orders, below, task });
    }

    fn order(&self, key: Key, order: Order) {
        if let Some(kept) = self.children.get(&key).and_then(|child| child.kept.as_ref()) {
            kept.orders.send_modify(|now| *now = (*now).max(order));
        }
    }

    fn hold(&mut self, key: Key, turn: u64, wait: Duration) {
        let Some(child) = self.children.get_mut(&key) else { return };
        let tell = self.news.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = tell.send(News::HoldOver { key, turn });
        });
        child.timer = Some(Timer(task.abort_handle()));
    }

    /// Stops what runs without the machine, since this task has panicked: in reverse order, each child with
    /// its own deadline, or at once on order.
    async fn abandon(&mut self, orders: &mut watch::Receiver<Order>) {
        for (_, mut child) in std::mem::take(&mut self.children).into_iter().rev() {
            child.timer = None;
            let Some(Kept { orders: to_child, mut task, .. }) = child.kept else { continue };
            to_child.send_replace(Order::Stop);
            tokio::select! { biased;
                _ = &mut task => continue,
                () = crate::keeper::ordered(orders, Order::Kill) => {}
            }
            to_child.send_replace(Order::Kill);
            let _ = task.await;
        }
    }
}

/// Waits for an order above `obeyed`. If the sender is gone, that is a kill.
async fn raised(orders: &mut watch::Receiver<Order>, obeyed: Order) -> Order {
    match orders.wait_for(|order| *order > obeyed).await {
        Ok(order) => *order,
        Err(_) => Order::Kill,
    }
}
