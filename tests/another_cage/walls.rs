//! Who may have agents moved, what becomes of incomplete requests, and what agents must not take along into
//! the next cage.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, Mode, PATIENCE, poll};
use nix::sys::signal::Signal;

use crate::common::{self, policy, processes};
use crate::service::{Service, showing};

/// The builder's socket is the operator's own: neither the gateway nor another user can connect to it, and an
/// agent doesn't see it.
pub fn nobody_else_is_heard(stage: &Stage) -> Result<()> {
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
        // Nor may the gateway replace the socket.
        let mut replace = std::process::Command::new("setpriv");
        replace.args(["--reuid", uid, "--regid", uid, "--groups", uid, "rm", "-f", &path]);
        ensure!(!replace.output()?.status.success() && socket.exists(), "the gateway removed it");
    }
    Ok(())
}

/// The bytes that the command sends to the builder.
fn wish(file: &str) -> Result<Vec<u8>> {
    let wish = serde_json::json!({ "name": file, "policy": std::fs::read_to_string(file)? }).to_string();
    Ok([&(wish.len() as u64).to_le_bytes(), wish.as_bytes()].concat())
}

fn speak(service: &Service, bytes: &[u8]) -> Result<UnixStream> {
    let socket = service.stage.state().join(&service.sandbox.name).join("build.sock");
    let mut builder = UnixStream::connect(socket)?;
    builder.set_read_timeout(Some(PATIENCE))?;
    builder.write_all(bytes)?;
    Ok(builder)
}

pub fn a_wish_is_whole_or_none(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let before = service.both().context("status")?;
    let whole = wish(&service.wide)?;
    let longer = [whole.as_slice(), b"\n"].concat();
    let bytes = [2_u64.to_le_bytes().as_slice(), b"\xff\xfe"].concat();
    for wish in [&whole[..whole.len() / 2], &whole[..4], &[], &longer, &bytes] {
        let mut builder = speak(&service, wish)?;
        builder.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        builder.read_to_string(&mut answer)?;
        ensure!(answer.contains("not a whole policy"), "{} bytes: {answer}", wish.len());
    }
    let now = service.both().context("status")?;
    ensure!(
        now["policy"] == before["policy"] && now["agents"][1]["pid"] == before["agents"][1]["pid"],
        "{now}"
    );
    // The control: the whole request is accepted.
    let mut builder = speak(&service, &whole)?;
    builder.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    builder.read_to_string(&mut answer)?;
    ensure!(answer.contains("Stands"), "{answer}");
    service.says("wide")
}

/// A command that is interrupted before it gets an answer changes nothing.
pub fn a_wish_goes_with_whoever_had_it(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    for _ in 0..3 {
        drop(speak(&service, &wish(&service.wide)?)?);
    }
    // Requests are served in order, so the answer to this one comes after those were handled.
    let mut builder = speak(&service, b"")?;
    builder.shutdown(Shutdown::Write)?;
    builder.read_to_string(&mut String::new())?;
    poll("what was begun to be gone", PATIENCE, || {
        (processes(stage, "cofferdam: init").len() == 1).then_some(())
    })?;
    let now = service.both().context("status")?;
    ensure!(now["policy"]["generation"] == 1 && service.wishes_on_record()? == 0, "{now}");
    service.says("narrow")
}

/// A client sends one byte and no more: the builder ends with the sandbox all the same, and its name is free
/// again.
pub fn who_drips_holds_up_no_end(stage: &Stage) -> Result<()> {
    let mut service = Service::start(stage, "")?;
    let _held = speak(&service, b"x")?;
    service.sandbox.heart().signal(Signal::SIGKILL)?;
    service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))?;
    let socket = stage.state().join(&service.sandbox.name).join("build.sock");
    ensure!(!socket.exists(), "its socket is left");
    Ok(())
}

/// A link that an agent made where it could write isn't followed once the agent can no longer write there:
/// not in the next cage, not in the next run.
pub fn a_link_from_a_cage_before_is_not_followed(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut service = Service::start(stage, "")?;
    let name = service.sandbox.name.clone();
    let (secret, shared) = (stage.dir().join("secret"), stage.dir().join("shared"));
    for made in [&secret, &shared] {
        std::fs::create_dir(made)?;
    }
    std::fs::write(secret.join("file"), "of the host")?;
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777))?;
    let below = shared.join("below");
    let written =
        |name: &str, text: String| Ok::<_, anyhow::Error>(stage.write(name, text)?.display().to_string());
    let writable = written("writable.yaml", showing_writable(&shared))?;
    let narrowed = written("narrowed.yaml", showing(&below))?;
    service.moved(&writable)?;
    let link = |target: &Path| {
        let (target, below) = (target.display().to_string(), below.display().to_string());
        stage.call(&["exec", &name, "--", "ln", "-sfn", &target, &below])?.expect_code(0)
    };
    link(&secret)?;
    let refuses = |file: &str| -> Result<()> {
        let refused = service.set(file)?.expect_code(125)?.err();
        ensure!(refused.contains("leads through") && refused.contains("below"), "{refused}");
        Ok(())
    };
    refuses(&narrowed)?;
    // Two cages later the link is still known as an agent's.
    service.moved(&service.narrow)?;
    refuses(&narrowed)?;
    // And after another start.
    stage.call(&["stop", &name])?.expect_code(0)?;
    service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    let text = format!(
        "name: {name}\npolicy: {narrowed}\nmetrics: {{ listen: \"off\" }}\nagents:\n  one:\n    command: [cat, {}/file]\n",
        below.display()
    );
    let file = stage.write("next.yaml", text)?.display().to_string();
    let refused = stage.call(&["up", "-f", &file])?.expect_code(125)?.err();
    ensure!(refused.contains("leads through"), "{refused}");
    // A real directory of that name is shown.
    std::fs::remove_file(&below)?;
    std::fs::create_dir(&below)?;
    std::fs::write(below.join("file"), "meant")?;
    let run = ["--name", &name, "--policy", &narrowed];
    let shown = stage.run(&run, &["cat", &below.join("file").display().to_string()])?.expect_code(0)?;
    ensure!(shown.out() == "meant", "{}", shown.out());
    Ok(())
}

fn showing_writable(path: &Path) -> String {
    policy("").replace("  read_write:\n", &format!("  read_write:\n    - {}\n", path.display()))
}

/// A policy with a different static section.
fn also_opt(policy: String) -> String {
    policy.replace("    - /etc ", "    - { path: /opt, optional: true }\n    - /etc ")
}

/// After the operator repoints a directory, links that agents made in the old one still count as agents'
/// links.
pub fn a_place_that_the_operator_moved_stays_known(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let service = Service::start(stage, "")?;
    let at = |name: &str| stage.dir().join(name);
    for made in ["secret", "release-1", "release-2"] {
        std::fs::create_dir(at(made))?;
        std::fs::set_permissions(at(made), std::fs::Permissions::from_mode(0o777))?;
    }
    std::fs::write(at("secret/file"), "of the host")?;
    symlink(at("release-1"), at("current"))?;
    let set = |name: &str, text: String| -> Result<Finished> {
        service.set(&stage.write(name, text)?.display().to_string())
    };
    set("one.yaml", showing_writable(&at("current")))?.expect_code(0)?;
    let (secret, link) = (at("secret").display().to_string(), at("release-1/cfg").display().to_string());
    let inside = at("current/cfg").display().to_string();
    stage.call(&["exec", &service.sandbox.name, "--", "ln", "-s", &secret, &inside])?.expect_code(0)?;
    std::fs::remove_file(at("current"))?;
    symlink(at("release-2"), at("current"))?;
    set("two.yaml", also_opt(showing_writable(&at("current"))))?.expect_code(0)?;
    set("three.yaml", policy(""))?.expect_code(0)?;
    let refused = set("four.yaml", showing(Path::new(&link)))?.expect_code(125)?.err();
    ensure!(refused.contains("leads through"), "{refused}");
    let kept = std::fs::read_to_string(stage.state().join(&service.sandbox.name).join("places"))?;
    ensure!(kept.contains("release-1") && kept.contains("release-2"), "{kept}");
    Ok(())
}

/// A workspace lies in a directory where agents may write. If they replace it by a link, that isn't followed,
/// neither in a move nor at a start.
pub fn a_workspace_is_not_reopened_through_a_link(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let at = |name: &str| stage.dir().join(name);
    for made in ["secret", "shared", "shared/ws"] {
        std::fs::create_dir(at(made))?;
        std::fs::set_permissions(at(made), std::fs::Permissions::from_mode(0o777))?;
    }
    std::fs::write(at("secret/file"), "of the host")?;
    let first = stage.write("first.yaml", showing_writable(&at("shared")))?.display().to_string();
    let second = also_opt(showing_writable(&at("shared")));
    let second = stage.write("second.yaml", second)?.display().to_string();
    let name = stage.name();
    let text = format!(
        "name: {name}\npolicy: {first}\nworkspace: {}\nmetrics: {{ listen: \"off\" }}\nagents:\n  one:\n    command: [sleep, '1000']\n",
        at("shared/ws").display()
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "-f", &file]))?;
    let mut sandbox = common::Sandbox::adopt(stage, name.clone(), running);
    let runs = || sandbox.status().ok().filter(|status| status["agents"][0]["pid"].is_u64());
    let before = poll("the agent", common::START, runs)?;
    let swap = format!("cd {0} && mv ws old && ln -s {1} ws", at("shared").display(), at("secret").display());
    stage.call(&["exec", &name, "--", "sh", "-c", &swap])?.expect_code(0)?;
    let refused = stage.call(&["policy", "set", &name, &second, "--restart-agents"])?.expect_code(125)?.err();
    ensure!(refused.contains("workspace"), "{refused}");
    let now = runs().context("status")?;
    ensure!(now["agents"][0]["pid"] == before["agents"][0]["pid"], "{now}");
    stage.call(&["stop", &name])?.expect_code(0)?;
    sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    let refused = stage.call(&["up", "-f", &file])?.expect_code(125)?.err();
    ensure!(refused.contains("link that an agent can change"), "{refused}");
    Ok(())
}
