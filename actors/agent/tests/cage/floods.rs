//! More descriptors than a look goes through: whose they are loses them, however they are kept from being
//! counted, and nobody else.

use crate::bed::{Cage, Mode};
use crate::holders::{Connects, connected, connected_by, holders, python};
use agent::protocol::{ExitStatus, Refusal, Request};

pub const CASES: &[crate::Case] = &[
    ("who_floods_keeps_only_itself_from_the_network", who_floods_keeps_only_itself_from_the_network),
    ("who_floods_again_and_again_is_ended", who_floods_again_and_again_is_ended),
    (
        "a_flood_behind_first_threads_that_are_over_is_its_own",
        a_flood_behind_first_threads_that_are_over_is_its_own,
    ),
    ("a_flood_of_hidden_tables_is_its_own", a_flood_of_hidden_tables_is_its_own),
    (
        "a_flood_of_sleepers_that_have_the_socket_is_its_own",
        a_flood_of_sleepers_that_have_the_socket_is_its_own,
    ),
];

/// `hoard(full)` starts a process with descriptors, which never sleeps long; so many `children` have more
/// than is looked through.
const HOARD: &str = r#"
import os, resource, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
each = min(hard - 16, 18000)
children = 70000 // each + 1
def hoard(full):
    if os.fork() == 0:
        null = os.open("/dev/null", 0)
        for _ in range(each):
            os.dup(null)
        full()
        while True:
            time.sleep(0.0005)
"#;

/// More is open than is looked through. An agent that is alone bears it itself; where there is another, it
/// loses what it has most in.
fn who_floods_keeps_only_itself_from_the_network(mode: Mode) {
    const FLOODS: &str = r#"
read, write = os.pipe()
def full():
    os.write(write, b".")
"#;
    let Some(program) = python(&[HOARD, FLOODS, CONNECTS].concat()) else { return };
    let cage = Cage::start(mode);
    let (hog, its) = connected_by(&cage, "hog", &program);
    let found = holders(&cage, its);
    assert!(matches!(found, Err(Refusal::Flooded { .. })), "{found:?}");
    assert_eq!(cage.floods(), [], "nobody else is there");
    let inode = connected(&cage, "exec 3<>/dev/tcp/127.0.0.1/3128; readlink /proc/$$/fd/3 3<&-; read <&3");
    let list = holders(&cage, inode).expect("whoever else asks is told").0;
    assert_eq!(list.len(), 1, "{list:?}");
    let floods = cage.floods();
    assert!(!floods.is_empty(), "and it is told why");
    assert!(floods.iter().all(|(agent, open)| agent == "hog" && *open > 1000), "{floods:?}");
    // As much as was needed, and from the greatest on: its first process has few.
    assert_eq!(holders(&cage, its).expect("it is told again, too").0.len(), 1);
    assert!(cage.ask(Request::Signal { process: hog, signo: 0 }).is_ok());
}

/// What it loses it makes anew, as fast as it can. Whoever else asks is told all the same, until its first
/// process is gone with the rest.
fn who_floods_again_and_again_is_ended(mode: Mode) {
    const FLOODS: &str = r#"
while True:
    while children:
        children -= 1
        hoard(lambda: None)
    os.wait()
    children += 1
"#;
    let Some(program) = python(&[HOARD, FLOODS].concat()) else { return };
    let cage = Cage::start(mode);
    let inode = connected(&cage, "exec 3<>/dev/tcp/127.0.0.1/3128; readlink /proc/$$/fd/3 3<&-; read <&3");
    let hog = cage.spawn_silent("hog", &["bash", "-c", &program]).expect("spawn").process;
    let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
    let mut refused = 0;
    while !cage.has_ended(hog) {
        assert!(std::time::Instant::now() < deadline, "{:?}", cage.floods());
        let list = match holders(&cage, inode) {
            Ok((list, ..)) => list,
            // On a slow machine it may have made as much again before the look that follows its loss; but not
            // each time.
            Err(Refusal::Flooded { .. }) if refused < 3 => {
                refused += 1;
                continue;
            }
            Err(refusal) => panic!("whoever else asks is told: {refusal:?}"),
        };
        refused = 0;
        assert_eq!(list.len(), 1, "{list:?}");
    }
    assert_eq!(cage.wait(hog), ExitStatus::Signal(9));
    assert!(cage.floods().iter().all(|(agent, _)| agent == "hog"), "{:?}", cage.floods());
    assert_eq!(holders(&cage, inode).expect("holders").0.len(), 1);
}

/// What has far more open than any of the floods below shows to whoever counts, and nothing to do with them.
const BYSTANDER: &str = "exec 3<>/dev/tcp/127.0.0.1/3128; for n in {20..90}; do eval \"exec $n</dev/null\"; done; readlink /proc/$$/fd/3 3<&-; read <&3";

/// Whoever asks while another agent floods, and however often, loses nothing.
fn is_its_own(cage: &Cage, bystander: u64, its: u64) {
    for _ in 0..5 {
        drop(holders(cage, its));
        let list = holders(cage, bystander).expect("whoever else asks is told").0;
        assert_eq!(list.len(), 1, "{list:?}");
    }
    let floods = cage.floods();
    assert!(
        !floods.is_empty() && floods.iter().all(|(agent, open)| agent == "hog" && *open > 1000),
        "{floods:?}"
    );
}

/// Once each of the `children` is `full`, and has said so.
const CONNECTS: &str = r#"
for n in range(children):
    hoard(full)
for n in range(children):
    os.read(read, 1)
s = __import__("socket").create_connection(("127.0.0.1", 3128))
print(os.readlink("/proc/self/fd/%d" % s.fileno()), flush=True)
time.sleep(1000)
"#;

/// Of a process whose first thread is over nothing is open, as that one tells.
fn a_flood_behind_first_threads_that_are_over_is_its_own(mode: Mode) {
    const FLOODS: &str = r#"
import ctypes, threading
def told():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    os.write(write, b".")
    time.sleep(1000)
def headless():
    threading.Thread(target=told).start()
    ctypes.CDLL(None).pthread_exit(None)
read, write = os.pipe()
full = headless
"#;
    let Some(program) = python(&[HOARD, FLOODS, CONNECTS].concat()) else { return };
    let cage = Cage::start(mode);
    let bystander = connected(&cage, BYSTANDER);
    let (_, its) = connected_by(&cage, "hog", &program);
    is_its_own(&cage, bystander, its);
}

/// A table that nobody may list is compared number by number, up to the last that was ever open; to whoever
/// counts it tells nothing.
fn a_flood_of_hidden_tables_is_its_own(mode: Mode) {
    const FLOODS: &str = r#"
import ctypes
read, write = os.pipe()
each = 0
children = 70000 // hard + 1
def hidden():
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    os.dup2(0, hard - 1)
    os.write(write, b".")
full = hidden
"#;
    let Some(program) = python(&[HOARD, FLOODS, CONNECTS].concat()) else { return };
    let cage = Cage::start(mode);
    let bystander = connected(&cage, BYSTANDER);
    let (_, its) = connected_by(&cage, "hog", &program);
    match mode {
        Mode::Rootless => is_its_own(&cage, bystander, its),
        // Root's sandboxes have somebody who may list them: they hold three each.
        Mode::Rooted => assert_eq!(holders(&cage, its).expect("holders").0.len(), 1),
    }
}

/// Sleeping tables cost a look nothing, unless the socket that is asked for is in them.
fn a_flood_of_sleepers_that_have_the_socket_is_its_own(mode: Mode) {
    const FLOODS: &str = r#"
import socket
s = socket.socket()
def sleeps():
    number = os.dup(s.fileno())
    s.close()
    os.write(write, b".")
    time.sleep(1000)
read, write = os.pipe()
for n in range(children):
    hoard(sleeps)
    os.read(read, 1)
    print("up", flush=True)
    while not os.path.exists("/sandbox/go%d" % n):
        time.sleep(0.02)
s.connect(("127.0.0.1", 3128))
print(os.readlink("/proc/self/fd/%d" % s.fileno()), flush=True)
time.sleep(1000)
"#;
    let Some(program) = python(&[HOARD, FLOODS].concat()) else { return };
    let cage = Cage::start(mode);
    let bystander = connected(&cage, BYSTANDER);
    let mut hog = Connects::start(&cage, "hog", &program);
    // One after the other sleeps, and is known to by the looks that are made meanwhile.
    let mut ups = 0;
    let its = loop {
        let line = hog.line();
        if line != "up" {
            break line.trim_start_matches("socket:[").trim_end_matches(']').parse().expect("inode");
        }
        for _ in 0..20 {
            assert_eq!(holders(&cage, bystander).expect("whoever else asks is told").0.len(), 1);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(cage.run(&["touch", &format!("/sandbox/go{ups}")]).status, ExitStatus::Code(0));
        ups += 1;
    };
    is_its_own(&cage, bystander, its);
}
