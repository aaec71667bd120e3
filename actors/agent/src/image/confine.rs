//! The process that reads an image. What it parses may be hostile, and the command may be root: so it is a child in a
//! user namespace of its own that maps one unprivileged id, without network, neighbours or capabilities, and by Landlock
//! can open nothing but the layout that it reads and the directory that it fills. It dies with the command.

use super::bounds::{MAX_FILE, MAX_MEMORY, MAX_REPORT};
use super::{ImageError, system};
use crate::isolation::capabilities;
use crate::plan::{Id, Ids};
use crate::sys;
use crate::sys::process::Cloned;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, make_bitflags,
};
use nix::sys::resource::{Resource, setrlimit};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A file more than the layout, the directory and what is open on the way down a tree.
const MAX_DESCRIPTORS: u64 = 512;

/// What the child may touch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    /// The layout or archive, open.
    pub(super) source: &'a File,
    /// The directory to fill, owned by [`user`].
    pub(super) into: Option<BorrowedFd<'a>>,
}

/// Whom the child is.
pub(super) fn user(ids: Ids) -> Id {
    match ids {
        Ids::Rootless { operator } => operator,
        Ids::Rooted { gateway, .. } => gateway,
    }
}

/// Runs `job` in the child and gives what it said.
pub(super) fn run(
    ids: Ids,
    reach: Reach<'_>,
    job: impl FnOnce() -> Result<String, ImageError>,
) -> Result<String, ImageError> {
    let (go_read, go_write) = sys::fd::pipe().map_err(system("pipe"))?;
    let (said_read, said_write) = sys::fd::pipe().map_err(system("pipe"))?;
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;
    match sys::process::clone(namespaces).map_err(system("starting the process that unpacks"))? {
        Cloned::Child => {
            drop((go_write, said_read));
            let life = std::panic::AssertUnwindSafe(|| live(ids, reach, &go_read, &said_write, job));
            let _ = std::panic::catch_unwind(life);
            sys::process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            drop((go_read, said_write));
            let said = map_user(pid, user(ids))
                .and_then(|()| sys::fd::write_all(go_write.as_fd(), b"g"))
                .map_err(system("starting the process that unpacks"))
                .and_then(|()| listen(said_read));
            drop(go_write);
            let _ = sys::signals::send(pidfd.as_fd(), libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            said
        }
    }
}

fn map_user(pid: i32, user: Id) -> io::Result<()> {
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("{0} {0} 1", user.gid))?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("{0} {0} 1", user.uid))
}

fn listen(pipe: OwnedFd) -> Result<String, ImageError> {
    let said = sys::signals::hear(pipe, MAX_REPORT).map_err(system("the process that unpacks"))?;
    match said.split_first() {
        Some((b'+', text)) => Ok(legible(text)),
        Some((b'-', text)) => Err(ImageError::Unpacking(legible(text))),
        _ => Err(ImageError::Unpacking(
            "the process that unpacks the image died (out of memory, or killed); nothing of it is kept"
                .into(),
        )),
    }
}

/// What comes from the process that parsed the image is the image's, and goes to a terminal: what would steer one is
/// spelt out.
fn legible(text: &[u8]) -> String {
    let spelt = |char: char| match char {
        '\n' | '"' | '\'' | '\\' => char.to_string(),
        char => char.escape_debug().to_string(),
    };
    String::from_utf8_lossy(text).chars().map(spelt).collect()
}

fn live(
    ids: Ids,
    reach: Reach<'_>,
    go: &OwnedFd,
    said: &OwnedFd,
    job: impl FnOnce() -> Result<String, ImageError>,
) {
    let done = confine(ids, reach, go, said)
        .map_err(system("confining the process that unpacks"))
        .and_then(|()| job());
    let (sign, text) = match done {
        Ok(text) => ('+', text),
        Err(error) => ('-', error.to_string()),
    };
    let text: String = text.chars().take(8192).collect();
    let _ = sys::fd::write_all(said.as_fd(), format!("{sign}{text}").as_bytes());
}

fn confine(ids: Ids, reach: Reach<'_>, go: &OwnedFd, said: &OwnedFd) -> io::Result<()> {
    sys::process::die_with_parent(libc::SIGKILL)?;
    if sys::fd::read(go.as_fd(), &mut [0])? != 1 {
        return Err(gone());
    }
    let mut keep = vec![go.as_raw_fd(), said.as_raw_fd(), reach.source.as_raw_fd()];
    keep.extend(reach.into.map(|fd| fd.as_raw_fd()));
    sys::fd::close_from(3, &keep)?;
    if let Ids::Rooted { gateway, .. } = ids {
        sys::process::set_gids(Some(gateway.gid), Some(gateway.gid), Some(gateway.gid))?;
        sys::process::set_uids(Some(gateway.uid), Some(gateway.uid), Some(gateway.uid))?;
    }
    capabilities::empty_bounding()?;
    capabilities::clear_sets()?;
    // The change of user has cleared it; the pipe's other end shows whether the command went meanwhile.
    sys::process::die_with_parent(libc::SIGKILL)?;
    is_there(go)?;
    sys::process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    sys::process::prctl(libc::PR_SET_DUMPABLE, 0)?;
    sys::signals::ignore_broken_pipes();
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS),
        (Resource::RLIMIT_FSIZE, MAX_FILE),
        (Resource::RLIMIT_AS, MAX_MEMORY),
    ] {
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let most = most.min(hard);
        setrlimit(resource, most, most)?;
    }
    fence(reach).map_err(io::Error::other)
}

/// Whether the command, which has said all that it says by this pipe, still holds its other end.
fn is_there(go: &OwnedFd) -> io::Result<()> {
    match sys::fd::wait(go.as_fd(), sys::fd::Ready::Readable, Some(Duration::ZERO))? {
        true => Err(gone()),
        false => Ok(()),
    }
}

fn gone() -> io::Error {
    io::Error::other("the command is gone")
}

/// Landlock, as far as this kernel has it; where it has none, a strict sandbox doesn't start either.
fn fence(reach: Reach<'_>) -> Result<(), landlock::RulesetError> {
    const NEWEST: ABI = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    if super::layout::Layout::directory(reach.source).is_some() {
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
    /// Killed while the process that unpacks changes its user, the command could not take it along.
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
