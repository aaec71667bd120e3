//! The state directory: one folder a sandbox, claimed by a lock, holding its socket, logs, audit and
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
//! Nothing here follows a link that an agent could have made: the agent sees only `workspace/`, and what is
//! done there is done by descriptor in the `agent` crate. Nor one that a gateway in strange hands could have
//! left for the next start: a rooted sandbox's directory is root's and sticky, so that the gateway makes and
//! removes what is its own there and nothing else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use agent::plan::Hidden;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials, sockopt::PeerPidfd};
use nix::unistd::Pid;

use crate::failure::Failure;
pub use crate::name::Name;
use crate::users;

/// How many numbered names are tried for a sandbox that was given none.
const NUMBERED_NAMES: u32 = 1000;

/// The directory of all sandboxes.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// `--state` or `$COFFERDAM_STATE` (clap reads both), else as root `/var/lib/cofferdam`, else
    /// `$XDG_STATE_HOME/cofferdam`, else `~/.local/state/cofferdam`.
    pub fn locate(given: Option<&Path>) -> Result<Self, Failure> {
        // A variable that is set to nothing names nothing.
        if let Some(dir) = given.filter(|dir| !dir.as_os_str().is_empty()) {
            return std::path::absolute(dir).map(Self).map_err(Failure::from);
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

    /// The real places of all state that an operator of this user has: this directory, and the usual one
    /// where another is named, whether that is there yet or not. What is shown of the host stays in view, and
    /// the next sandbox may make it.
    pub fn every_place(&self) -> Hidden {
        let usual = Self::locate(None).ok().map(|usual| usual.0);
        Hidden::new([self.0.clone()].into_iter().chain(usual).map(|place| real(&place)))
    }

    /// Where the sandbox of this name has its files.
    pub fn instance(&self, name: &Name) -> PathBuf {
        self.0.join(name.as_str())
    }

    /// Every sandbox that has a directory here, sorted by name: none where there is no state directory yet.
    ///
    /// # Errors
    /// When the state directory can't be read.
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
            // Where we may not look there may be one: another user's.
            .filter(|entry| entry.path().join(files::LOCK).try_exists().unwrap_or(true))
            .filter_map(|entry| Name::parse(entry.file_name().to_str()?).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Claims the name, or says who holds it, and that another may be chosen by `another`.
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
        // Whoever else made it has a hand in everything that we would put there.
        let opened = open_own(&dir).and_then(|own| own.map(|dir| Ok((dir, open_lock(&path)?))).transpose());
        let (handle, mut lock) = match opened {
            Ok(Some(both)) => both,
            Ok(None) => return Ok(Err(Taken::Anothers)),
            Err(e) => {
                if directory {
                    // Empty still, or somebody else's by now.
                    let _kept = fs::remove_dir(&dir);
                }
                return Err(told(&path, &e));
            }
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                let holder =
                    pid.trim().parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
                return Ok(Err(Taken::Running(holder)));
            }
            Err(fs::TryLockError::Error(e)) => return Err(told(&path, &e)),
        }
        if !is_still_at(&lock, &path) {
            // A start that failed has taken it away between our opening and our locking it: whoever comes
            // next would lock another.
            return self.try_claim(name);
        }
        // Nobody else's from here on.
        let made = Made { dir: dir.clone(), directory, sockets: Vec::new() };
        write_holder(&mut lock).map_err(|e| told(&path, &e))?;
        Ok(Ok(Claim { name: name.clone(), dir, handle, made, lock }))
    }

    /// Where the control socket of this name is, whether anybody listens or not.
    pub fn socket(&self, name: &Name) -> PathBuf {
        self.instance(name).join(CONTROL_SOCKET)
    }

    /// Whether a sandbox of this name runs: its control socket takes a connection (the heart keeps it open,
    /// also while the supervisor restarts).
    pub fn is_running(&self, name: &Name) -> bool {
        self.knock(name).is_ok()
    }

    /// What can be told of a name, by one knock.
    pub fn presence(&self, name: &Name) -> Presence {
        match self.knock(name) {
            Ok(()) => Presence::Running,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Presence::Anothers,
            Err(_) => Presence::Stopped,
        }
    }

    /// As [`Root::is_running`], with the reason why not.
    pub fn require_running(&self, name: &Name) -> Result<(), Failure> {
        self.knock(name).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => self.is_anothers(name),
            _ => Failure::refused(format!(
                "no sandbox named '{name}' is running: `cofferdam ps` lists those that are"
            )),
        })
    }

    /// The directory of a sandbox, running or not, if this user may look into it. It need not be there.
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

    /// The heart of a running sandbox: who made its control socket listen, as the kernel says (unix(7),
    /// SO_PEERCRED).
    ///
    /// # Errors
    /// ESRCH where the heart is gone, and somebody it left behind holds the socket: its number may be a
    /// stranger's by now.
    pub fn heart(&self, name: &Name) -> io::Result<Pid> {
        let socket = self.connect(name)?;
        let pid = Pid::from_raw(getsockopt(&socket, PeerCredentials)?.pid());
        match pid.as_raw() {
            // As a process of another namespace's is told; for kill(2) that would be everybody of our group.
            ..=0 => Err(io::Error::other("its heart can't be seen from here")),
            _ if listener_is_gone(&socket, pid) => Err(Errno::ESRCH.into()),
            _ => Ok(pid),
        }
    }

    fn knock(&self, name: &Name) -> io::Result<()> {
        self.connect(name).map(drop)
    }

    fn connect(&self, name: &Name) -> io::Result<UnixStream> {
        let handle = File::open(self.instance(name))?;
        UnixStream::connect(socket_path(&handle, CONTROL_SOCKET))
    }
}

/// By a descriptor of that very process; before Linux 6.5 by what the process of its number is called.
fn listener_is_gone(socket: &UnixStream, pid: Pid) -> bool {
    match getsockopt(socket, PeerPidfd) {
        Ok(pidfd) => {
            let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut ended, PollTimeout::ZERO).is_ok_and(|n| n > 0)
        }
        Err(Errno::ENOPROTOOPT) => {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
            !comm.is_ok_and(|comm| comm.starts_with("cofferdam"))
        }
        // There is no descriptor of a process that isn't there.
        Err(_) => true,
    }
}

/// Where a path leads, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|part| Some((part, fs::canonicalize(part).ok()?)));
    let Some((part, real)) = there else { return path.to_owned() };
    // By parts, since an empty rest would add a slash.
    path.strip_prefix(part).map_or_else(|_| path.to_owned(), |rest| real.iter().chain(rest).collect())
}

/// Why a name can't be claimed.
enum Taken {
    /// Its sandbox runs, held by this process.
    Running(String),
    /// Its directory is another user's.
    Anothers,
}

/// Opens a sandbox's directory, if it is one and ours: who else made it could have put anything there.
fn open_own(dir: &Path) -> io::Result<Option<File>> {
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    let handle = match OpenOptions::new().read(true).custom_flags(flags).open(dir) {
        Ok(handle) => handle,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) => return Err(e),
    };
    let (owner, we) = (handle.metadata()?.uid(), nix::unistd::geteuid());
    // Before, a rooted sandbox's was its gateway's.
    let ours = owner == we.as_raw() || (we.is_root() && users::is_a_gateways(owner));
    Ok(ours.then_some(handle))
}

/// Opens the lock, or makes it: a plain file with no other name, never what a link leads to.
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

/// Whether a file is the one that its path leads to.
pub(crate) fn is_still_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

/// Names of what lies in a sandbox's directory and more than one part of the program knows.
pub mod files {
    /// Held by every living part of the sandbox but init.
    pub const LOCK: &str = "lock";
    /// `/sandbox`, where none other is named.
    pub const WORKSPACE: &str = "workspace";
    /// What the agents have changed in another root.
    pub const ROOT: &str = "root";
    /// The agents' output.
    pub const LOGS: &str = "logs";
    /// The first of the sandbox's two host ids.
    pub const IDS: &str = "ids";
    /// Where its agents could ever write: real paths, each with a NUL at its end, which no path has in it.
    pub const PLACES: &str = "places";
}

/// The control socket of a sandbox, in its directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Its builder's.
pub const BUILD_SOCKET: &str = "build.sock";

/// Where questions and answers are kept, in a sandbox's directory.
pub const APPROVALS: &str = "approvals.json";
/// One that can't be read is put there, and never written over.
pub const APPROVALS_ASIDE: &str = "approvals-unreadable.json";

/// Removes both, as far as this process may, in the working directory, which is the sandbox's own: for
/// whoever is left, with the lock, of a sandbox whose heart died without a word. A rooted one's builder may
/// remove either, its supervisor the first alone.
pub fn remove_sockets() {
    for socket in [CONTROL_SOCKET, BUILD_SOCKET] {
        let _gone = fs::remove_file(socket);
    }
}

/// What can be told of a sandbox's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its sandbox runs.
    Running,
    /// None runs.
    Stopped,
    /// It is another user's, so that nobody here can tell more of it.
    Anothers,
}

/// Writes who holds the lock. Cut only where the text before was longer: emptying a file waits for the
/// filesystem.
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
    /// The directory, opened: the supervisor works in it by descriptor, since in rooted mode it may not be
    /// able to walk to it.
    pub handle: File,
    // Before the lock, since fields are dropped in this order: what was made is removed by whoever holds the
    // lock.
    made: Made,
    lock: File,
}

/// What a claim has made of its directory. It goes again when this is dropped, unless something has started
/// in it: until then the lock must be held.
#[derive(Debug)]
#[must_use = "dropped, it removes what was made"]
pub struct Made {
    dir: PathBuf,
    directory: bool,
    sockets: Vec<&'static str>,
}

impl Made {
    /// Something has started: what was made stays.
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
            // The lock goes last, since whoever finds none makes another. A workspace that holds anything
            // stays; of `root`, which holds changes to another root, nothing has run in it yet.
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
    /// Lets the lock go on to whoever runs the sandbox, with what was made for it.
    pub fn hand_over(self) -> (File, Made) {
        (self.lock, self.made)
    }

    /// Makes a socket of this name anew (an old one is a dead sandbox's: the lock is ours) and listens on it,
    /// for our own user.
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

/// A socket's path by descriptor: never longer than `sun_path` (108 bytes, unix(7)), however deep the
/// directory lies.
pub fn socket_path(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests;
