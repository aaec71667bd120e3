//! How long it takes. Prints, and fails only far beyond the goal: other work shares the machine.

use crate::bed::{Cage, Mode};
use std::time::{Duration, Instant};

pub const CASES: &[crate::Case] = &[("how_long_a_start_takes", how_long_a_start_takes)];

fn how_long_a_start_takes(mode: Mode) {
    let mut best = Duration::MAX;
    let mut detail = String::new();
    for _ in 0..10 {
        let started = Instant::now();
        let cage = Cage::start(mode);
        let report = cage.report().expect("report");
        let proven = started.elapsed();
        assert!(cage.run(&["/bin/true"]).status.success());
        let whole = started.elapsed();
        if whole < best {
            best = whole;
            detail = format!(
                "built in {} µs, proven in {} µs, reported after {proven:?}",
                report.build_micros, report.proof_micros
            );
        }
    }
    eprintln!("{mode:?}: clone to the end of /bin/true: {best:?} ({detail})");
}
