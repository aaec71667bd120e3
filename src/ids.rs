//! Which host users a sandbox runs as.
//!
//! Started by an ordinary user, it runs as that user. Started by root, it runs as the users `gateway` and
//! `sandbox` if the host has them, else as two ids from the range that systemd keeps for dynamic users
//! (61184–65519). They are chosen once per sandbox and written down.

mod pairs;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent::plan::{Id, Ids};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags};
use nix::unistd::{Gid, Uid, User, fchownat, getegid, geteuid};

use crate::failure::Failure;
use crate::kept;
use crate::state::{APPROVALS, APPROVALS_ASIDE, Claim, Root, files};
use crate::users::{FIRST, LAST, named};
use pairs::{Holder, Pairs, Tried, chosen, runs};

/// Chooses the ids of a claimed sandbox.
pub fn choose(claim: &Claim) -> Result<Ids, Failure> {
    choose_in(claim, claim.dir.parent().unwrap_or(Path::new("/")))
}

/// As [`choose`], for a sandbox whose directory isn't in its final place in the state directory `state` yet.
pub fn choose_in(claim: &Claim, state: &Path) -> Result<Ids, Failure> {
    choose_with(|| dynamic_beside(claim, &[Root::locate(None)?.dir(), state]))
}

/// Moves a sandbox's directory to its place `to`, which must be free, and records its ids for that place. No
/// other process chooses ids meanwhile. If it fails, nothing is at `to`.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if something is at `to`; otherwise errors of system calls.
pub fn moved(claim: &Claim, ids: Ids, state: &Path, to: &Path) -> io::Result<()> {
    let here = nix::fcntl::AT_FDCWD;
    let rename = || match nix::fcntl::renameat2(here, &claim.dir, here, to, RenameFlags::RENAME_NOREPLACE) {
        // A filesystem without RENAME_NOREPLACE: at worst this replaces an empty directory.
        Err(Errno::EINVAL) => fs::rename(&claim.dir, to),
        other => Ok(other?),
    };
    match (ids, chosen(&claim.dir)) {
        (Ids::Rooted { .. }, Some(first)) => {
            let usual = Root::locate(None).map_err(|failure| io::Error::other(failure.message))?;
            let pairs = Pairs::locked(&[usual.dir(), state])?;
            // Recorded before the move: a record of a directory that doesn't exist holds up no other sandbox,
            // and if recording fails nothing was moved yet.
            pairs.record(first, &fs::canonicalize(state)?.join(to.file_name().unwrap_or_default()))?;
            rename()
        }
        _ => rename(),
    }
}

/// The ids of a sandbox without a name, which is built only to see whether it can be.
pub struct Trial {
    pub ids: Ids,
    /// Keeps the pair from every sandbox as long as this exists.
    _tried: Option<Tried>,
}

/// Chooses the ids of a trial.
pub fn trial() -> Result<Trial, Failure> {
    let mut held = None;
    let ids = choose_with(|| {
        let (first, tried) = pair_for_trial(&[Root::locate(None)?.dir()])?;
        held = tried;
        Ok(pair(first))
    })?;
    Ok(Trial { ids, _tried: held })
}

/// Returns a pair that is free. If nothing can be locked, nothing is recorded either, and only running
/// processes show which pairs are taken. The lock isn't held during the trial, which may take long or be
/// stopped.
fn pair_for_trial(places: &[&Path]) -> Result<(u32, Option<Tried>), Failure> {
    let told = |e: io::Error| Failure::refused(format!("can't choose user ids: {e}"));
    let pairs = match Pairs::locked(places) {
        Ok(pairs) => Some(pairs),
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => None,
        Err(e) => return Err(told(e)),
    };
    let nobodys = Path::new("");
    let is_free =
        |first| pairs.as_ref().map_or_else(|| !runs(first), |pairs| pairs.holder(first, nobodys).is_none());
    let first = free_pair(nobodys, places, is_free)?;
    let tried = pairs.as_ref().map(|pairs| pairs.try_out(first)).transpose().map_err(told)?;
    Ok((first, tried))
}

/// Returns the pair that begins with `first`.
fn pair(first: u32) -> (Id, Id) {
    let id = |n: u32| Id { uid: n, gid: n };
    (id(first), id(first + 1))
}

fn choose_with(dynamic: impl FnOnce() -> Result<(Id, Id), Failure>) -> Result<Ids, Failure> {
    if !geteuid().is_root() {
        return Ok(Ids::Rootless { operator: Id { uid: geteuid().as_raw(), gid: getegid().as_raw() } });
    }
    if !maps(LAST) {
        return Err(Failure::refused(
            "this root is a user namespace's with few ids, so the agent can't get one of its own: \
             start cofferdam as an ordinary user instead, or map a range of ids (at least up to 65519)",
        ));
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let (gateway, sandbox) = match (named(&users, "gateway"), named(&users, "sandbox")) {
        (Some(gateway), Some(sandbox)) => two(gateway, sandbox)?,
        _ => dynamic()?,
    };
    Ok(Ids::Rooted { gateway, sandbox })
}

/// Returns the host's two users, which must be different: as one user, the agent could do all that the
/// gateway can.
fn two(gateway: Id, sandbox: Id) -> Result<(Id, Id), Failure> {
    let same = match (gateway.uid == sandbox.uid, gateway.gid == sandbox.gid) {
        (false, false) => return Ok((gateway, sandbox)),
        (true, _) => format!("are one user (uid {})", gateway.uid),
        (false, true) => format!("have one group (gid {})", gateway.gid),
    };
    Err(Failure::refused(format!(
        "the users `gateway` and `sandbox` of this machine {same}, and must be two of two groups, or the agent is its own gateway: give \
         one of them an id of its own in /etc/passwd, or remove both, and cofferdam chooses two ids itself"
    )))
}

/// Lets the gateway make, change and remove its own files in the sandbox's directory, and nothing else: the
/// directory stays root's, sticky (unlink(2)). Files that an earlier gateway of the sandbox wrote are given
/// to this one.
pub fn own(claim: &Claim, ids: Ids) -> Result<(), Failure> {
    let Ids::Rooted { gateway, .. } = ids else { return Ok(()) };
    let told = |e: io::Error| Failure::refused(format!("{}: {e}", claim.dir.display()));
    std::os::unix::fs::fchown(&claim.handle, Some(0), Some(gateway.gid)).map_err(told)?;
    claim.handle.set_permissions(fs::Permissions::from_mode(0o1770)).map_err(told)?;
    for entry in fs::read_dir(&claim.dir).map_err(told)? {
        let entry = entry.map_err(told)?;
        let name = entry.file_name();
        let kind = entry.file_type().map_err(told)?;
        let name = name.to_string_lossy();
        if kind.is_file() && (is_of_log(&name) || is_kept(&name)) {
            give_own(&entry.path(), gateway).map_err(told)?;
        }
        if kind.is_dir() && name == "logs" {
            give_logs(&entry.path(), gateway).map_err(told)?;
        }
    }
    Ok(())
}

/// Whether a file belongs to the audit log, including one that a crash left before it got its final name: if
/// that one can't be opened, the log can't begin a new file.
pub fn is_of_log(name: &str) -> bool {
    matches!(name, "audit.head" | "audit.next") || name.starts_with("audit") && name.ends_with(".jsonl")
}

/// Whether a file is one that a gateway keeps for the next run.
fn is_kept(name: &str) -> bool {
    [gateway::budgets::FILE, APPROVALS].iter().any(|file| kept::is_of(file, name)) || name == APPROVALS_ASIDE
}

/// Gives the directory of logs, which is a gateway's already, and the files in it to another gateway. Works
/// by descriptor: if all sandboxes' gateways are one user, a compromised one that runs could put something
/// else in its place meanwhile.
fn give_logs(path: &Path, to: Id) -> io::Result<()> {
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    let logs = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    std::os::unix::fs::fchown(&logs, Some(to.uid), Some(to.gid))?;
    let there = PathBuf::from(format!("/proc/self/fd/{}", logs.as_raw_fd()));
    for file in fs::read_dir(&there)? {
        give_own(&there.join(file?.file_name()), to)?;
    }
    Ok(())
}

/// Changes the owner of a plain file. A file with a second name is left alone, since that name may be
/// anywhere. The file that was checked is the one that is given, whatever has its name by then.
fn give_own(path: &Path, to: Id) -> io::Result<()> {
    // O_PATH: opening a pipe doesn't block, and opening a link opens the link itself.
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    Ok(fchownat(&file, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?)
}

/// Changes the owner of a path; never follows a link.
pub fn give(path: &Path, to: Id) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(to.uid), Some(to.gid))
}

/// Chooses under a lock of the whole machine, so that sandboxes that start at the same time never get the
/// same pair, wherever their state is. A pair chosen earlier is checked again: another sandbox may have got
/// it since, from a state directory that was not known then.
fn dynamic_beside(claim: &Claim, places: &[&Path]) -> Result<(Id, Id), Failure> {
    let told = |e: io::Error| Failure::refused(format!("can't choose user ids: {e}"));
    let pairs = Pairs::locked(places).map_err(told)?;
    let dir = fs::canonicalize(&claim.dir).map_err(told)?;
    let path = claim.dir.join(files::IDS);
    let first = match chosen(&claim.dir).filter(|first| (FIRST..LAST).contains(first)) {
        Some(first) => match pairs.holder(first, &dir) {
            None => first,
            Some(holder) => return Err(Failure::refused(taken(first, &holder, &path))),
        },
        None => {
            let first = free_pair(&claim.dir, places, |first| pairs.holder(first, &dir).is_none())?;
            kept::write(&path, format!("{first}\n").as_bytes())
                .map_err(|e| Failure::refused(format!("{}: {e}", path.display())))?;
            first
        }
    };
    pairs.record(first, &dir).map_err(told)?;
    Ok(pair(first))
}

fn taken(first: u32, holder: &Holder, path: &Path) -> String {
    let whose = match holder {
        Holder::Sandbox(dir) => format!("the sandbox in {} has them, too", dir.display()),
        Holder::Processes => "others run as them".to_owned(),
        Holder::Trial => {
            return format!(
                "its agents' user ids are {first} and {}, as which `cofferdam doctor` or `onboard` tries something out: try again when that is done",
                first + 1
            );
        }
    };
    format!(
        "its agents' user ids are {first} and {}, and {whose}: remove {} to have others chosen (what its agents wrote stays the old ones')",
        first + 1,
        path.display()
    )
}

/// Returns a pair that no user of the host, no neighbouring sandbox and nothing else (see `is_free`) has. The
/// search starts at a place that depends on the sandbox's directory.
fn free_pair(dir: &Path, places: &[&Path], is_free: impl Fn(u32) -> bool) -> Result<u32, Failure> {
    // Also sandboxes from before pairs were recorded.
    let neighbours: Vec<u32> = places
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten()
        .filter_map(|entry| chosen(&entry.ok()?.path()))
        .collect();
    let pairs = (LAST - FIRST).div_ceil(2);
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    let start = u32::try_from(hasher.finish() % u64::from(pairs)).unwrap_or_default();
    (0..pairs)
        .map(|n| FIRST + 2 * ((start + n) % pairs))
        .find(|first| !neighbours.contains(first) && unused(*first) && unused(first + 1) && is_free(*first))
        .ok_or_else(|| {
            Failure::refused("every dynamic user id is taken: create users `gateway` and `sandbox`")
        })
}

fn unused(id: u32) -> bool {
    matches!(User::from_uid(Uid::from_raw(id)), Ok(None))
        && matches!(nix::unistd::Group::from_gid(Gid::from_raw(id)), Ok(None))
}

/// Whether this user namespace maps the id, which is what counts as real root here (user_namespaces(7)).
fn maps(id: u32) -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return false };
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
        let (Some(first), Some(_), Some(count)) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_file_that_is_exchanged_meanwhile_is_not_given_away() {
        if !geteuid().is_root() {
            // An unprivileged user can't give files away.
            return;
        }
        const TRIES: usize = 200_000;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["victim", "own"] {
            fs::write(at(name), name).unwrap();
        }
        fs::hard_link(at("victim"), at("second")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (here, flags) = (nix::fcntl::AT_FDCWD, RenameFlags::RENAME_EXCHANGE);
                while !done.load(Ordering::Relaxed) {
                    let _ = nix::fcntl::renameat2(here, &at("own"), here, &at("second"), flags);
                }
            });
            for _ in 0..TRIES {
                give_own(&at("own"), Id { uid: FIRST, gid: FIRST }).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::metadata(at("victim")).unwrap().uid(), 0);
        let given = ["own", "second"].map(|name| fs::metadata(at(name)).unwrap().uid());
        assert!(given.contains(&FIRST), "the control: what has one name was given");
    }

    #[test]
    fn sandboxes_of_two_state_directories_never_get_the_same_users() {
        let machine = tempfile::tempdir().unwrap();
        let claims = ["a", "b"].map(|state| {
            let root = Root::locate(Some(&machine.path().join(state))).unwrap();
            root.claim(&crate::name::Name::parse("one").unwrap(), "--name").unwrap()
        });
        let places = [machine.path()];
        let (first, _) = dynamic_beside(&claims[0], &places).unwrap();
        // The other would choose the same, if it were free.
        let free = |_: u32| true;
        let wanted = free_pair(&claims[1].dir, &places, free).unwrap();
        let of = |claim: &Claim| claim.dir.join(files::IDS);
        kept::write(&of(&claims[0]), format!("{wanted}\n").as_bytes()).unwrap();
        assert_eq!(dynamic_beside(&claims[0], &places).unwrap().0.uid, wanted, "{first:?}");
        assert_ne!(dynamic_beside(&claims[1], &places).unwrap().0.uid, wanted);
        // A pair that two sandboxes chose when neither knew of the other is refused to the second.
        kept::write(&of(&claims[1]), format!("{wanted}\n").as_bytes()).unwrap();
        let refused = dynamic_beside(&claims[1], &places).unwrap_err().message;
        assert!(refused.contains("a/one has them") && refused.contains("b/one/ids"), "{refused}");
        assert_eq!(dynamic_beside(&claims[0], &places).unwrap().0.uid, wanted, "whose they are goes on");
    }

    #[test]
    fn a_trial_runs_as_nobody_who_has_a_name() {
        let machine = tempfile::tempdir().unwrap();
        let places = [machine.path()];
        let (wanted, held) = pair_for_trial(&places).unwrap();
        let (other, also_held) = pair_for_trial(&places).unwrap();
        assert_ne!(other, wanted, "another can choose meanwhile, and not the same");
        drop((held, also_held));
        assert_eq!(pair_for_trial(&places).unwrap().0, wanted);
        let root = Root::locate(Some(&machine.path().join("a"))).unwrap();
        let claim = root.claim(&crate::name::Name::parse("one").unwrap(), "--name").unwrap();
        kept::write(&claim.dir.join(files::IDS), format!("{wanted}\n").as_bytes()).unwrap();
        assert_eq!(dynamic_beside(&claim, &places).unwrap().0.uid, wanted);
        assert_ne!(pair_for_trial(&places).unwrap().0, wanted);
    }

    #[test]
    fn the_hosts_two_users_are_two() {
        let id = |uid, gid| Id { uid, gid };
        assert!(two(id(1, 1), id(2, 2)).is_ok());
        for (sandbox, said) in [(id(1, 2), "one user (uid 1)"), (id(2, 1), "one group (gid 1)")] {
            let why = two(id(1, 1), sandbox).unwrap_err().message;
            assert!(why.contains(said) && why.contains("must be two"), "{why}");
        }
    }

    #[test]
    fn all_files_of_the_log_are_the_gateways() {
        for name in ["audit.jsonl", "audit-000000000001.jsonl", "audit.head", "audit.next"] {
            assert!(is_of_log(name), "{name}");
        }
        assert!(!is_of_log("ids") && !is_of_log("audit"));
    }
}
