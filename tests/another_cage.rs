//! `policy set --restart-agents` with a changed static section: the agents of a service move into another cage, all of them or none,
//! and nobody but the operator has them moved.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, Mode, PATIENCE, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use common::{COFFERDAM, START, Sandbox, policy, record_has, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "another_cage",
        Path::new(COFFERDAM),
        bed::cases![
            agents_move_and_take_everything_along,
            what_cannot_be_built_changes_nothing,
            a_supervisors_death_afterwards_undoes_nothing,
            what_is_beside_the_agents_stays,
            one_that_hangs_is_not_waited_for,
            without_a_builder_it_is_told_what_to_do,
            nobody_else_is_heard,
            an_end_at_any_moment_leaves_nothing,
            a_run_has_no_builder,
            the_way_leads_forward_without_a_builder,
            a_stop_ends_a_move_too,
        ],
    )
}

/// A service with an agent that tells every 50 ms whether it sees the data, and one that ran once.
struct Service<'a> {
    stage: &'a Stage<'a>,
    sandbox: Sandbox<'a>,
    /// Shows no data.
    narrow: String,
    /// Shows it.
    wide: String,
}

impl<'a> Service<'a> {
    fn start(stage: &'a Stage<'a>, more: &str) -> Result<Self> {
        let data = stage.dir().join("data");
        std::fs::create_dir_all(&data)?;
        std::fs::write(data.join("seen"), "")?;
        let narrow = stage.write("narrow.yaml", policy(""))?.display().to_string();
        let wide = stage.write("wide.yaml", showing(&data))?.display().to_string();
        let name = stage.name();
        let text = format!(
            "name: {name}\npolicy: {narrow}\nworkspace: {}\nmetrics: {{ listen: \"off\" }}\n{more}agents:\n  one:\n    command: [sh, -c, \
             \"n=0; while :; do n=$((n+1)); echo $$-$n $(test -e {}/seen && echo wide || echo narrow); sleep 0.05; done\"]\n  once:\n    \
             command: [sh, -c, 'echo x >> ran']\n    restart: {{ policy: never }}\n",
            workspace(stage),
            data.display()
        );
        let file = stage.write("cofferdam.yaml", text)?.display().to_string();
        let running = stage.start(stage.cofferdam(["up", "-f", &file]))?;
        let service = Self { stage, sandbox: Sandbox::adopt(stage, name, running), narrow, wide };
        poll("both agents", START, || service.both().filter(|_| service.ran() == 1))?;
        Ok(service)
    }

    /// The status, once the one runs and the other is over.
    fn both(&self) -> Option<Value> {
        let status = self.sandbox.status().ok()?;
        let agents = status["agents"].as_array()?;
        let one = agents.iter().find(|agent| agent["name"] == "one")?;
        let once = agents.iter().find(|agent| agent["name"] == "once")?;
        (one["pid"].is_u64() && once["last_exit"]["code"] == 0).then_some(status)
    }

    fn ran(&self) -> usize {
        let text = std::fs::read_to_string(self.stage.workspace().join("ran"));
        text.map_or(0, |text| text.lines().count())
    }

    fn set(&self, file: &str) -> Result<Finished> {
        self.stage.call(&["policy", "set", &self.sandbox.name, file, "--restart-agents", "--json"])
    }

    fn moved(&self, file: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.set(file)?.expect_code(0)?.stdout)?)
    }

    /// What the agent has said so far.
    fn said(&self) -> String {
        let log = self.stage.call(&["logs", &self.sandbox.name, "--agent", "one"]);
        log.map(|done| done.out()).unwrap_or_default()
    }

    /// Waits until the last it said is this.
    fn says(&self, word: &str) -> Result<()> {
        let last = || Some(self.said().lines().next_back()?.ends_with(word)).filter(|is| *is);
        poll(&format!("the agent to say {word}"), PATIENCE, last).map(drop)
    }

    fn process(&self, title: &str) -> Option<i32> {
        process(self.stage, title)
    }
}

/// The policy of the others, with a directory besides.
fn showing(path: &Path) -> String {
    policy("").replace("    - /etc ", &format!("    - {}\n    - /etc ", path.display()))
}

fn process(stage: &Stage, title: &str) -> Option<i32> {
    stage.cofferdam_processes().into_iter().find(|pid| is_called(*pid, title))
}

fn agents_move_and_take_everything_along(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    service.says("narrow")?;
    let init = service.process("cofferdam: init").context("init")?;
    // Without the word it stays a refusal, which says the word.
    let refused = stage.call(&["policy", "set", &service.sandbox.name, &service.wide])?.expect_code(125)?;
    ensure!(refused.err().contains("--restart-agents"), "{}", refused.err());

    let said = service.moved(&service.wide)?;
    ensure!(said["generation"] == 2 && said["restarted"] == serde_json::json!(["one"]), "{said}");
    service.says("wide")?;
    ensure!(service.process("cofferdam: init").is_some_and(|now| now != init), "it is the same init");
    ensure!(
        stage.cofferdam_processes().iter().filter(|pid| is_called(**pid, "cofferdam: init")).count() == 1,
        "both cages are there"
    );
    let status = service.both().context("status")?;
    ensure!(status["supervisor_restarts"] == 0 && status["policy"]["generation"] == 2, "{status}");
    // And back: what a policy takes away is gone.
    ensure!(service.moved(&service.narrow)?["generation"] == 3);
    service.says("narrow")?;
    ensure!(service.ran() == 1, "one that was over was run again");

    // Nothing that was said on the way is lost, or said twice.
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

    stage.call(&["audit", "verify", &service.sandbox.name])?.expect_code(0)?;
    let records = service.sandbox.audit()?;
    let told = |fields: &[(&str, &str)]| records.iter().filter(|record| record_has(record, fields)).count();
    ensure!(told(&[("kind", "operator"), ("action", "policy set")]) == 2, "who wanted it is not on record");
    ensure!(told(&[("kind", "agent"), ("name", "once"), ("change", "exited")]) == 1);
    ensure!(told(&[("kind", "policy"), ("result", "loaded")]) == 2, "what is in force is not on record");
    Ok(())
}

fn is_called(pid: i32, title: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == title)
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
    let inits =
        || stage.cofferdam_processes().into_iter().filter(|pid| is_called(*pid, "cofferdam: init")).count();
    poll("the attempts to be gone", PATIENCE, || (inits() == 1).then_some(()))?;
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
    // Generations go on counting, whatever kept them.
    ensure!(service.moved(&service.narrow)?["generation"] == 3);
    let text = std::fs::read_to_string(&service.narrow)?;
    std::fs::write(&service.narrow, format!("{text}\n# the same\n"))?;
    poll("the watched file to be followed still", PATIENCE, || {
        service.both().filter(|status| status["policy"]["generation"] == 4)
    })?;
    Ok(())
}

/// Ports of the host and the certificates that programs trust are the sandbox's, not the cage's.
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

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// An old supervisor that stops nobody has its time, and no more.
fn one_that_hangs_is_not_waited_for(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let stuck = service.process("cofferdam: sup").context("a supervisor")?;
    let name = service.sandbox.name.clone();
    // It answers the first question, which goes to it; then it hangs.
    let socket = stage.state().join(&name).join("build.sock");
    let mut builder = UnixStream::connect(&socket)?;
    kill(Pid::from_raw(stuck), Signal::SIGSTOP)?;
    let text = std::fs::read_to_string(&service.wide)?;
    builder.write_all(&(text.len() as u64).to_le_bytes())?;
    builder.write_all(text.as_bytes())?;
    builder.shutdown(std::net::Shutdown::Write)?;
    builder.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    builder.read_to_string(&mut answer)?;
    ensure!(answer.contains("Stands"), "{answer}");
    service.says("wide")
}

fn without_a_builder_it_is_told_what_to_do(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let socket = stage.state().join(&service.sandbox.name).join("build.sock");
    let builder = service.process("cofferdam: bld").context("a builder")?;
    kill(Pid::from_raw(builder), Signal::SIGKILL)?;
    poll("its socket to go", PATIENCE, || (!socket.exists()).then_some(()))?;
    let refused = service.set(&service.wide)?.expect_code(125)?;
    ensure!(refused.err().contains("stop it, and start it"), "{}", refused.err());
    service.says("narrow")?;
    // A dynamic change needs none.
    let dynamic = stage.write("dynamic.yaml", policy(common::FRIENDLY))?.display().to_string();
    ensure!(service.moved(&dynamic)?["generation"] == 2);
    Ok(())
}

/// The socket is the operator's own: neither the gateway nor another user speaks to it, and an agent doesn't see it.
fn nobody_else_is_heard(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let service = Service::start(stage, "")?;
    let socket = stage.state().join(&service.sandbox.name).join("build.sock");
    let meta = std::fs::metadata(&socket)?;
    ensure!(meta.permissions().mode() & 0o777 == 0o600 && meta.uid() == stage.uid(), "{meta:?}");
    let connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let path = socket.display().to_string();
    let inside = ["exec", &service.sandbox.name, "--", "python3", "-c", connect, &path];
    let refused = stage.call(&inside)?;
    ensure!(refused.code() != 0 && refused.err().contains("FileNotFoundError"), "{}", refused.err());
    if stage.mode() == Mode::Rooted {
        let supervisor = service.process("cofferdam: sup").context("a supervisor")?;
        let status = std::fs::read_to_string(format!("/proc/{supervisor}/status"))?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
        let uid = uid.context("its uid")?;
        ensure!(uid != "0", "the control: the supervisor is another user");
        let mut as_gateway = std::process::Command::new("setpriv");
        as_gateway.args([
            "--reuid",
            uid,
            "--regid",
            uid,
            "--groups",
            uid,
            &common::program("python3")?,
            "-c",
            connect,
            &path,
        ]);
        let refused = as_gateway.output()?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("PermissionError"), "as the gateway: {said}");
        // Nor may it put another in its place.
        let mut replace = std::process::Command::new("setpriv");
        replace.args(["--reuid", uid, "--regid", uid, "--groups", uid, "rm", "-f", &path]);
        ensure!(!replace.output()?.status.success() && socket.exists(), "the gateway removed it");
    }
    Ok(())
}

/// Killed or told to stop in the middle of a move, at moments of chance.
fn an_end_at_any_moment_leaves_nothing(stage: &Stage) -> Result<()> {
    /// Moves take about so many milliseconds in a debug build.
    const LONGEST: u64 = 160;
    for n in 0..12_u64 {
        let mut service = Service::start(stage, "")?;
        let (name, wide) = (service.sandbox.name.clone(), service.wide.clone());
        let moving = stage.start(stage.cofferdam(["policy", "set", &name, &wide, "--restart-agents"]))?;
        std::thread::sleep(Duration::from_millis(n * 37 % LONGEST));
        let signal = if n % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        service.sandbox.heart().signal(signal)?;
        let running = service.sandbox.running.take().context("it runs")?;
        running.finish(PATIENCE).with_context(|| format!("{signal} at {n}"))?;
        moving.finish(PATIENCE)?;
        poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))
            .with_context(|| format!("{signal} at {n}"))?;
        let left = |file: &str| stage.state().join(&name).join(file).exists();
        poll("the builder's socket to go", PATIENCE, || (!left("build.sock")).then_some(()))
            .with_context(|| format!("{signal} at {n}"))?;
        ensure!(signal == Signal::SIGKILL || !left("control.sock"), "{signal} at {n}: a control socket");
        let _again = std::fs::remove_file(stage.workspace().join("ran"));
    }
    Ok(())
}

fn a_run_has_no_builder(stage: &Stage) -> Result<()> {
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    ensure!(process(stage, "cofferdam: bld").is_none(), "a run has a builder");
    let socket: PathBuf = stage.state().join(&sandbox.name).join("build.sock");
    ensure!(!socket.exists(), "a run has a builder's socket");
    Ok(())
}

/// A service whose agent holds the whole grace open, and a move of it on its way.
fn moving<'a>(stage: &'a Stage<'a>) -> Result<(Sandbox<'a>, bed::stage::Running)> {
    let data = stage.dir().join("data");
    std::fs::create_dir_all(&data)?;
    let narrow = stage.write("narrow.yaml", policy(""))?.display().to_string();
    let wide = stage.write("wide.yaml", showing(&data))?.display().to_string();
    let name = stage.name();
    let text = format!(
        "name: {name}\npolicy: {narrow}\nmetrics: {{ listen: \"off\" }}\nagents:\n  stub:\n    command: [sh, -c, \"trap '' TERM; while :; do sleep \
         0.1; done\"]\n"
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "-f", &file]))?;
    let sandbox = Sandbox::adopt(stage, name.clone(), running);
    poll("the agent", START, || sandbox.status().ok().filter(|s| s["agents"][0]["pid"].is_u64()))?;
    let moving = stage.start(stage.cofferdam(["policy", "set", &name, &wide, "--restart-agents"]))?;
    poll("the agents to be stopped", PATIENCE, || {
        sandbox.status().ok().filter(|s| s["state"] == "stopping")
    })?;
    Ok((sandbox, moving))
}

fn the_way_leads_forward_without_a_builder(stage: &Stage) -> Result<()> {
    let (sandbox, moving) = moving(stage)?;
    let builder = process(stage, "cofferdam: bld").context("a builder")?;
    kill(Pid::from_raw(builder), Signal::SIGKILL)?;
    moving.finish(PATIENCE)?.expect_code(125)?;
    poll("the other cage", PATIENCE, || {
        let status = sandbox.status().ok()?;
        (status["policy"]["generation"] == 2 && status["agents"][0]["pid"].is_u64()).then_some(())
    })
}

fn a_stop_ends_a_move_too(stage: &Stage) -> Result<()> {
    let (mut sandbox, moving) = moving(stage)?;
    stage.call(&["stop", &sandbox.name, "--grace", "1s"])?.expect_code(0)?;
    let refused = moving.finish(PATIENCE)?.expect_code(125)?.err();
    ensure!(refused.contains("is being stopped"), "{refused}");
    sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    ensure!(stage.cofferdam_processes().is_empty(), "processes are left");
    Ok(())
}
