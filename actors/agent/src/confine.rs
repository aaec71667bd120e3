//! The process that reads what may be hostile: an image, a workspace, a snapshot of one. Since the command
//! may be root, this process is a child in a user namespace of its own that maps one id (root's only to read
//! a directory of root's). It sees no network and no other processes, and by Landlock can open nothing but
//! the directory that it reads and the one that it fills. It has no capability, or only the one by which it
//! reads all of its own user's files, whatever their modes. It dies with the command.

use crate::isolation::capabilities;
use crate::plan::Id;
use crate::sys;
use crate::sys::prctl::{Prctl, prctl};
use crate::sys::process::Cloned;
use caps::Capability;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, make_bitflags,
};
use nix::sys::resource::{Resource, setrlimit};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Bounds the child's descriptors: more than it needs for what is read, what is written, and what is open on
/// the way down a tree.
const MAX_DESCRIPTORS: u64 = 512;
/// Bounds the child's answer, in bytes.
const MAX_REPORT: u64 = 4 << 20;
/// Bounds the text of why the child failed, in characters.
const MAX_WHY: usize = 8192;

/// What the child may touch.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// A file, or the directory to read below, open.
    pub source: &'a File,
    /// The directory to fill, owned by the child's user.
    pub into: Option<BorrowedFd<'a>>,
    /// A file to write to, open.
    pub out: Option<&'a File>,
    /// Whether it reads every file of its user's, whatever the modes say.
    pub reads_all: bool,
    /// Bytes of the largest file that it may write.
    pub largest: u64,
    /// Bytes of its address space.
    pub memory: u64,
}

/// Why the child gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's reason; [`io::ErrorKind::Interrupted`] when this process was asked to end.
        source: io::Error,
    },
    /// What the child said, or that it said nothing.
    #[error("{0}")]
    Said(String),
}

const STARTING: &str = "starting the process that reads what may be hostile";

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Failed {
    move |error| Failed::System { what, source: error.into() }
}

/// Runs `job` in the child, as this user, and returns its answer. The caller must be single-threaded, and
/// `job` must own no descriptor: those of `reach` are borrowed, and all others are closed in the child.
///
/// # Errors
/// See [`Failed`].
pub fn run<E: std::fmt::Display>(
    user: Id,
    reach: Reach<'_>,
    job: impl FnOnce() -> Result<String, E>,
) -> Result<String, Failed> {
    // Asked before there is a new user namespace, in which ids mean something else.
    let may_change = nix::unistd::geteuid().is_root();
    let (go_read, go_write) = sys::fd::pipe().map_err(system("pipe"))?;
    let (said_read, said_write) = sys::fd::pipe().map_err(system("pipe"))?;
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;
    match sys::process::clone(namespaces).map_err(system(STARTING))? {
        Cloned::Child => {
            drop((go_write, said_read));
            let life =
                std::panic::AssertUnwindSafe(|| live((user, may_change), reach, &go_read, &said_write, job));
            let _ = std::panic::catch_unwind(life);
            sys::process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            drop((go_read, said_write));
            let said = map_user(pid, (user, may_change))
                .and_then(|()| sys::fd::write_all(go_write.as_fd(), b"g"))
                .map_err(system(STARTING))
                .and_then(|()| listen(said_read));
            drop(go_write);
            let _ = sys::signals::send(pidfd.as_fd(), libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            said
        }
    }
}

/// Writes the child's id maps. An ordinary user's child can't leave its groups: by leaving one it could open
/// files whose modes shut that group out.
fn map_user(pid: i32, (user, may_change): (Id, bool)) -> io::Result<()> {
    if !may_change {
        std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("{0} {0} 1", user.gid))?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("{0} {0} 1", user.uid))
}

fn listen(pipe: OwnedFd) -> Result<String, Failed> {
    let said =
        sys::signals::hear(pipe, MAX_REPORT).map_err(system("waiting for the process that reads it"))?;
    match said.split_first() {
        Some((b'+', text)) => Ok(legible(text)),
        Some((b'-', text)) => Err(Failed::Said(legible(text))),
        _ => Err(Failed::Said(
            "the process that reads it died (out of memory, or killed); nothing of it is kept".into(),
        )),
    }
}

/// Escapes what would control a terminal, to which this goes: the text of a process that parsed something
/// hostile may be the attacker's.
fn legible(text: &[u8]) -> String {
    let spelt = |char: char| match char {
        '\n' | '"' | '\'' | '\\' => char.to_string(),
        char => char.escape_debug().to_string(),
    };
    String::from_utf8_lossy(text).chars().map(spelt).collect()
}

fn live<E: std::fmt::Display>(
    user: (Id, bool),
    reach: Reach<'_>,
    go: &OwnedFd,
    said: &OwnedFd,
    job: impl FnOnce() -> Result<String, E>,
) {
    let done = confine(user, reach, go, said)
        .map_err(|error| system("confining the process that reads what may be hostile")(error).to_string())
        .and_then(|()| job().map_err(|error| error.to_string()));
    let (sign, text) = match done {
        Ok(text) => ('+', text),
        Err(why) => ('-', why.chars().take(MAX_WHY).collect()),
    };
    let _ = sys::fd::write_all(said.as_fd(), format!("{sign}{text}").as_bytes());
}

#[expect(unsafe_code, reason = "a fresh child closes what isn't its own")]
fn confine((user, may_change): (Id, bool), reach: Reach<'_>, go: &OwnedFd, said: &OwnedFd) -> io::Result<()> {
    sys::process::die_with_parent(libc::SIGKILL)?;
    if sys::fd::read(go.as_fd(), &mut [0])? != 1 {
        return Err(gone());
    }
    let mut keep = vec![go.as_raw_fd(), said.as_raw_fd(), reach.source.as_raw_fd()];
    keep.extend(reach.into.map(|fd| fd.as_raw_fd()));
    keep.extend(reach.out.map(|file| file.as_raw_fd()));
    // SAFETY: what the child owns is kept; all else belongs to copies of the command's values, in frames to
    // which it never returns.
    unsafe { sys::fd::close_all_but(&keep) }?;
    if may_change {
        // Root's groups read what this user can't.
        sys::process::clear_groups()?;
        sys::process::set_gids(Some(user.gid), Some(user.gid), Some(user.gid))?;
        sys::process::set_uids(Some(user.uid), Some(user.uid), Some(user.uid))?;
    }
    capabilities::empty_bounding()?;
    match reach.reads_all {
        // Effective in this namespace alone, in which only this user's files have a mapped owner
        // (capabilities(7), "Interaction with user namespaces").
        true => capabilities::keep_only(Capability::CAP_DAC_READ_SEARCH)?,
        false => capabilities::clear_sets()?,
    }
    // Set again, since the change of user has cleared it; the pipe's other end shows whether the command went
    // meanwhile.
    sys::process::die_with_parent(libc::SIGKILL)?;
    is_there(go)?;
    prctl(Prctl::SetNoNewPrivileges)?;
    prctl(Prctl::SetDumpable(false))?;
    sys::signals::ignore_broken_pipes();
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS),
        (Resource::RLIMIT_FSIZE, reach.largest),
        (Resource::RLIMIT_AS, reach.memory),
    ] {
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let most = most.min(hard);
        setrlimit(resource, most, most)?;
    }
    fence(reach).map_err(io::Error::other)
}

/// Fails if the command no longer holds the other end of this pipe, by which it has nothing more to say.
fn is_there(go: &OwnedFd) -> io::Result<()> {
    match sys::fd::wait(go.as_fd(), sys::fd::Ready::Readable, Some(Duration::ZERO))? {
        true => Err(gone()),
        false => Ok(()),
    }
}

fn gone() -> io::Error {
    io::Error::other("the command is gone")
}

/// Restricts this process by Landlock, as far as the kernel has it; where it has none, a strict sandbox
/// doesn't start either.
fn fence(reach: Reach<'_>) -> Result<(), landlock::RulesetError> {
    const NEWEST: ABI = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    if reach.source.metadata().is_ok_and(|meta| meta.is_dir()) {
        let reading = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        ruleset = ruleset.add_rule(PathBeneath::new(reach.source, reading))?;
    }
    if let Some(into) = reach.into {
        let filling = make_bitflags!(AccessFs::{
            ReadDir | WriteFile | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir | Refer | Truncate
        });
        ruleset = ruleset.add_rule(PathBeneath::new(into, filling))?;
    }
    ruleset.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    /// A command that is killed while its child changes its user doesn't take the child along.
    #[test]
    fn a_command_that_went_meanwhile_is_noticed() {
        let (go, theirs) = crate::sys::fd::pipe().unwrap();
        assert!(super::is_there(&go).is_ok());
        drop(theirs);
        assert!(super::is_there(&go).is_err());
    }

    #[test]
    fn what_steers_a_terminal_is_spelt_out() {
        let plain = "layer 1 of 2 (sha256:ab): entry \"ä\\u{1b}'s\": no\n  second line";
        assert_eq!(super::legible(plain.as_bytes()), plain);
        for hostile in ["\u{1b}]0;title\u{7}", "\r", "\u{9b}2J", "a\u{202e}b", "\u{7f}"] {
            let said = super::legible(hostile.as_bytes());
            assert!(said.chars().all(|c| c.is_ascii_graphic()), "{said:?}");
        }
        assert_eq!(super::legible(b"\xff"), "\u{fffd}");
    }
}
