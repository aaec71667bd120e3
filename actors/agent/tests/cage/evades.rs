//! Whoever holds a socket is found however it moves while it is looked for: an answer that leaves it out is
//! none that may be given.

use crate::bed::{Cage, Mode};
use crate::holders::{Connects, python};
use agent::protocol::{Answer, Refusal, Request};

pub const CASES: &[crate::Case] = &[
    ("a_table_outlives_the_thread_that_stands_for_it", a_table_outlives_the_thread_that_stands_for_it),
    ("who_is_born_behind_the_list_is_looked_at", who_is_born_behind_the_list_is_looked_at),
];

/// How many hold a socket.
fn count(cage: &Cage, inode: u64) -> Result<usize, Refusal> {
    match cage.ask(Request::Holders { inode, mappings: false, connector: false })? {
        Answer::Holders { holders, .. } => Ok(holders.len()),
        other => panic!("{other:?}"),
    }
}

/// `s` is connected, and a process can be filled so that a look at it lasts some milliseconds.
const LASTS: &str = r#"
import ctypes, os, resource, socket, sys, threading, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
libc = ctypes.CDLL(None)
def fill():
    null = os.open("/dev/null", 0)
    for _ in range(min(hard - 64, 8000)):
        os.dup(null)
def tell():
    print(os.readlink("/proc/self/fd/%d" % s.fileno()), flush=True)
s = socket.create_connection(("127.0.0.1", 3128))
"#;

/// It ends at some moment or other of the look, which has not come to the socket yet. What it had is the
/// other thread's.
fn a_table_outlives_the_thread_that_stands_for_it(mode: Mode) {
    const ENDS: &str = r#"
tell()
for n in range(40):
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        fill()
        os.dup(s.fileno())
        s.close()
        threading.Thread(target=time.sleep, args=(1000,)).start()
        os.write(told, b".")
        time.sleep(n * 0.0004)
        libc.pthread_exit(None)
    os.read(ready, 1)
    os.close(ready)
    os.close(told)
    print("up", flush=True)
    sys.stdin.read(1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    print("down", flush=True)
# What it holds is looked at once more.
time.sleep(1000)
"#;
    let Some(program) = python(&[LASTS, ENDS].concat()) else { return };
    let cage = Cage::start(mode);
    let mut both = Connects::start(&cage, "c", &program);
    let inode = both.inode();
    for n in 0..40 {
        assert_eq!(both.line(), "up");
        for _ in 0..3 {
            let found = count(&cage, inode);
            assert!(matches!(found, Ok(2) | Err(_)), "{n}: {found:?}");
        }
        both.go();
        assert_eq!(both.line(), "down");
    }
    assert_eq!(count(&cage, inode), Ok(1), "the control");
}

/// Goes from process to process.
const HOPS: &str = r#"
if os.fork() == 0:
    while True:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            # As many as there may be wait for init to reap them.
            time.sleep(0.001)
"#;

/// One that is looked at earlier lasts; by its own turn the holder has gone, and has left a child that wasn't
/// there when all were listed.
fn who_is_born_behind_the_list_is_looked_at(mode: Mode) {
    const LEAVES: &str = r#"
ready, told = os.pipe()
if os.fork() == 0:
    s.close()
    fill()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    os.write(told, b".")
    time.sleep(1000)
os.read(ready, 1)
tell()
sys.stdin.read(1)
"#;
    const STAYS: &str = "print(\"up\", flush=True)\ntime.sleep(1000)\n";
    let Some(program) = python(&[LASTS, LEAVES, HOPS, STAYS].concat()) else { return };
    let cage = Cage::start(mode);
    let mut both = Connects::start(&cage, "c", &program);
    let inode = both.inode();
    assert_eq!(count(&cage, inode), Ok(1), "the control");
    both.go();
    assert_eq!(both.line(), "up");
    for n in 0..200 {
        let found = count(&cage, inode);
        assert!(matches!(found, Ok(2..) | Err(_)), "{n}: {found:?}");
    }
}
