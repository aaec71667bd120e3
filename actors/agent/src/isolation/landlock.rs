//! Landlock: the second wall around files (mounts are the first), and the only one around signals and
//! abstract sockets between the agents of one sandbox.
//!
//! The rules are made once in init, inside the finished root, and every child restricts itself by them, each
//! in a domain of its own. The policy's paths are opened as for its mounts, through no link that an agent can
//! have put there: agents of an earlier cage may still run, and write to what is shown. The rights asked for
//! are all those listed here that the kernel knows. What an older kernel lacks is covered elsewhere, as
//! [`super::landlock_versions`] says, so ABI 1 is enough to start under strict enforcement; a kernel without
//! Landlock isn't. A rule that the kernel refuses although it knows the rights is an error; no rule is ever
//! silently left out.

use super::links::{self, Astray};
use super::paths;
use crate::plan::{CagePlan, Control, PathRule, RUN_DIR, WORKSPACE};
use crate::sys;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use nix::sys::stat::fstat;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// The newest ABI whose rights we ask for: all that the crate knows.
const NEWEST: ABI = ABI::V10;

/// Readable whatever the policy says: what the cage itself shows there.
const ALWAYS_READABLE: &[&str] = &["/proc", "/sys", RUN_DIR, "/dev"];
/// Usable whatever the policy says: harmless devices, and terminals of the sandbox's own.
const ALWAYS_USABLE: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
const TERMINALS: &[&str] = &["/dev/tty", "/dev/pts", "/dev/ptmx"];

/// Why the rules could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// A path that isn't optional isn't there.
    #[error("{0} doesn't exist")]
    Missing(PathBuf),
    /// A path leads through a link that an agent has put there.
    #[error("{0} leads through a link that an agent can change, or could")]
    Redirected(PathBuf),
    /// The kernel has no Landlock, or it is switched off.
    #[error("this kernel has no Landlock (Linux 5.13 or newer, with `landlock` in the lsm= list)")]
    Unavailable,
    /// The kernel refused a rule.
    #[error("{0}")]
    Rules(#[from] RulesetError),
}

/// The rules, ready to be applied by children.
#[derive(Debug)]
pub struct Rules {
    ruleset: OwnedFd,
}

fn readable() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

/// Reading and running.
fn read_only() -> BitFlags<AccessFs> {
    AccessFs::from_read(NEWEST)
}

/// Everything but making devices and talking to them.
fn read_write() -> BitFlags<AccessFs> {
    AccessFs::from_all(NEWEST) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev})
}

fn terminal() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | WriteFile | ReadDir | IoctlDev})
}

impl Rules {
    /// Makes the rules from inside the finished root.
    ///
    /// # Errors
    /// See [`LandlockError`].
    pub fn make(plan: &CagePlan) -> Result<Self, LandlockError> {
        if abi_version() == 0 {
            return Err(LandlockError::Unavailable);
        }
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?;
        if !plan.sabotaged(Control::LandlockScopes) {
            ruleset = ruleset.scope(Scope::from_all(NEWEST))?;
        }
        let mut rules = Making { ruleset: ruleset.create()? };
        // The root may be listed: every tour begins with `ls /`, and it holds only what the policy shows,
        // whose existence is no secret.
        rules.allow_own("/", make_bitflags!(AccessFs::{ReadDir}))?;
        for path in ALWAYS_READABLE {
            rules.allow_own(path, readable())?;
        }
        for path in ALWAYS_USABLE {
            rules.allow_own(path, make_bitflags!(AccessFs::{ReadFile | WriteFile}))?;
        }
        for path in TERMINALS {
            rules.allow_own(path, terminal())?;
        }
        rules.allow_own("/dev/shm", read_write() & !BitFlags::from(AccessFs::Execute))?;
        let mut agents = paths::agents_places(plan);
        agents.push(WORKSPACE.into());
        for rule in &plan.paths.read_only {
            rules.allow_named(rule, &agents, read_only())?;
        }
        for rule in &plan.paths.read_write {
            rules.allow_named(rule, &agents, read_write())?;
        }
        if plan.paths.read_only.iter().any(|rule| rule.path.starts_with("/usr")) {
            for path in paths::WITH_USR {
                rules.allow_named(&PathRule { path: path.into(), optional: true }, &agents, read_only())?;
            }
        }
        // With best effort there is no ruleset at all if the kernel knows none of the rights.
        let ruleset = Option::<OwnedFd>::from(rules.ruleset).ok_or(LandlockError::Unavailable)?;
        Ok(Self { ruleset })
    }

    /// Restricts this process and its descendants, for good. It must already have no_new_privs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restrict(&self) -> std::io::Result<()> {
        crate::sys::process::landlock_restrict(self.ruleset.as_fd())
    }

    /// The descriptor that a child must keep until it has restricted itself (close-on-exec).
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.ruleset.as_raw_fd()
    }
}

/// Returns the first path of the plan that is missing and isn't optional. To be called inside the finished
/// root; works with and without Landlock.
#[must_use]
pub fn missing_path(plan: &CagePlan) -> Option<PathBuf> {
    let mut rules = plan.paths.read_only.iter().chain(&plan.paths.read_write);
    rules.find(|rule| !rule.optional && std::fs::metadata(&rule.path).is_err()).map(|rule| rule.path.clone())
}

/// Rules while they are made.
struct Making {
    ruleset: RulesetCreated,
}

impl Making {
    /// Adds a rule for a path that the cage itself has made, if it is there. No agent has written there yet,
    /// so links need no check.
    fn allow_own(&mut self, path: &str, access: BitFlags<AccessFs>) -> Result<(), LandlockError> {
        match PathFd::new(path) {
            Ok(place) => self.allow(place, Path::new(path), access),
            Err(_) => Ok(()),
        }
    }

    fn allow_named(
        &mut self,
        PathRule { path, optional }: &PathRule,
        agents: &[PathBuf],
        access: BitFlags<AccessFs>,
    ) -> Result<(), LandlockError> {
        match open_named(path, agents) {
            Ok(place) => self.allow(place, path, access),
            Err(LandlockError::Missing(_)) if *optional => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn allow(
        &mut self,
        place: impl AsFd,
        path: &Path,
        access: BitFlags<AccessFs>,
    ) -> Result<(), LandlockError> {
        let missing = |_: io::Error| LandlockError::Missing(path.to_owned());
        let kind = fstat(place.as_fd()).map_err(|error| missing(error.into()))?.st_mode & libc::S_IFMT;
        // Rights on what is in a directory make no sense on a file, and the kernel refuses them.
        let access = if kind == libc::S_IFDIR { access } else { access & AccessFs::from_file(NEWEST) };
        (&mut self.ruleset).add_rule(PathBeneath::new(place, access))?;
        Ok(())
    }
}

/// Opens what a path of the policy leads to, by its real path. Refuses a link that lies on the real path by
/// now: it was put there after the path was resolved.
fn open_named(path: &Path, agents: &[PathBuf]) -> Result<OwnedFd, LandlockError> {
    let redirected = || LandlockError::Redirected(path.to_owned());
    let missing = |_: io::Error| LandlockError::Missing(path.to_owned());
    let real = links::follow(path, agents).map_err(|astray| match astray {
        Astray::Changeable(_) => redirected(),
        Astray::Io(error) => missing(error),
    })?;
    sys::beneath::open_real(&real).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => redirected(),
        _ => missing(error),
    })
}

/// The kernel's Landlock ABI version, 0 when it has none (landlock_create_ruleset(2)).
#[must_use]
pub fn abi_version() -> u32 {
    crate::sys::process::landlock_abi()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Id, Ids};
    use std::os::unix::fs::symlink;

    #[test]
    fn no_rule_is_made_through_a_link_of_an_agents() {
        if abi_version() == 0 {
            return eprintln!("SKIPPED: this kernel has no Landlock");
        }
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        let at = |name: &str| real.join(name);
        for made in ["workspace/sub", "written/sub", "before", "theirs/sub", "secret/sub"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        for place in ["workspace", "written", "before"] {
            symlink(at("secret"), at(place).join("link")).unwrap();
        }
        symlink(at("theirs"), at("operators")).unwrap();
        symlink("/", at("root")).unwrap();
        let ids = Ids::Rootless { operator: Id { uid: 1, gid: 1 } };
        let made = |name: &str, optional: bool, writable: bool| {
            let mut plan = CagePlan::new("box", ids, at("workspace"));
            plan.written_before = [at("before")].into();
            plan.paths.read_write = vec![PathRule { path: at("written"), optional: false }];
            let named = if writable { &mut plan.paths.read_write } else { &mut plan.paths.read_only };
            named.push(PathRule { path: at(name), optional });
            Rules::make(&plan)
        };
        for (optional, writable) in [(false, false), (true, false), (false, true), (true, true)] {
            for name in ["workspace/link", "written/link/sub", "before/link"] {
                let refused = made(name, optional, writable);
                assert!(
                    matches!(&refused, Err(LandlockError::Redirected(path)) if *path == at(name)),
                    "{name}: {refused:?}"
                );
            }
            for name in ["workspace/sub", "written/sub", "before", "operators/sub"] {
                made(name, optional, writable).unwrap();
            }
            let absent = made("before/absent", optional, writable);
            assert_eq!(absent.is_ok(), optional, "{absent:?}");
        }
        made("root", false, false).unwrap();
    }
}
