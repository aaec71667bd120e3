//! Brings a supervisor one step nearer to the state that it should be in.
//!
//! Children are settled lane by lane. A *lane* is a run of children that are stopped and started together, in
//! order: with `one_for_one` each child whose first start is over is its own lane, otherwise all children are
//! one. Within a lane first all stale children are stopped, the last one first; then waits run; then the
//! children that are down are started, the first one first, each ready before the next is started. With
//! `one_for_one` the first start isn't held up by a child that was up and fails meanwhile (as in OTP, where a
//! supervisor hears of no end before all of its children are started).

use std::ops::Range;

use super::{Effect, End, Hold, Key, Machine, Mode, Phase, Slot, Wish};
use crate::report::Event;
use crate::spec::StopOrder;
use crate::{ControlError, Restart, Strategy};

impl Machine {
    /// Takes one step for the lane of `key` (for all lanes if it is `None`).
    pub(super) fn settle(&mut self, key: Option<Key>) {
        match self.mode {
            Mode::Done => {}
            Mode::Stopping(_) => self.settle_stop(),
            Mode::Starting => {
                let alone = self.strategy == Strategy::OneForOne;
                let pending = |slot: &Slot| {
                    !(alone && slot.begun)
                        && matches!(slot.phase, Phase::Waiting | Phase::Starting | Phase::Stopping)
                };
                if alone {
                    let up = |i: &usize| self.slots.get(*i).is_some_and(|slot| slot.begun);
                    let next = self.slots.iter().position(pending);
                    let lanes: Vec<usize> = (0..self.slots.len()).filter(up).chain(next).collect();
                    lanes.into_iter().for_each(|i| self.settle_lane(i..i + 1));
                } else {
                    self.settle_lane(0..self.slots.len());
                }
                if !self.slots.iter().any(pending) {
                    self.mode = Mode::Running;
                    self.effects.push(Effect::Started);
                    self.settle(None);
                }
            }
            Mode::Running if self.strategy == Strategy::OneForOne => match key {
                Some(key) => {
                    if let Some(i) = self.position(key) {
                        self.settle_lane(i..i + 1);
                    }
                }
                None => (0..self.slots.len()).for_each(|i| self.settle_lane(i..i + 1)),
            },
            Mode::Running => self.settle_lane(0..self.slots.len()),
        }
    }

    fn settle_lane(&mut self, lane: Range<usize>) {
        let Some(slots) = self.slots.get_mut(lane) else { return };
        if slots.iter().any(|slot| slot.phase == Phase::Stopping) {
            return;
        }
        if let Some(slot) = slots.iter_mut().rev().find(|slot| slot.stale && slot.is_running()) {
            slot.phase = Phase::Stopping;
            slot.stale = false;
            self.effects.extend([Effect::Changed { key: slot.key }, Effect::Stop { key: slot.key }]);
            return;
        }
        for slot in slots.iter_mut() {
            if let Hold::Due(wait) = slot.hold {
                slot.turn += 1;
                slot.hold = Hold::Armed(slot.turn);
                self.effects.push(Effect::Hold { key: slot.key, turn: slot.turn, wait });
            }
        }
        if slots.iter().any(|slot| slot.hold != Hold::None || slot.phase == Phase::Starting) {
            return;
        }
        if let Some(slot) = slots.iter_mut().find(|slot| slot.phase == Phase::Waiting) {
            slot.phase = Phase::Starting;
            slot.incarnation += 1;
            slot.since = Some(self.now);
            let (key, incarnation) = (slot.key, slot.incarnation);
            self.effects.extend([Effect::Changed { key }, Effect::Start { key, incarnation }]);
        }
    }

    fn settle_stop(&mut self) {
        for slot in self.slots.iter_mut().rev() {
            match slot.phase {
                Phase::Stopping if self.stop_order == StopOrder::Reverse => return,
                Phase::Starting | Phase::Up => {
                    slot.phase = Phase::Stopping;
                    self.effects.extend([Effect::Changed { key: slot.key }, Effect::Stop { key: slot.key }]);
                    if self.stop_order == StopOrder::Reverse {
                        return;
                    }
                }
                _ => {}
            }
        }
        if self.slots.iter().any(|slot| slot.phase == Phase::Stopping) {
            return;
        }
        if let Mode::Stopping(end) = std::mem::replace(&mut self.mode, Mode::Done) {
            self.effects.push(Effect::Done(end));
        }
    }

    /// Marks a child, and those that the strategy ties to it, to be stopped and started again.
    pub(super) fn cycle(&mut self, i: usize) {
        let tied = match self.strategy {
            Strategy::OneForOne => i..i + 1,
            Strategy::RestForOne => i..self.slots.len(),
            Strategy::OneForAll => 0..self.slots.len(),
        };
        let Some(slots) = self.slots.get_mut(tied.clone()) else { return };
        for (n, slot) in tied.zip(slots) {
            slot.hold = Hold::None;
            let itself = n == i;
            match slot.phase {
                Phase::Starting | Phase::Up => {
                    slot.stale = true;
                    // As in OTP: a temporary child is stopped with the others, and is not started again.
                    slot.removing |= !itself && slot.policy.restart == Restart::Temporary;
                }
                // As in OTP: a restart of the group starts those again that had finished.
                Phase::Finished => slot.phase = Phase::Waiting,
                Phase::GaveUp if itself => slot.phase = Phase::Waiting,
                Phase::Waiting | Phase::Stopping | Phase::GaveUp => {}
            }
            self.effects.push(Effect::Changed { key: slot.key });
        }
    }

    /// Begins to stop everything. The first reason counts; a later one changes nothing.
    pub(super) fn end(&mut self, end: End) {
        if matches!(self.mode, Mode::Stopping(_) | Mode::Done) {
            return;
        }
        if let End::Escalated { child, failure } = &end {
            let event = Event::Escalated { child: child.clone(), failure: failure.clone() };
            self.report(None, event);
        }
        self.mode = Mode::Stopping(end);
        for slot in &mut self.slots {
            slot.hold = Hold::None;
            slot.stale = false;
            for waiter in slot.waiters.drain(..) {
                let answer = match waiter.wish {
                    Wish::Removed => Ok(()),
                    Wish::Added | Wish::Up => Err(ControlError::Overtaken { child: slot.name.to_string() }),
                };
                self.effects.push(Effect::Reply { token: waiter.token, answer });
            }
            self.effects.push(Effect::Changed { key: slot.key });
        }
        self.settle_stop();
    }
}
