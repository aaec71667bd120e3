//! `policy set --restart-agents` with a changed static section: the agents of a service move into another
//! cage, all of them or none, and only the operator can have them moved.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

#[path = "../common/mod.rs"]
mod common;
mod dead;
mod faults;
mod service;
mod stops;
mod walls;

use std::io::Read as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, free_port, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{COFFERDAM, Sandbox, policy, process, processes, record_has};
use dead::{a_dead_file_system_holds_up_no_builder, a_dead_file_system_holds_up_no_end};
use faults::{
    a_builders_end_at_any_moment_leaves_nothing, a_cage_without_an_agents_program_is_the_others_too,
    a_debugger_holds_up_no_move, a_supervisor_that_hangs_is_not_waited_for,
    a_supervisors_death_in_the_middle_takes_nothing_along, a_way_back_survives_a_death,
    an_init_that_hangs_is_not_waited_for, each_death_on_the_way_is_on_record_and_the_move_once,
    the_next_cages_end_leads_back, the_way_leads_forward_without_a_builder,
    who_dies_over_the_news_has_told_them_once, who_was_stopped_is_known_on_the_way_back,
    without_a_builder_it_is_told_what_to_do,
};
use service::{Service, showing};
use stops::{
    a_debugger_holds_up_no_stop, a_stop_ends_a_move_too, a_stop_is_heard_among_the_last_records,
    a_stop_is_waited_for_until_its_heart_forces_it, a_stop_outlives_its_supervisor,
    an_end_at_any_moment_leaves_nothing,
};
use walls::{
    a_link_from_a_cage_before_is_not_followed, a_place_that_the_operator_moved_stays_known,
    a_wish_goes_with_whoever_had_it, a_wish_is_whole_or_none, a_workspace_is_not_reopened_through_a_link,
    nobody_else_is_heard, who_drips_holds_up_no_end,
};

fn main() -> ExitCode {
    bed::harness::main(
        "another_cage",
        Path::new(COFFERDAM),
        bed::cases![
            agents_move_and_take_everything_along,
            what_cannot_be_built_changes_nothing,
            a_supervisors_death_afterwards_undoes_nothing,
            what_is_beside_the_agents_stays,
            a_run_has_no_builder,
            a_supervisor_that_hangs_is_not_waited_for,
            a_supervisors_death_in_the_middle_takes_nothing_along,
            the_next_cages_end_leads_back,
            without_a_builder_it_is_told_what_to_do,
            the_way_leads_forward_without_a_builder,
            a_builders_end_at_any_moment_leaves_nothing,
            a_cage_without_an_agents_program_is_the_others_too,
            a_way_back_survives_a_death,
            each_death_on_the_way_is_on_record_and_the_move_once,
            who_was_stopped_is_known_on_the_way_back,
            who_dies_over_the_news_has_told_them_once,
            a_stop_outlives_its_supervisor,
            a_stop_is_waited_for_until_its_heart_forces_it,
            an_init_that_hangs_is_not_waited_for,
            a_dead_file_system_holds_up_no_builder,
            a_dead_file_system_holds_up_no_end,
            a_debugger_holds_up_no_move.only(bed::stage::Mode::Rooted),
            a_debugger_holds_up_no_stop.only(bed::stage::Mode::Rooted),
            a_stop_ends_a_move_too,
            a_stop_is_heard_among_the_last_records,
            an_end_at_any_moment_leaves_nothing,
            nobody_else_is_heard,
            a_wish_is_whole_or_none,
            a_wish_goes_with_whoever_had_it,
            who_drips_holds_up_no_end,
            a_link_from_a_cage_before_is_not_followed,
            a_place_that_the_operator_moved_stays_known,
            a_workspace_is_not_reopened_through_a_link,
        ],
    )
}

fn agents_move_and_take_everything_along(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    service.says("narrow")?;
    let init = service.process("cofferdam: init").context("init")?;
    // Without the option the change is refused, and the refusal names the option.
    let refused = stage.call(&["policy", "set", &service.sandbox.name, &service.wide])?.expect_code(125)?;
    ensure!(refused.err().contains("--restart-agents"), "{}", refused.err());

    let said = service.moved(&service.wide)?;
    ensure!(said["generation"] == 2 && said["restarted"] == serde_json::json!(["one"]), "{said}");
    let over = said["warnings"].as_array().context("warnings")?;
    ensure!(
        over.iter().any(|told| told.as_str().is_some_and(|told| told.contains("'once' is over"))),
        "{said}"
    );
    service.says("wide")?;
    ensure!(service.process("cofferdam: init").is_some_and(|now| now != init), "it is the same init");
    ensure!(processes(stage, "cofferdam: init").len() == 1, "both cages are there");
    let status = service.both().context("status")?;
    ensure!(status["supervisor_restarts"] == 0 && status["policy"]["generation"] == 2, "{status}");
    // And back: what the policy no longer shows is gone.
    ensure!(service.moved(&service.narrow)?["generation"] == 3);
    service.says("narrow")?;
    ensure!(service.ran() == 1, "one that was over was run again");

    // No output of the agent is lost or doubled on the way.
    let said = service.said();
    let mut last: Option<(&str, u64)> = None;
    for line in said.lines() {
        let (start, n) = line.split_once(' ').and_then(|(id, _)| id.split_once('-')).context("a line")?;
        let n: u64 = n.parse()?;
        ensure!(
            n == 1 || last.is_none_or(|(was, m)| was == start && n == m + 1),
            "{last:?}, then {line}\n{said}"
        );
        last = Some((start, n));
    }
    ensure!(
        said.lines().filter(|line| line.split(' ').next().unwrap().ends_with("-1")).count() == 3,
        "{said}"
    );

    // Records are written in batches: once the last is on disk, so are the others.
    poll("the last record", PATIENCE, || (service.wishes_on_record().ok()? == 2).then_some(()))?;
    stage.call(&["audit", "verify", &service.sandbox.name])?.expect_code(0)?;
    let records = service.sandbox.audit()?;
    let told = |fields: &[(&str, &str)]| records.iter().filter(|record| record_has(record, fields)).count();
    ensure!(told(&[("kind", "operator"), ("action", "policy set")]) == 2, "who wanted it is not on record");
    ensure!(told(&[("kind", "agent"), ("name", "once"), ("change", "exited")]) == 1);
    ensure!(told(&[("kind", "policy"), ("result", "loaded")]) == 2, "what is in force is not on record");
    Ok(())
}

fn what_cannot_be_built_changes_nothing(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir(stage.dir().join("keys"))?;
    let key = stage.write("keys/key", "not-for-agents\n")?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let keys = key.parent().context("a directory")?.to_owned();
    let credentials = format!(
        "credentials:\n  key:\n    from: file:{}\n    use: [ {{ host: api.bed.test, path: /**, binaries: [/usr/bin/curl] }} ]\n",
        key.display()
    );
    let service = Service::start(stage, &credentials)?;
    let before = service.both().context("status")?;
    let bad = |name: &str, text: String| stage.write(name, text).map(|path| path.display().to_string());
    let refusals = [
        (bad("missing.yaml", showing(Path::new("/no/such/place")))?, "doesn't exist"),
        (bad("key.yaml", showing(&keys))?, "agents can read that"),
        (bad("state.yaml", showing(&stage.state()))?, "keeps its own state"),
        // The agent would rewrite what it is started from.
        (
            bad(
                "own.yaml",
                policy("").replace("  read_write:\n", &format!("  read_write:\n    - {}\n", service.narrow)),
            )?,
            "lies where the agent can change it",
        ),
        (bad("broken.yaml", "version: 1\nno_such_key: 1\n".into())?, "no_such_key"),
    ];
    for (file, why) in &refusals {
        let refused = service.set(file)?.expect_code(125)?;
        ensure!(refused.err().contains(why), "{file}: {}", refused.err());
        let now = service.both().context("status")?;
        ensure!(now["agents"][1]["pid"] == before["agents"][1]["pid"], "{file}: the agent was started again");
        ensure!(now["policy"] == before["policy"], "{file}: {}", now["policy"]);
    }
    service.says("narrow")?;
    // Nothing is left of the attempts, and another one works.
    poll("the attempts to be gone", PATIENCE, || {
        (processes(stage, "cofferdam: init").len() == 1).then_some(())
    })?;
    service.moved(&service.wide)?;
    service.says("wide")
}

fn a_supervisors_death_afterwards_undoes_nothing(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    service.moved(&service.wide)?;
    for _ in 0..2 {
        let old = service.process("cofferdam: sup").context("a supervisor")?;
        kill(Pid::from_raw(old), Signal::SIGKILL)?;
        let status = poll("the next supervisor", PATIENCE, || {
            service.both().filter(|status| status["supervisor_pid"].as_i64() != Some(old.into()))
        })?;
        ensure!(status["policy"]["generation"] == 2, "{}", status["policy"]);
        service.says("wide")?;
        ensure!(service.ran() == 1, "one that was over was run again");
    }
    // Generation numbers go on counting.
    ensure!(service.moved(&service.narrow)?["generation"] == 3);
    let text = std::fs::read_to_string(&service.narrow)?;
    std::fs::write(&service.narrow, format!("{text}\n# the same\n"))?;
    poll("the watched file to be followed still", PATIENCE, || {
        service.both().filter(|status| status["policy"]["generation"] == 4)
    })?;
    Ok(())
}

/// Host ports and the certificates that programs trust belong to the sandbox, not to a cage, so they survive
/// a move.
fn what_is_beside_the_agents_stays(stage: &Stage) -> Result<()> {
    let port = free_port()?;
    let service =
        Service::start(stage, &format!("forwards:\n  - {{ listen: '127.0.0.1:{port}', to: 8123 }}\n"))?;
    let name = service.sandbox.name.clone();
    let authority = || -> Result<String> {
        let done = stage.call(&["exec", &name, "--", "sh", "-c", "sha256sum < /run/cofferdam/ca-bundle.pem"]);
        Ok(done?.expect_code(0)?.out())
    };
    let before = authority()?;
    service.moved(&service.wide)?;
    ensure!(authority()? == before, "another authority");
    let serve = "import socket; s = socket.create_server(('127.0.0.1', 8123)); c, _ = s.accept(); c.sendall(b'inside'); c.close()";
    let server = stage.start(stage.cofferdam(["exec", &name, "--", "python3", "-c", serve]))?;
    let heard = poll("an answer from the new cage", PATIENCE, || {
        let mut text = String::new();
        TcpStream::connect(("127.0.0.1", port)).ok()?.read_to_string(&mut text).ok()?;
        (!text.is_empty()).then_some(text)
    })?;
    ensure!(heard == "inside", "{heard}");
    server.finish(PATIENCE)?.expect_code(0)?;
    Ok(())
}

fn a_run_has_no_builder(stage: &Stage) -> Result<()> {
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    ensure!(process(stage, "cofferdam: bld").is_none(), "a run has a builder");
    let socket: PathBuf = stage.state().join(&sandbox.name).join("build.sock");
    ensure!(!socket.exists(), "a run has a builder's socket");
    Ok(())
}
