//! Deaths and hangs in the middle of a move.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{self, Sandbox, policy, processes, record_has};
use crate::service::{Moving, Service, moments};

/// An old supervisor that doesn't stop its agents is ended by force after its time; the command that asked
/// for the move doesn't depend on its answer.
pub fn a_supervisor_that_hangs_is_not_waited_for(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let stuck = service.process("cofferdam: sup").context("a supervisor")?;
    kill(Pid::from_raw(stuck), Signal::SIGSTOP)?;
    let said = service.moved(&service.wide)?;
    ensure!(said["generation"] == 2 && said["restarted"] == serde_json::json!(["one"]), "{said}");
    service.says("wide")?;
    ensure!(service.ran() == 1, "one that was over was run again");
    poll("who wanted it to be on record", PATIENCE, || {
        (service.wishes_on_record().ok()? == 1).then_some(())
    })?;
    // If it wasn't ended by force and goes on late, it finds no sandbox of its own to clean up after.
    let _gone = kill(Pid::from_raw(stuck), Signal::SIGCONT);
    poll("its end", PATIENCE, || (!processes(stage, "cofferdam: sup").contains(&stuck)).then_some(()))?;
    poll("somebody who answers", PATIENCE, || service.both().map(drop))
}

pub fn a_supervisors_death_in_the_middle_takes_nothing_along(stage: &Stage) -> Result<()> {
    let Moving { service, command, .. } = Moving::start(stage)?;
    let old = service.process("cofferdam: sup").context("a supervisor")?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    command.finish(PATIENCE)?.expect_code(0)?;
    service.says("wide")?;
    let status = poll("the status", PATIENCE, || service.both())?;
    ensure!(status["policy"]["generation"] == 2, "{}", status["policy"]);
    ensure!(service.ran() == 1, "one that was over was run again");
    // Recorded by one of the two supervisors: the first may not have had the time.
    let wishes = || service.wishes_on_record().ok().filter(|wishes| *wishes > 0);
    ensure!(poll("who wanted it to be on record", PATIENCE, wishes)? == 1, "it is on record too often");
    Ok(())
}

/// The next cage's init dies, as for lack of memory: agents that were stopped for that cage are started again
/// in the old one. A request for a move that comes meanwhile waits until they are.
pub fn the_next_cages_end_leads_back(stage: &Stage) -> Result<()> {
    let Moving { service, command, old_init } = Moving::start(stage)?;
    let inits = processes(stage, "cofferdam: init");
    let next = inits.into_iter().find(|pid| *pid != old_init).context("the next cage's init")?;
    kill(Pid::from_raw(next), Signal::SIGKILL)?;
    let again = service.start_set(&service.wide)?;
    let refused = command.finish(PATIENCE)?.expect_code(125)?.err();
    ensure!(refused.contains("started again where they were"), "{refused}");
    let back = || {
        let status = service.both()?;
        let stub = status["agents"].as_array()?.iter().find(|agent| agent["name"] == "stub")?;
        let generation = status["policy"]["generation"].as_u64()?;
        (generation > 1 || stub["pid"].is_u64()).then_some(generation)
    };
    // On a slow machine they may have moved on by the time of this check.
    if poll("the agents in the old cage", PATIENCE, back)? == 1 {
        ensure!(processes(stage, "cofferdam: init").contains(&old_init), "the old cage is gone");
    }
    ensure!(service.ran() == 1, "one that was over was run again");
    again.finish(PATIENCE)?.expect_code(0)?;
    service.says("wide")?;
    poll("the old cage's end", PATIENCE, || {
        let inits = processes(stage, "cofferdam: init");
        (inits.len() == 1 && !inits.contains(&old_init)).then_some(())
    })?;
    ensure!(service.ran() == 1, "one that was over was run again");
    Ok(())
}

pub fn without_a_builder_it_is_told_what_to_do(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let socket = stage.state().join(&service.sandbox.name).join("build.sock");
    let builder = service.process("cofferdam: bld").context("a builder")?;
    kill(Pid::from_raw(builder), Signal::SIGKILL)?;
    poll("its socket to go", PATIENCE, || (!socket.exists()).then_some(()))?;
    let refused = service.set(&service.wide)?.expect_code(125)?;
    ensure!(refused.err().contains("stop it, and start it"), "{}", refused.err());
    service.says("narrow")?;
    // A dynamic change needs no builder.
    let dynamic = stage.write("dynamic.yaml", policy(common::FRIENDLY))?.display().to_string();
    ensure!(service.moved(&dynamic)?["generation"] == 2);
    Ok(())
}

pub fn the_way_leads_forward_without_a_builder(stage: &Stage) -> Result<()> {
    let Moving { service, command, .. } = Moving::start(stage)?;
    let builder = service.process("cofferdam: bld").context("a builder")?;
    kill(Pid::from_raw(builder), Signal::SIGKILL)?;
    command.finish(PATIENCE)?.expect_code(125)?;
    poll("the other cage", PATIENCE, || {
        service.both().filter(|status| status["policy"]["generation"] == 2).map(drop)
    })
}

/// The builder is killed at random moments: the sandbox goes on in one cage or the other, and what the
/// builder had begun is gone, to the last entry in the process table.
pub fn a_builders_end_at_any_moment_leaves_nothing(stage: &Stage) -> Result<()> {
    let mut met = false;
    for (n, moment) in moments(stage)?.enumerate() {
        if n >= 10 && met {
            break;
        }
        ensure!(n < 50, "not once met in the middle");
        let _again = std::fs::remove_file(stage.workspace().join("ran"));
        let mut service = Service::start(stage, "")?;
        let builder = service.process("cofferdam: bld").context("a builder")?;
        let moving = service.start_set(&service.wide)?;
        met |= moment.come(stage, &moving)?;
        kill(Pid::from_raw(builder), Signal::SIGKILL)?;
        let moved = moving.finish(PATIENCE)?.code() == 0;
        let heart = service.sandbox.heart().pid();
        let one_init =
            || (processes(stage, "cofferdam: init").len() == 1 && zombies_of(heart) == 0).then_some(());
        poll("one init, and nobody's end uncollected", PATIENCE, one_init)
            .with_context(|| format!("at {n}"))?;
        poll("both agents", PATIENCE, || service.both().filter(|status| status["state"] == "running"))?;
        if moved {
            service.says("wide")?;
        }
        ensure!(service.ran() == 1, "one that was over was run again");
    }
    Ok(())
}

fn zombies_of(parent: i32) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let is_theirs = |stat: &String| {
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.take(2).eq(["Z", &parent.to_string()])
    };
    stats.filter(is_theirs).count()
}

/// The new policy hides one agent's program: the other agents run, even after a supervisor's death, and the
/// policy can still be changed.
pub fn a_cage_without_an_agents_program_is_the_others_too(stage: &Stage) -> Result<()> {
    let tool = stage.dir().join("data/tool");
    std::fs::create_dir_all(stage.dir().join("data"))?;
    std::fs::write(&tool, "#!/bin/sh\nexec sleep 1000\n")?;
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let wide = stage.write("wide-first.yaml", crate::service::showing(&stage.dir().join("data")))?;
    let name = stage.name();
    let agents = format!("  aaa:\n    command: [{}]\n  zzz:\n    command: [sleep, '1000']\n", tool.display());
    let text = format!(
        "name: {name}\npolicy: {}\nmetrics: {{ listen: \"off\" }}\nagents:\n{agents}",
        wide.display()
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "-f", &file]))?;
    let mut sandbox = Sandbox::adopt(stage, name.clone(), running);
    let run = |wanted: [bool; 2]| {
        let status = sandbox.status().ok()?;
        let runs = |n: usize| status["agents"][n]["pid"].is_u64();
        ([runs(0), runs(1)] == wanted).then_some(status)
    };
    poll("the agents", common::START, || run([true, true]))?;
    let narrow = stage.write("narrow.yaml", policy(""))?.display().to_string();
    let set = |file: &str| stage.call(&["policy", "set", &name, file, "--restart-agents"]);
    let said = set(&narrow)?.expect_code(0)?;
    ensure!(said.err().contains("'aaa' isn't running"), "{}", said.err());
    run([false, true]).context("not the one without its program alone is down")?;
    // The agent without its program doesn't stop the next supervisor either.
    let old = common::process(stage, "cofferdam: sup").context("a supervisor")?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    poll("the next supervisor", PATIENCE, || {
        run([false, true]).filter(|status| status["supervisor_pid"].as_i64() != Some(old.into()))
    })?;
    set(&wide.display().to_string())?.expect_code(0)?;
    poll("the agent in a cage that has its program", PATIENCE, || run([true, true]))?;
    set(&narrow)?.expect_code(0)?;
    stage.call(&["stop", &name])?.expect_code(0)?;
    sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    ensure!(stage.cofferdam_processes().is_empty(), "processes are left");
    Ok(())
}

/// Two deaths in a row, the second before the next supervisor is ready: agents that were stopped for a cage
/// that is gone start again all the same.
pub fn a_way_back_survives_a_death(stage: &Stage) -> Result<()> {
    let Moving { service, command, old_init } = Moving::start(stage)?;
    let old = service.process("cofferdam: sup").context("a supervisor")?;
    let next = processes(stage, "cofferdam: init").into_iter().find(|pid| *pid != old_init);
    kill(Pid::from_raw(next.context("the next cage's init")?), Signal::SIGKILL)?;
    let until = std::time::Instant::now() + PATIENCE;
    // As early as possible, so without the pauses of `poll`.
    while std::time::Instant::now() < until {
        if let Some(second) = processes(stage, "cofferdam: sup").into_iter().find(|pid| *pid != old) {
            kill(Pid::from_raw(second), Signal::SIGKILL)?;
            break;
        }
    }
    command.finish(PATIENCE)?.expect_code(125)?;
    poll("the agents in the old cage", PATIENCE, || {
        let status = service.both()?;
        let stub = status["agents"].as_array()?.iter().find(|agent| agent["name"] == "stub")?;
        (status["policy"]["generation"] == 1 && stub["pid"].is_u64()).then_some(())
    })?;
    ensure!(service.ran() == 1, "one that was over was run again");
    Ok(())
}

/// A process that is traced by a debugger which doesn't reap it keeps its cage's init from ending: the agents
/// move all the same.
pub fn a_debugger_holds_up_no_move(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let old_init = service.process("cofferdam: init").context("init")?;
    let debugger = debugger(stage, old_init)?;
    service.moved(&service.wide)?;
    service.says("wide")?;
    // The old init has no memory left by now, so our lists of processes don't show it.
    let is_there = || Path::new(&format!("/proc/{old_init}")).exists();
    ensure!(is_there(), "the control: the old init is held up");
    debugger.signal(Signal::SIGKILL)?;
    debugger.finish(PATIENCE)?;
    poll("the old cage's end", PATIENCE, || (!is_there()).then_some(()))
}

/// Starts a debugger that traces an agent of this init's, and reaps nothing.
pub fn debugger(stage: &Stage, init: i32) -> Result<Running> {
    let agent = children(init).into_iter().next().context("an agent")?;
    // PTRACE_SEIZE.
    let trace = "import ctypes, sys, time; failed = ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None); \
                 print('failed' if failed else 'traced', flush=True); time.sleep(1000)";
    let mut debugger = std::process::Command::new(common::program("python3")?);
    debugger.args(["-c", trace, &agent.to_string()]);
    let mut debugger = stage.start(debugger)?;
    debugger.wait_for("traced", PATIENCE)?;
    Ok(debugger)
}

/// The children of a process that has one thread.
fn children(parent: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    list.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A new init that hangs is ended, and the agents stay where they are; the next request finds a builder that
/// listens.
pub fn an_init_that_hangs_is_not_waited_for(stage: &Stage) -> Result<()> {
    let mut service = Service::start(stage, "")?;
    let heart = service.sandbox.heart().pid();
    let before = service.both().context("status")?;
    let mut known = children(heart);
    // A list taken while processes come and go may lack one (proc_pid_children(5)); and stopping the builder
    // by mistake would be another case.
    known.extend(
        ["cofferdam: sup", "cofferdam: bld", "cofferdam: init"].iter().flat_map(|it| processes(stage, it)),
    );
    let command = service.start_set(&service.wide)?;
    // As early as possible, mostly before it has its namespaces, so without the pauses of `poll`.
    let until = std::time::Instant::now() + PATIENCE;
    let next = std::iter::from_fn(|| (std::time::Instant::now() < until).then(|| children(heart)));
    let next = next.flatten().find(|pid| !known.contains(pid)).context("the next cage's init")?;
    kill(Pid::from_raw(next), Signal::SIGSTOP)?;
    let refused = command.finish(PATIENCE)?.expect_code(125)?.err();
    ensure!(refused.contains("hangs") || refused.contains("does not answer"), "{refused}");
    ensure!(refused.contains("the agents keep running under the policy in force"), "{refused}");
    poll("its end", PATIENCE, || (!children(heart).contains(&next)).then_some(()))?;
    let now = service.both().context("status")?;
    ensure!(
        now["policy"] == before["policy"] && now["agents"][1]["pid"] == before["agents"][1]["pid"],
        "{now}"
    );
    service.moved(&service.wide)?;
    service.says("wide")
}

/// Supervisors can't start in the new cage, since the operator's root certificates are unreadable for a
/// while.
pub fn each_death_on_the_way_is_on_record_and_the_move_once(stage: &Stage) -> Result<()> {
    let trusted = std::fs::read(stage.world().ca_file())?;
    let roots = stage.write("roots.pem", &trusted)?;
    let mut service = Service::start_in(stage, "", "", &[("SSL_CERT_FILE", &roots)])?;
    std::fs::write(&roots, "nothing of the kind\n")?;
    let command = service.start_set(&service.wide)?;
    poll("ten deaths", PATIENCE, || {
        service.sandbox.heart().err().contains("no supervisor becomes ready").then_some(())
    })?;
    std::fs::write(&roots, &trusted)?;
    command.finish(PATIENCE)?.expect_code(0)?;
    service.says("wide")?;
    // A further supervisor must record its predecessor's death, and nothing else a second time.
    let second = service.process("cofferdam: sup").context("a supervisor")?;
    // The log is written in batches: once this is on record, everything before it is on disk, and the heart
    // knows.
    stage.call(&["exec", &service.sandbox.name, "--", "true"])?.expect_code(0)?;
    common::ensure_audited(stage, &service.sandbox.name, &[("kind", "operator"), ("action", "exec")])?;
    kill(Pid::from_raw(second), Signal::SIGKILL)?;
    let status = poll("the next supervisor", PATIENCE, || {
        service.both().filter(|status| status["supervisor_pid"].as_i64() != Some(second.into()))
    })?;
    let deaths = status["supervisor_restarts"].as_u64().context("restarts")?;
    ensure!(deaths > 10, "{status}");
    poll("each death on record", PATIENCE, || {
        let records = service.sandbox.audit().ok()?;
        let restarts =
            records.iter().filter(|record| record_has(record, &[("change", "supervisor_restarted")]));
        let numbers: std::collections::BTreeSet<u64> =
            restarts.filter_map(|record| record["event"]["restarts"].as_u64()).collect();
        numbers.into_iter().eq(1..=deaths).then_some(())
    })?;
    let records = service.sandbox.audit()?;
    let told = |fields: &[(&str, &str)]| records.iter().filter(|record| record_has(record, fields)).count();
    ensure!(told(&[("kind", "operator"), ("action", "policy set")]) == 1, "who wanted it");
    ensure!(told(&[("kind", "sandbox"), ("change", "started")]) == 2, "a start, and a move");
    ensure!(told(&[("kind", "policy"), ("result", "loaded")]) == 1, "what is in force");
    ensure!(
        service.sandbox.heart().err().matches("goes on in another cage").count() == 1,
        "told more than once"
    );
    ensure!(service.ran() == 1, "one that was over was run again");
    Ok(())
}

/// An agent that is never restarted, and ends only when told to, ends for the move while no supervisor is
/// there to note it. It is started again all the same.
pub fn who_was_stopped_is_known_on_the_way_back(stage: &Stage) -> Result<()> {
    let gentle = "  gentle:\n    command: [sh, -c, \"trap 'echo x > told; sleep 4; exit 0' TERM; echo x >> gentle; while :; do sleep 0.1; done\"]\n    \
                  restart: { policy: never }\n";
    let service = Service::start_with(stage, "", gentle)?;
    let started =
        || std::fs::read_to_string(stage.workspace().join("gentle")).map_or(0, |text| text.lines().count());
    poll("the gentle one", PATIENCE, || (started() == 1).then_some(()))?;
    let old_init = service.process("cofferdam: init").context("init")?;
    let command = service.start_set(&service.wide)?;
    poll("it to be stopped", PATIENCE, || stage.workspace().join("told").exists().then_some(()))?;
    let stuck = service.process("cofferdam: sup").context("a supervisor")?;
    kill(Pid::from_raw(stuck), Signal::SIGSTOP)?;
    let next = processes(stage, "cofferdam: init").into_iter().find(|pid| *pid != old_init);
    kill(Pid::from_raw(next.context("the next cage's init")?), Signal::SIGKILL)?;
    command.finish(PATIENCE)?.expect_code(125)?;
    poll("the gentle one again", PATIENCE, || {
        let status = service.both()?;
        let gentle = status["agents"].as_array()?.iter().find(|agent| agent["name"] == "gentle")?;
        (gentle["pid"].is_u64() && started() == 2).then_some(())
    })?;
    ensure!(service.ran() == 1, "one that was over was run again");
    Ok(())
}

/// A supervisor that is killed as soon as its first records can be read may or may not have told the heart
/// that they are on disk. The next one finds them there, so they are recorded once.
pub fn who_dies_over_the_news_has_told_them_once(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let log = stage.state().join(&service.sandbox.name).join("audit.jsonl");
    let starts = || {
        std::fs::read_to_string(&log)
            .map_or(0, |text| text.matches(r#""kind":"sandbox","change":"started""#).count())
    };
    let until = |what: &str, is: &dyn Fn() -> bool| {
        // Without the pauses of `poll`, since the moment is short.
        let by = std::time::Instant::now() + PATIENCE;
        while !is() {
            ensure!(std::time::Instant::now() < by, "{what}");
        }
        Ok(())
    };
    let policies = [service.wide.clone(), service.narrow.clone()];
    for (n, policy) in (1..=8).zip(policies.iter().cycle()) {
        let old = service.process("cofferdam: sup").context("a supervisor")?;
        let before = starts();
        let command = service.start_set(policy)?;
        let next = || processes(stage, "cofferdam: sup").into_iter().find(|pid| *pid != old);
        until("the next supervisor", &|| next().is_some())?;
        let next = next().context("it is gone")?;
        until("its first record", &|| starts() > before)?;
        kill(Pid::from_raw(next), Signal::SIGKILL)?;
        // The dead supervisor can't give the rest of its answer.
        command.finish(PATIENCE)?;
        poll("the supervisor after it", PATIENCE, || {
            service.both().filter(|status| status["supervisor_pid"].as_i64() != Some(next.into()))
        })?;
        // Once this is on record, so is everything before it, and the heart knows.
        let mark = stage.marker();
        stage.call(&["exec", &service.sandbox.name, "--", "true", &mark])?.expect_code(0)?;
        common::ensure_audited(stage, &service.sandbox.name, &[("detail", &format!("true {mark}"))])?;
        let records = service.sandbox.audit()?;
        let told =
            |fields: &[(&str, &str)]| records.iter().filter(|record| record_has(record, fields)).count();
        ensure!(told(&[("kind", "operator"), ("action", "policy set")]) == n, "{n}: who wanted it");
        ensure!(told(&[("kind", "sandbox"), ("change", "started")]) == n + 1, "{n}: that it began");
        ensure!(told(&[("kind", "policy"), ("result", "loaded")]) == n, "{n}: what is in force");
        ensure!(told(&[("change", "supervisor_restarted")]) == n, "{n}: that it died");
    }
    Ok(())
}
