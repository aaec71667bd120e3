//! The three processes themselves: what each may still do once it has started, what it holds open, and that
//! other processes of the same user can't inspect it. What they are refused is tried in
//! `actors/agent/tests/cage/own.rs`.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;
#[path = "limits/delegated.rs"]
mod delegated;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Mode, PATIENCE, finish, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{COFFERDAM, Sandbox};
use delegated::Delegated;

/// The descriptors that each process may hold, as a table.
const DOCUMENT: &str = include_str!("../docs/processes.md");

fn main() -> ExitCode {
    bed::harness::main(
        "processes",
        Path::new(COFFERDAM),
        bed::cases![
            each_has_what_it_needs_and_no_more,
            descriptors_are_those_of_the_table,
            descriptors_do_not_grow_with_use,
            a_process_of_the_same_user_looks_into_none.only(Mode::Rootless),
            a_services_builder_holds_next_to_nothing,
            a_sweeper_holds_a_line_and_is_deaf,
        ],
    )
}

/// No capability at all (proc_pid_status(5)).
const NONE: &str = "0000000000000000";

/// The three processes of one sandbox.
struct Three {
    heart: i32,
    init: i32,
    supervisor: i32,
}

impl Three {
    fn of(stage: &Stage, sandbox: &mut Sandbox) -> Result<Self> {
        let heart = sandbox.heart().pid();
        let init = common::process(stage, "cofferdam: init").context("no init to be found")?;
        Ok(Self { heart, init, supervisor: supervisor(sandbox)? })
    }

    fn each(&self) -> [(&'static str, i32); 3] {
        [("heart", self.heart), ("init", self.init), ("supervisor", self.supervisor)]
    }
}

fn supervisor(sandbox: &Sandbox) -> Result<i32> {
    let pid = sandbox.status()?["supervisor_pid"].as_i64().context("no supervisor pid")?;
    Ok(i32::try_from(pid)?)
}

/// A line of proc_pid_status(5).
fn status(pid: i32, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned()))
}

/// A sandbox with a policy file, so that one is watched, and an agent that stays.
fn start<'a>(stage: &'a Stage<'a>) -> Result<Sandbox<'a>> {
    let policy = common::policy_file(stage, "")?;
    Sandbox::start(stage, &["--policy", &policy], &["sh", "-c", "echo ready; sleep 1000"], "ready")
}

fn each_has_what_it_needs_and_no_more(stage: &Stage) -> Result<()> {
    let mut sandbox = start(stage)?;
    let three = Three::of(stage, &mut sandbox)?;
    let rooted = stage.mode() == Mode::Rooted;
    for (role, pid) in three.each() {
        let kept = match role {
            // capabilities(7), as bits: docs/processes.md names them.
            "heart" if rooted => "00000000008001e2",
            "init" => "00000000000805eb",
            _ => NONE,
        };
        let is = |key: &str, wanted: &str| {
            let found = status(pid, key).unwrap_or_default();
            ensure!(found == wanted, "{role}: {key} is {found}, not {wanted}");
            Ok(())
        };
        is("CapPrm", kept)?;
        is("CapEff", kept)?;
        is("CapInh", NONE)?;
        is("CapAmb", NONE)?;
        if rooted || role == "init" {
            is("CapBnd", kept)?;
        }
        is("NoNewPrivs", "1")?;
        is("Seccomp", "2")?;
        if role != "supervisor" {
            is("Threads", "1")?;
        }
        is_closed_to_others(pid, role)?;
    }
    ensure!(
        status(three.supervisor, "Uid").unwrap_or_default().split_whitespace().all(|uid| uid != "0"),
        "the supervisor is never root"
    );
    Ok(())
}

/// Names a descriptor in the words of the table, by the target of its link in /proc/PID/fd.
fn kind(stage: &Stage, sandbox: &str, link: &str) -> String {
    let state = stage.state().join(sandbox);
    if let Some(name) = link.strip_prefix("/memfd:") {
        return format!("memfd {}", name.trim_end_matches(" (deleted)"));
    }
    if let Some(name) = link.strip_prefix("anon_inode:") {
        return name.trim_matches(['[', ']']).to_owned();
    }
    for kind in ["socket", "pipe"] {
        if link.starts_with(&format!("{kind}:[")) {
            return kind.into();
        }
    }
    let of_process = link.strip_prefix("/proc/").and_then(|rest| rest.strip_suffix("/schedstat"));
    if of_process.is_some_and(|pid| pid != "1") {
        return "/proc/PID/schedstat".into();
    }
    if Path::new(link) == stage.binary() {
        return "cofferdam's binary".into();
    }
    match Path::new(link).strip_prefix(&state) {
        Ok(inside) if inside.as_os_str().is_empty() => "STATE/NAME".into(),
        Ok(inside) if inside.starts_with("logs") => "STATE/NAME/logs/*".into(),
        Ok(inside) => format!("STATE/NAME/{}", inside.display()),
        Err(_) => link.into(),
    }
}

/// How many of each kind a process holds.
fn open(stage: &Stage, sandbox: &str, pid: i32) -> Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let Ok(listed) = listed else { bed::skip!("only root may see what a process that isn't dumpable holds") };
    for entry in listed {
        let entry = entry?;
        if entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()).is_some_and(|number| number < 3) {
            continue;
        }
        // Skip a descriptor that was closed meanwhile.
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        *kinds.entry(kind(stage, sandbox, &link.to_string_lossy())).or_insert(0) += 1;
    }
    Ok(kinds)
}

/// The table's rows: a kind of descriptor, and which of the three processes may hold it.
fn table() -> BTreeMap<&'static str, [bool; 3]> {
    DOCUMENT
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> =
                line.strip_prefix("| `")?.trim_end_matches('|').split('|').map(str::trim).collect();
            let [what, heart, init, supervisor, ..] = cells.as_slice() else { return None };
            let held = |cell: &str| {
                matches!(cell, "one" | "some").then_some(true).or((cell == "—").then_some(false))
            };
            Some((what.strip_suffix('`')?, [held(heart)?, held(init)?, held(supervisor)?]))
        })
        .collect()
}

fn descriptors_are_those_of_the_table(stage: &Stage) -> Result<()> {
    let table = table();
    ensure!(table.len() > 10, "the control: the table is read: {table:?}");
    let mut sandbox = start(stage)?;
    let three = Three::of(stage, &mut sandbox)?;
    let mut seen = BTreeSet::new();
    for (column, (role, pid)) in three.each().into_iter().enumerate() {
        let held = open(stage, &sandbox.name, pid)?;
        ensure!(held.values().sum::<usize>() > 4, "the control: {role} holds something: {held:?}");
        for (what, count) in held {
            let documented = table.get(what.as_str()).is_some_and(|row| row[column]);
            ensure!(documented, "the {role} holds {count} × `{what}`, which docs/processes.md doesn't list");
            seen.insert(what);
        }
    }
    // A row that describes nothing is wrong, too. These kinds exist only with some options or after some use.
    let at_times = [
        "/proc/PID/schedstat",
        "memfd cofferdam-ended",
        "memfd cofferdam-generation",
        "memfd cofferdam-guesses",
        "memfd cofferdam-pins",
        "memfd cofferdam-policy",
        "memfd cofferdam-stopped",
    ];
    for what in table.keys().filter(|what| !at_times.contains(what)) {
        ensure!(seen.contains(*what), "docs/processes.md lists `{what}`, which nobody holds");
    }
    Ok(())
}

fn descriptors_do_not_grow_with_use(stage: &Stage) -> Result<()> {
    let policy = common::policy_file(stage, "")?;
    let options = ["--policy", &policy, "--allow-fault-injection"];
    let mut sandbox = Sandbox::start(stage, &options, &["sh", "-c", "echo ready; sleep 1000"], "ready")?;
    let name = sandbox.name.clone();
    let three = Three::of(stage, &mut sandbox)?;
    let exercise = |times: usize| -> Result<()> {
        for n in 0..times {
            stage
                .call(&["exec", &name, "--", "sh", "-c", "echo out; echo err >&2; sleep 0.2"])?
                .expect_code(0)?;
            if n % 4 == 0 {
                // A destination that no rule names: a whole request, answered with a denial.
                let refused = "exec 3<>/dev/tcp/127.0.0.1/3128; echo 'CONNECT no.test:443 HTTP/1.1\r\n\r' >&3; head -1 <&3; sleep 0.2";
                stage.call(&["exec", &name, "--", "bash", "-c", refused])?;
            }
        }
        for actor in ["redactor", "proxy", "operator", "gateway", "telemetry"] {
            sandbox.crash(actor)?;
        }
        Ok(())
    };
    // A first round, for descriptors that are opened at first use.
    exercise(4)?;
    let count = |pid: i32| -> Result<BTreeMap<String, usize>> {
        let mut all = open(stage, &name, pid)?;
        // At most one, which appears when a program is first seen; the test can't choose that moment.
        all.remove("memfd cofferdam-pins");
        // One for each process that existed at the last search; the agent has few.
        let asleep = all.remove("/proc/PID/schedstat").unwrap_or(0);
        ensure!(asleep < 16, "init keeps {asleep} processes in mind");
        Ok(all)
    };
    let settled = |pid: i32| -> Result<BTreeMap<String, usize>> {
        // Connections of the last request may still be closing: wait until two counts agree.
        let mut last = count(pid)?;
        poll("descriptors to settle", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(300));
            let now = count(pid).ok()?;
            let same = now == last;
            last = now;
            same.then(|| last.clone())
        })
    };
    let before = [settled(three.heart)?, settled(three.init)?, settled(three.supervisor)?];
    exercise(16)?;
    for ((role, pid), before) in three.each().into_iter().zip(&before) {
        let found = poll("descriptors to come back to what they were", PATIENCE, || {
            (count(pid).ok()? == *before).then_some(())
        });
        found.with_context(|| format!("{role}: {before:?} before, {:?} now", count(pid)))?;
    }
    // A new supervisor gets the same descriptors as the first one; those of heart and init don't change.
    kill(Pid::from_raw(three.supervisor), Signal::SIGKILL)?;
    let next =
        poll("a new supervisor", PATIENCE, || supervisor(&sandbox).ok().filter(|p| *p != three.supervisor))?;
    exercise(4)?;
    for (role, pid, before) in [
        ("heart", three.heart, &before[0]),
        ("init", three.init, &before[1]),
        ("supervisor", next, &before[2]),
    ] {
        let more = |now: &BTreeMap<String, usize>| -> usize { now.values().sum() };
        let found = poll("no more descriptors than before", PATIENCE, || {
            (more(&count(pid).ok()?) <= more(before)).then_some(())
        });
        found.with_context(|| format!("{role}: {before:?} before, {:?} now", count(pid)))?;
    }
    Ok(())
}

fn a_process_of_the_same_user_looks_into_none(stage: &Stage) -> Result<()> {
    if nix::unistd::geteuid().is_root() && stage.uid() == 0 {
        bed::skip!("needs an ordinary user");
    }
    let mut sandbox = start(stage)?;
    let three = Three::of(stage, &mut sandbox)?;
    let reads = |pid: i32, what: &str| -> Result<bool> {
        let mut command = stage.command("sh");
        let program = match what {
            "fd" | "map_files" => format!("ls -l /proc/{pid}/{what}/ | grep -q ."),
            "exe" | "cwd" | "root" => format!("readlink /proc/{pid}/{what} | grep -q ."),
            "mem" => format!("exec 3<>/proc/{pid}/mem"),
            _ => format!("head -c 1 /proc/{pid}/{what} | grep -qa ."),
        };
        command.args(["-c", &program]);
        Ok(finish(command, PATIENCE)?.code() == 0)
    };
    // The control: an ordinary process of that user, looked at from the same place.
    let mut other = stage.command("sleep");
    other.arg("1000").env("VISIBLE", "yes");
    let other = stage.start(other)?;
    let secrets = ["environ", "mem", "maps", "fd", "exe", "cwd", "root", "auxv"];
    for what in secrets {
        ensure!(reads(other.pid(), what)?, "the control: {what} of an ordinary process");
    }
    for (role, pid) in three.each() {
        ensure!(reads(pid, "stat")?, "the control: {role} is there to be seen");
        for what in secrets {
            ensure!(!reads(pid, what)?, "{what} of the {role} can be looked into");
        }
    }
    other.signal(Signal::SIGKILL)?;
    Ok(())
}

fn a_services_builder_holds_next_to_nothing(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let text = format!(
        "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents: {{ one: {{ command: [sleep, '1000'] }} }}\n"
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
    let sandbox = Sandbox::adopt(stage, name.clone(), running);
    poll("the agent", PATIENCE, || sandbox.status().ok().filter(|s| s["agents"][0]["pid"].is_u64()))?;
    let builder = common::process(stage, "cofferdam: bld").context("no builder")?;
    ensure!(status(builder, "Threads").as_deref() == Some("1"), "it has threads");
    is_closed_to_others(builder, "the builder")?;
    let held = open(stage, &name, builder)?;
    let allowed = BTreeMap::from([
        ("STATE/NAME".to_owned(), 1),
        ("STATE/NAME/lock".to_owned(), 1),
        ("socket".to_owned(), 2),
    ]);
    ensure!(held == allowed, "{held:?}");
    Ok(())
}

/// The sweeper, which a sandbox with `limits:` has in addition: it has the privileges that the heart had
/// before it was confined, but holds hardly any descriptors.
fn a_sweeper_holds_a_line_and_is_deaf(stage: &Stage) -> Result<()> {
    let group = Delegated::to(stage)?;
    let sandbox = group.start("pids: 64", &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let sweeper = common::process(stage, "cofferdam: swp").context("no sweeper")?;
    let title = std::fs::read(format!("/proc/{sweeper}/cmdline"))?;
    ensure!(title.starts_with(b"cofferdam: sweeper\0"), "{}", String::from_utf8_lossy(&title));
    let is = |key: &str, wanted: &str| {
        let found = status(sweeper, key).unwrap_or_default();
        ensure!(found == wanted, "{key} is {found}, not {wanted}");
        Ok(())
    };
    // It runs as the operator, with no more privileges than its starter had.
    let uid = stage.uid();
    is("Uid", &format!("{uid}\t{uid}\t{uid}\t{uid}"))?;
    let own = |key: &str| status(std::process::id().cast_signed(), key).unwrap_or_default();
    let rooted = stage.mode() == Mode::Rooted;
    for key in ["CapPrm", "CapEff"] {
        is(key, &if rooted { own(key) } else { NONE.into() })?;
    }
    is("CapInh", NONE)?;
    is("CapAmb", NONE)?;
    is("Seccomp", &own("Seccomp"))?;
    is("Threads", "1")?;
    // It ignores the signals that ask it to end, and other processes can't inspect it.
    let ignored = status(sweeper, "SigIgn").unwrap_or_default();
    let ignored = u64::from_str_radix(&ignored, 16)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        ensure!(ignored & (1 << (signal as u64 - 1)) != 0, "it hears {signal}: {ignored:x}");
    }
    is_closed_to_others(sweeper, "the sweeper")?;
    let held = open(stage, &sandbox.name, sweeper)?;
    ensure!(held == BTreeMap::from([("socket".to_owned(), 1)]), "{held:?}");
    for standard in [0, 1] {
        let link = std::fs::read_link(format!("/proc/{sweeper}/fd/{standard}"))?;
        ensure!(link == Path::new("/dev/null"), "{standard} is {}", link.display());
    }
    drop(sandbox);
    group.nothing_left("the sandbox's end")
}

/// The id that stands for all that a user namespace doesn't have (user_namespaces(7)).
const NOBODY: u32 = 65_534;

/// Checks that a process leaves no core file and isn't dumpable: its files below /proc belong to root
/// (proc(5)), so the user's other processes can't inspect it. An ordinary user's world has no root: there
/// they belong to nobody.
fn is_closed_to_others(pid: i32, role: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).context("no core limit")?;
    ensure!(core.split_whitespace().skip(4).take(2).eq(["0", "0"]), "{role}: {core}");
    let owner = std::fs::metadata(format!("/proc/{pid}/environ"))?.uid();
    let root = if nix::unistd::geteuid().is_root() { 0 } else { NOBODY };
    ensure!(owner == root, "{role} is dumpable: its files under /proc belong to {owner}");
    Ok(())
}
