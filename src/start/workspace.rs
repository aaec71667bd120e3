//! Chooses the directory that the agent finds at /sandbox.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use agent::isolation::links::Astray;
use agent::plan::{Hidden, Ids, Paths, WORKSPACE};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::console::as_word;
use crate::failure::Failure;
use crate::ids::give;
use crate::site::places;
use crate::state::{Claim, files};

/// Directories that can't be an agent's workspace: their content belongs to the machine, not to a project.
const NEVER: &[&str] =
    &["/", "/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sys", "/usr", "/var"];

/// Returns the named directory, or makes the sandbox's own. Follows no link in a place where agents could
/// write `before`. `paths` are the policy's: they say whether the agent is to write there.
pub fn locate(
    named: Option<&Path>,
    claim: &Claim,
    ids: Ids,
    paths: &Paths,
    (hidden, before): (&Hidden, &BTreeSet<PathBuf>),
) -> Result<PathBuf, Failure> {
    let Some(named) = named else {
        let real = own(claim, ids)?;
        shows_no_state(&real, &real, claim, hidden)?;
        return Ok(real);
    };
    let real = check(named, before)?;
    shows_no_state(named, &real, claim, hidden)?;
    if paths.read_write.iter().any(|rule| rule.path.starts_with(WORKSPACE)) {
        writable(named, &real)?;
    }
    Ok(real)
}

/// Refuses a read-only file system: otherwise the agent would be the first to notice.
fn writable(named: &Path, real: &Path) -> Result<(), Failure> {
    let told = |why: &str| Failure::refused(format!("workspace {}: {why}", named.display()));
    let state = statvfs(real).map_err(|e| told(e.desc()))?;
    if state.flags().contains(FsFlags::ST_RDONLY) {
        return Err(told(&format!(
            "it is on a read-only filesystem: name one that can be written to, or none for one in the state directory; a systemd \
             unit needs ReadWritePaths={}; or let the policy make {WORKSPACE} read_only",
            real.display()
        )));
    }
    Ok(())
}

/// Returns the real path of a directory that can be a workspace. Follows no link in a place where agents
/// could write `before`.
///
/// # Errors
/// Why it can't be one.
pub fn check(path: &Path, before: &BTreeSet<PathBuf>) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let real = places::follow(path, before).map_err(|e| match e {
        Astray::Io(e) if e.kind() == io::ErrorKind::NotFound => {
            Failure::refused(format!("workspace {shown} doesn't exist: mkdir -p {}", as_word(path)))
        }
        e => Failure::refused(format!("workspace {shown}: {e}")),
    })?;
    if !real.is_dir() {
        return Err(Failure::refused(format!("workspace {shown} is not a directory: name one")));
    }
    if NEVER.iter().any(|never| real == Path::new(never)) {
        return Err(Failure::refused(format!(
            "{shown} can't be a workspace: name a directory of the agent's own"
        )));
    }
    if std::env::var_os("HOME").is_some_and(|home| real == Path::new(&home)) {
        return Err(Failure::refused(format!(
            "{shown} is your home, with your keys in it: name a directory inside it as the workspace"
        )));
    }
    Ok(real)
}

/// Refuses a workspace that would show cofferdam's state: of that, an agent may see only its sandbox's own
/// workspace.
///
/// # Errors
/// A workspace at this real path would show more of the state.
pub fn shows_no_state(named: &Path, real: &Path, claim: &Claim, hidden: &Hidden) -> Result<(), Failure> {
    let own = fs::canonicalize(&claim.dir)?.join(files::WORKSPACE);
    let seen = if real == own { hidden.seen_in_own(real) } else { hidden.seen_at(real) };
    seen.map_or(Ok(()), |state| {
        Err(Failure::refused(format!(
            "workspace {} holds state of cofferdam's, or lies in it ({}): the agent could change an audit log, or speak to a \
             control socket; name a directory elsewhere",
            named.display(),
            state.display()
        )))
    })
}

fn own(claim: &Claim, ids: Ids) -> Result<PathBuf, Failure> {
    let path = claim.dir.join(files::WORKSPACE);
    let told = |e: io::Error| Failure::refused(format!("workspace {}: {e}", path.display()));
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(told(e)),
        _ => {}
    }
    // A link is never followed: its target, which would be shown and change its owner, could be anything.
    if !fs::symlink_metadata(&path).map_err(told)?.is_dir() {
        return Err(Failure::refused(format!("workspace {} is no directory: remove it", path.display())));
    }
    if let Ids::Rooted { sandbox, .. } = ids {
        give(&path, sandbox).map_err(told)?;
    }
    fs::canonicalize(&path).map_err(told)
}
