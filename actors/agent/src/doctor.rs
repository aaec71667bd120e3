//! What this machine can enforce, each control tried for real in a throwaway sandbox, with a mend for every
//! gap.
//!
//! The examination is a start like any other, under best effort, with an empty directory as its workspace:
//! what the doctor says is what a start would find. It changes nothing and leaves nothing behind. Like every
//! start it wants a single-threaded caller.

use crate::isolation::landlock;
use crate::launch::{self, LaunchError, cgroup};
use crate::plan::{CagePlan, Control, Enforcement, Ids, PathRule};
use crate::protocol::{Answer, CageFailure, CageReport, FromInit, Refusal, Request, RequestId, ToInit};
use crate::wire::{self, Wire};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A sandbox that takes longer to start hangs.
const PATIENCE: Duration = crate::probe::DEADLINE.saturating_add(Duration::from_secs(5));

/// The port whose capture is tried.
const CAPTURED: u16 = 443;

/// Names the finding about the directory that the sandbox is tried in, without which nothing is tried.
pub const TEMPORARY_DIRECTORY: &str = "temporary_directory";

/// How a control fares here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Tried, and it holds.
    Enforced,
    /// It doesn't hold: `strict` refuses to start.
    Missing,
    /// Not there, and only needed when asked for.
    Optional,
    /// Could not be tried, since something before it failed.
    Untried,
}

/// One row of the doctor's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The control's name.
    pub control: String,
    /// How it fares.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to do about a gap.
    pub mend: Option<String>,
}

impl Finding {
    fn new(control: &str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { control: control.to_owned(), verdict, detail: detail.into(), mend: None }
    }

    fn mend(mut self, mend: &str) -> Self {
        self.mend = Some(mend.to_owned());
        self
    }
}

/// The whole examination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// `uname -r`.
    pub kernel: String,
    /// Whether sandboxes would run rooted.
    pub rooted: bool,
    /// One row a control.
    pub findings: Vec<Finding>,
}

impl Examination {
    /// Whether a strict start would succeed.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.findings.iter().any(|finding| matches!(finding.verdict, Verdict::Missing | Verdict::Untried))
    }
}

/// Examines this machine with the ids that a start would use.
#[must_use]
pub fn examine(ids: Ids) -> Examination {
    let mut findings = Vec::new();
    let outcome = try_cage(ids, &mut findings);
    match outcome {
        Ok(report) => findings.extend(from_report(&report)),
        Err(finding) => {
            let rest = untried(&finding);
            findings.push(finding);
            findings.extend(rest);
        }
    }
    findings.push(landlock_version());
    findings.push(cgroups());
    findings.push(subordinate_ids(ids));
    Examination {
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        rooted: matches!(ids, Ids::Rooted { .. }),
        findings,
    }
}

/// Rows for all other controls than the one that keeps a sandbox from being built.
fn untried(missing: &Finding) -> Vec<Finding> {
    let others = Control::ALL.iter().filter(|control| mend(**control).is_some());
    others
        .map(|control| Finding::new(control.as_str(), Verdict::Untried, "the sandbox could not be built"))
        .filter(|finding| finding.control != missing.control)
        .collect()
}

/// What to do if a control doesn't hold; `None` for a control that a start has only if it was asked for.
fn mend(control: Control) -> Option<&'static str> {
    use Control as C;
    Some(match control {
        C::Cgroup => return None,
        C::Namespaces => {
            "a kernel with all namespaces (CONFIG_USER_NS, PID_NS, NET_NS, IPC_NS, UTS_NS, CGROUPS)"
        }
        C::UserNamespaces => {
            "a kernel of 4.9 or newer, with a writable /proc/sys/user in new user namespaces"
        }
        C::Network => "a kernel built with CONFIG_NET_NS; check user.max_net_namespaces",
        C::Root | C::PrivateTmp | C::Devices | C::Etc => {
            "report this: something of the host leaked into the sandbox"
        }
        C::ReadOnlyMounts | C::MountFlags => "a kernel of 5.12 or newer (mount_setattr)",
        C::MaskedProc => "start the outer container with an unmasked /proc",
        C::Session | C::Descriptors | C::Dumpable => {
            "report this: something of cofferdam's leaked into the sandbox"
        }
        C::Rlimits => "raise the hard limits of the calling shell (ulimit -H)",
        C::User => "run as an ordinary user, or as root with the ids of two unprivileged users",
        C::BoundingSet | C::Securebits | C::Capabilities => {
            "a kernel of 4.3 or newer; inside a container, don't add capabilities by ambient sets"
        }
        C::NoNewPrivileges => "a kernel of 3.5 or newer",
        C::Landlock => {
            "a kernel of 5.13 or newer with `landlock` in its lsm= list; inside a container, a seccomp profile that \
             lets landlock_create_ruleset pass"
        }
        C::LandlockScopes => "a kernel of 6.12 or newer",
        C::ConnectNotify => "a kernel of 5.5 or newer, and no other seccomp listener above this process",
        C::Seccomp
        | C::ForeignCalls
        | C::SocketFamilies
        | C::TerminalInjection
        | C::NamespaceCalls
        | C::SetIdBits => "a kernel built with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    })
}

fn from_report(report: &CageReport) -> Vec<Finding> {
    let built = format!(
        "{} attempts answered in {} µs, after {} µs of building",
        report.proof.len(),
        report.proof_micros,
        report.build_micros
    );
    let mut findings = vec![Finding::new("sandbox", Verdict::Enforced, built)];
    for control in Control::ALL.iter().copied() {
        let Some(mend) = mend(control) else { continue };
        let missing = report.missing.iter().find(|missing| missing.control == control);
        let tried = report.proof.iter().filter(|check| check.control == control).count();
        let finding = |verdict, detail: String| Finding::new(control.as_str(), verdict, detail);
        findings.push(match missing {
            Some(missing) => finding(Verdict::Missing, missing.why.clone()).mend(mend),
            // Only a newer kernel can be asked: here another wall covers it, as docs/cage.md says.
            None if tried == 0 => {
                finding(Verdict::Optional, "this kernel can't be asked".to_owned()).mend(mend)
            }
            None => finding(Verdict::Enforced, format!("{} ({tried} tried)", control.meaning())),
        });
    }
    findings
}

/// A directory that is removed when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn scratch(ids: Ids, temporary: &Path) -> std::io::Result<Scratch> {
    // By a name that nobody can have taken before us.
    let made = Scratch(nix::unistd::mkdtemp(&temporary.join("cofferdam-doctor-XXXXXX"))?);
    if let Ids::Rooted { sandbox, .. } = ids {
        std::os::unix::fs::chown(&made.0, Some(sandbox.uid), Some(sandbox.gid))?;
    }
    Ok(made)
}

/// Makes the directory to try in. If that fails it says nothing of what can be enforced here, so the finding
/// is about the place alone.
fn try_in(ids: Ids, temporary: &Path) -> Result<Scratch, Finding> {
    scratch(ids, temporary).map_err(|error| {
        let detail = format!("no directory to try in can be made in {}: {error}", temporary.display());
        Finding::new(TEMPORARY_DIRECTORY, Verdict::Missing, detail)
            .mend("make room there, or set TMPDIR to a directory that can be written to")
    })
}

/// Starts a sandbox, asks it everything, and ends it.
fn try_cage(ids: Ids, findings: &mut Vec<Finding>) -> Result<CageReport, Finding> {
    let failed = |detail: String| Finding::new("sandbox", Verdict::Missing, detail);
    let workspace = try_in(ids, &std::env::temp_dir())?;
    let (ours, theirs) = wire::pair().map_err(|error| failed(error.to_string()))?;
    let child =
        launch::clone_init(&plan(ids, &workspace.0), theirs).map_err(|error| launch_finding(&error))?;
    let ended = EndsInit(child.pid);
    let wire = Wire::new(ours).map_err(|error| failed(error.to_string()))?;
    let report = match ask(&wire, 1, Request::Report) {
        Ok(Answer::Report(report)) => report,
        Ok(_) => return Err(failed("init gave the wrong kind of answer".into())),
        Err(why) => return Err(why),
    };
    findings.push(match ask(&wire, 2, Request::Diag) {
        Ok(_) => {
            Finding::new("identity", Verdict::Enforced, "sockets of the sandbox can be looked up (sock_diag)")
        }
        Err(finding) => Finding { control: "identity".into(), ..finding }
            .mend("a kernel built with CONFIG_INET_DIAG (modprobe inet_diag)"),
    });
    findings.push(match ask(&wire, 3, Request::Capture { port: CAPTURED }) {
        Ok(_) => {
            Finding::new("capture", Verdict::Enforced, "connections of programs that know no proxy arrive")
        }
        // No control depends on it: what isn't captured has no way out.
        Err(finding) => Finding { control: "capture".into(), verdict: Verdict::Optional, ..finding }.mend(
            "a kernel with veth devices (modprobe veth); until then programs must use the proxy variables",
        ),
    });
    drop(ended);
    Ok(report)
}

/// Kills and reaps init when dropped.
struct EndsInit(i32);

impl Drop for EndsInit {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.0), None);
    }
}

fn plan(ids: Ids, workspace: &Path) -> CagePlan {
    let rule = |path: &str| PathRule { path: path.into(), optional: true };
    let mut plan = CagePlan::new("doctor", ids, workspace);
    plan.enforcement = Enforcement::BestEffort;
    plan.paths.read_only = ["/usr", "/etc"].map(rule).to_vec();
    plan.paths.read_write = ["/sandbox", "/tmp"].map(rule).to_vec();
    plan
}

fn ask(wire: &Wire, id: u64, request: Request) -> Result<Answer, Finding> {
    let failed = |detail: String| Finding::new("sandbox", Verdict::Missing, detail);
    wire.send(&ToInit { id: RequestId(id), request }, &[], Some(PATIENCE))
        .map_err(|e| failed(e.to_string()))?;
    loop {
        let packet = wire.recv::<FromInit>(Some(PATIENCE)).map_err(|e| failed(e.to_string()))?;
        match packet.body {
            FromInit::Reply { to: RequestId(to), result } if to == id => {
                return result.map_err(|refusal| match refusal {
                    Refusal::Cage(CageFailure::Step { ref mend, .. }) => {
                        Finding { mend: mend.clone(), ..failed(refusal.to_string()) }
                    }
                    other => failed(other.to_string()),
                });
            }
            FromInit::Reply { .. } | FromInit::Event(_) => {}
        }
    }
}

fn launch_finding(error: &LaunchError) -> Finding {
    let finding = Finding::new("namespaces", Verdict::Missing, error.to_string());
    match error {
        LaunchError::UserNamespace(_) => finding.mend(&user_namespace_mend()),
        LaunchError::IdMap { mend, .. } => finding.mend(mend),
        _ => finding,
    }
}

/// The switches by which distributions forbid user namespaces, as they stand here.
fn user_namespace_mend() -> String {
    let switches = [
        ("user.max_user_namespaces", "/proc/sys/user/max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "/proc/sys/kernel/unprivileged_userns_clone", "0", "1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "0",
        ),
    ];
    let set: Vec<String> = switches
        .iter()
        .filter(|(_, path, bad, _)| std::fs::read_to_string(path).is_ok_and(|value| value.trim() == *bad))
        .map(|(name, _, _, good)| format!("sysctl -w {name}={good}"))
        .collect();
    if set.is_empty() {
        "inside a container: allow user namespaces (seccomp profile); else start as root".to_owned()
    } else {
        format!("{}, or start as root", set.join("; "))
    }
}

fn landlock_version() -> Finding {
    let version = landlock::abi_version();
    let detail = match version {
        0 => "none".to_owned(),
        1..6 => format!("ABI {version}: no signal scope, so agents of one sandbox can signal each other"),
        _ => format!("ABI {version}"),
    };
    let verdict = if version == 0 { Verdict::Missing } else { Verdict::Enforced };
    let finding = Finding::new("landlock_abi", verdict, detail);
    if version < 6 { finding.mend("a kernel of 6.12 or newer has all that is used") } else { finding }
}

fn cgroups() -> Finding {
    const WANTED: [&str; 3] = ["memory", "pids", "cpu"];
    let absent = |detail: String| {
        Finding::new("cgroup_limits", Verdict::Optional, detail).mend(
            "needed only for `limits:`; start under `systemd-run --user --scope -p Delegate=yes`, or in a unit with \
             `Delegate=yes`",
        )
    };
    match cgroup::available() {
        Ok(offered) if WANTED.iter().all(|wanted| offered.iter().any(|offer| offer == wanted)) => {
            let has_io = offered.iter().any(|offer| offer == "io");
            let of_disks =
                if has_io { "; io too" } else { "; io can't, so `disk_read` and `disk_write` are refused" };
            let detail = format!("memory, pids and cpu can be handed down{of_disks}");
            Finding::new("cgroup_limits", Verdict::Enforced, detail)
        }
        Ok(offered) if offered.is_empty() => absent("no controller is delegated to this cgroup".into()),
        Ok(offered) => absent(format!("only {}", offered.join(", "))),
        Err(error) => absent(error.to_string()),
    }
}

fn subordinate_ids(ids: Ids) -> Finding {
    const NAME: &str = "subordinate_ids";
    if matches!(ids, Ids::Rooted { .. }) {
        return Finding::new(
            NAME,
            Verdict::Enforced,
            "not needed: gateway and sandbox are users of their own",
        );
    }
    let helper =
        crate::environment::PATH.split(':').map(|dir| Path::new(dir).join("newuidmap")).find(|p| p.exists());
    match helper {
        Some(path) => {
            Finding::new(NAME, Verdict::Optional, format!("{} is here, and not used yet", path.display()))
        }
        None => Finding::new(
            NAME,
            Verdict::Optional,
            "no newuidmap: the sandbox runs on one id, behind the other walls",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_that_takes_nothing_is_blamed_itself() {
        let here = Ids::Rootless { operator: crate::plan::Id { uid: 1, gid: 1 } };
        let gone = Path::new("/proc/self/nowhere");
        let Err(finding) = try_in(here, gone) else { panic!("made in {}", gone.display()) };
        assert_eq!((&*finding.control, finding.verdict), (TEMPORARY_DIRECTORY, Verdict::Missing));
        assert!(finding.detail.contains("/proc/self/nowhere"), "{}", finding.detail);
        assert!(finding.mend.is_some_and(|mend| mend.contains("TMPDIR")));
    }

    /// A reader who looks rows up by name must not find that a missing control was untried.
    #[test]
    fn what_keeps_a_sandbox_from_being_built_has_one_row() {
        for control in Control::ALL {
            let missing = Finding::new(control.as_str(), Verdict::Missing, "");
            let rest = untried(&missing);
            assert!(!rest.is_empty() && rest.iter().all(|finding| finding.control != missing.control));
        }
        assert_eq!(untried(&Finding::new("none of these", Verdict::Missing, "")).len(), {
            Control::ALL.iter().filter(|control| mend(**control).is_some()).count()
        });
    }
}
