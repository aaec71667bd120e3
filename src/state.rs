//! The state directory: one folder per sandbox, claimed by a lock, with its socket, logs, audit log and
//! workspace.
//!
//! ```text
//! STATE/NAME/lock           held (flock) by every living part of the sandbox but init; holds the heart's pid
//! STATE/NAME/control.sock   the operator's API; 0600
//! STATE/NAME/audit.jsonl    the audit chain
//! STATE/NAME/logs/          the agents' output, redacted
//! STATE/NAME/workspace/     /sandbox, where none other is named
//! STATE/NAME/root/          what a sandbox has changed in a root that isn't the host's
//! STATE/NAME/earlier/       of a restored sandbox: the record of the one that it was made of
//! STATE/.images/            unpacked images, shared
//! STATE/.restoring/         what `restore` makes, until it is whole: see `snapshot::bring`
//! STATE/NAME/places         where its agents could ever write
//! STATE/.choosing, .ids     which host ids rooted sandboxes have, on the whole machine: see `ids::pairs`
//! STATE/NAME/ids            the host ids of a rooted sandbox that has no users of its own
//! ```
//!
//! Nothing here follows a link that an agent could have made: the agent sees only `workspace/`, and the
//! `agent` crate works there by descriptor. Nor is a link followed that a compromised gateway could have left
//! for the next start: a rooted sandbox's directory belongs to root and is sticky, so that the gateway can
//! make and remove only its own files there.

mod removal;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::plan::Hidden;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::Pid;

use crate::failure::Failure;
use crate::given::lasting;
pub use crate::name::Name;
use crate::users;

/// How many numbered names are tried for a sandbox that was given none.
const NUMBERED_NAMES: u32 = 1000;
/// How often a name is tried whose directory is removed at that moment.
const CLAIM_TRIES: u32 = 100;

/// The directory of all sandboxes.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// Returns the directory given by `--state` or `$COFFERDAM_STATE` (clap reads both), else as root
    /// `/var/lib/cofferdam`, else `$XDG_STATE_HOME/cofferdam`, else `~/.local/state/cofferdam`.
    pub fn locate(given: Option<&Path>) -> Result<Self, Failure> {
        // A variable that is set to the empty string names no directory.
        if let Some(dir) = given.filter(|dir| !dir.as_os_str().is_empty()) {
            return lasting(dir).map(Self);
        }
        if nix::unistd::geteuid().is_root() {
            return Ok(Self("/var/lib/cofferdam".into()));
        }
        let from = |key: &str| std::env::var_os(key).map(PathBuf::from).filter(|p| p.is_absolute());
        from("XDG_STATE_HOME")
            .or_else(|| from("HOME").map(|home| home.join(".local/state")))
            .map(|base| Self(base.join("cofferdam")))
            .ok_or_else(|| Failure::refused("no state directory: set HOME, or name one with --state DIR"))
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Returns the real paths of all state that this user has: this directory, and the default one if another
    /// was named, whether it exists yet or not. The next sandbox may make it, and would make it in view of
    /// agents that are shown the place.
    pub fn every_place(&self) -> Hidden {
        let usual = Self::locate(None).ok().map(|usual| usual.0);
        Hidden::new([self.0.clone()].into_iter().chain(usual).map(|place| real(&place)))
    }

    /// Returns the directory of the sandbox of this name.
    pub fn instance(&self, name: &Name) -> PathBuf {
        self.0.join(name.as_str())
    }

    /// Returns every sandbox that has a directory here, sorted by name. Empty if there is no state directory
    /// yet.
    ///
    /// # Errors
    /// The state directory can't be read.
    pub fn names(&self) -> Result<Vec<Name>, Failure> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => {
                return Err(Failure::refused(format!(
                    "can't read the state directory {}: {e}",
                    self.0.display()
                )));
            }
        };
        let mut names: Vec<Name> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            // A directory that we may not enter may be another user's sandbox.
            .filter(|entry| entry.path().join(files::LOCK).try_exists().unwrap_or(true))
            .filter_map(|entry| Name::parse(entry.file_name().to_str()?).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Claims the name. The error says who holds it, and that `another` (an option or key) chooses another
    /// name.
    pub fn claim(&self, name: &Name, another: &str) -> Result<Claim, Failure> {
        self.try_claim(name)?.map_err(|taken| {
            Failure::refused(match taken {
                Taken::Running(holder) if self.is_running(name) => format!(
                    "a sandbox named '{name}' is running{holder}: stop it with `cofferdam stop {name}`, or choose another {another}"
                ),
                Taken::Running(holder) => format!(
                    "a sandbox named '{name}' is in use{holder}: it starts, ends, or a snapshot of it is made; try again, or choose another {another}"
                ),
                Taken::Anothers => format!(
                    "{} is another user's: choose another {another}, or another --state DIR",
                    self.instance(name).display()
                ),
            })
        })
    }

    /// Claims a sandbox that exists and doesn't run. `why` says of one that runs, behind that word, why it
    /// must not.
    pub fn claim_stopped(&self, name: &Name, why: &str) -> Result<Claim, Failure> {
        self.enter(name)?;
        if !self.names()?.contains(name) {
            return Err(Failure::refused(format!(
                "there is no sandbox named '{name}' in {}: `cofferdam ps --all` lists them",
                self.dir().display()
            )));
        }
        self.try_claim(name)?.map_err(|taken| {
            Failure::refused(match taken {
                Taken::Running(_) if self.is_running(name) => {
                    format!("'{name}' is running{why}: `cofferdam stop {name}` first")
                }
                Taken::Running(holder) => {
                    format!(
                        "'{name}' is in use{holder}: it starts, ends, or a snapshot of it is made; try again"
                    )
                }
                Taken::Anothers => {
                    format!("{} is another user's: only they may do that", self.instance(name).display())
                }
            })
        })
    }

    /// Claims the first free name of `base`, `base-2`, `base-3`…
    pub fn claim_numbered(&self, base: &Name) -> Result<Claim, Failure> {
        for n in 1..=NUMBERED_NAMES {
            if let Ok(claim) = self.try_claim(&base.numbered(n))? {
                return Ok(claim);
            }
        }
        Err(Failure::refused(format!(
            "{NUMBERED_NAMES} sandboxes named '{base}-…' are running, or another user's: give this one a --name"
        )))
    }

    fn try_claim(&self, name: &Name) -> Result<Result<Claim, Taken>, Failure> {
        for _ in 0..CLAIM_TRIES {
            if let Some(tried) = self.claim_once(name)? {
                return Ok(tried);
            }
        }
        Err(Failure::refused(format!("{} is made and removed all the time", self.instance(name).display())))
    }

    /// `None` if the directory was removed meanwhile, by `rm` or a start that failed.
    fn claim_once(&self, name: &Name) -> Result<Option<Result<Claim, Taken>>, Failure> {
        let told = |path: &Path, e: &io::Error| {
            Failure::refused(format!(
                "can't use the state directory {}: {e}; name another with --state DIR",
                path.display()
            ))
        };
        DirBuilder::new().recursive(true).mode(0o755).create(&self.0).map_err(|e| told(&self.0, &e))?;
        let dir = self.instance(name);
        let directory = match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(told(&dir, &e)),
        };
        let path = dir.join(files::LOCK);
        // Another user who made the directory could change everything that we put there.
        let opened = open_own(&dir).and_then(|own| own.map(|dir| Ok((dir, open_lock(&path)?))).transpose());
        let (handle, mut lock) = match opened {
            Ok(Some(both)) => both,
            Ok(None) => return Ok(Some(Err(Taken::Anothers))),
            Err(e) if !directory && e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                if directory {
                    // Succeeds only if it is still empty. Otherwise another process uses it by now.
                    let _kept = fs::remove_dir(&dir);
                }
                return Err(told(&path, &e));
            }
        };
        match lock_unless_held(&mut lock) {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let holder = holder(&mut lock).map_or(String::new(), |pid| format!(" (process {pid})"));
                return Ok(Some(Err(Taken::Running(holder))));
            }
            Err(fs::TryLockError::Error(e)) => return Err(told(&path, &e)),
        }
        if !is_still_at(&lock, &path) || !is_still_at(&handle, &dir) {
            // The lock file was removed between our opening and our locking it: the next process would lock a
            // different one.
            return Ok(None);
        }
        // From here on the name is ours alone.
        let made = Made { dir: dir.clone(), directory, sockets: Vec::new() };
        write_holder(&mut lock).map_err(|e| told(&path, &e))?;
        Ok(Some(Ok(Claim { name: name.clone(), dir, handle, made, lock })))
    }

    /// Returns the path of the control socket of this name, whether or not anything listens on it.
    pub fn socket(&self, name: &Name) -> PathBuf {
        self.instance(name).join(CONTROL_SOCKET)
    }

    /// Whether a sandbox of this name runs: its control socket takes a connection (the heart keeps it open,
    /// also while the supervisor restarts).
    pub fn is_running(&self, name: &Name) -> bool {
        self.knock(name).is_ok()
    }

    /// Returns what one connection attempt tells about a name.
    pub fn presence(&self, name: &Name) -> Presence {
        match self.knock(name) {
            Ok(()) => Presence::Running,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Presence::Anothers,
            Err(_) => Presence::Stopped,
        }
    }

    /// As [`Root::is_running`], but returns an error with the reason if it doesn't run.
    pub fn require_running(&self, name: &Name) -> Result<(), Failure> {
        self.knock(name).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => self.is_anothers(name),
            _ => Failure::refused(format!(
                "no sandbox named '{name}' is running: `cofferdam ps` lists those that are"
            )),
        })
    }

    /// Returns the directory of a sandbox, running or not, if this user may enter it. It need not exist.
    ///
    /// # Errors
    /// It is another user's.
    pub fn enter(&self, name: &Name) -> Result<PathBuf, Failure> {
        let dir = self.instance(name);
        match dir.join(files::LOCK).try_exists() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(self.is_anothers(name)),
            _ => Ok(dir),
        }
    }

    fn is_anothers(&self, name: &Name) -> Failure {
        Failure::refused(format!(
            "the sandbox '{name}' belongs to another user: you may not enter {}",
            self.instance(name).display()
        ))
    }

    /// Returns the pid of a running sandbox's heart: the process that made its control socket listen, as the
    /// kernel reports it (unix(7), SO_PEERCRED).
    ///
    /// # Errors
    /// ESRCH if the heart is gone and a process that it left behind holds the socket: the pid may belong to a
    /// stranger by now.
    pub fn heart(&self, name: &Name) -> io::Result<Pid> {
        let socket = match self.connect(name) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.heart_by_lock(name),
            connected => connected?,
        };
        let pid = Pid::from_raw(getsockopt(&socket, PeerCredentials)?.pid());
        match pid.as_raw() {
            // 0 stands for a process in another pid namespace; to kill(2) it would mean every process of our
            // group.
            ..=0 => Err(io::Error::other("its heart can't be seen from here")),
            _ if listener_is_gone(&socket, pid) => Err(Errno::ESRCH.into()),
            _ => Ok(pid),
        }
    }

    /// Where so many wait to be accepted that the kernel lets nobody else in, and so tells no peer.
    fn heart_by_lock(&self, name: &Name) -> io::Result<Pid> {
        let mut lock = File::open(self.instance(name).join(files::LOCK))?;
        let pid = holder(&mut lock).ok_or(Errno::ESRCH)?;
        if is_called_ours(pid) { Ok(pid) } else { Err(Errno::ESRCH.into()) }
    }

    fn knock(&self, name: &Name) -> io::Result<()> {
        match self.connect(name) {
            // It listens.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            connected => connected.map(drop),
        }
    }

    fn connect(&self, name: &Name) -> io::Result<UnixStream> {
        connect_in(&File::open(self.instance(name))?, CONTROL_SOCKET)
    }
}

/// Whether the listening process has ended. Asks by a pidfd of that very process; before Linux 6.5, by the
/// command name of the process that has this pid.
fn listener_is_gone(socket: &UnixStream, pid: Pid) -> bool {
    match getsockopt(socket, PeerPidfd) {
        Ok(pidfd) => {
            let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut ended, PollTimeout::ZERO).is_ok_and(|n| n > 0)
        }
        Err(Errno::ENOPROTOOPT) => !is_called_ours(pid),
        // The kernel gives no pidfd of a process that doesn't exist.
        Err(_) => true,
    }
}

/// Whether a process has our command name. A pid alone may be a stranger's by now.
fn is_called_ours(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("cofferdam"))
}

/// Resolves a path as far as it exists; the rest is appended as it is.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|part| Some((part, fs::canonicalize(part).ok()?)));
    let Some((part, real)) = there else { return path.to_owned() };
    // Joined by components, since joining an empty rest would add a slash.
    path.strip_prefix(part).map_or_else(|_| path.to_owned(), |rest| real.iter().chain(rest).collect())
}

/// Why a name can't be claimed.
enum Taken {
    /// Its sandbox runs, held by this process.
    Running(String),
    /// Its directory is another user's.
    Anothers,
}

/// Opens a sandbox's directory, if it is a directory and ours: another user who made it could have put
/// anything there.
fn open_own(dir: &Path) -> io::Result<Option<File>> {
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    let handle = match OpenOptions::new().read(true).custom_flags(flags).open(dir) {
        Ok(handle) => handle,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) => return Err(e),
    };
    let (owner, we) = (handle.metadata()?.uid(), nix::unistd::geteuid());
    // Older versions gave a rooted sandbox's directory to its gateway.
    let ours = owner == we.as_raw() || (we.is_root() && users::is_a_gateways(owner));
    Ok(ours.then_some(handle))
}

/// Opens the lock file, or makes it. It must be a plain file with no other name; a link is never followed.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    let found = lock.metadata()?;
    match found.is_file() && found.nlink() <= 1 {
        true => Ok(lock),
        false => Err(io::Error::other("not a plain file of its own: remove it")),
    }
}

/// Whether this open file is still the one at `path`.
pub(crate) fn is_still_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

/// Names in a sandbox's directory that more than one part of the program uses.
pub mod files {
    /// Held by every living part of the sandbox but init.
    pub const LOCK: &str = "lock";
    /// `/sandbox`, if no other directory is named.
    pub const WORKSPACE: &str = "workspace";
    /// The agents' changes to another root.
    pub const ROOT: &str = "root";
    /// The agents' output.
    pub const LOGS: &str = "logs";
    /// The first of the sandbox's two host ids.
    pub const IDS: &str = "ids";
    /// Where its agents could ever write: real paths, each terminated by a NUL, which no path can contain.
    pub const PLACES: &str = "places";
}

/// The control socket of a sandbox, in its directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// The socket of a sandbox's builder, in its directory.
pub const BUILD_SOCKET: &str = "build.sock";

/// The file with questions and answers, in a sandbox's directory.
pub const APPROVALS: &str = "approvals.json";
/// The name that an unreadable [`APPROVALS`] file is moved to, so that it isn't overwritten.
pub const APPROVALS_ASIDE: &str = "approvals-unreadable.json";

/// Removes both sockets, as far as this process may, from the working directory, which is the sandbox's own.
/// For a process that outlives a heart that was killed, and holds the lock. In a rooted sandbox the builder
/// may remove either socket, the supervisor only the first.
pub fn remove_sockets() {
    for socket in [CONTROL_SOCKET, BUILD_SOCKET] {
        let _gone = fs::remove_file(socket);
    }
}

/// What a connection attempt tells about a sandbox's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its sandbox runs.
    Running,
    /// None runs.
    Stopped,
    /// It is another user's, so that nothing more can be told.
    Anothers,
}

/// How long to wait for the lock of a sandbox whose heart is gone: its last process is ending.
const ENDING: Duration = Duration::from_secs(2);

/// Locks the file, unless a process that lives holds the lock.
fn lock_unless_held(lock: &mut File) -> Result<(), fs::TryLockError> {
    let until = Instant::now() + ENDING;
    loop {
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock)
                if Instant::now() < until
                    && holder(lock).is_some_and(|pid| kill(pid, None) == Err(Errno::ESRCH)) =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Returns the process that wrote its pid into the lock file.
fn holder(lock: &mut File) -> Option<Pid> {
    let mut pid = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut pid).ok()?;
    lock.rewind().ok()?;
    pid.trim().parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

/// Writes our pid into the lock file. The file is truncated only if the old text was longer: emptying a file
/// waits for the filesystem.
fn write_holder(lock: &mut File) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    lock.write_all(text.as_bytes())?;
    if lock.metadata()?.len() > text.len() as u64 {
        lock.set_len(text.len() as u64)?;
    }
    Ok(())
}

/// A claimed directory: as long as its lock (or a copy of it) is open, no other sandbox takes the name.
#[derive(Debug)]
pub struct Claim {
    /// The sandbox's name.
    pub name: Name,
    /// Its directory.
    pub dir: PathBuf,
    /// The directory, opened: the supervisor works in it by descriptor, since in rooted mode it may have no
    /// permission on the path to it.
    pub handle: File,
    // Must come before the lock, since fields are dropped in this order: what was made must be removed while
    // the lock is held.
    made: Made,
    lock: File,
}

/// What a claim has made in the state directory. Dropping this removes it again, unless something has started
/// in it. The lock must be held until then.
#[derive(Debug)]
#[must_use = "dropped, it removes what was made"]
pub struct Made {
    dir: PathBuf,
    directory: bool,
    sockets: Vec<&'static str>,
}

impl Made {
    /// Keeps what was made, since something has started in it.
    pub fn keep(mut self) {
        self.directory = false;
        self.sockets.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let remove = |name: &str| {
            let _kept = fs::remove_file(self.dir.join(name));
        };
        self.sockets.iter().for_each(|socket| remove(socket));
        if self.directory {
            // The lock file is removed last, since a process that finds none makes a new one. A workspace
            // that isn't empty stays. `root` holds changes to another root; nothing has run in it yet, so it
            // can go.
            let _kept = fs::remove_dir(self.dir.join(files::WORKSPACE));
            let _kept = fs::remove_dir_all(self.dir.join(files::ROOT));
            remove(files::IDS);
            remove(files::PLACES);
            remove(files::LOCK);
            let _kept = fs::remove_dir(&self.dir);
        }
    }
}

impl Claim {
    /// Hands over the lock, and what was made, to the process that runs the sandbox.
    pub fn hand_over(self) -> (File, Made) {
        (self.lock, self.made)
    }

    /// Makes a socket of this name and listens on it, for our own user. An old one is replaced: the lock is
    /// ours, so it is a dead sandbox's.
    pub fn listen(&mut self, name: &'static str) -> io::Result<UnixListener> {
        let path = socket_path(&self.handle, name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        self.made.sockets.push(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

/// Connects to a socket in a sandbox's directory. Never waits: those who were never accepted fill the queue,
/// and stay in it when they have gone. Then this is EAGAIN (unix(7)).
pub fn connect_in(dir: &File, name: &str) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&socket_path(dir, name))?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Returns a socket's path through a descriptor of its directory. It always fits into `sun_path` (108 bytes,
/// unix(7)), however deep the directory is.
pub fn socket_path(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests;
