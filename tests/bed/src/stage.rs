//! The environment of one case: its mode, its own state directory and workspace, and how programs are started
//! there.
//!
//! Every wait polls and has a deadline; no order of events relies on a sleep. What a case started is killed
//! at its end, by the process ids that it kept.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};

use crate::world::World;

/// The ordinary user that rootless cases run as when the tests are started by root: an id that no system
/// gives away.
const ORDINARY: u32 = 12345;
/// How long a command may take unless a case says otherwise. It is so long for slow machines that exceeding
/// it means "never".
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long a pipe may stay open after its program has ended, counted anew whenever something is read from
/// it.
const PIPE_END: Duration = Duration::from_secs(5);
/// The pause between two checks while polling.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether the sandbox is started by root or by an ordinary user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By root: real gateway and sandbox users.
    Rooted,
    /// By an ordinary user.
    Rootless,
}

impl Mode {
    /// Both.
    pub const ALL: &[Self] = &[Self::Rooted, Self::Rootless];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rooted => "rooted",
            Self::Rootless => "rootless",
        })
    }
}

/// The result of a command: its status and everything it wrote.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub took: Duration,
}

impl Finished {
    /// The exit code as a shell would give it: 128+n for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|n| 128 + n)).unwrap_or(-1)
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Fails unless the code is this one, showing what was written.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code() != code {
            bail!("exit code {}, not {code}\nstdout: {}\nstderr: {}", self.code(), self.out(), self.err());
        }
        Ok(self)
    }
}

/// One case's surroundings.
#[derive(Debug)]
pub struct Stage<'a> {
    world: &'a World,
    mode: Mode,
    dir: PathBuf,
    binary: PathBuf,
    number: u32,
}

impl<'a> Stage<'a> {
    /// Makes the case's directories and its own link to the program, by whose path its processes can be told
    /// apart.
    pub(crate) fn new(world: &'a World, base: &Path, binary: &Path, mode: Mode) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = base.join(format!("{number}-{mode}"));
        let stage = Self { world, mode, binary: dir.join("cofferdam"), dir, number };
        for sub in ["", "state", "home", "workspace"] {
            let path = stage.dir.join(sub);
            std::fs::create_dir_all(&path)?;
            stage.own(&path)?;
        }
        // In rooted mode the agent's user isn't known before the start, so every user may write here.
        std::fs::set_permissions(stage.workspace(), std::fs::Permissions::from_mode(0o777))?;
        std::fs::hard_link(binary, &stage.binary)
            .or_else(|_| std::fs::copy(binary, &stage.binary).map(drop))
            .context("placing the program under test")?;
        Ok(stage)
    }

    /// The world.
    pub fn world(&self) -> &World {
        self.world
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The case's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state directory given to every command.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A directory for `/sandbox`.
    pub fn workspace(&self) -> PathBuf {
        self.dir.join("workspace")
    }

    /// The program under test, at a path of this case alone.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A word that no other case uses: for requests, command lines and files.
    pub fn marker(&self) -> String {
        format!("bed{}x{}", std::process::id(), self.number)
    }

    /// A sandbox name of this case.
    pub fn name(&self) -> String {
        format!("s{}-{}", self.number, self.mode)
    }

    /// The user that commands run as.
    pub fn uid(&self) -> u32 {
        if self.dropped() { ORDINARY } else { geteuid().as_raw() }
    }

    fn dropped(&self) -> bool {
        self.mode == Mode::Rootless && geteuid().is_root()
    }

    fn own(&self, path: &Path) -> Result<()> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        if self.dropped() {
            chown(path, Some(ORDINARY), Some(ORDINARY))?;
        }
        Ok(())
    }

    /// Writes a file of the case, owned by the mode's user, mode 0644.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        if self.dropped() {
            chown(&path, Some(ORDINARY), Some(ORDINARY))?;
        }
        Ok(path)
    }

    /// Writes a program into the workspace: inside, it is `/sandbox/NAME`.
    pub fn script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.write(&format!("workspace/{name}"), text)?;
        Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
    }

    /// A program started as the mode's user with a small environment; outside any sandbox.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.join("home"))
            .env("LANG", "C.UTF-8")
            .env("RUST_BACKTRACE", "0")
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        if self.dropped() {
            command.uid(ORDINARY).gid(ORDINARY);
        }
        command
    }

    /// `cofferdam ARGS…` with the case's state directory, trusting the world's authority upstream.
    pub fn cofferdam<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(&self.binary);
        command.env("COFFERDAM_STATE", self.state()).env("SSL_CERT_FILE", self.world.ca_file()).args(args);
        command
    }

    /// `cofferdam run --quiet OPTIONS… -- COMMAND…` to its end.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Result<Finished> {
        let args = [&["run", "--quiet"], options, &["--"], command].concat();
        finish(self.cofferdam(args), PATIENCE)
    }

    /// `cofferdam ARGS…` to its end.
    pub fn call(&self, args: &[&str]) -> Result<Finished> {
        finish(self.cofferdam(args), PATIENCE)
    }

    /// `cofferdam ARGS…`, which must succeed and print JSON.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let done = self.call(args)?.expect_code(0)?;
        serde_json::from_slice(&done.stdout)
            .with_context(|| format!("{args:?} printed no JSON: {}", done.out()))
    }

    /// Starts a command in the background, its output gathered.
    pub fn start(&self, mut command: Command) -> Result<Running> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        let stdout = Gathered::from(child.stdout.take());
        let stderr = Gathered::from(child.stderr.take());
        Ok(Running { child, stdout, stderr, begun: Instant::now() })
    }

    /// Starts `cofferdam run --name NAME OPTIONS… -- COMMAND…` in the background.
    pub fn start_run(&self, name: &str, options: &[&str], command: &[&str]) -> Result<Running> {
        let args = [&["run", "--quiet", "--name", name], options, &["--"], command].concat();
        self.start(self.cofferdam(args))
    }

    /// The processes, of any user, whose program is this case's link: the heart, init and supervisor of its
    /// sandboxes.
    pub fn cofferdam_processes(&self) -> Vec<i32> {
        processes(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.binary))
    }

    /// The processes whose command line holds a word.
    pub fn processes_with(&self, word: &str) -> Vec<i32> {
        processes(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(word.len().max(1)).any(|w| w == word.as_bytes()))
        })
    }
}

impl Drop for Stage<'_> {
    /// Whatever a failed case left running is ended, each process by its id.
    fn drop(&mut self) {
        for pid in self.cofferdam_processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn processes(wanted: impl Fn(i32) -> bool) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id() as i32;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && wanted(*pid))
        .collect()
}

/// What a background program has written so far.
#[derive(Debug)]
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Gathered {
    fn from(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&bytes);
        let reader = pipe.map(|mut pipe| {
            std::thread::spawn(move || {
                let mut chunk = [0u8; 64 * 1024];
                while let Ok(n) = pipe.read(&mut chunk) {
                    if n == 0 {
                        return;
                    }
                    let mut bytes = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                    bytes.extend_from_slice(chunk.get(..n).unwrap_or_default());
                }
            })
        });
        Self { bytes, reader }
    }

    fn now(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything, once the pipe has ended; or what there is, if a process that was left behind holds it
    /// open.
    fn all(&mut self) -> Vec<u8> {
        let (mut until, mut read) = (Instant::now() + PIPE_END, 0);
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN);
            let now = self.length();
            if now > read {
                (until, read) = (Instant::now() + PIPE_END, now);
            }
        }
        self.now()
    }

    fn length(&self) -> usize {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A program in the background. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Gathered,
    stderr: Gathered,
    begun: Instant,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Standard output so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout.now()).into_owned()
    }

    /// Standard error so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr.now()).into_owned()
    }

    /// Waits until standard output holds a text.
    pub fn wait_for(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        loop {
            // Check for the end before the output, so that what it wrote last counts.
            let ended = self.child.try_wait()?;
            if self.out().contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                let (out, err) = (self.stdout.all(), self.stderr.all());
                if String::from_utf8_lossy(&out).contains(text) {
                    return Ok(());
                }
                let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                bail!(
                    "ended ({status}) before it said {text:?}\nstdout: {}\nstderr: {}",
                    shown(&out),
                    shown(&err)
                );
            }
            if Instant::now() > until {
                bail!("did not say {text:?} in {deadline:?}\nstdout: {}\nstderr: {}", self.out(), self.err());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until standard error holds a text. Standard error has a pipe of its own, so what was written
    /// there before something on standard output may arrive after it.
    pub fn wait_for_err(&self, text: &str, deadline: Duration) -> Result<()> {
        poll(&format!("{text:?} on standard error"), deadline, || self.err().contains(text).then_some(()))
            .with_context(|| format!("stderr: {}", self.err()))
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()), signal)?)
    }

    /// Sends a signal to its whole process group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        Ok(killpg(Pid::from_raw(self.pid()), signal)?)
    }

    /// Waits for its end.
    pub fn finish(mut self, deadline: Duration) -> Result<Finished> {
        let until = Instant::now() + deadline;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > until {
                bail!("no end in {deadline:?}\nstdout: {}\nstderr: {}", self.out(), self.err());
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        let took = self.begun.elapsed();
        Ok(Finished { status, stdout: self.stdout.all(), stderr: self.stderr.all(), took })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end, or kills it at the deadline and fails.
pub fn finish(mut command: Command, deadline: Duration) -> Result<Finished> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
    let (stdout, stderr) = (Gathered::from(child.stdout.take()), Gathered::from(child.stderr.take()));
    Running { child, stdout, stderr, begun: Instant::now() }.finish(deadline)
}

/// Looks until `look` finds something, or fails at the deadline.
pub fn poll<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let until = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > until {
            bail!("waited {deadline:?} for {what}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A port on which nobody in the world listens and which no other case is given. It lies outside the kernel's
/// range of ephemeral ports, so no other socket can get it before the case listens on it.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port >= 30_000 {
            bail!("no port is free");
        }
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

/// The path of a program, searched only in directories that a sandbox shows: elsewhere it wouldn't exist
/// inside.
pub fn program(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}
