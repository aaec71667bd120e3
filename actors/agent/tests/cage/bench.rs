//! How long it takes. Prints, and fails only far beyond the goal: other work shares the machine.

use crate::bed::{Cage, Mode};
use agent::plan::{Control, Enforcement};
use std::time::{Duration, Instant};

pub const CASES: &[crate::Case] = &[
    ("how_long_a_start_takes", how_long_a_start_takes),
    ("what_it_costs_to_be_asked_at_connect", what_it_costs_to_be_asked_at_connect),
];

/// The least of many rounds, in microseconds a call: on a datagram socket, where connect itself is next to
/// nothing, and whole TCP connections to a listener of its own.
const CONNECTS: &str = "
import socket, time
def least(rounds, times, work):
    best = 1e9
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times): work()
        best = min(best, (time.perf_counter() - start) / times)
    return best * 1e6
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
l = socket.create_server(('127.0.0.1', 3000), backlog=128)
def tcp():
    s = socket.socket(); s.connect(('127.0.0.1', 3000)); a, _ = l.accept(); s.close(); a.close()
print(least(50, 100, lambda: d.connect(('127.0.0.1', 9))), least(50, 20, tcp))
";

fn what_it_costs_to_be_asked_at_connect(mode: Mode) {
    let measure = |sabotage: &[Control]| -> Vec<f64> {
        let workspace = crate::bed::workspace(mode);
        let mut plan = crate::bed::plan(mode, workspace.path());
        plan.sabotage = sabotage.to_vec();
        plan.enforcement = Enforcement::BestEffort;
        let out = Cage::with(&plan).run(&["/usr/bin/python3", "-c", CONNECTS]);
        let numbers: Vec<f64> = out.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers.len(), 2, "{out:?}");
        numbers
    };
    let (without, with) = (measure(&[Control::ConnectNotify]), measure(&[]));
    eprintln!(
        "{mode:?}: connect, datagram and TCP with accept and close: {without:.1?} µs, asked {with:.1?} µs"
    );
    // Two switches of processes and a dozen system calls; other work shares the machine.
    assert!(with[0] - without[0] < 2000.0, "{with:?} {without:?}");
}

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
