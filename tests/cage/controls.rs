//! Missing controls: left out on purpose (in a debug build only), or on a machine that lacks them. Strict
//! mode refuses and names them; best effort reports them in `status`, the metrics and the audit log; `doctor`
//! says what to do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use agent::plan::Control;
use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, finish, free_port, poll};
use serde_json::Value;

use crate::common::{START, Sandbox, program, under_filter};

/// The system call's number, which is the same on every architecture; see landlock_create_ruleset(2).
const LANDLOCK_CREATE_RULESET: i64 = 444;

/// Controls that can't be left out in every mode, or only where something is asked for:
/// `actors/agent/tests/cage/proof.rs` says which and why.
fn can_be_left_out(control: Control) -> bool {
    !matches!(control, Control::Cgroup | Control::User | Control::LandlockScopes)
}

fn without(command: &mut Command, control: Control) {
    command.env("COFFERDAM_SABOTAGE", control.as_str());
}

/// Each control that is left out gives exit code 125 and its name in the message; a name that isn't a
/// control's changes nothing.
pub fn strict_refuses_and_names_the_control(stage: &Stage) -> Result<()> {
    if !cfg!(debug_assertions) {
        bed::skip!("a release build leaves nothing out");
    }
    for control in Control::ALL.iter().copied().filter(|control| can_be_left_out(*control)) {
        let mut command = stage.cofferdam(["run", "--quiet", "--", "echo", "it ran"]);
        without(&mut command, control);
        let done = finish(command, PATIENCE)?.expect_code(125)?;
        ensure!(done.out().is_empty(), "{control}: {}", done.out());
        let (told, name) = (done.err(), control.as_str());
        // The message names each capability, not the control.
        let named = told.contains(name) || told.contains("capabilities: left") && name != "capabilities";
        ensure!(named && told.contains("cofferdam: "), "{control}: {told}");
    }
    stage.run(&[], &["true"])?.expect_code(0)?;
    Ok(())
}

/// A capability that stays in the bounding set is named, in strict mode and where the control is demanded.
pub fn a_capability_that_stays_refuses_the_start(stage: &Stage) -> Result<()> {
    if !cfg!(debug_assertions) {
        bed::skip!("a release build leaves nothing out");
    }
    for (options, demanded, code) in [
        (&["--enforcement", "best-effort"][..], true, 125),
        (&[], false, 125),
        (&["--enforcement", "best-effort"], false, 0),
    ] {
        let args = [&["run", "--quiet"], options, &["--", "echo", "it ran"]].concat();
        let mut command = stage.cofferdam(args);
        without(&mut command, Control::BoundingSet);
        if demanded {
            command.env("COFFERDAM_REQUIRE_CAP_DROP", "1");
        }
        let done = finish(command, PATIENCE)?.expect_code(code)?;
        ensure!(code == 0 || done.err().contains("bounding: cap_chown"), "{}", done.err());
        ensure!(code != 0 || done.out().contains("it ran"), "{}", done.out());
    }
    Ok(())
}

/// On a kernel without Landlock strict refuses, best effort goes on and says so in three places.
pub fn a_kernel_without_landlock(stage: &Stage) -> Result<()> {
    let strict = on_a_kernel_without_landlock(|| stage.run(&[], &["echo", "it ran"]))??.expect_code(125)?;
    ensure!(strict.err().contains("landlock can't be enforced"), "{}", strict.err());
    ensure!(strict.err().contains("best-effort") && strict.out().is_empty(), "{}", strict.err());

    let port = free_port()?;
    let metrics = format!("127.0.0.1:{port}");
    let options = ["--enforcement", "best-effort", "--metrics", &metrics];
    let name = stage.name();
    let mut running = on_a_kernel_without_landlock(|| {
        stage.start_run(&name, &options, &["sh", "-c", "echo ready; exec sleep 1000"])
    })??;
    running.wait_for("ready", START)?;
    let sandbox = Sandbox::adopt(stage, name, running);
    let status = sandbox.status()?;
    let row = status["controls"].as_array().unwrap().iter().find(|row| row["name"] == "landlock");
    ensure!(row.is_some_and(|row| row["enforced"] == false), "{status}");
    let metric = "cofferdam_control_missing{control=\"landlock\"} 1";
    poll("the metric", START, || scrape(port).ok().filter(|text| text.contains(metric)))?;
    ensure!(scrape(port)?.contains("cofferdam_control_missing{control=\"seccomp\"} 0"));
    let told = |record: &Value| {
        let event = &record["event"];
        event["kind"] == "control_missing" && event["control"] == "landlock"
    };
    poll("the record", PATIENCE, || sandbox.audit().ok()?.iter().any(told).then_some(()))
        .with_context(|| format!("{:?}", sandbox.audit()))
}

/// `doctor` on machines that lack something: exit code 1, the control, and what to do.
pub fn doctor_names_the_gap_and_the_mend(stage: &Stage) -> Result<()> {
    let healthy = stage.call(&["doctor", "--json"])?.expect_code(0)?;
    for control in ["landlock", "identity", "capture"] {
        ensure!(row(&healthy, control)?["verdict"] == "enforced", "{control}: {}", healthy.out());
    }

    let done = on_a_kernel_without_landlock(|| stage.call(&["doctor", "--json"]))??.expect_code(1)?;
    let landlock = row(&done, "landlock")?;
    ensure!(landlock["verdict"] == "missing", "{landlock}");
    ensure!(landlock["mend"].as_str().unwrap_or_default().contains("5.13"), "{landlock}");
    ensure!(row(&done, "seccomp")?["verdict"] == "enforced", "{}", done.out());
    let text = on_a_kernel_without_landlock(|| stage.call(&["doctor"]))??.expect_code(1)?;
    ensure!(text.out().contains("MISSING") && text.out().contains("can't start here"), "{}", text.out());

    // Without user namespaces: switched off by the sysctl, in a namespace of the test's own.
    let broken = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor --json";
    let Some(done) = in_a_namespace(stage, &[], broken)? else { return Ok(()) };
    let row_found = row(&done.expect_code(1)?, "namespaces")?;
    let mend = row_found["mend"].as_str().unwrap_or_default().to_owned();
    ensure!(mend.contains("user.max_user_namespaces"), "{row_found}");

    // Behind a /proc that is masked as container engines mask it.
    let broken = "mount -t tmpfs none /proc/sys/fs && exec \"$0\" doctor --json";
    let Some(done) = in_a_namespace(stage, &["--mount"], broken)? else { return Ok(()) };
    let row_found = row(&done.expect_code(1)?, "sandbox")?;
    let mend = row_found["mend"].as_str().unwrap_or_default().to_owned();
    ensure!(mend.contains("unmasked"), "{row_found}");
    Ok(())
}

/// A row of doctor's table.
fn row(done: &Finished, control: &str) -> Result<Value> {
    let table: Value = serde_json::from_slice(&done.stdout)?;
    let rows = table["findings"].as_array().cloned().unwrap_or_default();
    let row = rows.iter().find(|row| row["control"] == control).cloned();
    row.ok_or_else(|| anyhow::anyhow!("no row `{control}` in {}", done.out()))
}

/// Runs a script as an ordinary user in a user namespace of its own, where it may break what the case needs
/// broken. `None`, with a message, where no namespace can be had.
fn in_a_namespace(stage: &Stage, options: &[&str], script: &str) -> Result<Option<Finished>> {
    let mut command = stage.command(program("unshare")?);
    command
        .env("COFFERDAM_STATE", stage.state())
        .args(["--user", "--map-user=1000", "--map-group=1000", "--keep-caps"])
        .args(options)
        .args(["sh", "-c", script])
        .arg(stage.binary());
    let done = finish(command, PATIENCE)?;
    if done.err().contains("unshare") {
        bed::skip!("no namespace to break: {}", done.err());
    }
    Ok(Some(done))
}

/// Starts something as if the kernel were older.
fn on_a_kernel_without_landlock<T: Send>(start: impl FnOnce() -> T + Send) -> Result<T> {
    under_filter(LANDLOCK_CREATE_RULESET, Vec::new(), nix::errno::Errno::ENOSYS, start)
}

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
