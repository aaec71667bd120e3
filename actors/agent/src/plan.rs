//! The cage as data: everything that init needs to know, decided before the first fork.
//!
//! A plan holds no secret, no closure and no descriptor (descriptors travel beside it); it is written once by
//! the command line, checked by [`CagePlan::check`], and never changes while a sandbox lives.

pub use crate::control::Control;
pub use crate::hidden::Hidden;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

/// The agent's user and group id inside the sandbox, always.
pub const AGENT_ID: u32 = 1000;
/// Where the workspace is inside; home and first working directory.
pub const WORKSPACE: &str = "/sandbox";
/// Where our own read-only files are inside.
pub const RUN_DIR: &str = "/run/cofferdam";
/// Name, in [`RUN_DIR`], of the bundle that is also shown as the system's certificate store.
pub const CA_BUNDLE: &str = "ca-bundle.pem";
/// Name, in [`RUN_DIR`], of the same roots in the form that Java reads, see [`crate::java_store`].
pub const JAVA_STORE: &str = "java-cacerts";
/// The address that `inference.local` has inside.
pub const INFERENCE_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 77);

/// A user and a group, as numbers of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The users and groups of a sandbox, by the host's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Started by an ordinary user: one id, `1000` inside is the operator outside; uid 0 isn't mapped.
    Rootless {
        /// The operator's effective ids.
        operator: Id,
    },
    /// Started as root: `0` inside is `gateway`, `1000` inside is `sandbox`; real root isn't mapped.
    Rooted {
        /// Runs the supervisor and owns the user namespace.
        gateway: Id,
        /// Runs the agent. Never 0, never the gateway.
        sandbox: Id,
    },
}

/// What to do when the kernel lacks a control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforcement {
    /// It is an error at start.
    #[default]
    Strict,
    /// It is reported as missing, and the sandbox starts.
    BestEffort,
}

/// One path of the policy's static part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRule {
    /// The path; absolute.
    pub path: PathBuf,
    /// Whether it is skipped where it is missing; else a missing path is an error.
    pub optional: bool,
}

/// The files that the agent may see; nothing else exists for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Readable and executable.
    pub read_only: Vec<PathRule>,
    /// Writable too.
    pub read_write: Vec<PathRule>,
}

impl Paths {
    /// Returns the paths of the root itself that are to be writable, without those that the cage provides and
    /// those in the workspace.
    pub fn writable_in_root(&self) -> impl Iterator<Item = &Path> {
        let paths = self.read_write.iter().map(|rule| rule.path.as_path());
        paths.filter(|path| !crate::isolation::is_provided(path) && !path.starts_with(WORKSPACE))
    }

    /// Returns the paths that can't be shown, as far as their names tell, and why.
    pub fn faults(&self) -> impl Iterator<Item = (&Path, PlanError)> {
        let read_only = self.read_only.iter().map(|rule| (&rule.path, false));
        let all = read_only.chain(self.read_write.iter().map(|rule| (&rule.path, true)));
        all.filter_map(|(path, writable)| Some((path.as_path(), fault(path, writable)?)))
    }
}

fn fault(path: &Path, writable: bool) -> Option<PlanError> {
    if let Err(error) = require_plain(path) {
        return Some(error);
    }
    let is = |places: &[&str]| places.iter().any(|place| path == Path::new(place));
    let provided = crate::isolation::is_provided(path);
    if (!provided && is_never_shown(path))
        || NEVER_SHOWN_BELOW.iter().any(|never| path.starts_with(never))
        || is(LEADS_ELSEWHERE)
        || is_of_a_process(path)
    {
        return Some(PlanError::Forbidden(path.to_owned()));
    }
    (writable && is(NEVER_WRITABLE)).then(|| PlanError::Unwritable(path.to_owned()))
}

/// Bounds on what the agents may use up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory of all agents together (cgroup v2 `memory.max`); `None` = not limited here.
    pub memory: Option<u64>,
    /// Processes and threads of all agents together (cgroup v2 `pids.max`); `None` = not limited here.
    pub pids: Option<u64>,
    /// Processors, in thousandths (2000 = two of them; cgroup v2 `cpu.max`); `None` = not limited here.
    pub cpu_millis: Option<u32>,
    /// Bytes a second read from the disk that the workspace is on (cgroup v2 `io.max`, `rbps`); `None` = not
    /// limited here.
    pub disk_read: Option<u64>,
    /// Bytes a second written to it (`wbps`).
    pub disk_write: Option<u64>,
    /// Bytes of the private `/tmp` at most, see [`Limits::tmp_size`].
    pub tmp_bytes: u64,
    /// `RLIMIT_NPROC`: counts a user's processes on the whole host, hence generous.
    pub nproc: u64,
    /// `RLIMIT_NOFILE`: lowered to the hard limit where that is below.
    pub nofile: u64,
}

/// Processes and threads of a user that agents run as.
pub(crate) const AGENT_THREADS: u64 = 512;

/// Descriptors of an agent's process: Node and Chromium want this many, 256 breaks them.
pub(crate) const AGENT_DESCRIPTORS: u64 = 65_536;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: None,
            pids: None,
            cpu_millis: None,
            disk_read: None,
            disk_write: None,
            // Package managers unpack here; more than this belongs into the workspace.
            tmp_bytes: 2 << 30,
            // Enough for a browser and a build; a fork bomb stops here.
            nproc: AGENT_THREADS,
            nofile: AGENT_DESCRIPTORS,
        }
    }
}

impl Limits {
    /// Inodes of the private `/tmp` at most: a flood of empty files must not fill the kernel's memory.
    const TMP_INODES: u64 = 1 << 20;
    /// Bytes of `/dev/shm`: container engines give 64 MiB, which Chromium outgrows.
    const SHM_BYTES: u64 = 512 << 20;

    /// Returns the bytes of `/tmp`: no more than half of a memory limit. Its pages count as the sandbox's
    /// memory and stay when the process that wrote them is killed. So a full `/tmp` must show as a full disk,
    /// and never end the sandbox.
    #[must_use]
    pub fn tmp_size(&self) -> u64 {
        self.memory.map_or(self.tmp_bytes, |memory| self.tmp_bytes.min(memory / 2))
    }

    /// Inodes of `/tmp`, for the same reason: each is about a kilobyte of the kernel's memory.
    #[must_use]
    pub fn tmp_inodes(&self) -> u64 {
        self.memory.map_or(Self::TMP_INODES, |memory| Self::TMP_INODES.min(memory / 8192)).max(1)
    }

    /// Bytes of `/dev/shm`, for the same reason.
    #[must_use]
    pub fn shm_size(&self) -> u64 {
        self.memory.map_or(Self::SHM_BYTES, |memory| Self::SHM_BYTES.min(memory / 8))
    }
}

/// Another root than the host's: where the policy's paths are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherRoot {
    /// Its path on the host.
    pub path: PathBuf,
    /// Whether it is an unpacked image: its files have no owners of their own.
    pub image: bool,
    /// The sandbox's own directory for what it changes, with [`UPPER`](crate::isolation::other_root::UPPER)
    /// and [`WORK`](crate::isolation::other_root::WORK) in it; there must be one where the policy makes a
    /// path of the root writable.
    pub overlay: Option<PathBuf>,
}

/// Everything that init needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CagePlan {
    /// The sandbox's name: its host name inside.
    pub name: String,
    /// The ids of operator, gateway and agent.
    pub ids: Ids,
    /// The host directory shown as [`WORKSPACE`]; it must exist.
    pub workspace: PathBuf,
    /// Another root than the host's.
    pub root: Option<OtherRoot>,
    /// The policy's static part (the workspace itself included where the policy includes it).
    pub paths: Paths,
    /// Real paths on the host that agents of this sandbox could write in cages before this one: a link that
    /// lies there may be theirs, as one may where they can write now.
    pub written_before: BTreeSet<PathBuf>,
    /// Places of the host that are never shown, whatever the policy says.
    pub hidden: Hidden,
    /// Strict or best effort.
    pub enforcement: Enforcement,
    /// Bounds on what the agents may use up.
    pub limits: Limits,
    /// TCP listeners wanted inside from the start. Further ones can be asked for at any time.
    pub listeners: Vec<SocketAddr>,
    /// How many ports will be captured at first; policies to come may name
    /// [`SPARE`](crate::isolation::stock::SPARE) others.
    pub captured_ports: usize,
    /// Whether to observe what the kernel refuses behind the gate
    /// ([`Request::Refusals`](crate::protocol::Request::Refusals)). If so, the end of the sandbox takes some
    /// milliseconds longer, since the kernel takes its time to close a packet socket.
    pub witness: bool,
    /// Whether a bounding set that isn't empty refuses the start even under best effort
    /// ([`REQUIRE_CAP_DROP`](crate::isolation::capabilities::REQUIRE_CAP_DROP)).
    pub require_cap_drop: bool,
    /// Controls left out on purpose, so that a test sees the proof notice. A release build ignores this: see
    /// [`CagePlan::sabotaged`].
    pub sabotage: Vec<Control>,
}

/// A plan that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PlanError {
    /// The sandbox's name isn't a host name.
    #[error("sandbox name `{0}` isn't a host name: 1 to 63 letters, digits and inner hyphens")]
    Name(String),
    /// A path of the plan isn't absolute and plain.
    #[error("{0}: a path of the plan must be absolute, without `.` or `..`")]
    Path(PathBuf),
    /// A path that no policy may show.
    #[error("{0} can't be shown to an agent: name the directory or file that it needs instead")]
    Forbidden(PathBuf),
    /// A path that no policy may show writable.
    #[error("{0} can't be writable, since the sandbox has its own: name the files in it")]
    Unwritable(PathBuf),
    /// A path that would be written in the root itself, since there is no overlay.
    #[error("{0} would be written in the root itself (a fault in cofferdam: it made no overlay)")]
    WriteThrough(PathBuf),
    /// The agent's user or group on the host is one that it must not be.
    #[error("the agent's user on the host must not be {0}: choose an unprivileged user of its own")]
    User(String),
    /// A name that isn't a plain file name.
    #[error("`{0}` isn't a plain file name")]
    FileName(String),
}

/// See [`CagePlan::sabotaged`].
pub(crate) fn is_left_out(sabotage: &[Control], control: Control) -> bool {
    cfg!(debug_assertions) && sabotage.contains(&control)
}

/// Directories that no policy may show whole: they hold other processes, devices or everything.
const NEVER_SHOWN: &[&str] = &["/", "/proc", "/sys", "/dev", "/run", "/boot"];
/// Files and directories that no policy may show, nor anything in them.
const NEVER_SHOWN_BELOW: &[&str] =
    &["/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/sudoers", "/etc/sudoers.d"];

/// Directories that no policy may show writable: of `/etc` the cage has its own.
const NEVER_WRITABLE: &[&str] = &["/etc"];
/// Links in the cage to what no policy may show whole.
const LEADS_ELSEWHERE: &[&str] = &["/var/run"];

/// Whether a path is, or lies in, a process's directory in `/proc`: such a directory is another for each
/// process, and its links (`root`, `cwd`, `fd/…`) lead anywhere.
fn is_of_a_process(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix("/proc") else { return false };
    let first = below.iter().next().unwrap_or_default().as_encoded_bytes();
    [&b"self"[..], b"thread-self"].contains(&first) || first.first().is_some_and(u8::is_ascii_digit)
}

/// Whether a real path is one of those that no policy may show.
pub(crate) fn is_never_shown(real: &Path) -> bool {
    NEVER_SHOWN.iter().any(|never| real == Path::new(never))
        || NEVER_SHOWN_BELOW.iter().any(|never| real.starts_with(never))
}

impl CagePlan {
    /// A plan with the defaults: no paths, no listeners, strict.
    #[must_use]
    pub fn new(name: impl Into<String>, ids: Ids, workspace: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            ids,
            workspace: workspace.into(),
            root: None,
            paths: Paths::default(),
            written_before: BTreeSet::new(),
            hidden: Hidden::default(),
            enforcement: Enforcement::default(),
            limits: Limits::default(),
            listeners: Vec::new(),
            captured_ports: 0,
            witness: false,
            require_cap_drop: false,
            sabotage: Vec::new(),
        }
    }

    /// Whether a control is to be left out. Never in a release build: an attacker or a typing error must not
    /// be able to use what only tests need.
    #[must_use]
    pub fn sabotaged(&self, control: Control) -> bool {
        is_left_out(&self.sabotage, control)
    }

    /// Checks what can be checked without touching the system.
    ///
    /// # Errors
    /// The first fault found, see [`PlanError`].
    pub fn check(&self) -> Result<(), PlanError> {
        if !is_host_label(&self.name) {
            return Err(PlanError::Name(self.name.clone()));
        }
        match self.ids {
            Ids::Rootless { operator } if operator.uid == 0 => return Err(PlanError::User("0".into())),
            Ids::Rooted { gateway, sandbox } => {
                if sandbox.uid == 0 || sandbox.gid == 0 || gateway.uid == 0 || gateway.gid == 0 {
                    return Err(PlanError::User("0".into()));
                }
                if sandbox.uid == gateway.uid || sandbox.gid == gateway.gid {
                    return Err(PlanError::User("the gateway's".into()));
                }
            }
            Ids::Rootless { .. } => {}
        }
        require_plain(&self.workspace)?;
        if let Some(root) = &self.root {
            require_plain(&root.path)?;
            root.overlay.as_deref().map_or(Ok(()), require_plain)?;
            if let (None, Some(path)) = (&root.overlay, self.paths.writable_in_root().next()) {
                return Err(PlanError::WriteThrough(path.to_owned()));
            }
        }
        self.paths.faults().next().map_or(Ok(()), |(_, why)| Err(why))
    }
}

/// Refuses anything but one plain path component.
pub(crate) fn require_file_name(name: &str) -> Result<(), PlanError> {
    let plain = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if plain { Ok(()) } else { Err(PlanError::FileName(name.to_owned())) }
}

fn require_plain(path: &Path) -> Result<(), PlanError> {
    let plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0);
    if plain { Ok(()) } else { Err(PlanError::Path(path.to_owned())) }
}

fn is_host_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOTED: Ids =
        Ids::Rooted { gateway: Id { uid: 61184, gid: 61184 }, sandbox: Id { uid: 61185, gid: 61185 } };

    fn with_path(path: &str, writable: bool) -> Result<(), PlanError> {
        let mut plan = CagePlan::new("box", ROOTED, "/work");
        let rules = if writable { &mut plan.paths.read_write } else { &mut plan.paths.read_only };
        rules.push(PathRule { path: path.into(), optional: false });
        plan.check()
    }

    #[test]
    fn what_lies_in_memory_fits_a_memory_limit() {
        let limits = |memory| Limits { memory, ..Limits::default() };
        let sizes = |l: Limits| (l.tmp_size(), l.tmp_inodes(), l.shm_size());
        assert_eq!(sizes(limits(None)), (2 << 30, 1 << 20, 512 << 20));
        assert_eq!(sizes(limits(Some(64 << 20))), (32 << 20, 8192, 8 << 20));
        assert_eq!(sizes(limits(Some(64 << 30))), (2 << 30, 1 << 20, 512 << 20));
        assert!(sizes(limits(Some(0))).1 > 0, "0 would mean no bound at all");
    }

    #[test]
    fn names_are_host_names() {
        for name in ["a", "assistant", "a-1", "A9"] {
            assert_eq!(CagePlan::new(name, ROOTED, "/work").check(), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "a.b", "a b", "a/b", "ä", &"a".repeat(64)] {
            assert!(
                matches!(CagePlan::new(name, ROOTED, "/work").check(), Err(PlanError::Name(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn nobody_is_root_and_the_agent_is_not_the_gateway() {
        let id = |uid| Id { uid, gid: uid };
        for ids in [
            Ids::Rootless { operator: id(0) },
            Ids::Rooted { gateway: id(0), sandbox: id(5) },
            Ids::Rooted { gateway: id(5), sandbox: id(0) },
            Ids::Rooted { gateway: id(5), sandbox: id(5) },
            Ids::Rooted { gateway: Id { uid: 5, gid: 7 }, sandbox: Id { uid: 6, gid: 7 } },
        ] {
            assert!(matches!(CagePlan::new("box", ids, "/work").check(), Err(PlanError::User(_))), "{ids:?}");
        }
    }

    #[test]
    fn what_holds_everything_or_secrets_is_never_shown() {
        for path in ["/", "/run", "/boot", "/etc/shadow", "/etc/ssh/ssh_host_rsa_key", "/etc/sudoers.d"] {
            assert!(matches!(with_path(path, false), Err(PlanError::Forbidden(_))), "{path}");
        }
        for path in ["/usr", "/etc", "/proc", "/dev/null", "/sandbox", "/tmp", "/opt/tools", "/home/me/data"]
        {
            assert_eq!(with_path(path, false), Ok(()), "{path}");
        }
        for path in ["usr", "/usr/../etc", "./x", ""] {
            assert!(matches!(with_path(path, true), Err(PlanError::Path(_))), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_run_file_is_one_plain_component(name in ".{0,70}") {
            if require_file_name(&name).is_ok() {
                let plain = Path::new(&name).components().count() == 1 && !name.starts_with('.') && name.is_ascii();
                prop_assert!(plain);
            }
        }
    }
}
