//! Lives of processes: table, signals, terminals, strays, the ends of init and its parent.

use crate::bed::{Cage, Mode, PATIENCE, plan, spec, spec_file, workspace};
use agent::protocol::{
    Answer, ExitStatus, FromInit, ProcessState, Refusal, Request, RequestId, Stdio, ToInit,
};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

pub const CASES: &[crate::Case] = &[
    ("a_new_supervisor_finds_what_runs", a_new_supervisor_finds_what_runs),
    ("init_goes_first_where_it_may_and_nobody_else_does", init_goes_first_where_it_may_and_nobody_else_does),
    ("signals_reach_one_or_the_group", signals_reach_one_or_the_group),
    ("a_stopped_child_stops_nobody_else", a_stopped_child_stops_nobody_else),
    ("a_terminal_of_the_sandboxs_own", a_terminal_of_the_sandboxs_own),
    ("strays_are_killed_and_others_spared", strays_are_killed_and_others_spared),
    ("nobody_waits_for_a_search_for_strays", nobody_waits_for_a_search_for_strays),
    ("who_is_not_marked_is_known_by_the_environment", who_is_not_marked_is_known_by_the_environment),
    ("sockets_inside", sockets_inside),
    ("the_bundle_is_the_systems_store", the_bundle_is_the_systems_store),
    ("init_ends_with_its_channel", init_ends_with_its_channel),
    ("init_ends_with_its_parent", init_ends_with_its_parent),
    ("a_workspace_of_another_owner", a_workspace_of_another_owner),
    ("credential_files_are_closed_at_start_and_later", credential_files_are_closed_at_start_and_later),
    ("limits_are_had_or_refused", limits_are_had_or_refused),
    ("the_doctor_finds_what_a_start_finds", the_doctor_finds_what_a_start_finds),
];

fn records(cage: &Cage) -> Vec<agent::protocol::ProcessRecord> {
    match cage.ask(Request::List).expect("list") {
        Answer::Processes(list) => list,
        other => panic!("{other:?}"),
    }
}

/// Where Landlock scopes no signals (before Linux 6.12) an agent may stop a child of init's that is its user
/// already and has not executed its program yet. Init must go on.
fn a_stopped_child_stops_nobody_else(mode: Mode) {
    use agent::plan::{Control, Enforcement};
    let workspace = workspace(mode);
    let mut plan = plan(mode, workspace.path());
    plan.enforcement = Enforcement::BestEffort;
    plan.sabotage = vec![Control::LandlockScopes];
    let cage = Cage::with(&plan);
    // The next numbers of processes, stopped as soon as they are there.
    let stop = "while :; do kill -STOP $(($$ + 1)) $(($$ + 2)) $(($$ + 3)) $(($$ + 4)) $(($$ + 5)) 2>/dev/null; done";
    let stopper = cage.spawn_silent("stopper", &["sh", "-c", stop]).expect("spawn");
    let told = (0..5).find_map(|n| cage.spawn_silent(&format!("victim-{n}"), &["sleep", "1000"]).err());
    let Some(told) = told else {
        return eprintln!("SKIPPED: no child was stopped before its exec, in five tries");
    };
    assert!(matches!(&told, Refusal::BeforeExec { errno: nix::libc::ETIMEDOUT, .. }), "{told:?}");
    // It serves on, and reaps.
    cage.ask(Request::Signal { process: stopper.process, signo: 9 }).expect("signal");
    assert_eq!(cage.wait(stopper.process), ExitStatus::Signal(9));
    let after = cage.spawn_silent("after", &["true"]).expect("spawn");
    assert_eq!(cage.wait(after.process), ExitStatus::Code(0));
}

fn a_new_supervisor_finds_what_runs(mode: Mode) {
    let cage = Cage::start(mode);
    let runs = cage.spawn_silent("a", &["sleep", "1000"]).expect("spawn");
    let ended = cage.spawn_silent("b", &["true"]).expect("spawn");
    assert_eq!(cage.wait(ended.process), ExitStatus::Code(0));
    assert!(
        matches!(cage.spawn_silent("a", &["true"]), Err(Refusal::AlreadyRunning(p)) if p == runs.process)
    );
    let list = records(&cage);
    assert_eq!(list.len(), 2);
    assert_eq!(list[0], runs);
    assert_eq!(list[1].state, ProcessState::Exited(ExitStatus::Code(0)));
    cage.ask(Request::Forget { process: ended.process }).expect("forget");
    assert_eq!(records(&cage).len(), 1);
    assert!(matches!(cage.ask(Request::Forget { process: runs.process }), Err(Refusal::StillRunning(_))));
}

fn init_goes_first_where_it_may_and_nobody_else_does(mode: Mode) {
    let cage = Cage::start(mode);
    let ours = std::process::Command::new("nice").output().expect("nice(1)").stdout;
    let ours: i32 = String::from_utf8_lossy(&ours).trim().parse().expect("a number");
    let told = |of: &str| {
        cage.sh(&format!(
            "sed 's/.*) //' /proc/{of}/stat | cut -d' ' -f17; sed 's/.* //' /proc/{of}/autogroup"
        ))
    };
    assert_eq!(told("self"), format!("{ours}\n0"), "an agent's");
    match (mode, told("1")) {
        (Mode::Rooted, init) => assert_eq!(init, format!("{}\n-10", ours - 10)),
        (_, init) => assert_eq!(init, format!("{ours}\n0"), "an ordinary user may not"),
    }
}

fn signals_reach_one_or_the_group(mode: Mode) {
    let cage = Cage::start(mode);
    let record = cage.spawn_silent("a", &["sh", "-c", "sleep 1000; exit 3"]).expect("spawn");
    cage.ask(Request::Signal { process: record.process, signo: 15 }).expect("signal");
    assert_eq!(cage.wait(record.process), ExitStatus::Signal(15));
    cage.ask(Request::Signal { process: record.process, signo: 9 }).expect("a late signal is no error");
}

fn a_terminal_of_the_sandboxs_own(mode: Mode) {
    let cage = Cage::start(mode);
    let program =
        spec("t", &["sh", "-c", "tty; stty size; exec 3</dev/tty && echo control; read x; echo got $x"]);
    let request = Request::Spawn { agent: "t".into(), stdio: Stdio::Pty { rows: 33, columns: 99 } };
    let (answer, fds) = cage.ask_with(request, &[spec_file(&program)]).expect("spawn");
    let Answer::Spawned(record) = answer else { panic!("{answer:?}") };
    assert!(record.pty);
    let mut master = std::fs::File::from(fds.into_iter().next().expect("a master"));
    master.write_all(b"hello\n").expect("type");
    let mut seen = Vec::new();
    // The end of a terminal is EIO.
    let _ = master.try_clone().expect("dup").read_to_end(&mut seen);
    let seen = String::from_utf8_lossy(&seen);
    for line in ["/dev/pts/0", "33 99", "control", "got hello"] {
        assert!(seen.contains(line), "{line} in {seen:?}");
    }
    assert_eq!(cage.wait(record.process), ExitStatus::Code(0));
}

/// Whether init has limits so high that an agent's processes can be told by theirs.
fn are_marked() -> bool {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    getrlimit(Resource::RLIMIT_LOCKS).is_ok_and(|(_, hard)| hard == RLIM_INFINITY)
}

/// The tests of strays once more, where init can't mark anybody.
fn who_is_not_marked_is_known_by_the_environment(mode: Mode) {
    if mode == Mode::Rootless && nix::unistd::geteuid().is_root() || !are_marked() {
        return;
    }
    let mut again = std::process::Command::new("prlimit");
    again.arg("--locks=64:64").arg(std::env::current_exe().expect("own path")).arg("strays");
    match again.status() {
        Ok(status) => assert!(status.success()),
        Err(error) => eprintln!("SKIPPED: no prlimit(1): {error}"),
    }
}

fn strays_are_killed_and_others_spared(mode: Mode) {
    let cage = Cage::start(mode);
    let other = cage.spawn_silent("other", &["sh", "-c", "sleep 1002; true"]).expect("spawn");
    // One goes as it was begun, one without its environment, one behind a longer one than anybody reads, two
    // with limits lowered.
    let leaves = "setsid sleep 1001 & env -i /usr/bin/setsid /bin/sleep 1003 & \
                  (for n in 1 2 3; do export A$n=$(printf %0100000d 0); done; exec setsid sleep 1004) & \
                  (ulimit -x 5; exec setsid sleep 1005) & (ulimit -R 6; ulimit -x 7; exec env -i /usr/bin/setsid /bin/sleep 1006) & \
                  exit 0";
    let ended = cage.spawn_silent("a", &["bash", "-c", leaves]).expect("spawn");
    cage.wait(ended.process);
    let count = |what: &str| {
        cage.sh(&format!(
            "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep {what}' | wc -l"
        ))
    };
    let deadline = std::time::Instant::now() + PATIENCE;
    while count("100[13456]") != "5" {
        assert!(std::time::Instant::now() < deadline, "{} of 5", count("100[13456]"));
    }
    cage.ask(Request::KillStrays { agent: "nobody".into() }).expect("strays");
    assert_eq!(count("100[1346]"), "4", "whoever never ran has left nothing");
    cage.ask(Request::KillStrays { agent: "a".into() }).expect("strays");
    // Whom the environment tells of is who has it still.
    let left = if are_marked() { "0" } else { "3" };
    assert_eq!(count("100[13456]"), left);
    assert_eq!(count("100[2] "), "1");
    assert_eq!(records(&cage).iter().filter(|r| r.process == other.process).count(), 1);
}

/// A crowd with environments of megabytes, which an agent can leave behind at will, costs seconds to search
/// through.
fn nobody_waits_for_a_search_for_strays(mode: Mode) {
    let cage = Cage::start(mode);
    let script = "ulimit -s unlimited; mkfifo /tmp/crowd; for n in $(seq 40); do export X$n=$(printf %0131000d 0); done; \
                  exec bash -c 'for n in $(seq 100); do (read line <> /tmp/crowd) & done'";
    let ended = cage.spawn_silent("crowd", &["bash", "-c", script]).expect("spawn");
    assert_eq!(cage.wait(ended.process), ExitStatus::Code(0));
    let asked = [Request::KillStrays { agent: "other".into() }, Request::List];
    for (id, request) in (1000..).zip(asked) {
        cage.wire.send(&ToInit { id: RequestId(id), request }, &[], Some(PATIENCE)).expect("send");
    }
    let mut answered = Vec::new();
    while answered.len() < 2 {
        if let FromInit::Reply { to, result } =
            cage.wire.recv::<FromInit>(Some(PATIENCE)).expect("a reply").body
        {
            result.expect("an answer");
            answered.push(to);
        }
    }
    // By marks it is over at once.
    assert!(are_marked() || answered == [RequestId(1001), RequestId(1000)], "{answered:?}");
}

fn descriptor(cage: &Cage, request: Request) -> Result<OwnedFd, Refusal> {
    let (answer, fds) = cage.ask_with(request, &[])?;
    assert_eq!(answer, Answer::Descriptor);
    Ok(fds.into_iter().next().expect("a descriptor"))
}

fn sockets_inside(mode: Mode) {
    let dir = workspace(mode);
    let mut plan = plan(mode, dir.path());
    plan.listeners =
        vec!["127.0.0.1:3128".parse().expect("address"), "127.0.0.77:443".parse().expect("address")];
    let cage = Cage::with(&plan);
    for address in ["127.0.0.1:3128", "127.0.0.77:443", "[::1]:3128", "127.0.0.1:80"] {
        let address = address.parse().expect("address");
        let one =
            std::net::TcpListener::from(descriptor(&cage, Request::ListenTcp { address }).expect("listener"));
        let again =
            std::net::TcpListener::from(descriptor(&cage, Request::ListenTcp { address }).expect("again"));
        assert_eq!(one.local_addr().expect("address"), again.local_addr().expect("address"));
    }
    descriptor(&cage, Request::BindUdp { address: "127.0.0.53:53".parse().expect("address") }).expect("udp");
    descriptor(&cage, Request::Diag).expect("diag");
    let outside = Request::ConnectTcp { address: "192.0.2.1:80".parse().expect("address") };
    assert!(descriptor(&cage, outside).is_err());
    // An agent's connection comes out here, in another network namespace.
    let listener =
        descriptor(&cage, Request::ListenTcp { address: "127.0.0.1:3128".parse().expect("address") });
    let listener = std::net::TcpListener::from(listener.expect("listener"));
    listener.set_nonblocking(false).expect("blocking");
    let record = cage
        .spawn_silent(
            "c",
            &["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/3128; echo hello >&3; read x <&3; [ $x = bye ]"],
        )
        .expect("spawn");
    let (mut stream, _) = listener.accept().expect("accept");
    let mut line = [0; 6];
    stream.read_exact(&mut line).expect("read");
    stream.write_all(b"bye\n").expect("write");
    assert_eq!(cage.wait(record.process), ExitStatus::Code(0));
}

fn the_bundle_is_the_systems_store(mode: Mode) {
    let cage = Cage::start(mode);
    let before = cage.sh("cat /run/cofferdam/ca-bundle.pem | wc -c");
    let (_, fds) = cage.ask_with(Request::RunFile { name: "ca-bundle.pem".into() }, &[]).expect("opened");
    let mut file = std::fs::File::from(fds.into_iter().next().expect("a file"));
    file.write_all(b"-----NEW BUNDLE-----\n").expect("write");
    file.set_len(21).expect("cut");
    for path in ["/run/cofferdam/ca-bundle.pem", "/etc/ssl/certs/ca-certificates.crt", "$SSL_CERT_FILE"] {
        assert_eq!(cage.sh(&format!("cat {path}")), "-----NEW BUNDLE-----", "{path} (was {before} bytes)");
    }
    cage.sh_fails("echo x >> /run/cofferdam/ca-bundle.pem");
    for name in ["", "..", "a/b", ".hidden"] {
        assert!(matches!(cage.ask(Request::RunFile { name: name.into() }), Err(Refusal::Invalid(_))));
    }
}

fn ended(fd: impl AsFd) -> bool {
    let mut list = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    let timeout = nix::poll::PollTimeout::try_from(PATIENCE).expect("timeout");
    nix::poll::poll(&mut list, timeout).expect("poll") == 1
}

fn init_ends_with_its_channel(mode: Mode) {
    let dir = workspace(mode);
    let (ours, theirs) = agent::wire::pair().expect("pair");
    let child = agent::launch::clone_init(&plan(mode, dir.path()), theirs).expect("clone");
    drop(ours);
    assert!(ended(&child.pidfd));
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None).expect("reap");
}

fn init_ends_with_its_parent(mode: Mode) {
    let dir = workspace(mode);
    let plan = plan(mode, dir.path());
    let (mut read, write) = std::io::pipe().expect("pipe");
    let (ours, theirs) = agent::wire::pair().expect("pair");
    // SAFETY: this harness is single-threaded.
    #[expect(unsafe_code, reason = "a parent that dies is what is tested")]
    match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Child => {
            let child = agent::launch::clone_init(&plan, theirs).expect("clone");
            let mut write = write;
            write.write_all(&child.pid.to_le_bytes()).expect("tell");
            // The channel stays open in the test: only the parent's death ends init.
            std::process::exit(0)
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop((write, theirs));
            let mut pid = [0; 4];
            read.read_exact(&mut pid).expect("pid");
            nix::sys::wait::waitpid(child, None).expect("reap");
            assert!(ended(&ours), "init closes its end when it dies");
        }
    }
}

fn a_workspace_of_another_owner(mode: Mode) {
    if mode == Mode::Rootless {
        return;
    }
    for (uid, gid) in [(4321, 4322), (0, 0)] {
        let dir = tempfile::tempdir().expect("tempdir");
        std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("chown");
        let cage = Cage::with(&plan(mode, dir.path()));
        assert_eq!(cage.sh("echo mine > file; stat -c %u:%g . file"), "1000:1000\n1000:1000");
        // Outside, what it made is its owner's, and can't be more than an ordinary file of theirs.
        cage.sh_fails("chmod u+s file");
        cage.sh_fails("chown 0 file");
        let meta = std::fs::metadata(dir.path().join("file")).expect("written");
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta.uid(), meta.gid()), (uid, gid));
    }
}

fn credential_files_are_closed_at_start_and_later(mode: Mode) {
    let dir = workspace(mode);
    let early = dir.path().join(".netrc");
    std::fs::write(&early, "secret").expect("write");
    let give = |path: &std::path::Path| {
        if mode == Mode::Rooted {
            let (uid, gid) = (crate::bed::SANDBOX.uid, crate::bed::SANDBOX.gid);
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
        }
    };
    give(&early);
    let cage = Cage::with(&plan(mode, dir.path()));
    cage.report().expect("report");
    let closed = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == 0o600)
    };
    assert!(closed(&early));
    // The agent writes one later, wide open, and looks until it is closed.
    let wait = "umask 0; mkdir -p .codex; echo key > .codex/auth.json; \
                until [ $(stat -c %a .codex/auth.json) = 600 ]; do sleep 0.05; done";
    cage.sh(wait);
    assert!(closed(&dir.path().join(".codex/auth.json")));
}

fn limits_are_had_or_refused(mode: Mode) {
    let dir = workspace(mode);
    let mut plan = plan(mode, dir.path());
    plan.limits.pids = Some(20);
    let delegated =
        agent::launch::cgroup::available().is_ok_and(|offered| offered.iter().any(|c| c == "pids"));
    let (_ours, theirs) = agent::wire::pair().expect("pair");
    match agent::launch::clone_init(&plan, theirs) {
        Err(agent::launch::LaunchError::Cgroup(error)) => {
            eprintln!("SKIPPED: limits themselves, no controller here: {error}");
        }
        Ok(child) => {
            assert!(delegated);
            let pid = nix::unistd::Pid::from_raw(child.pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
            nix::sys::wait::waitpid(pid, None).expect("reap");
            return;
        }
        Err(other) => panic!("{other}"),
    }
    plan.enforcement = agent::plan::Enforcement::BestEffort;
    let report = Cage::with(&plan).report().expect("it starts");
    let missing: Vec<_> = report.missing.iter().map(|m| m.control).collect();
    assert_eq!(missing, [agent::plan::Control::Cgroup]);
}

fn the_doctor_finds_what_a_start_finds(mode: Mode) {
    let examination = agent::doctor::examine(mode.ids());
    assert!(examination.is_healthy(), "{examination:#?}");
    assert_eq!(examination.rooted, mode == Mode::Rooted);
    for control in
        ["namespaces", "landlock", "seccomp", "capabilities", "network", "identity", "cgroup_limits"]
    {
        assert!(examination.findings.iter().any(|finding| finding.control == control), "{control}");
    }
    let left = std::env::temp_dir().join(format!("cofferdam-doctor-{}", std::process::id()));
    assert!(!left.exists());
}
