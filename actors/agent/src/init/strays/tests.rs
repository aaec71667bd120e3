//! Searches over processes of our own, shown to them as all that there are. Must never show them the
//! machine's: they kill.

use super::*;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

/// Starts a marked process that has executed its program already, so that it has the environment that it was
/// given. It waits for what is never written.
fn marked() -> (Child, i32) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo; read -r line"]).env("MARK", "it");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let pid = child.id() as i32;
    (child, pid)
}

/// A `/proc` that shows these alone: nobody else of this machine is looked at.
fn proc_of(pids: &[i32]) -> (tempfile::TempDir, File) {
    let dir = tempfile::tempdir().unwrap();
    for pid in pids {
        std::os::unix::fs::symlink(format!("/proc/{pid}"), dir.path().join(pid.to_string())).unwrap();
    }
    let proc = File::open(dir.path()).unwrap();
    (dir, proc)
}

fn search(known: Known) -> Search {
    Search::of(RequestId(1), "a".into(), known)
}

fn run(search: &mut Search, proc: &File, beside: &Beside, birthmarks: &Birthmarks) -> Progress {
    loop {
        match search.go_on(proc, beside, birthmarks, &Waits::default()).unwrap() {
            Progress::UnderWay => {}
            over => return over,
        }
    }
}

fn alone() -> Beside {
    // A pid that no process has. Were the list empty, a search would take it that nobody else runs, and
    // signal all at once.
    Beside { running: vec![std::process::id() as i32 + (1 << 30)], is_its: false }
}

#[test]
fn who_is_another_or_descends_from_what_runs_is_spared() {
    let (mut child, pid) = marked();
    let (_dir, proc) = proc_of(&[pid]);
    let none = Birthmarks::new();
    let by = |mark: &str| search(Known::ByEnvironment(mark.into()));
    assert_eq!(run(&mut by("MARK=i"), &proc, &alone(), &none), Progress::Clean, "another mark");
    let parent = Beside { running: vec![std::process::id() as i32], is_its: false };
    assert_eq!(run(&mut by("MARK=it"), &proc, &parent, &none), Progress::Clean, "it descends from us");
    // It waits still: nothing has killed it so far.
    assert!(!Stat::read(pid).unwrap().is_ending());
    assert_eq!(run(&mut by("MARK=it"), &proc, &alone(), &none), Progress::Clean);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

/// Starts a process that is born with an agent's mark, if that can be; returns it with its pid and the
/// agent's number.
fn born(birthmarks: &mut Birthmarks) -> Option<(Child, i32, u32)> {
    let mark = birthmarks.of_agent("a", |_| false)?;
    let [locks, real_time] = mark.limits();
    let options = [format!("--locks={locks}:{locks}"), format!("--rttime={real_time}:{real_time}")];
    let mut command = Command::new("prlimit");
    command.args(options).args(["/bin/sh", "-c", "echo; read -r line"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    child.stdout.take()?.read_exact(&mut [0]).ok()?;
    let pid = child.id() as i32;
    Some((child, pid, birthmarks.number("a")?))
}

#[test]
fn passes_used_up_are_no_end() {
    let mut birthmarks = Birthmarks::new();
    let Some((mut child, pid, number)) = born(&mut birthmarks) else {
        return eprintln!("SKIPPED: limits too low, or no prlimit(1)");
    };
    let (_dir, proc) = proc_of(&[pid]);
    // The process is killed at once. But until we reap it, it is a dead child of a parent that isn't init,
    // and a search can't know that its pid stays its own.
    let mut sought = search(Known::ByBirth(Some(number)));
    assert_eq!(run(&mut sought, &proc, &alone(), &birthmarks), Progress::Survivors);
    assert_eq!(sought.passes, PASSES);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    let mut sought = search(Known::ByBirth(Some(number)));
    assert_eq!(run(&mut sought, &proc, &alone(), &birthmarks), Progress::Clean);
}

#[test]
fn a_pass_in_which_somebody_was_reaped_proves_nothing() {
    let none = Birthmarks::new();
    let (_dir, proc) = proc_of(&[]);
    let mut sought = search(Known::ByEnvironment(b"MARK=nobody".to_vec()));
    sought.begin_pass(&proc, &alone()).unwrap();
    assert!(sought.keeps_the_dead());
    sought.note_reaped(7);
    assert_eq!(sought.end_pass(), Progress::UnderWay);
    assert!(!sought.keeps_the_dead());
    assert_eq!(run(&mut sought, &proc, &alone(), &none), Progress::Clean);
}

#[test]
fn more_than_are_looked_at_are_no_end() {
    let (_dir, proc) = proc_of(&[11, 12, 13]);
    let (listed, is_cut) = list(proc.as_fd(), 3).unwrap();
    assert_eq!((listed.len(), is_cut), (3, false));
    let (listed, is_cut) = list(proc.as_fd(), 2).unwrap();
    assert_eq!((listed.len(), is_cut), (2, true));
    let mut sought = search(Known::ByEnvironment(b"MARK=nobody".to_vec()));
    (sought.left, sought.found) = (Some(Vec::new()), is_cut);
    assert_eq!(sought.end_pass(), Progress::UnderWay);
}

#[test]
fn everybody_is_killed_by_pid_1_alone() {
    assert_eq!(signals::kill_all().unwrap_err().raw_os_error(), Some(libc::EPERM));
}

#[test]
fn a_process_whose_first_thread_alone_has_ended_is_not_dead() {
    let script = "import threading, ctypes, sys; go = threading.Event()\n\
                  def rest(): go.wait(); print(flush=True); sys.stdin.read()\n\
                  threading.Thread(target=rest).start(); go.set(); ctypes.CDLL(None).syscall(SYS, 0)\n"
        .replace("SYS", &libc::SYS_exit.to_string());
    let mut command = Command::new("python3");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return eprintln!("SKIPPED: no python3") };
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let pid = child.id() as i32;
    while !Stat::read(pid).unwrap().is_over() {
        std::thread::yield_now();
    }
    assert!(!Stat::read(pid).unwrap().is_dead());
    child.kill().unwrap();
    while !Stat::read(pid).unwrap().is_dead() {
        std::thread::yield_now();
    }
    child.wait().unwrap();
}

#[test]
fn a_signal_reaches_the_process_that_was_opened_or_nobody() {
    let proc = File::open("/proc").unwrap();
    let (mut child, pid) = marked();
    let process = Opened::open(proc.as_fd(), pid).unwrap();
    process.signal(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    // Its pid is free from here on, and may be any process's.
    assert_eq!(process.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}
