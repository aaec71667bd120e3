//! Who holds a socket, among a hundred processes of thirty descriptors each: `cargo bench -p cofferdam-agent`.
//!
//! What an identity costs that isn't cached, but for the hash of its program. As root, since every process is looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panic")]
#![allow(clippy::print_stdout, reason = "it tells its figures")]

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;

/// The argument of the process in the namespace.
const INSIDE: &str = "inside";
const PROCESSES: usize = 100;
const DESCRIPTORS: usize = 30;
const LOOKS: usize = 2000;

fn main() {
    if std::env::args().any(|arg| arg == INSIDE) {
        return measure();
    }
    // In a pid namespace, as init sees one: the host's own processes are none of an agent's.
    let again = format!("{} {INSIDE}; true", std::env::current_exe().unwrap().display());
    let inside = Command::new("unshare").args(["-pf", "--mount-proc", "sh", "-c", &again]).status();
    if !inside.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no pid namespace (it takes root, and unshare(1))");
    }
}

fn measure() {
    let alone = looks();
    let mut crowd = crowd();
    let crowded = looks();
    for child in &mut crowd {
        child.kill().and_then(|()| child.wait()).unwrap();
    }
    for (what, [p50, p99]) in [("nobody else", alone), ("100 processes of 30 descriptors", crowded)] {
        println!("{what:<34} p50 {p50:>9.1?}  p99 {p99:>9.1?}");
    }
}

/// Processes that do nothing, each with its standard streams and copies of them.
fn crowd() -> Vec<Child> {
    let null = std::fs::File::open("/dev/null").unwrap();
    // What `dup` makes is inherited.
    let copies: Vec<_> = (3..DESCRIPTORS).map(|_| nix::unistd::dup(&null).unwrap()).collect();
    // Without what this process was given beside them.
    let close =
        "for n in /proc/self/fd/[0-9][0-9][0-9]*; do eval \"exec ${n##*/}>&-\"; done; exec sleep 1000";
    let sleep = || Command::new("bash").args(["-c", close]).spawn().unwrap();
    let crowd: Vec<Child> = (0..PROCESSES).map(|_| sleep()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let open = std::fs::read_dir(format!("/proc/{}/fd", crowd[0].id())).unwrap().count();
    assert!(open >= DESCRIPTORS, "{open} descriptors");
    drop(copies);
    crowd
}

/// The median and the 99th percentile of a look.
fn looks() -> [Duration; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = fstat(&listener).unwrap().st_ino;
    let at = (i32::try_from(std::process::id()).unwrap(), listener.as_raw_fd());
    let mut times: Vec<Duration> = (0..LOOKS)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(cofferdam_agent::measured::holders_of(inode, at), 1);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    [times[LOOKS / 2], times[LOOKS * 99 / 100]]
}
