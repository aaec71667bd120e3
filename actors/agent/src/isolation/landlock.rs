//! Landlock: the second wall around files (mounts are the first), and the only one around signals and abstract
//! sockets between the agents of one sandbox.
//!
//! The rules are made once in init, inside the finished root, and every child restricts itself by them, each in a
//! domain of its own. Rights: the newest the kernel knows of those listed here. What an older kernel lacks is covered
//! elsewhere, as [`super::landlock_versions`] says, so ABI 1 is enough to start under strict enforcement; none at all
//! isn't. What the kernel knows and refuses all the same is an error, never a rule less.

use crate::plan::{CagePlan, Control, RUN_DIR, TcpPorts};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
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
        let tcp = plan.tcp.as_ref().filter(|_| !plan.sabotaged(Control::LandlockTcp));
        if tcp.is_some() {
            ruleset = ruleset.handle_access(make_bitflags!(AccessNet::{BindTcp | ConnectTcp}))?;
        }
        let mut rules = Making { ruleset: ruleset.create()? };
        // What is below is what the policy shows: that it is there is no secret, and `ls /` is what every tour begins with.
        rules.allow(Path::new("/"), false, make_bitflags!(AccessFs::{ReadDir}))?;
        for path in ALWAYS_READABLE {
            rules.allow(Path::new(path), true, readable())?;
        }
        for path in ALWAYS_USABLE {
            rules.allow(Path::new(path), true, make_bitflags!(AccessFs::{ReadFile | WriteFile}))?;
        }
        for path in TERMINALS {
            rules.allow(Path::new(path), true, terminal())?;
        }
        rules.allow(Path::new("/dev/shm"), true, read_write() & !BitFlags::from(AccessFs::Execute))?;
        for rule in &plan.paths.read_only {
            rules.allow(&rule.path, rule.optional, read_only())?;
        }
        for rule in &plan.paths.read_write {
            rules.allow(&rule.path, rule.optional, read_write())?;
        }
        if plan.paths.read_only.iter().any(|rule| rule.path.starts_with("/usr")) {
            for path in super::paths::WITH_USR {
                rules.allow(Path::new(path), true, read_only())?;
            }
        }
        if let Some(tcp) = tcp {
            rules = rules.allow_ports(tcp)?;
        }
        // Best effort made nothing at all where the kernel knows none of the rights.
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

/// The first path of the plan that isn't there and isn't optional. Asked inside the finished root, with Landlock or
/// without.
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
    fn allow(
        &mut self,
        path: &Path,
        optional: bool,
        access: BitFlags<AccessFs>,
    ) -> Result<(), LandlockError> {
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(_) if optional => return Ok(()),
            Err(_) => return Err(LandlockError::Missing(path.to_owned())),
        };
        // Rights on what is in a directory make no sense on a file, and the kernel refuses them.
        let access = if meta.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        let opened = PathFd::new(path).map_err(|_| LandlockError::Missing(path.to_owned()))?;
        (&mut self.ruleset).add_rule(PathBeneath::new(opened, access))?;
        Ok(())
    }

    fn allow_ports(mut self, tcp: &TcpPorts) -> Result<Self, LandlockError> {
        for port in &tcp.bind {
            self.ruleset = self.ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
        }
        for port in &tcp.connect {
            self.ruleset = self.ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        Ok(self)
    }
}

/// The kernel's Landlock ABI version, 0 when it has none (landlock_create_ruleset(2)).
#[must_use]
pub fn abi_version() -> u32 {
    crate::sys::process::landlock_abi()
}
