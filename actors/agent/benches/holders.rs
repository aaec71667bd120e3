//! Who holds a socket, among a hundred processes of thirty descriptors each: `cargo bench -p
//! cofferdam-agent`.
//!
//! What an identity costs that isn't cached, but for the hash of its program: where the hundred sleep, and
//! where each runs between two looks. As root, since every process is looked at.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench fails by panic")]
#![allow(clippy::print_stdout, reason = "it tells its figures")]

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
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
    let none = looks(LOOKS, || {});
    let mut crowd = crowd();
    let asleep = looks(LOOKS, || {});
    let awake = looks(LOOKS / 10, || crowd.iter_mut().for_each(wake));
    for child in &mut crowd {
        child.kill().and_then(|()| child.wait()).unwrap();
    }
    for (what, [p50, p99]) in
        [("nobody else", none), ("100 processes of 30, asleep", asleep), ("each has run", awake)]
    {
        println!("{what:<34} p50 {p50:>9.1?}  p99 {p99:>9.1?}");
    }
}

/// Processes that wait for a byte, each with its standard streams and copies of them.
fn crowd() -> Vec<Child> {
    let null = std::fs::File::open("/dev/null").unwrap();
    // What `dup` makes is inherited.
    let copies: Vec<_> = (3..DESCRIPTORS).map(|_| nix::unistd::dup(&null).unwrap()).collect();
    // Without what this process was given beside them.
    let close =
        "for n in /proc/self/fd/[0-9][0-9][0-9]*; do eval \"exec ${n##*/}>&-\"; done; exec cat >/dev/null";
    let cat = || Command::new("bash").args(["-c", close]).stdin(Stdio::piped()).spawn().unwrap();
    let crowd: Vec<Child> = (0..PROCESSES).map(|_| cat()).collect();
    std::thread::sleep(Duration::from_secs(1));
    let open = std::fs::read_dir(format!("/proc/{}/fd", crowd[0].id())).unwrap().count();
    assert!(open >= DESCRIPTORS, "{open} descriptors");
    drop(copies);
    crowd
}

fn wake(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
}

/// The median and the 99th percentile of a look.
fn looks(count: usize, mut before: impl FnMut()) -> [Duration; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = fstat(&listener).unwrap().st_ino;
    let at = (i32::try_from(std::process::id()).unwrap(), listener.as_raw_fd());
    let mut looks = cofferdam_agent::measured::Looks::default();
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            before();
            let began = Instant::now();
            assert_eq!(looks.holders_of(inode, at), 1);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    [times[count / 2], times[count * 99 / 100]]
}
