//! Who holds a socket: one, several, none, hidden.

use crate::bed::{Cage, Mode, SANDBOX, plan};
use agent::plan::PathRule;
use agent::protocol::{Answer, Connector, ExitStatus, Holder, ProcessId, Refusal, Request};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;

pub const CASES: &[crate::Case] = &[
    ("a_holder_is_found_with_its_ancestors", a_holder_is_found_with_its_ancestors),
    ("a_shared_socket_has_two_holders", a_shared_socket_has_two_holders),
    ("who_never_keeps_still_is_nobody_elses_loss", who_never_keeps_still_is_nobody_elses_loss),
    ("who_gets_a_socket_after_long_sleep_is_found", who_gets_a_socket_after_long_sleep_is_found),
    ("nobody_holds_an_unknown_socket", nobody_holds_an_unknown_socket),
    (
        "who_hides_what_it_holds_keeps_nobody_elses_holder_from_being_told",
        who_hides_what_it_holds_keeps_nobody_elses_holder_from_being_told,
    ),
    ("who_hides_that_it_holds_a_socket_is_found_to", who_hides_that_it_holds_a_socket_is_found_to),
    ("the_maker_of_a_connection_is_known", the_maker_of_a_connection_is_known),
    ("an_exec_unmakes_the_maker", an_exec_unmakes_the_maker),
    ("an_agent_is_one_whatever_it_leaves_behind", an_agent_is_one_whatever_it_leaves_behind),
    ("what_an_agent_can_write_is_foreign_by_every_name", what_an_agent_can_write_is_foreign_by_every_name),
];

pub fn holders(cage: &Cage, inode: u64) -> Result<(Vec<Holder>, Vec<OwnedFd>), Refusal> {
    match cage.ask_with(Request::Holders { inode, mappings: true, connector: false }, &[])? {
        (Answer::Holders { holders, .. }, fds) => Ok((holders, fds)),
        (other, _) => panic!("{other:?}"),
    }
}

/// The command that runs a Python program; where there is no Python, that is said.
pub fn python(program: &str) -> Option<String> {
    if !Path::new("/usr/bin/python3").exists() {
        eprintln!("SKIPPED: no /usr/bin/python3");
        return None;
    }
    Some(format!("exec /usr/bin/python3 -I -c '{program}'"))
}

/// Starts a program that connects, and gives the inode of its socket as it prints it.
pub fn connected(cage: &Cage, script: &str) -> u64 {
    connected_by(cage, "c", script).1
}

/// The same as the agent of this name, with its process.
pub fn connected_by(cage: &Cage, agent: &str, script: &str) -> (ProcessId, u64) {
    let mut connects = Connects::start(cage, agent, script);
    let inode = connects.inode();
    (connects.process, inode)
}

/// A program that connects sooner or later, and what it prints.
pub struct Connects {
    pub process: ProcessId,
    _listener: TcpListener,
    said: std::io::BufReader<std::fs::File>,
    go: std::fs::File,
}

impl Connects {
    pub fn start(cage: &Cage, agent: &str, script: &str) -> Self {
        let address = "127.0.0.1:3128".parse().expect("address");
        let (_, fds) = cage.ask_with(Request::ListenTcp { address }, &[]).expect("listen");
        let listener = TcpListener::from(fds.into_iter().next().expect("listener"));
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let (input, go) = nix::unistd::pipe().expect("pipe");
        let spec = crate::bed::spec(agent, &["bash", "-c", script]);
        let process = cage.spawn(agent, &spec, [input, write, crate::bed::null()]).expect("spawn").process;
        Self { process, _listener: listener, said: std::io::BufReader::new(read.into()), go: go.into() }
    }

    /// Lets it go on, where it waits for its input.
    pub fn go(&mut self) {
        use std::io::Write;
        self.go.write_all(b"\n").expect("write");
    }

    pub fn line(&mut self) -> String {
        use std::io::BufRead;
        let mut line = String::new();
        self.said.read_line(&mut line).expect("line");
        line.trim().to_owned()
    }

    pub fn inode(&mut self) -> u64 {
        let line = self.line();
        let inode = line.trim_start_matches("socket:[").trim_end_matches(']').parse();
        inode.unwrap_or_else(|_| panic!("{line:?}"))
    }
}

fn a_holder_is_found_with_its_ancestors(mode: Mode) {
    let cage = Cage::start(mode);
    let script =
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128; readlink /proc/$$/fd/3 3<&-; exec 4>&1; read <&3'; true";
    let inode = connected(&cage, script);
    let (list, fds) = settled(&cage, inode, &["bash"]);
    let holder = &list[0];
    assert!(holder.process.exe_path.ends_with("/bash"), "{holder:?}");
    assert!(!holder.process.deleted && !holder.process.memory && !holder.foreign_code);
    assert_eq!(holder.ancestors.len(), 1, "{holder:?}");
    assert_eq!(holder.ancestors[0].exe, holder.process.exe, "one file is opened once");
    assert_eq!(fds.len(), 1);
    let opened = std::fs::File::from(fds.into_iter().next().expect("exe")).metadata().expect("stat");
    let bash = std::fs::metadata(&holder.process.exe_path).expect("bash");
    use std::os::unix::fs::MetadataExt;
    assert_eq!((opened.dev(), opened.ino()), (bash.dev(), bash.ino()));
}

fn a_shared_socket_has_two_holders(mode: Mode) {
    let cage = Cage::start(mode);
    let script = "exec 3<>/dev/tcp/127.0.0.1/3128; sleep 1000 & readlink /proc/$$/fd/3 3<&-; read <&3";
    let inode = connected(&cage, script);
    let (_, fds) = settled(&cage, inode, &["bash", "sleep"]);
    assert_eq!(fds.len(), 2);
}

/// Many sleep, and are not looked through again; of one of them the kernel's queue has the socket, and then
/// it takes it.
fn who_gets_a_socket_after_long_sleep_is_found(mode: Mode) {
    const LENDS: &str = r#"
import os, socket, time
ours, theirs = socket.socketpair()
for _ in range(20):
    if os.fork() == 0:
        time.sleep(1000)
if os.fork() == 0:
    ours.close()
    lent = socket.recv_fds(theirs, 1, 1)
    time.sleep(1000)
s = socket.create_connection(("127.0.0.1", 3128))
print(os.readlink("/proc/self/fd/%d" % s.fileno()), flush=True)
while not os.path.exists("/sandbox/go"):
    time.sleep(0.02)
socket.send_fds(ours, [b"x"], [s.fileno()])
time.sleep(1000)
"#;
    let Some(program) = python(LENDS) else { return };
    let cage = Cage::start(mode);
    let (_, inode) = connected_by(&cage, "c", &program);
    // Until all have come to rest, and are known to.
    for _ in 0..50 {
        let (list, _) = holders(&cage, inode).expect("holders");
        assert_eq!(list.len(), 1, "{list:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(cage.run(&["touch", "/sandbox/go"]).status, ExitStatus::Code(0));
    let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
    while holders(&cage, inode).expect("holders").0.len() != 2 {
        assert!(std::time::Instant::now() < deadline, "who has woken isn't looked at");
    }
}

/// Both are asked for at once; of the one no look ever comes to an end, since the thread that stands for its
/// process is over.
fn who_never_keeps_still_is_nobody_elses_loss(mode: Mode) {
    const ENDS_ITS_FIRST_THREAD: &str = r#"
import ctypes, os, socket, threading, time
s = socket.create_connection(("127.0.0.1", 3128))
threading.Thread(target=time.sleep, args=(1000,)).start()
print(os.readlink("/proc/self/fd/%d" % s.fileno()), flush=True)
ctypes.CDLL(None).pthread_exit(None)
"#;
    let Some(program) = python(ENDS_ITS_FIRST_THREAD) else { return };
    let cage = Cage::start(mode);
    let inode = connected(&cage, "exec 3<>/dev/tcp/127.0.0.1/3128; readlink /proc/$$/fd/3 3<&-; read <&3");
    settled(&cage, inode, &["bash"]);
    let (_, restless) = connected_by(&cage, "d", &program);
    let look = |inode| Request::Holders { inode, mappings: false, connector: false };
    let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
    loop {
        let answers = cage.ask_at_once(vec![look(restless), look(inode)]);
        let [of_restless, Ok(Answer::Holders { holders, .. })] = answers.as_slice() else {
            panic!("{answers:?}")
        };
        assert_eq!(holders.len(), 1, "{answers:?}");
        if of_restless.is_err() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{answers:?}");
    }
}

/// What makes a program of its own: the owner may not read it, so the kernel lets nobody of its user look
/// into it.
const HIDDEN: &str = "cp /bin/sleep /sandbox/hidden; chmod 0111 /sandbox/hidden";

/// Of another agent, which is as far as it can be from having the socket.
fn who_hides_what_it_holds_keeps_nobody_elses_holder_from_being_told(mode: Mode) {
    let cage = Cage::start(mode);
    cage.spawn_silent("d", &["bash", "-c", &format!("{HIDDEN}; exec /sandbox/hidden 1000")]).expect("spawn");
    // Where bash has its socket is not where it has connected it.
    let inode = connected(&cage, "exec 3<>/dev/tcp/127.0.0.1/3128; readlink /proc/$$/fd/3 3<&-; read <&3");
    until_hidden(&cage);
    settled(&cage, inode, &["bash"]);
}

fn who_hides_that_it_holds_a_socket_is_found_to(mode: Mode) {
    let cage = Cage::start(mode);
    let script = format!(
        "{HIDDEN}; exec 3<>/dev/tcp/127.0.0.1/3128; /sandbox/hidden 1000 & readlink /proc/$$/fd/3 3<&-; read <&3"
    );
    let inode = connected(&cage, &script);
    until_hidden(&cage);
    match mode {
        // Root's sandboxes have somebody who may look.
        Mode::Rooted => drop(settled(&cage, inode, &["bash", "hidden"])),
        Mode::Rootless => {
            let found = holders(&cage, inode);
            assert!(matches!(found, Err(Refusal::Unreadable { pid: 2.., .. })), "{found:?}");
        }
    }
    // Nor is it told who holds what nobody else has, even if nobody has it.
    assert_eq!(holders(&cage, 1).is_err(), mode == Mode::Rootless);
}

/// Waits until the program that nobody looks into has been executed.
fn until_hidden(cage: &Cage) {
    let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
    let seen =
        "for p in /proc/[0-9]*; do read -r name < $p/comm && test $name = hidden && exit 0; done; exit 1";
    while cage.run(&["bash", "-c", seen]).status != ExitStatus::Code(0) {
        assert!(std::time::Instant::now() < deadline);
    }
}

/// Asks until the children of the script have become, and ended, what they are.
fn settled(cage: &Cage, inode: u64, expected: &[&str]) -> (Vec<Holder>, Vec<OwnedFd>) {
    let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
    loop {
        let (list, fds) = holders(cage, inode).expect("holders");
        let mut names: Vec<_> =
            list.iter().map(|h| h.process.exe_path.rsplit('/').next().unwrap_or_default()).collect();
        names.sort_unstable();
        if names == expected {
            return (list, fds);
        }
        assert!(std::time::Instant::now() < deadline, "{names:?}");
    }
}

fn connector(cage: &Cage, inode: u64) -> Option<Connector> {
    match cage.ask_with(Request::Holders { inode, mappings: false, connector: true }, &[]) {
        Ok((Answer::Holders { connector, .. }, _)) => connector,
        other => panic!("{other:?}"),
    }
}

fn the_maker_of_a_connection_is_known(mode: Mode) {
    let cage = Cage::start(mode);
    let script = "exec 3<>/dev/tcp/127.0.0.1/3128; sleep 1000 & readlink /proc/$$/fd/3 3<&-; read <&3";
    let inode = connected(&cage, script);
    let (list, _) = settled(&cage, inode, &["bash", "sleep"]);
    let bash =
        list.iter().find(|holder| holder.process.exe_path.ends_with("/bash")).expect("bash").process.pid;
    let Some(Connector::Holds { pid, origin: 1.. }) = connector(&cage, inode) else {
        panic!("its maker is known")
    };
    assert_eq!(pid, bash, "not who inherited it");
    assert_eq!(connector(&cage, 1), Some(Connector::Unknown));
}

fn an_exec_unmakes_the_maker(mode: Mode) {
    let cage = Cage::start(mode);
    // The same process, and the same program once more.
    let script =
        "exec 3<>/dev/tcp/127.0.0.1/3128; exec bash -c 'readlink /proc/$$/fd/3 3<&-; read <&3; true'";
    let inode = connected(&cage, script);
    let (list, _) = settled(&cage, inode, &["bash"]);
    let pid = list.first().expect("bash").process.pid;
    assert_eq!(connector(&cage, inode), Some(Connector::Another { pid }));
}

/// Its shares of what all agents have are its own, so it must not become several by dying.
fn an_agent_is_one_whatever_it_leaves_behind(mode: Mode) {
    let cage = Cage::start(mode);
    let origin = |inode| match connector(&cage, inode) {
        Some(Connector::Holds { origin, .. }) => origin,
        other => panic!("{other:?}"),
    };
    const CONNECTS: &str = "exec 3<>/dev/tcp/127.0.0.1/3128; readlink /proc/$$/fd/3 3<&-; read <&3; true";
    let leaves = format!("env -i setsid bash -c '{CONNECTS}' & true");
    let (first, left_behind) = connected_by(&cage, "c", &leaves);
    cage.wait(first);
    let (_, started_again) = connected_by(&cage, "c", CONNECTS);
    let (_, anothers) = connected_by(&cage, "d", CONNECTS);
    assert_eq!(origin(left_behind), origin(started_again));
    assert_ne!(origin(left_behind), origin(anothers));
}

/// A writable place that the policy names by a link, and the workspace by its path on the host: what is
/// mapped from there is mapped by the place's own name, which the policy doesn't say is writable.
fn what_an_agent_can_write_is_foreign_by_every_name(mode: Mode) {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    // Not below /tmp, whose name is that of a place of the sandbox's own.
    let made =
        [env!("CARGO_TARGET_TMPDIR"), "/srv"].into_iter().find_map(|dir| tempfile::tempdir_in(dir).ok());
    let Some(dir) = made else { return eprintln!("SKIPPED: no directory to write in but /tmp") };
    let at = |name: &str| dir.path().join(name);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    for made in ["workspace", "place", "fixed"] {
        std::fs::create_dir(at(made)).expect("mkdir");
        if mode == Mode::Rooted {
            chown(at(made), Some(SANDBOX.uid), Some(SANDBOX.gid)).expect("chown");
        }
    }
    symlink("place", at("link")).expect("link");
    let libraries = Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    std::fs::copy(libraries.join("libm.so.6"), at("fixed/lib.so")).expect("a library");
    let rule = |path: &Path| PathRule { path: path.to_owned(), optional: false };
    let mut plan = plan(mode, &at("workspace"));
    plan.paths.read_write.push(rule(&at("link")));
    plan.paths.read_only.push(rule(dir.path()));
    let cage = Cage::with(&plan);
    let foreign = |copy: &Path, library: &Path| {
        let (copy, library) = (copy.display(), library.display());
        let script = format!(
            "test -e {copy} || cp {}/libm.so.6 {copy}; LD_PRELOAD={library} bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128; \
             readlink /proc/$$/fd/3 3<&-; exec 4>&1; read <&3'; true",
            libraries.display()
        );
        let inode = connected_by(&cage, &library.to_string(), &script).1;
        settled(&cage, inode, &["bash"]).0.first().expect("bash").foreign_code
    };
    assert!(foreign(&at("link/evil.so"), &at("link/evil.so")), "by a link");
    assert!(foreign(Path::new("/sandbox/evil.so"), &at("workspace/evil.so")), "by its place on the host");
    assert!(!foreign(&at("fixed/lib.so"), &at("fixed/lib.so")), "the control: nobody can write there");
}

fn nobody_holds_an_unknown_socket(mode: Mode) {
    let cage = Cage::start(mode);
    assert_eq!(holders(&cage, 1).expect("an answer").0, []);
}
