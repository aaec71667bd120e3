//! What the cases share: a cage without a heart, and a way to run programs in it.

use agent::environment;
use agent::launch::{self, Child};
use agent::plan::{CagePlan, Id, Ids, PathRule};
use agent::protocol::{
    Answer, Event, ExitStatus, FromInit, ProcessId, ProcessRecord, Refusal, Request, RequestId, SpawnSpec,
    Stdio, ToInit,
};
use agent::wire::{self, Wire};
use std::cell::RefCell;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

pub const ORDINARY_USER: u32 = 12345;
pub const GATEWAY: Id = Id { uid: 61184, gid: 61184 };
pub const SANDBOX: Id = Id { uid: 61185, gid: 61185 };
/// Long enough for a loaded machine; nothing waits for it when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Rootless,
    Rooted,
}

impl Mode {
    pub fn ids(self) -> Ids {
        match self {
            Mode::Rooted => Ids::Rooted { gateway: GATEWAY, sandbox: SANDBOX },
            Mode::Rootless => Ids::Rootless {
                operator: Id { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() },
            },
        }
    }
}

pub fn copy_for_everyone(executable: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    std::fs::copy(executable, dir.path().join("cage")).expect("copy");
    dir
}

pub fn workspace(mode: Mode) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    if mode == Mode::Rooted {
        std::os::unix::fs::chown(dir.path(), Some(SANDBOX.uid), Some(SANDBOX.gid)).expect("chown");
    }
    dir
}

pub fn rules(paths: &[&str]) -> Vec<PathRule> {
    paths.iter().map(|path| PathRule { path: path.into(), optional: true }).collect()
}

pub fn plan(mode: Mode, workspace: &Path) -> CagePlan {
    let mut plan = CagePlan::new("testbed", mode.ids(), workspace);
    plan.paths.read_only = rules(&["/usr", "/etc", "/lib", "/var/log"]);
    plan.paths.read_write = rules(&["/sandbox", "/tmp"]);
    plan
}

pub struct Cage {
    pub wire: Wire,
    pub child: Child,
    next: RefCell<u64>,
    events: RefCell<Vec<Event>>,
    _workspace: Option<tempfile::TempDir>,
}

#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Cage {
    pub fn start(mode: Mode) -> Self {
        let workspace = workspace(mode);
        let mut cage = Self::with(&plan(mode, workspace.path()));
        cage._workspace = Some(workspace);
        cage
    }

    pub fn with(plan: &CagePlan) -> Self {
        let (ours, theirs) = wire::pair().expect("pair");
        let child = launch::clone_init(plan, theirs).expect("clone init");
        Self {
            wire: Wire::new(ours).expect("wire"),
            child,
            next: RefCell::new(1),
            events: RefCell::default(),
            _workspace: None,
        }
    }

    pub fn ask_with(&self, request: Request, fds: &[OwnedFd]) -> Result<(Answer, Vec<OwnedFd>), Refusal> {
        self.ask_within(request, fds, PATIENCE)
    }

    /// Waits so long for each next word of init's.
    pub fn ask_within(
        &self,
        request: Request,
        fds: &[OwnedFd],
        patience: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), Refusal> {
        let id = RequestId(self.next.replace_with(|n| *n + 1));
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.wire.send(&ToInit { id, request }, &borrowed, Some(PATIENCE)).expect("send");
        loop {
            let packet = self.wire.recv::<FromInit>(Some(patience)).expect("receive");
            match packet.body {
                FromInit::Reply { to, result } if to == id => {
                    return result.map(|answer| (answer, packet.fds));
                }
                FromInit::Reply { .. } => {}
                FromInit::Event(event) => self.events.borrow_mut().push(event),
            }
        }
    }

    /// Asks all of it before the first answer is taken, and gives the answers in the order of the questions.
    pub fn ask_at_once(&self, requests: Vec<Request>) -> Vec<Result<Answer, Refusal>> {
        let send = |request| {
            let id = RequestId(self.next.replace_with(|n| *n + 1));
            self.wire.send(&ToInit { id, request }, &[], Some(PATIENCE)).expect("send");
            id
        };
        let ids: Vec<RequestId> = requests.into_iter().map(send).collect();
        let mut answers = Vec::new();
        while answers.len() < ids.len() {
            match self.wire.recv::<FromInit>(Some(PATIENCE)).expect("receive").body {
                FromInit::Reply { to, result } => answers.push((to, result)),
                FromInit::Event(event) => self.events.borrow_mut().push(event),
            }
        }
        answers.sort_by_key(|(to, _)| ids.iter().position(|id| id == to));
        answers.into_iter().map(|(_, result)| result).collect()
    }

    pub fn ask(&self, request: Request) -> Result<Answer, Refusal> {
        self.ask_with(request, &[]).map(|(answer, _)| answer)
    }

    pub fn report(&self) -> Result<agent::protocol::CageReport, Refusal> {
        match self.ask(Request::Report)? {
            Answer::Report(report) => Ok(report),
            other => panic!("{other:?}"),
        }
    }

    pub fn spawn(
        &self,
        name: &str,
        spec: &SpawnSpec,
        streams: [OwnedFd; 3],
    ) -> Result<ProcessRecord, Refusal> {
        let [a, b, c] = streams;
        let fds = [spec_file(spec), a, b, c];
        match self.ask_with(Request::Spawn { agent: name.into(), stdio: Stdio::Given }, &fds)?.0 {
            Answer::Spawned(record) => Ok(record),
            other => panic!("{other:?}"),
        }
    }

    pub fn spawn_silent(&self, name: &str, argv: &[&str]) -> Result<ProcessRecord, Refusal> {
        self.spawn(name, &spec(name, argv), [null(), null(), null()])
    }

    /// Whose processes init has ended for what they had open, so far, and how many they had.
    pub fn floods(&self) -> Vec<(String, usize)> {
        // What happened before an answer was sent is told before the next one.
        self.ask(Request::List).expect("list");
        let flood = |event: &Event| match event {
            Event::Flooded { agent, descriptors, .. } => Some((agent.clone(), *descriptors)),
            Event::Exited { .. } => None,
        };
        self.events.borrow().iter().filter_map(flood).collect()
    }

    /// Whether an end was told of.
    pub fn has_ended(&self, process: ProcessId) -> bool {
        let is_end =
            |event: &Event| matches!(event, Event::Exited { process: which, .. } if *which == process);
        self.events.borrow().iter().any(is_end)
    }

    pub fn wait(&self, process: ProcessId) -> ExitStatus {
        loop {
            let found = self.events.borrow().iter().find_map(|event| match event {
                Event::Exited { process: which, status, .. } if *which == process => Some(*status),
                Event::Exited { .. } | Event::Flooded { .. } => None,
            });
            if let Some(status) = found {
                return status;
            }
            let packet = self.wire.recv::<FromInit>(Some(PATIENCE)).expect("receive");
            if let FromInit::Event(event) = packet.body {
                self.events.borrow_mut().push(event);
            }
        }
    }

    /// Runs a program to its end.
    pub fn run(&self, argv: &[&str]) -> Output {
        self.try_run(argv).unwrap_or_else(|refusal| panic!("{argv:?}: {refusal}"))
    }

    pub fn try_run(&self, argv: &[&str]) -> Result<Output, Refusal> {
        let (out_read, out_write) = nix::unistd::pipe().expect("pipe");
        let (err_read, err_write) = nix::unistd::pipe().expect("pipe");
        if nix::unistd::geteuid().is_root() {
            // The supervisor makes these pipes, as the gateway; init gives them to the agent.
            for pipe in [&out_write, &err_write] {
                nix::unistd::fchown(pipe, Some(GATEWAY.uid.into()), Some(GATEWAY.gid.into())).expect("chown");
            }
        }
        let record = self.spawn("run", &spec("run", argv), [null(), out_write, err_write])?;
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        // Errors fit a pipe here, so one after the other is no deadlock.
        std::fs::File::from(out_read).read_to_end(&mut stdout).expect("stdout");
        std::fs::File::from(err_read).read_to_end(&mut stderr).expect("stderr");
        let status = self.wait(record.process);
        self.ask(Request::Forget { process: record.process })?;
        Ok(Output {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// Runs a shell script that must succeed, and gives its output.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(&["/bin/sh", "-ec", script]);
        assert!(output.status.success(), "{script}: {output:?}");
        output.stdout.trim_end().to_owned()
    }

    /// Runs a shell command that must be refused.
    pub fn sh_fails(&self, script: &str) -> String {
        let output = self.run(&["/bin/sh", "-c", script]);
        assert!(!output.status.success(), "{script} works: {output:?}");
        output.stderr
    }

    /// Runs a Python program that prints lines.
    pub fn python(&self, script: &str) -> Option<Vec<String>> {
        if !Path::new("/usr/bin/python3").exists() {
            eprintln!("SKIPPED: no /usr/bin/python3");
            return None;
        }
        let output = self.run(&["/usr/bin/python3", "-I", "-c", script]);
        assert!(output.status.success(), "{output:?}");
        Some(output.stdout.lines().map(str::to_owned).collect())
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}

pub fn null() -> OwnedFd {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").expect("/dev/null").into()
}

pub fn spec(name: &str, argv: &[&str]) -> SpawnSpec {
    SpawnSpec {
        argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
        env: environment::build(name, &[]).variables,
        cwd: b"/sandbox".to_vec(),
    }
}

pub fn spec_file(spec: &SpawnSpec) -> OwnedFd {
    use std::io::Write;
    let bytes = postcard::to_allocvec(spec).expect("encode");
    let fd = nix::sys::memfd::memfd_create(
        c"spec",
        nix::sys::memfd::MFdFlags::MFD_CLOEXEC | nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING,
    )
    .expect("memfd");
    let mut file = std::fs::File::from(fd);
    file.write_all(&bytes).expect("write");
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seal");
    file.into()
}
