//! Whole traces against a model that knows nothing of the implementation: every fault × strategy ×
//! restart type × way to start and to stop, singly (all of them) and in sequences (generated).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so and stops"
)]

mod common;

use common::*;
use proptest::prelude::*;
use supervision::{Outcome, Restart, Strategy as Ties, SupervisorSpec};

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Panic,
    Err,
    Kill,
    StopSelf,
}

const FAULTS: [Fault; 4] = [Fault::Panic, Fault::Err, Fault::Kill, Fault::StopSelf];

/// What the starts after the fault do, before one goes well.
const COMEBACKS: [&[Start]; 7] = [
    &[],
    &[Start::Err],
    &[Start::Err, Start::Panic, Start::Err],
    &[Start::Panic],
    &[Start::PanicEarly],
    &[Start::PanicInMake],
    &[Start::Hang, Start::Err],
];

const STOPS: [Stop; 4] = [Stop::Well, Stop::Hang, Stop::Panic, Stop::Err];

#[derive(Clone, Debug)]
struct Step {
    victim: usize,
    fault: Fault,
    comeback: &'static [Start],
}

#[derive(Clone, Debug)]
struct Case {
    ties: Ties,
    restarts: [Restart; 3],
    stops: [Stop; 3],
    steps: Vec<Step>,
}

/// OTP's rules, told as a sequence of what must be seen.
struct Model {
    ties: Ties,
    /// Name, restart type, stop, and whether it is up (else it has finished). In start order.
    table: Vec<(&'static str, Restart, Stop, bool)>,
    seen: Vec<String>,
}

impl Model {
    fn new(case: &Case) -> Self {
        let table = (0..3).map(|i| (NAMES[i], case.restarts[i], case.stops[i], true)).collect();
        Self { ties: case.ties, table, seen: NAMES.iter().map(|name| format!("start {name}")).collect() }
    }

    fn see(&mut self, what: &str, name: &str) {
        self.seen.push(format!("{what} {name}"));
    }

    /// A step is skipped, here and there, if there is nobody to harm, or if it would hang for ever
    /// (a child that stops itself and hangs in `post_stop`).
    fn skips(&self, step: &Step) -> bool {
        self.table
            .iter()
            .find(|row| row.0 == NAMES[step.victim])
            .is_none_or(|&(_, _, stop, up)| !up || (step.fault == Fault::StopSelf && stop == Stop::Hang))
    }

    fn step(&mut self, step: &Step) {
        let name = NAMES[step.victim];
        let i = self.table.iter().position(|row| row.0 == name).unwrap();
        let (_, restart, stop, _) = self.table[i];
        if step.fault == Fault::StopSelf {
            self.see("stop", name);
        }
        self.see("drop", name);
        self.table[i].3 = false;
        let failed = step.fault != Fault::StopSelf || stop != Stop::Well;
        match restart {
            Restart::Temporary => drop(self.table.remove(i)),
            Restart::Transient if !failed => {}
            Restart::Transient | Restart::Permanent => self.restart(i, step.comeback),
        }
    }

    fn restart(&mut self, i: usize, comeback: &[Start]) {
        let name = self.table[i].0;
        let mut attempts = comeback.iter();
        loop {
            let i = self.table.iter().position(|row| row.0 == name).unwrap();
            let tied = match self.ties {
                Ties::OneForOne => i..i + 1,
                Ties::RestForOne => i..self.table.len(),
                Ties::OneForAll => 0..self.table.len(),
            };
            for j in tied.clone().rev().filter(|j| *j != i) {
                if std::mem::take(&mut self.table[j].3) {
                    self.see("stop", self.table[j].0);
                    self.see("drop", self.table[j].0);
                    if self.table[j].1 == Restart::Temporary {
                        self.table[j].0 = "left";
                    }
                }
            }
            self.table.retain(|row| row.0 != "left");
            let first = match self.ties {
                Ties::OneForAll => 0,
                _ => self.table.iter().position(|row| row.0 == name).unwrap(),
            };
            let last = if self.ties == Ties::OneForOne { first + 1 } else { self.table.len() };
            let mut all_up = true;
            for j in first..last {
                if self.table[j].0 == name {
                    match attempts.next() {
                        Some(Start::Hang) => self.see("hang", name),
                        Some(_) => self.see("fail", name),
                        None => {
                            self.see("start", name);
                            self.table[j].3 = true;
                            continue;
                        }
                    }
                    all_up = false;
                    break;
                }
                self.see("start", self.table[j].0);
                self.table[j].3 = true;
            }
            if all_up {
                return;
            }
        }
    }

    fn stop(&mut self) {
        for (name, _, _, up) in std::mem::take(&mut self.table).into_iter().rev() {
            if up {
                self.see("stop", name);
                self.see("drop", name);
            }
        }
    }
}

async fn run(case: &Case) -> (String, String) {
    let world = World::default();
    let spec = (0..3).fold(SupervisorSpec::new("root", case.ties), |spec, i| {
        spec.child(world.child(NAMES[i]).restart(case.restarts[i]).intensity(at_most(1000)))
    });
    for (name, stop) in NAMES.into_iter().zip(case.stops) {
        world.stops(name, stop);
    }
    let tree = supervision::Supervisor::start(spec).await.unwrap();
    let mut model = Model::new(case);
    for step in &case.steps {
        if model.skips(step) {
            continue;
        }
        let name = NAMES[step.victim];
        world.starts(name, step.comeback);
        world.send(
            name,
            match step.fault {
                Fault::Panic => Msg::Panic,
                Fault::Err => Msg::Err,
                Fault::Kill => Msg::Kill,
                Fault::StopSelf => Msg::StopSelf,
            },
        );
        model.step(step);
        pass(60_000).await;
        world.starts(name, &[]);
    }
    assert_eq!(tree.stop(secs(60)).await, Outcome::Stopped);
    model.stop();
    world.assert_nothing_left();
    (world.trace(), model.seen.join(", "))
}

fn check(case: &Case) {
    hush();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (real, expected) = runtime.block_on(run(case));
    assert_eq!(real, expected, "{case:?}");
}

#[test]
fn every_single_fault() {
    let mut cases = 0;
    for ties in STRATEGIES {
        for own in RESTARTS {
            for others in RESTARTS {
                for victim in 0..3 {
                    for fault in FAULTS {
                        for comeback in COMEBACKS {
                            let mut restarts = [others; 3];
                            restarts[victim] = own;
                            let steps = vec![Step { victim, fault, comeback }];
                            check(&Case { ties, restarts, stops: [Stop::Well; 3], steps });
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 3 * 9 * 3 * 4 * 7);
}

#[test]
fn every_fault_with_every_way_to_stop() {
    for ties in STRATEGIES {
        for own in RESTARTS {
            for stop in STOPS {
                for fault in FAULTS {
                    for victim in 0..3 {
                        let mut restarts = [Restart::Permanent; 3];
                        restarts[victim] = own;
                        let steps = vec![Step { victim, fault, comeback: &[] }];
                        check(&Case { ties, restarts, stops: [stop; 3], steps });
                    }
                }
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    (0..3_usize, 0..4_usize, 0..7_usize).prop_map(|(victim, fault, comeback)| Step {
        victim,
        fault: FAULTS[fault],
        comeback: COMEBACKS[comeback],
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_faults(
        ties in 0..3_usize,
        restarts in [0..3_usize, 0..3_usize, 0..3_usize],
        stops in [0..4_usize, 0..4_usize, 0..4_usize],
        steps in proptest::collection::vec(step(), 1..6),
    ) {
        check(&Case {
            ties: STRATEGIES[ties],
            restarts: restarts.map(|i| RESTARTS[i]),
            stops: stops.map(|i| STOPS[i]),
            steps,
        });
    }
}
