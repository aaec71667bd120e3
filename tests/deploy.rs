//! The files of `deploy/` are right: units verify and allow what the code needs, alerts fire when they
//! should, images are pinned.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;
#[path = "deploy/dashboards.rs"]
mod dashboards;
#[path = "deploy/pods.rs"]
mod pods;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bed::Stage;
use bed::stage::{Finished, Mode, PATIENCE, finish, poll};

use common::{COFFERDAM, Sandbox, program, under_filter};
use dashboards::*;
use pods::*;

fn main() -> ExitCode {
    bed::harness::main(
        "deploy",
        Path::new(COFFERDAM),
        bed::cases![
            the_unit_verifies.only(Mode::Rootless),
            the_units_capabilities_are_enough.only(Mode::Rooted),
            the_containers_capabilities_are_enough.only(Mode::Rooted),
            the_units_address_families_are_enough.only(Mode::Rooted),
            the_unit_waits_longer_than_its_parts.only(Mode::Rootless),
            the_unit_delegates_what_limits_need.only(Mode::Rootless),
            a_workspace_that_the_unit_made_read_only_is_refused.only(Mode::Rooted),
            alerts_are_proven.only(Mode::Rootless),
            alerts_name_only_what_exists.only(Mode::Rootless),
            images_are_pinned_by_digest.only(Mode::Rootless),
            dashboards_show_only_what_exists.only(Mode::Rootless),
            dashboards_ask_what_prometheus_understands.only(Mode::Rootless),
            pods_hold_together.only(Mode::Rootless),
            a_pod_as_an_ordinary_user_runs_its_sandbox.only(Mode::Rootless),
            a_pod_as_root_runs_its_sandbox.only(Mode::Rooted),
        ],
    )
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn the_unit_verifies(stage: &Stage) -> Result<()> {
    let verify = program("systemd-analyze")?;
    // The installed path isn't there on a build machine; everything else is judged as it stands.
    let text = std::fs::read_to_string(deploy("systemd/cofferdam@.service"))?;
    ensure!(text.contains("ExecStart=/usr/bin/cofferdam up "), "{text}");
    let text = text.replace("/usr/bin/cofferdam", &stage.binary().display().to_string());
    let unit = stage.write("cofferdam@.service", text)?;
    let mut command = stage.command(verify);
    command.args(["verify", "--man=no"]).arg(&unit);
    let done = finish(command, PATIENCE)?;
    ensure!(done.code() == 0 && !done.err().contains("cofferdam@"), "{} {}", done.code(), done.err());
    Ok(())
}

/// A rooted sandbox under exactly the bounding set and no_new_privs of the unit.
fn the_units_capabilities_are_enough(stage: &Stage) -> Result<()> {
    let set = setting("CapabilityBoundingSet")?;
    ensure!(under_capabilities(stage, &set)?.expect_code(0)?.out() == "1000\n");
    Ok(())
}

/// What an engine leaves a container's root by default (moby, `oci/caps/defaults.go`).
const CONTAINER: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// [`CONTAINER`] and the capabilities that the command in deploy/README.md adds are enough; without an added
/// one, the refusal names it.
fn the_containers_capabilities_are_enough(stage: &Stage) -> Result<()> {
    let page = std::fs::read_to_string(deploy("README.md"))?;
    let command = page.split("docker run").nth(1).and_then(|rest| rest.split("```").next());
    let words: Vec<&str> = command.context("no `docker run`")?.split_whitespace().collect();
    let added = words.windows(2).filter(|pair| pair[0] == "--cap-add").map(|pair| pair[1]);
    let set: Vec<String> = CONTAINER.iter().copied().chain(added.clone()).map(str::to_owned).collect();
    ensure!(under_capabilities(stage, &set)?.expect_code(0)?.out() == "1000\n");
    let bare: Vec<String> = CONTAINER.iter().map(|cap| (*cap).to_owned()).collect();
    let refused = under_capabilities(stage, &bare)?.expect_code(125)?.err();
    for cap in added {
        ensure!(refused.contains(&format!("--cap-add {cap}")), "{refused}");
    }
    Ok(())
}

/// A rooted sandbox that says who it is, where root has these capabilities alone.
fn under_capabilities(stage: &Stage, capabilities: &[String]) -> Result<Finished> {
    let set: Vec<String> = capabilities
        .iter()
        .map(|cap| format!("+{}", cap.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let mut command = stage.command(program("setpriv")?);
    command.env("COFFERDAM_STATE", stage.state());
    command.args(["--no-new-privs", &format!("--bounding-set=-all,{}", set.join(","))]);
    command.arg(stage.binary()).args(["run", "--quiet", "--", "id", "-u"]);
    finish(command, PATIENCE)
}

/// The words of a setting of the unit.
fn setting(key: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(deploy("systemd/cofferdam@.service"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let words = line.with_context(|| format!("the unit has no {key}="))?.split_whitespace();
    Ok(words.map(str::to_owned).collect())
}

/// A service runs under the same filter as systemd's. Under one without packet sockets, it reports that the
/// kernel's refusals go unrecorded.
fn the_units_address_families_are_enough(stage: &Stage) -> Result<()> {
    const UNSEEN: &str = "is not on record: no packet socket";
    let unit = setting("RestrictAddressFamilies")?;
    let without: Vec<String> = unit.iter().filter(|family| *family != "AF_PACKET").cloned().collect();
    for (name, families, seen) in [("whole", &unit, true), ("blind", &without, false)] {
        let config = format!(
            "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents: {{ a: {{ command: [sleep, '1000'] }} }}\n"
        );
        let file = stage.write("cofferdam.yaml", config)?.display().to_string();
        let up = || stage.start(stage.cofferdam(["up", "-f", &file]));
        let mut sandbox = Sandbox::adopt(stage, name.to_owned(), restricted_to(families, up)??);
        let status = poll("the service", PATIENCE, || {
            sandbox.status().ok().filter(|status| !status["agents"][0]["pid"].is_null())
        })?;
        if !seen {
            sandbox.heart().wait_for_err(UNSEEN, PATIENCE)?;
        }
        let said = sandbox.heart().err();
        for (place, text) in [("status", status["controls"].to_string()), ("start", said)] {
            ensure!(text.contains(UNSEEN) != seen, "{name}, {place}: {text}");
        }
    }
    Ok(())
}

/// Runs `start` on a thread that may make sockets of these families only. Processes that it starts inherit
/// that.
fn restricted_to<T: Send>(families: &[String], start: impl FnOnce() -> T + Send) -> Result<T> {
    use nix::libc;
    use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
    let another = families.iter().map(|family| {
        let number = match family.as_str() {
            "AF_UNIX" => libc::AF_UNIX,
            "AF_INET" => libc::AF_INET,
            "AF_INET6" => libc::AF_INET6,
            "AF_NETLINK" => libc::AF_NETLINK,
            "AF_PACKET" => libc::AF_PACKET,
            other => bail!("{other} is new: the test must know its number"),
        };
        Ok(SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::try_from(number)?)?)
    });
    let rule = SeccompRule::new(another.collect::<Result<Vec<_>>>()?)?;
    under_filter(libc::SYS_socket, vec![rule], nix::errno::Errno::EAFNOSUPPORT, start)
}

/// Otherwise systemd would kill a service that is about to end in order, or about to report why it doesn't
/// start.
fn the_unit_waits_longer_than_its_parts(_stage: &Stage) -> Result<()> {
    let waits = |key: &str| Ok::<_, anyhow::Error>(humantime::parse_duration(&setting(key)?.concat())?);
    let page = include_str!("../docs/limits.md");
    let limit = |name: &str| {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | ")));
        let value = row.and_then(|row| row.split(' ').next()).with_context(|| format!("no limit {name}"))?;
        Ok::<_, anyhow::Error>(humantime::parse_duration(value)?)
    };
    let (start, stop) = (waits("TimeoutStartSec")?, waits("TimeoutStopSec")?);
    ensure!(stop > limit("of_a_stop")?, "a stop may take longer than {stop:?}");
    // An init makes its namespaces, then builds and proves the cage, each within INIT_PATIENCE; before that
    // an image is unpacked, which takes minutes.
    ensure!(
        start > limit("INIT_PATIENCE")? * 2 + Duration::from_secs(600),
        "a start may take longer than {start:?}"
    );
    Ok(())
}

fn the_unit_delegates_what_limits_need(_stage: &Stage) -> Result<()> {
    let mut delegated = setting("Delegate")?;
    let mut needed = agent::launch::cgroup::CONTROLLERS.map(str::to_owned);
    delegated.sort();
    needed.sort();
    ensure!(delegated == needed, "{delegated:?} are delegated, {needed:?} needed");
    Ok(())
}

/// A workspace that is read-only, as under `ProtectSystem=strict`, is refused.
fn a_workspace_that_the_unit_made_read_only_is_refused(stage: &Stage) -> Result<()> {
    let run = |options: &str| {
        let script = format!(
            "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$0\" run {options} -- test -d /sandbox"
        );
        let mut command = stage.command(program("unshare")?);
        command.env("COFFERDAM_STATE", stage.state()).args(["--mount", "sh", "-c", &script]);
        command.arg(stage.binary()).arg(stage.workspace());
        finish(command, PATIENCE)
    };
    let refused = run("--workspace \"$1\"")?.expect_code(125)?.err();
    let mend = format!("ReadWritePaths={}", stage.workspace().display());
    ensure!(refused.contains("read-only filesystem") && refused.contains(&mend), "{refused}");
    // Its own workspace, in the state directory, can be written to.
    run("")?.expect_code(0)?;
    let reads = common::policy("").replace("include_workdir: true", "include_workdir: false");
    let reads = reads.replace("  read_write:\n    - /sandbox\n", "    - /sandbox\n  read_write:\n");
    let reads = stage.write("reads.yaml", reads)?.display().to_string();
    run(&format!("--policy {reads} --workspace \"$1\""))?.expect_code(0)?;
    Ok(())
}

fn promtool(stage: &Stage, args: &[&str]) -> Result<()> {
    let promtool = program("promtool")?;
    let mut command = stage.command(promtool);
    command.args(args).current_dir(deploy("prometheus"));
    // The repository may lie where only its owner looks.
    let command = if stage.uid() == nix::unistd::geteuid().as_raw() { command } else { as_ourselves(args)? };
    finish(command, PATIENCE)?.expect_code(0)?;
    Ok(())
}

fn as_ourselves(args: &[&str]) -> Result<std::process::Command> {
    let mut command = std::process::Command::new(program("promtool")?);
    command.args(args).current_dir(deploy("prometheus"));
    Ok(command)
}

fn alerts_are_proven(stage: &Stage) -> Result<()> {
    promtool(stage, &["check", "config", "prometheus.yml"])?;
    promtool(stage, &["check", "rules", "cofferdam.rules.yml"])?;
    promtool(stage, &["test", "rules", "cofferdam.rules.test.yml"])
}

fn alerts_name_only_what_exists(_stage: &Stage) -> Result<()> {
    let rules = std::fs::read_to_string(deploy("prometheus/cofferdam.rules.yml"))?;
    let names = include_str!("../actors/telemetry/src/metrics/names.rs");
    let mut found = 0;
    for word in rules
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|w| w.starts_with("cofferdam_"))
    {
        let base = word.trim_end_matches("_bucket");
        ensure!(names.contains(&format!("\"{base}\"")), "{word} is no metric of ours");
        found += 1;
    }
    ensure!(found > 10, "the rules name {found} metrics only");
    Ok(())
}

fn images_are_pinned_by_digest(_stage: &Stage) -> Result<()> {
    let text = std::fs::read_to_string(deploy("docker/Dockerfile"))?;
    let froms: Vec<&str> = text.lines().filter(|l| l.starts_with("FROM ")).collect();
    ensure!(froms.len() >= 2, "not multi-stage");
    for from in froms {
        let digest = from.split("@sha256:").nth(1).unwrap_or_default();
        let hex = digest.chars().take_while(char::is_ascii_hexdigit).count();
        ensure!(hex == 64, "{from}");
    }
    Ok(())
}
