//! Tests the machine against every input in every order, with a world that answers late, twice, or out of
//! turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use tokio::time::Instant;

use super::*;
use crate::Backoff;

/// What may happen next. The numbers pick among what there is.
#[derive(Clone, Debug)]
enum Happens {
    Ready(usize),
    Gone(usize, u8),
    HoldOver(usize),
    LateHold(u64, u64),
    LateNews(u64, u64),
    Time(u64),
    Add(u8),
    Remove(usize),
    Restart(usize),
    Stop,
    Kill,
    Break,
}

fn happens() -> impl Strategy<Value = Happens> {
    let any = || 0..8_usize;
    prop_oneof![
        12 => any().prop_map(Happens::Ready),
        8 => (any(), 0..5_u8).prop_map(|(i, how)| Happens::Gone(i, how)),
        8 => any().prop_map(Happens::HoldOver),
        1 => (0..8_u64, 0..8_u64).prop_map(|(key, turn)| Happens::LateHold(key, turn)),
        1 => (0..8_u64, 0..4_u64).prop_map(|(key, n)| Happens::LateNews(key, n)),
        2 => (0..5000_u64).prop_map(Happens::Time),
        2 => (0..3_u8).prop_map(Happens::Add),
        2 => any().prop_map(Happens::Remove),
        2 => any().prop_map(Happens::Restart),
        1 => Just(Happens::Stop),
        1 => Just(Happens::Kill),
        1 => Just(Happens::Break),
    ]
}

/// Plays the shell's part: knows what runs, what waits, and which callers wait for an answer.
struct World {
    machine: Machine,
    now: Instant,
    /// Incarnation, and whether it was asked to stop.
    running: BTreeMap<Key, (u64, bool)>,
    holds: BTreeMap<Key, u64>,
    asked: BTreeSet<Token>,
    next_key: Key,
    next_token: Token,
    stopping: bool,
    done: Option<End>,
    group: bool,
}

impl World {
    fn new(ties: crate::Strategy, order: StopOrder, restarts: [Restart; 3], limit: u32) -> Self {
        let now = Instant::now();
        let mut machine = Machine::new(ties, order, None, Chance::new(|| 0.5), now);
        for (key, restart) in (0..).zip(restarts) {
            machine.declare(key, format!("c{key}").into(), policy(restart, limit));
        }
        let mut world = Self {
            machine,
            now,
            running: BTreeMap::new(),
            holds: BTreeMap::new(),
            asked: BTreeSet::new(),
            next_key: 3,
            next_token: 0,
            stopping: false,
            done: None,
            group: ties != crate::Strategy::OneForOne,
        };
        world.machine.begin();
        world.carry_out();
        world
    }

    fn ask(&mut self) -> Token {
        self.next_token += 1;
        self.asked.insert(self.next_token);
        self.next_token
    }

    fn nth<T: Copy>(map: &BTreeMap<Key, T>, n: usize) -> Option<(Key, T)> {
        map.iter().nth(n % map.len().max(1)).map(|(key, value)| (*key, *value))
    }

    fn slot_key(&self, n: usize) -> Option<Key> {
        let slots = &self.machine.slots;
        slots.get(n % slots.len().max(1)).map(|slot| slot.key)
    }

    fn gone(&mut self, key: Key, incarnation: u64, how: u8) {
        self.running.remove(&key);
        let exit = match how {
            0 => Exit::Normal { reason: None },
            1 => Exit::Failed(Failure::Killed),
            _ => Exit::Failed(Failure::failed("told to")),
        };
        self.machine.gone(key, incarnation, Gone { exit, forced: how == 3, stuck: how == 4 });
    }

    fn happen(&mut self, what: &Happens) {
        self.machine.at(self.now);
        match *what {
            Happens::Ready(n) => {
                if let Some((key, (incarnation, _))) = Self::nth(&self.running, n) {
                    self.machine.ready(key, incarnation);
                }
            }
            Happens::Gone(n, how) => {
                if let Some((key, (incarnation, _))) = Self::nth(&self.running, n) {
                    self.gone(key, incarnation, how);
                }
            }
            Happens::HoldOver(n) => {
                if let Some((key, turn)) = Self::nth(&self.holds, n) {
                    self.holds.remove(&key);
                    self.machine.hold_over(key, turn);
                }
            }
            Happens::LateHold(key, turn) => {
                if self.holds.get(&key) != Some(&turn) {
                    let before = format!("{:?}", self.machine.slots);
                    self.machine.hold_over(key, turn + 1000);
                    assert_eq!(before, format!("{:?}", self.machine.slots));
                }
            }
            Happens::LateNews(key, incarnation) => {
                if self.running.get(&key).map(|running| running.0) != Some(incarnation) {
                    let before = format!("{:?}", self.machine.slots);
                    self.machine.ready(key, incarnation);
                    self.machine.gone(key, incarnation, Gone::failed(Failure::Killed));
                    assert_eq!(before, format!("{:?}", self.machine.slots), "late news were believed");
                }
            }
            Happens::Time(ms) => self.now += Duration::from_millis(ms),
            Happens::Add(kind) if self.machine.is_running() => {
                let key = self.next_key;
                self.next_key += 1;
                let restart = [Restart::Permanent, Restart::Transient, Restart::Temporary][usize::from(kind)];
                let token = self.ask();
                self.machine.add(key, format!("c{key}").into(), policy(restart, 3), token);
            }
            Happens::Remove(n) if self.machine.is_running() => {
                if let Some(key) = self.slot_key(n) {
                    let token = self.ask();
                    self.machine.remove(key, token);
                }
            }
            Happens::Restart(n) if self.machine.is_running() => {
                if let Some(key) = self.slot_key(n) {
                    let token = self.ask();
                    self.machine.restart(key, token);
                }
            }
            Happens::Stop => self.machine.stop(),
            Happens::Kill => self.machine.kill(),
            Happens::Break => self.machine.fail(Failure::Killed),
            Happens::Add(_) | Happens::Remove(_) | Happens::Restart(_) => {}
        }
        self.carry_out();
    }

    fn carry_out(&mut self) {
        self.stopping |= self.machine.is_stopping();
        for effect in self.machine.effects() {
            match effect {
                Effect::Start { key, incarnation } => {
                    assert!(!self.stopping, "started something while stopping");
                    assert!(!self.running.contains_key(&key), "two incarnations at once");
                    if self.group {
                        let starting = |slot: &Slot| slot.phase == Phase::Starting;
                        assert_eq!(self.machine.slots.iter().filter(|slot| starting(slot)).count(), 1);
                        let at = self.machine.position(key).unwrap();
                        let later = &self.machine.slots[at + 1..];
                        assert!(later.iter().all(|slot| !slot.stale), "started under a stale child");
                    }
                    self.running.insert(key, (incarnation, false));
                }
                Effect::Stop { key } | Effect::Kill { key } => {
                    self.running.get_mut(&key).expect("asked to stop what does not run").1 = true;
                }
                Effect::Hold { key, turn, wait } => {
                    assert!(!self.stopping && !wait.is_zero());
                    self.holds.insert(key, turn);
                }
                Effect::Forget { key } => {
                    assert!(!self.running.contains_key(&key), "forgot a child that runs");
                    self.holds.remove(&key);
                }
                Effect::Reply { token, .. } => assert!(self.asked.remove(&token), "answered twice"),
                Effect::Done(end) => {
                    assert!(self.running.is_empty(), "done while children run");
                    assert_eq!(self.done.replace(end), None, "done twice");
                }
                Effect::Changed { .. } | Effect::Report { .. } | Effect::Started => {}
            }
        }
    }

    /// Answers everything promptly until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let asked =
                self.running.iter().find(|(_, running)| running.1).map(|(key, running)| (*key, running.0));
            if let Some((key, incarnation)) = asked {
                self.gone(key, incarnation, 0);
            } else if let Some(slot) = self.machine.slots.iter().find(|slot| slot.phase == Phase::Starting) {
                let (key, incarnation) = (slot.key, slot.incarnation);
                self.machine.ready(key, incarnation);
            } else if let Some((key, turn)) = self.holds.pop_first() {
                self.machine.hold_over(key, turn);
            } else {
                return;
            }
            self.carry_out();
        }
        panic!("it never comes to rest");
    }
}

fn policy(restart: Restart, limit: u32) -> Policy {
    Policy {
        restart,
        backoff: Backoff { min: Duration::from_millis(u64::from(limit % 2)), ..Backoff::default() },
        intensity: Intensity { restarts: limit, within: Duration::from_secs(3) },
        beyond: if limit.is_multiple_of(3) { Beyond::GiveUp } else { Beyond::Escalate },
        first_start: if limit.is_multiple_of(2) { FirstStart::Fatal } else { FirstStart::Retried },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens(
        ties in 0..3_usize,
        together in any::<bool>(),
        restarts in [0..3_usize, 0..3_usize, 0..3_usize],
        limit in 0..8_u32,
        story in proptest::collection::vec(happens(), 0..60),
    ) {
        use crate::Strategy::{OneForAll, OneForOne, RestForOne};
        let order = if together { StopOrder::Together } else { StopOrder::Reverse };
        let restarts = restarts.map(|i| [Restart::Permanent, Restart::Transient, Restart::Temporary][i]);
        let mut world = World::new([OneForOne, RestForOne, OneForAll][ties], order, restarts, limit);
        for what in &story {
            world.happen(what);
        }
        world.settle();
        if world.done.is_none() {
            // Left alone, everybody is where they should be.
            prop_assert!(world.machine.is_running());
            for slot in &world.machine.slots {
                prop_assert!(matches!(slot.phase, Phase::Up | Phase::Finished | Phase::GaveUp), "{:?}", slot);
            }
            prop_assert_eq!(world.asked.len(), 0, "a caller was left without an answer");
            world.happen(&Happens::Stop);
            world.settle();
        }
        prop_assert!(world.done.is_some(), "a stop was not obeyed");
        prop_assert_eq!(world.asked.len(), 0);
        prop_assert_eq!(world.running.len(), 0);
    }
}

/// A child that was up and failed waits alone, also while its siblings have not been started yet.
#[test]
fn a_first_start_goes_past_a_child_that_was_up_and_failed() {
    use crate::Strategy::{OneForAll, OneForOne};
    for (ties, goes_on) in [(OneForOne, true), (OneForAll, false)] {
        let mut world = World::new(ties, StopOrder::Reverse, [Restart::Permanent; 3], 1);
        world.happen(&Happens::Ready(0));
        assert!(world.running.contains_key(&1), "{ties:?}: the second is started once the first is up");
        world.gone(0, 1, 2);
        world.carry_out();
        // The second comes up while the first waits.
        world.machine.ready(1, 1);
        world.carry_out();
        assert_eq!(world.running.contains_key(&2), goes_on, "{ties:?}");
        assert_eq!(world.holds.len(), usize::from(goes_on), "{ties:?}: the first waits");
        world.machine.ready(2, 1);
        world.carry_out();
        assert_eq!(world.machine.is_running(), goes_on, "{ties:?}");
        world.settle();
        assert!(world.machine.is_running());
        assert!(world.machine.slots.iter().all(|slot| slot.phase == Phase::Up));
    }
}

/// If a failed first start is a failure like any other, the supervisor doesn't fail and no sibling waits.
#[test]
fn a_first_start_may_be_tried_again() {
    let now = Instant::now();
    let mut machine =
        Machine::new(crate::Strategy::OneForOne, StopOrder::Reverse, None, Chance::new(|| 0.5), now);
    for key in 0..2 {
        let policy = Policy { first_start: FirstStart::Retried, ..policy(Restart::Transient, 7) };
        machine.declare(key, format!("c{key}").into(), policy);
    }
    machine.begin();
    let started = |machine: &mut Machine| {
        let effects = machine.effects().into_iter();
        effects
            .filter_map(|e| if let Effect::Start { key, .. } = e { Some(key) } else { None })
            .collect::<Vec<_>>()
    };
    assert_eq!(started(&mut machine), [0]);
    machine.gone(0, 1, Gone::failed(Failure::Killed));
    assert_eq!(started(&mut machine), [1], "the second doesn't wait for the first");
    machine.ready(1, 1);
    assert!(machine.is_running());
    assert_eq!(machine.named("c0").unwrap().phase, Phase::Waiting);
    assert_eq!(machine.named("c0").unwrap().hold, Hold::Armed(1));
}
