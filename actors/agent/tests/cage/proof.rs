//! A proof that can't fail is no proof: every control is left out on purpose, and the proof must say which.

use crate::bed::{Cage, Mode, plan, workspace};
use agent::plan::{CagePlan, Control, Enforcement};
use agent::protocol::{CageFailure, Refusal};

pub const CASES: &[crate::Case] = &[
    ("every_control_left_out_stops_a_strict_start", every_control_left_out_stops_a_strict_start),
    ("every_control_left_out_is_named_by_best_effort", every_control_left_out_is_named_by_best_effort),
    ("a_capability_left_is_named", a_capability_left_is_named),
    ("a_limit_that_cannot_be_had_is_no_quiet_matter", a_limit_that_cannot_be_had_is_no_quiet_matter),
];

/// How it shows that a control isn't there.
enum Witness {
    /// These checks answer wrongly, at least.
    Checks(&'static [&'static str]),
    /// The start itself refuses, before there is anything to prove:
    /// [`a_limit_that_cannot_be_had_is_no_quiet_matter`].
    Start,
    /// There is nothing to leave out here, for this reason.
    Nothing(&'static str),
}

/// The table: a new control without its row doesn't compile.
fn witness(control: Control, mode: Mode) -> Witness {
    use Control as C;
    use Witness::{Checks, Nothing, Start};
    let abi = agent::isolation::landlock::abi_version();
    match control {
        C::Cgroup => Start,
        C::Namespaces => Checks(&["every namespace is the sandbox's own"]),
        C::UserNamespaces => Checks(&["no user namespace can be made"]),
        C::Network => Checks(&["use the loopback"]),
        C::Root => Checks(&["nothing is mounted that wasn't planned", "find /mnt"]),
        C::ReadOnlyMounts => Checks(&["what isn't writable is mounted read-only"]),
        C::MountFlags => Checks(&["every mount is nosuid, and nodev unless it is a device"]),
        C::MaskedProc => Checks(&["/proc tells nothing of the machine"]),
        C::PrivateTmp => Checks(&["/tmp is a filesystem of its own"]),
        C::Devices => Checks(&["/dev holds nothing of the host"]),
        C::Etc => Checks(&["/etc tells no users or secrets"]),
        C::Session => Checks(&["a session of its own"]),
        C::Descriptors => Checks(&["only standard streams are open"]),
        C::Rlimits => Checks(&["resource limits"]),
        C::BoundingSet => Checks(&["no capability left in the bounding set"]),
        C::Securebits => Checks(&["securebits are locked"]),
        C::User if mode == Mode::Rootless => Nothing("init is the agent's user already"),
        C::User => Checks(&["ids are the agent's"]),
        C::Capabilities => Checks(&["no capability left", "bind a privileged port"]),
        C::NoNewPrivileges => Checks(&["no_new_privs"]),
        // The change of user alone makes a child undumpable.
        C::Dumpable if mode == Mode::Rooted => Checks(&["pid 1 is not dumpable"]),
        C::Dumpable => Checks(&["not dumpable until exec", "pid 1 is not dumpable"]),
        C::Landlock => Checks(&["read what no rule names"]),
        C::LandlockScopes if abi < 6 => Nothing("this kernel's Landlock knows no scopes"),
        // Rooted, another user's pid 1 can't be signalled anyway.
        C::LandlockScopes if mode == Mode::Rooted => Checks(&["reach pid 1's abstract socket"]),
        C::LandlockScopes => Checks(&["reach pid 1's abstract socket", "signal pid 1"]),
        C::Seccomp => Checks(&["a seccomp filter is loaded", "ptrace", "bpf", "io_uring_setup", "keyctl"]),
        C::ForeignCalls => {
            Checks(&["a call of the 32-bit table is deadly", "a call of the x32 table is deadly"])
        }
        C::SocketFamilies => Checks(&["a sock_diag socket", "a vsock"]),
        C::TerminalInjection => Checks(&["TIOCSTI", "TIOCSTI with high bits"]),
        C::NamespaceCalls => Checks(&["unshare a user namespace", "setns"]),
        C::SetIdBits => Checks(&["make a set-user-id file"]),
        C::ConnectNotify => Checks(&["init is told who connects"]),
    }
}

fn without(mode: Mode, control: Control, workspace: &std::path::Path) -> CagePlan {
    let mut plan = plan(mode, workspace);
    plan.sabotage = vec![control];
    plan
}

/// What went wrong with one control, if anything.
type Judged = Result<(), String>;

fn each(mode: Mode, see: impl Fn(Control, &[&str]) -> Judged) {
    if !cfg!(debug_assertions) {
        return eprintln!("SKIPPED: a release build leaves nothing out");
    }
    let mut wrong = Vec::new();
    for control in Control::ALL.iter().copied() {
        match witness(control, mode) {
            Witness::Checks(names) => {
                wrong.extend(see(control, names).err().map(|why| format!("{control}: {why}")));
            }
            Witness::Start => {}
            Witness::Nothing(why) => eprintln!("SKIPPED: {control}: {why}"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn every_control_left_out_stops_a_strict_start(mode: Mode) {
    each(mode, |control, names| {
        let dir = workspace(mode);
        let cage = Cage::with(&without(mode, control, dir.path()));
        let holes = match cage.report() {
            Err(Refusal::Cage(CageFailure::Unproven(holes))) => holes,
            Ok(_) => return Err("nobody noticed".into()),
            Err(other) => return Err(other.to_string()),
        };
        // Capabilities are read back before the proof already.
        if !holes.iter().any(|hole| hole.starts_with("capabilities: left")) {
            for name in names {
                let noticed = |hole: &String| hole.contains(control.as_str()) && hole.contains(name);
                if !holes.iter().any(noticed) {
                    return Err(format!("`{name}` didn't notice: {holes:?}"));
                }
            }
        }
        match cage.try_run(&["/bin/true"]) {
            Err(Refusal::Cage(_)) => Ok(()),
            other => Err(format!("something ran: {other:?}")),
        }
    });
    // And with nothing left out, nothing is wrong.
    let dir = workspace(mode);
    Cage::with(&plan(mode, dir.path())).report().expect("a whole cage");
}

fn every_control_left_out_is_named_by_best_effort(mode: Mode) {
    each(mode, |control, names| {
        let dir = workspace(mode);
        let mut plan = without(mode, control, dir.path());
        plan.enforcement = Enforcement::BestEffort;
        let cage = Cage::with(&plan);
        let report = cage.report().map_err(|refusal| format!("it must start: {refusal}"))?;
        let missing: Vec<Control> = report.missing.iter().map(|missing| missing.control).collect();
        if !missing.contains(&control) || !missing.iter().all(|found| follows(*found, control)) {
            return Err(format!("{:#?}", report.missing));
        }
        for name in names {
            match report.proof.iter().find(|check| check.name == *name) {
                Some(check) if !check.right && check.control == control => {}
                check => return Err(format!("`{name}`: {check:?}")),
            }
        }
        match cage.try_run(&["/bin/echo", "alive"]) {
            Ok(output) if output.stdout == "alive\n" => Ok(()),
            other => Err(format!("it must run: {other:?}")),
        }
    });
}

/// Whether one that is missing stands to reason when another was left out.
fn follows(found: Control, left_out: Control) -> bool {
    use Control as C;
    let with: &[Control] = match left_out {
        // All of them are its parts.
        C::Seccomp => &[
            C::SocketFamilies,
            C::TerminalInjection,
            C::NamespaceCalls,
            C::SetIdBits,
            C::ForeignCalls,
            C::ConnectNotify,
        ],
        C::Landlock => &[C::LandlockScopes],
        // Without it nobody can be confined by these.
        C::NoNewPrivileges => &[
            C::Landlock,
            C::LandlockScopes,
            C::Seccomp,
            C::SocketFamilies,
            C::TerminalInjection,
            C::NamespaceCalls,
            C::SetIdBits,
            C::ConnectNotify,
        ],
        // Rooted, the user is given up with them.
        C::Capabilities => &[C::User],
        // What can be made there can be given away, and a file can be written in the root.
        C::ReadOnlyMounts => &[C::PrivateTmp],
        // A process inside another user namespace has every capability there, and no id that is mapped.
        C::NamespaceCalls => &[C::User, C::Capabilities],
        // Tried in /tmp, which isn't there to write.
        C::PrivateTmp => &[C::SetIdBits],
        _ => &[],
    };
    found == left_out || with.contains(&found)
}

fn a_capability_left_is_named(mode: Mode) {
    if !cfg!(debug_assertions) {
        return eprintln!("SKIPPED: a release build leaves nothing out");
    }
    // Strict, or best effort with the demand for this one control.
    for demanded in [false, true] {
        for (control, told) in [
            (Control::BoundingSet, "left bounding: cap_chown "),
            (Control::Capabilities, "left effective: "),
            (Control::Securebits, "left securebits: 0x0"),
        ] {
            let dir = workspace(mode);
            let mut plan = without(mode, control, dir.path());
            if demanded {
                plan.enforcement = Enforcement::BestEffort;
                plan.require_cap_drop = true;
            }
            // Rooted, the change of user alone takes the sets away.
            if control == Control::Capabilities {
                plan.sabotage.push(Control::User);
            }
            match Cage::with(&plan).report() {
                Err(Refusal::Cage(CageFailure::Unproven(holes))) => {
                    assert!(holes.iter().any(|hole| hole.contains(told)), "{control}: {holes:?}");
                }
                other => panic!("{control}: {other:?}"),
            }
        }
    }
}

fn a_limit_that_cannot_be_had_is_no_quiet_matter(mode: Mode) {
    if !cfg!(debug_assertions) {
        return eprintln!("SKIPPED: a release build leaves nothing out");
    }
    let dir = workspace(mode);
    let mut plan = without(mode, Control::Cgroup, dir.path());
    plan.limits.pids = Some(100);
    let (_ours, theirs) = agent::wire::pair().expect("pair");
    let refused = agent::launch::clone_init(&plan, theirs).expect_err("strict refuses");
    assert!(matches!(refused, agent::launch::LaunchError::Cgroup(_)), "{refused}");
    plan.enforcement = Enforcement::BestEffort;
    let report = Cage::with(&plan).report().expect("it starts");
    assert_eq!(report.missing.iter().map(|m| m.control).collect::<Vec<_>>(), [Control::Cgroup]);
}
