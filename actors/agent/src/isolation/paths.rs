//! The policy's paths on the host: which real places are bound, which links lead to them, and which are
//! refused.
//!
//! | the policy names | what happens |
//! |---|---|
//! | a directory or a file | it is bound at the same place |
//! | a link | the place it leads to is bound there, and the link is made; a link that lies where an agent can write, or could in an earlier cage, is refused, and so is one to what may never be shown |
//! | a path below another one | its own mode holds: read-only below writable, and writable below read-only |
//! | one path twice, or as both | once; writable wins |
//! | a path below `/sandbox` | the workspace's own, never the host's; its own mode holds there too |
//! | what holds cofferdam's own state, or lies in it | refused: the agent would speak to a control socket |
//! | a socket | refused: somebody of the host answers on it; one in a directory that is shown is named at the start ([`super::shown::answered`]) |
//! | a device outside `/dev` | bound, and can't be opened (nodev) |
//! | a named pipe | bound: whoever holds its other end was named on purpose |
//! | a path that isn't there | an error, unless the policy marks it optional |
//!
//! `.` and `..` never get here (`plan::CagePlan::check`), and a slash at the end means nothing.

use super::links::{self, Astray};
use super::root::{Failed, at};
use crate::plan::{CagePlan, Control, PathRule, WORKSPACE};
use crate::sys;
use crate::sys::mount::Attributes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Shown wherever `/usr` is: the loader and the shell are found through them.
pub(crate) const WITH_USR: &[&str] = &["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// The parts of `/sys` that runtimes read to count processors and memory.
const SYS_SHOWN: &[&str] =
    &["/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage"];

/// Something of the host to be shown at the same place.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) path: PathBuf,
    pub(super) mount: OwnedFd,
    pub(super) directory: bool,
    pub(super) writable: bool,
}

/// Links to make: where, and to what.
pub(super) type Links = Vec<(PathBuf, PathBuf)>;

/// The mount attributes of what is shown, by a plan that may leave some out on purpose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modes {
    /// On every mount that is the agent's to write.
    pub(super) writable: Attributes,
    /// On every other.
    pub(super) read_only: Attributes,
}

impl Modes {
    pub(super) fn of(plan: &CagePlan) -> Self {
        let safe = if plan.sabotaged(Control::MountFlags) {
            Attributes::NONE
        } else {
            Attributes::NO_SUID.and(Attributes::NO_DEV)
        };
        let read_only =
            if plan.sabotaged(Control::ReadOnlyMounts) { Attributes::NONE } else { Attributes::READ_ONLY };
        Self { writable: safe, read_only: safe.and(read_only) }
    }

    fn for_use(self, writable: bool) -> Attributes {
        if writable { self.writable } else { self.read_only }
    }
}

/// Returns the plan's paths, each with whether it is writable, and [`WITH_USR`] if `/usr` is among them.
pub(crate) fn policy_paths(plan: &CagePlan) -> Vec<(PathBuf, bool)> {
    let rule = |writable: bool| move |rule: &PathRule| (rule.path.clone(), writable);
    let mut paths: Vec<(PathBuf, bool)> = plan.paths.read_only.iter().map(rule(false)).collect();
    paths.extend(plan.paths.read_write.iter().map(rule(true)));
    if paths.iter().any(|(path, _)| path.starts_with("/usr")) {
        paths.extend(WITH_USR.iter().map(|path| (PathBuf::from(path), false)));
    }
    paths
}

/// Opens what the policy's paths name on the host. Returns the real places to bind, and the links to make
/// that lead to them. No link is followed that lies in a place of `agents`.
pub(super) fn collect(
    plan: &CagePlan,
    modes: Modes,
    agents: &[PathBuf],
) -> Result<(Vec<Shown>, Links), Failed> {
    let (wanted, links) = resolve(plan, agents)?;
    let mut shown: Vec<Shown> = Vec::new();
    for (path, writable) in wanted {
        let above = shown.iter().rev().find(|above| path.starts_with(&above.path));
        if above.is_some_and(|above| above.writable == writable) {
            continue;
        }
        shown.push(bind(path, writable, modes)?);
    }
    // A link below something that is bound as a whole is already there.
    let links = links
        .into_iter()
        .filter(|(path, _)| !shown.iter().any(|shown| path.starts_with(&shown.path)))
        .collect();
    Ok((shown, links))
}

/// Opens [`SYS_SHOWN`] of the host's `/sys`, whatever the root.
pub(super) fn collect_sys(modes: Modes) -> Result<Vec<Shown>, Failed> {
    let modes = Modes { read_only: modes.read_only.and(Attributes::NO_EXEC), ..modes };
    let there = SYS_SHOWN.iter().map(PathBuf::from).filter(|path| path.is_dir());
    there.map(|path| bind(path, false, modes)).collect()
}

fn bind(path: PathBuf, writable: bool, modes: Modes) -> Result<Shown, Failed> {
    let (mount, meta) = sys::beneath::clone_real(&path, modes.for_use(writable))
        .map_err(at(format!("binding {}", path.display())))?;
    Ok(Shown { path, mount, directory: meta.is_dir(), writable })
}

type Wanted = BTreeMap<PathBuf, bool>;

fn resolve(plan: &CagePlan, agents: &[PathBuf]) -> Result<(Wanted, BTreeMap<PathBuf, PathBuf>), Failed> {
    let mut wanted = Wanted::new();
    let mut links = BTreeMap::new();
    for (path, writable) in policy_paths(plan) {
        if super::is_provided(&path) {
            continue;
        }
        let real = match links::follow(&path, agents) {
            Ok(real) => real,
            Err(Astray::Changeable(link)) => {
                return Err(refused(
                    &path,
                    format!(
                        "it leads through {}, which an agent can change, or could in an earlier cage (`places`, in the sandbox's state \
                         directory, has where)",
                        link.display()
                    ),
                ));
            }
            // What isn't there is judged later, inside, where a missing path that isn't optional is an error.
            Err(Astray::Io(_)) => continue,
        };
        let state = || {
            let why = |state: &Path| format!("cofferdam keeps its own state in {}", state.display());
            plan.hidden.seen_at(&real).map_or(Ok(()), |place| Err(refused(&path, why(place))))
        };
        if path.starts_with("/etc") {
            // Bound by `super::etc`.
            state()?;
            continue;
        }
        if real != path {
            links.insert(path.clone(), real.clone());
        }
        if super::is_provided(&real) || real == Path::new("/") {
            continue;
        }
        if crate::plan::is_never_shown(&real) {
            return Err(refused(&path, format!("it leads to {}, which is never shown", real.display())));
        }
        state()?;
        if std::fs::metadata(&real).is_ok_and(|meta| meta.file_type().is_socket()) {
            return Err(refused(&path, "it is a socket, on which somebody of the host answers".to_owned()));
        }
        *wanted.entry(real).or_insert(false) |= writable;
    }
    Ok((wanted, links))
}

fn refused(path: &Path, why: String) -> Failed {
    Failed {
        step: format!("{} can't be shown", path.display()),
        source: io::Error::other(why),
        mend: Some("name the real file or directory that is meant"),
    }
}

/// Returns the real paths of the places where an agent can put a link, or could in an earlier cage: the
/// workspace and what is writable. They are resolved in the caller's root: init calls this from within the
/// other root, if there is one. A path that leads through an agent's link adds no place; it is refused where
/// it is to be bound.
pub(super) fn agents_places(plan: &CagePlan) -> Vec<PathBuf> {
    let before = plan.written_before.iter().filter(|_| plan.root.is_none()).cloned();
    let mut places: Vec<PathBuf> = before.chain([plan.workspace.clone()]).collect();
    let mut named: Vec<&PathBuf> = plan.paths.read_write.iter().map(|rule| &rule.path).collect();
    // Parents first: a link in them then counts as an agent's.
    named.sort();
    for path in named.into_iter().filter(|path| !super::is_provided(path)) {
        if let Ok(real) = links::follow(path, &places) {
            places.push(real);
        }
    }
    places
}

/// Returns the places where agents write, by every name that the kernel may give a file mapped from there:
/// the policy's paths, their real paths, and the workspace's path on the host, which may lie in what the
/// policy shows. To be called inside the finished root.
pub(crate) fn writable_names(plan: &CagePlan) -> Vec<PathBuf> {
    let fixed = [WORKSPACE, "/tmp", "/var/tmp", "/dev"].map(PathBuf::from);
    let named = fixed.into_iter().chain(plan.paths.read_write.iter().map(|rule| rule.path.clone()));
    let real = named.clone().filter_map(|path| std::fs::canonicalize(path).ok());
    let workspace = match &plan.root {
        None => Some(plan.workspace.clone()),
        Some(root) => plan.workspace.strip_prefix(&root.path).ok().map(|below| Path::new("/").join(below)),
    };
    named.chain(real).chain(workspace).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Mounts the policy's paths in the workspace with the mode that the policy gives them, where it differs from
/// that of what surrounds them, and gives the workspace its own. The workspace must be attached. Returns the
/// writable paths.
///
/// The files are the agent's: no link among them is followed.
pub(super) fn mount_workspace(plan: &CagePlan, workspace: BorrowedFd<'_>) -> Result<Vec<PathBuf>, Failed> {
    let modes = Modes::of(plan);
    let mut rules: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for (path, writable) in policy_paths(plan).into_iter().filter(|(path, _)| path.starts_with(WORKSPACE)) {
        *rules.entry(path).or_insert(false) |= writable;
    }
    let base = rules.remove(Path::new(WORKSPACE)).unwrap_or(false);
    let mut placed: Vec<(PathBuf, bool)> = vec![(WORKSPACE.into(), base)];
    let mut mounts = Vec::new();
    for (path, writable) in rules {
        // Cloned before anything is made read-only, since a clone would keep that. Opened even if its mode is
        // that of what surrounds it, since Landlock's rule will be for what it leads to.
        let place = match open_in_workspace(workspace, &path) {
            Ok(place) => place,
            // Judged later, as every other missing path.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(in_workspace(&path, error)),
        };
        let above = placed.iter().rev().find(|(above, _)| path.starts_with(above));
        if above.is_some_and(|(_, mode)| *mode == writable) {
            continue;
        }
        let mount = sys::mount::clone_tree_at(place.as_fd(), modes.for_use(writable))
            .map_err(|error| in_workspace(&path, error))?;
        mounts.push((path.clone(), mount));
        placed.push((path, writable));
    }
    if !base {
        sys::mount::set_attributes(workspace, modes.read_only, true).map_err(at("workspace"))?;
    }
    for (path, mount) in mounts {
        // Opened again, through what was attached before it.
        let place = open_in_workspace(workspace, &path).map_err(|error| in_workspace(&path, error))?;
        sys::mount::attach(mount.as_fd(), place.as_fd(), Path::new(""))
            .map_err(|error| in_workspace(&path, error))?;
    }
    Ok(placed.into_iter().filter(|(_, writable)| *writable).map(|(path, _)| path).collect())
}

fn open_in_workspace(workspace: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    sys::beneath::open_place(workspace, path.strip_prefix(WORKSPACE).unwrap_or(path))
}

fn in_workspace(path: &Path, source: io::Error) -> Failed {
    let mend = (source.raw_os_error() == Some(libc::ELOOP))
        .then_some("a path in the workspace may lead through no link");
    Failed { step: format!("binding {}", path.display()), source, mend }
}
