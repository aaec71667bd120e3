//! Starting init and the supervisor, and leaving the command behind, as the heart does: this test's own
//! binary plays the part.

use crate::bed::{GATEWAY, Mode};
use agent::launch::{self, LaunchError, SupervisorSpec};
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

pub const CASES: &[crate::Case] = &[
    ("a_supervisor_keeps_its_descriptors_and_no_right", a_supervisor_keeps_its_descriptors_and_no_right),
    ("a_supervisor_ends_with_its_parent", a_supervisor_ends_with_its_parent),
    ("a_heart_keeps_nothing_of_what_it_was_started_with", a_heart_keeps_nothing_of_what_it_was_started_with),
    (
        "what_a_child_does_is_answered_and_its_death_is_told",
        what_a_child_does_is_answered_and_its_death_is_told,
    ),
    ("an_init_that_gets_no_plan_is_gone", an_init_that_gets_no_plan_is_gone),
    ("a_plan_on_another_foundation_is_refused", a_plan_on_another_foundation_is_refused),
    ("what_is_no_program_is_named", what_is_no_program_is_named),
    ("threads_are_refused", threads_are_refused),
];

/// The argument that makes this binary play the supervisor.
pub const PART: &str = "as-supervisor";

/// Reports to descriptor 3 what it sees, and stays while descriptor 4, if there is one, is open at its other
/// end.
pub fn play() -> ! {
    let mut out = std::fs::File::from(agent::inherit(3).expect("descriptor 3"));
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line =
        |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default().replace('\t', " ");
    let mut open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .expect("fd")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    open.sort_unstable();
    // The last is the listing's own.
    open.pop();
    let environment = std::env::vars().count();
    let session = nix::unistd::getsid(None).expect("sid") == nix::unistd::getpid();
    for key in ["Uid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:"] {
        writeln!(out, "{}", line(key)).expect("write");
    }
    writeln!(out, "open {open:?} environment {environment} own session {session}").expect("write");
    drop(out);
    if let Ok(wait) = agent::inherit(4) {
        let _ = std::fs::File::from(wait).read(&mut [0]);
    }
    std::process::exit(0)
}

fn own() -> OwnedFd {
    launch::own_executable().expect("own executable")
}

fn argv() -> [CString; 2] {
    [c"cofferdam: supervisor".to_owned(), CString::new(PART).expect("no NUL")]
}

fn a_supervisor_keeps_its_descriptors_and_no_right(mode: Mode) {
    let (mut read, write) = std::io::pipe().expect("pipe");
    let (_hold, wait) = std::io::pipe().map(|(r, w)| (w, r)).expect("pipe");
    let executable = own();
    let argv = argv();
    let spec = SupervisorSpec {
        executable: executable.as_fd(),
        argv: &argv,
        env: &[],
        keep: &[write.as_fd(), wait.as_fd()],
        ids: mode.ids(),
    };
    let child = launch::exec_supervisor(&spec).expect("start");
    drop(write);
    let mut seen = String::new();
    read.read_to_string(&mut seen).expect("read");
    drop(_hold);
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None).expect("reap");
    let lines: Vec<&str> = seen.lines().map(str::trim_end).collect();
    let uid = if mode == Mode::Rooted { GATEWAY.uid } else { nix::unistd::geteuid().as_raw() };
    assert_eq!(lines[0], format!("Uid: {uid} {uid} {uid} {uid}"));
    // An ordinary user can give no group up, nor become another user.
    let kept = if mode == Mode::Rooted { Vec::new() } else { nix::unistd::getgroups().expect("groups") };
    let kept: String = kept.iter().map(|gid| format!(" {gid}")).collect();
    assert_eq!(lines[1], format!("Groups:{kept}"));
    assert_eq!(lines[2], "CapEff: 0000000000000000");
    if mode == Mode::Rooted {
        assert_eq!(lines[3], "CapBnd: 0000000000000000");
    }
    assert_eq!(lines[4], "NoNewPrivs: 1");
    assert_eq!(lines[5], "open [0, 1, 2, 3, 4] environment 0 own session true");
}

fn a_supervisor_ends_with_its_parent(mode: Mode) {
    let (mut read, write) = std::io::pipe().expect("pipe");
    let (wait, hold) = std::io::pipe().expect("pipe");
    // SAFETY: this harness is single-threaded.
    #[expect(unsafe_code, reason = "a parent that dies is what is tested")]
    match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Child => {
            let executable = own();
            let argv = argv();
            let spec = SupervisorSpec {
                executable: executable.as_fd(),
                argv: &argv,
                env: &[],
                // The second copy stays with it until its end.
                keep: &[write.as_fd(), wait.as_fd(), write.as_fd()],
                ids: mode.ids(),
            };
            launch::exec_supervisor(&spec).expect("start");
            std::process::exit(0)
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop((write, wait));
            nix::sys::wait::waitpid(child, None).expect("reap");
            // Ends only when the supervisor has: it holds the pipe, and `hold` keeps it waiting.
            read.read_to_end(&mut Vec::new()).expect("read");
            drop(hold);
        }
    }
}

fn a_heart_keeps_nothing_of_what_it_was_started_with(_: Mode) {
    let seen = |path: &str| std::fs::read(path).expect("readable");
    // Since it changed its user, the harness couldn't read its own.
    nix::sys::prctl::set_dumpable(true).expect("dumpable");
    let before = seen("/proc/self/environ");
    assert!(before.iter().any(|byte| *byte != 0), "nothing to see");
    let (stray, _other) = std::io::pipe().expect("pipe");
    let told = launch::in_child(|| {
        nix::sys::prctl::set_dumpable(true).expect("dumpable");
        let (kept, _other) = std::io::pipe().expect("pipe");
        agent::own::retitle(c"a test", "a test's title").expect("retitle");
        launch::close_all_but(&[kept.as_fd()]).expect("close");
        assert!(kept.as_fd().try_clone_to_owned().is_ok());
        // What isn't there any more must not be closed again.
        std::mem::forget(_other);
        let environment = seen("/proc/self/environ");
        assert_eq!(environment.len(), before.len());
        assert!(environment.iter().all(|byte| *byte == 0));
        assert_eq!(std::env::vars_os().count(), 0);
        let line = seen("/proc/self/cmdline");
        // No longer than what was there, and not padded to it where it is shorter.
        assert_eq!(line.split(|byte| *byte == 0).next(), Some(&b"a test's title"[..]));
        assert!(line.len() <= b"a test's title\0\0".len(), "{} bytes", line.len());
        assert_eq!(seen("/proc/self/comm"), b"a test\n");
        assert!(stray.as_fd().try_clone_to_owned().is_err(), "a stray descriptor stays");
        // Its way to answer is gone as well.
        std::process::exit(7)
    });
    assert!(matches!(told, Err(LaunchError::Died(_))), "{told:?}");
    assert_eq!(seen("/proc/self/environ"), before, "a child's own copy");
}

fn what_a_child_does_is_answered_and_its_death_is_told(_: Mode) {
    let mut here = 1;
    let answer = launch::in_child(|| {
        here = 2;
        b"done".to_vec()
    });
    assert_eq!(answer.expect("an answer"), b"done");
    assert_eq!(here, 1, "a copy did it");
    assert!(matches!(launch::in_child(|| panic!("on purpose")), Err(LaunchError::Died(_))));
    let large = launch::in_child(|| vec![7; 1 << 20]).expect("an answer");
    assert_eq!(large.len(), 1 << 20);
}

fn an_init_that_gets_no_plan_is_gone(mode: Mode) {
    let foundation = launch::Foundation { ids: mode.ids(), witness: false, sabotage: Vec::new() };
    let new = launch::NewInit::begin(foundation, launch::Parent::Caller).expect("begin");
    assert_eq!(children(), 1);
    drop(new);
    assert_eq!(children(), 0);
}

fn a_plan_on_another_foundation_is_refused(mode: Mode) {
    let dir = crate::bed::workspace(mode);
    let foundation = launch::Foundation { ids: mode.ids(), witness: true, sabotage: Vec::new() };
    let new = launch::NewInit::begin(foundation, launch::Parent::Caller).expect("begin");
    let (_ours, theirs) = agent::wire::pair().expect("pair");
    let refused = new.furnish(&crate::bed::plan(mode, dir.path()), theirs);
    assert!(refused.is_err_and(|e| e.to_string().contains("foundation")));
    assert_eq!(children(), 0);
}

/// How many this process has.
fn children() -> usize {
    let list = std::fs::read_to_string("/proc/thread-self/children").expect("children");
    list.split_whitespace().count()
}

fn what_is_no_program_is_named(mode: Mode) {
    let not_a_program = std::fs::File::open("/etc/passwd").expect("open");
    let spec = SupervisorSpec {
        executable: not_a_program.as_fd(),
        argv: &argv(),
        env: &[],
        keep: &[],
        ids: mode.ids(),
    };
    match launch::exec_supervisor(&spec) {
        Err(LaunchError::Died(why)) => assert!(why.starts_with("exec: "), "{why}"),
        other => panic!("{other:?}"),
    }
}

fn threads_are_refused(mode: Mode) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    let dir = crate::bed::workspace(mode);
    let (_ours, theirs) = agent::wire::pair().expect("pair");
    let refused = launch::clone_init(&crate::bed::plan(mode, dir.path()), theirs);
    assert!(matches!(refused, Err(LaunchError::Threads(2))), "{refused:?}");
    drop(stop);
    let _ = thread.join();
    // The kernel may take a moment to drop a joined thread from the list.
    while std::fs::read_dir("/proc/self/task").expect("tasks").count() > 1 {
        std::thread::yield_now();
    }
}
