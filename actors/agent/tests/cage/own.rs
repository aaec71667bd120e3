//! What our own processes took from themselves, tried in their place: this test's own binary settles as each
//! of them.

use crate::bed::Mode;
use agent::own::{self, Role};
use std::io::{Read, Write};
use std::net::ToSocketAddrs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

pub const CASES: &[crate::Case] = &[
    ("a_settled_process_still_works", a_settled_process_still_works),
    ("what_no_honest_path_calls_is_deadly", what_no_honest_path_calls_is_deadly),
    ("what_a_library_may_try_is_an_error", what_a_library_may_try_is_an_error),
    ("no_memory_becomes_executable", no_memory_becomes_executable),
    ("only_the_roles_capabilities_are_left", only_the_roles_capabilities_are_left),
];

/// The argument that makes this binary settle: then a role and what to try.
pub const PART: &str = "as-settled";

const REFUSED: i32 = 10;
const DONE: i32 = 0;

fn role(name: &str) -> Role {
    match name {
        "heart" => Role::Heart { rooted: nix::unistd::geteuid().is_root() },
        "init" => Role::Init,
        "supervisor" => Role::Supervisor,
        other => panic!("{other}"),
    }
}

/// Settles and tries; the exit code says how it went.
pub fn play() -> ! {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [name, attempt] = arguments.as_slice() else { panic!("{arguments:?}") };
    if name != "nobody" {
        own::settle(role(name)).expect("settle");
    }
    let done = match attempt.as_str() {
        "work" => work(),
        "nothing" => true,
        "status" => {
            print_status();
            true
        }
        "unshare" => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_ok(),
        "setns" => nix::sched::setns(
            std::fs::File::open("/proc/self/ns/mnt").expect("open"),
            nix::sched::CloneFlags::empty(),
        )
        .is_ok(),
        "chroot" => nix::unistd::chroot("/").is_ok(),
        "umount" => nix::mount::umount("/nothing-here").is_ok(),
        "ptrace" => nix::sys::ptrace::attach(nix::unistd::getppid()).is_ok(),
        "exec" => {
            let error = Command::new("/bin/true").exec();
            panic!("{error}")
        }
        "start" => Command::new("/bin/true").status().is_ok_and(|status| status.success()),
        "signal" => nix::sys::signal::kill(nix::unistd::getpid(), None).is_ok(),
        "memory" => own::executable_memory() != (false, false),
        "agents memory" => {
            // As an agent's: a child of init's, after exec.
            let own = std::env::current_exe().expect("own path");
            Command::new(own).args([PART, "nobody", "memory"]).status().expect("start").success()
        }
        other => panic!("{other}"),
    };
    std::process::exit(if done { DONE } else { REFUSED })
}

fn print_status() {
    let mut out = std::io::stdout();
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    for line in status
        .lines()
        .filter(|line| ["Cap", "NoNewPrivs", "Seccomp:"].iter().any(|key| line.starts_with(key)))
    {
        writeln!(out, "{}", line.replace('\t', " ")).expect("write");
    }
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    let core: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    writeln!(out, "core {}", core.join(" ")).expect("write");
    let dumpable = nix::sys::prctl::get_dumpable().expect("prctl");
    writeln!(out, "dumpable {dumpable}").expect("write");
}

/// Threads, files, names, sockets: what the supervisor lives on.
fn work() -> bool {
    let answered = std::thread::spawn(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("connect");
            stream.write_all(b"x").expect("write");
        });
        let mut byte = [0];
        listener.accept().expect("accept").0.read_exact(&mut byte).expect("read");
        client.join().expect("client");
        byte == *b"x"
    })
    .join()
    .expect("thread");
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("file");
    std::fs::write(&file, "text").expect("write");
    std::fs::rename(&file, directory.path().join("other")).expect("rename");
    // By every module that nsswitch.conf names, which are loaded now.
    answered && ("localhost", 80).to_socket_addrs().is_ok_and(|mut all| all.next().is_some())
}

fn settled(role: &str, attempt: &str) -> std::process::Output {
    let own = std::env::current_exe().expect("own path");
    Command::new(own).args([PART, role, attempt]).output().expect("start")
}

/// The exit code, or minus the signal.
fn outcome(role: &str, attempt: &str) -> i32 {
    let status = settled(role, attempt).status;
    status.code().or_else(|| status.signal().map(|signal| -signal)).expect("an end")
}

fn a_settled_process_still_works(_: Mode) {
    for role in ["heart", "init", "supervisor"] {
        let output = settled(role, "work");
        assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Init starts agents; the heart starts supervisors, by descriptor only (`a_supervisor_keeps_…`).
    assert_eq!(outcome("init", "start"), DONE);
    assert_eq!(outcome("heart", "signal"), DONE);
}

fn what_no_honest_path_calls_is_deadly(_: Mode) {
    for role in ["heart", "supervisor"] {
        for attempt in ["unshare", "setns", "chroot", "umount", "ptrace"] {
            assert_eq!(outcome(role, attempt), -libc::SIGSYS, "{role} {attempt}");
        }
    }
    assert_eq!(outcome("supervisor", "exec"), -libc::SIGSYS);
    // The control: they are alive when they don't.
    assert_eq!(outcome("supervisor", "nothing"), DONE);
}

fn what_a_library_may_try_is_an_error(_: Mode) {
    assert_eq!(outcome("supervisor", "start"), REFUSED);
    assert_eq!(outcome("supervisor", "signal"), REFUSED);
    assert_eq!(outcome("heart", "start"), REFUSED);
    // Agents inherit init's: for them a refusal must be an error, never the end.
    for attempt in ["unshare", "setns", "chroot", "umount", "ptrace"] {
        assert_eq!(outcome("init", attempt), REFUSED, "{attempt}");
    }
}

fn no_memory_becomes_executable(_: Mode) {
    assert_ne!(own::executable_memory(), (false, false), "the control: here it can be had");
    for role in ["heart", "supervisor"] {
        assert_eq!(outcome(role, "memory"), REFUSED, "{role}");
    }
    if has_mdwe_for_one() {
        assert_eq!(outcome("init", "memory"), REFUSED);
    } else {
        eprintln!("SKIPPED init's executable memory: needs Linux 6.6");
    }
    // Agents compile at run time: init's refusal isn't theirs.
    assert_eq!(outcome("init", "agents memory"), DONE);
}

/// PR_MDWE_NO_INHERIT came with Linux 6.6.
fn has_mdwe_for_one() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(6), Some(6))
}

fn only_the_roles_capabilities_are_left(mode: Mode) {
    let status = |role: &str| String::from_utf8(settled(role, "status").stdout).expect("text");
    let root = mode == Mode::Rooted;
    for (role, kept) in
        [("heart", "00000000008001e2"), ("init", "00000000000805eb"), ("supervisor", "0000000000000000")]
    {
        let kept = if root { kept } else { "0000000000000000" };
        let text = status(role);
        for line in [
            format!("CapPrm: {kept}"),
            format!("CapEff: {kept}"),
            "CapInh: 0000000000000000".into(),
            "CapAmb: 0000000000000000".into(),
            "NoNewPrivs: 1".into(),
            "Seccomp: 2".into(),
            "core 0 0".into(),
            "dumpable false".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{role}: no `{line}` in\n{text}");
        }
        if root {
            assert!(text.contains(&format!("CapBnd: {kept}")), "{role}: {text}");
        }
    }
}
