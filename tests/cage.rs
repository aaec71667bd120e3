//! The cage from inside: every attack that must fail, each beside what must work; and what `doctor` proves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bed::Stage;
use serde_json::Value;

use common::{COFFERDAM, Sandbox, policy_file, program, workspace};

/// Refuses to run where it isn't caged; never start it outside a sandbox.
const ATTACKS: &str = include_str!("inside/attacks.py");

fn main() -> ExitCode {
    bed::harness::main(
        "cage",
        Path::new(COFFERDAM),
        bed::cases![
            attacks_fail_and_work_goes_on,
            the_policys_paths_are_the_only_ones,
            a_missing_path_stops_the_start,
            agents_are_caged_in_exec_too,
            forks_are_bounded,
            doctor_and_status_agree,
        ],
    )
}

/// Runs the attacks with these arguments and fails on every line that isn't as it must be.
fn attack(stage: &Stage, options: &[&str], arguments: &[String]) -> Result<()> {
    let python = program("python3")?;
    stage.script("attacks.py", ATTACKS)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let command = [&[python.as_str(), "-B", "/sandbox/attacks.py"], &arguments[..]].concat();
    let done =
        stage.run(&[&["--workspace", &workspace(stage)], options].concat(), &command)?.expect_code(0)?;
    judge(&done.out())
}

fn judge(lines: &str) -> Result<()> {
    let attempts: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let wrong: Vec<String> = attempts
        .iter()
        .filter(|a| a["must"] != a["did"])
        .map(|a| format!("{} must {}: {}", a["name"], a["must"], a["said"]))
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} of {} attempts went wrong:\n{}",
        wrong.len(),
        attempts.len(),
        wrong.join("\n")
    );
    let (fail, work): (Vec<_>, Vec<_>) = attempts.iter().partition(|a| a["must"] == "fail");
    ensure!(
        fail.len() > 60 && work.len() > 25,
        "only {} attacks and {} controls ran",
        fail.len(),
        work.len()
    );
    Ok(())
}

fn attacks_fail_and_work_goes_on(stage: &Stage) -> Result<()> {
    // What the attacks look for is really there, outside.
    let secret = stage.write("home/secret", "the operator's")?;
    let name = stage.marker();
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    std::os::unix::net::UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name)?)?;
    std::net::TcpStream::connect(("93.184.215.14", 443))?;
    std::net::TcpStream::connect(("127.0.0.1", 8000))?;
    ensure!(std::fs::read("/etc/shadow").is_ok() || !nix::unistd::geteuid().is_root());
    attack(
        stage,
        &[],
        &[
            format!("home={}", secret.parent().unwrap().display()),
            format!("state={}", stage.state().display()),
            format!("stage={}", stage.dir().display()),
            format!("abstract={name}"),
        ],
    )
}

fn the_policys_paths_are_the_only_ones(stage: &Stage) -> Result<()> {
    // Not below /tmp or /var/tmp, which are the sandbox's own.
    let above = if nix::unistd::geteuid().is_root() { Some("/srv".into()) } else { std::env::var_os("HOME") };
    let Some(above) = above.filter(|dir| !Path::new(dir).starts_with("/tmp")) else {
        bed::skip!("no directory outside /tmp to show")
    };
    let base = Path::new(&above).join(stage.marker());
    let (shown, hidden) = (base.join("shown"), base.join("hidden"));
    let _cleanup = Cleanup(&base);
    for dir in [&shown, &hidden] {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("file"), "text")?;
    }
    let text = common::policy("").replace("    - /etc ", &format!("    - {}\n    - /etc ", shown.display()));
    let file = stage.write("paths.yaml", text)?.display().to_string();
    let script = format!(
        "cat {0}/file && ! (echo x >> {0}/file) 2>/dev/null && ! cat {1}/file 2>/dev/null && ! touch {0}/new 2>/dev/null",
        shown.display(),
        hidden.display()
    );
    let done = stage.run(&["--policy", &file], &["sh", "-c", &script])?.expect_code(0)?;
    ensure!(done.out() == "text", "{:?}", done.out());
    ensure!(std::fs::read_to_string(shown.join("file"))? == "text");
    Ok(())
}

/// Removes a directory when the case ends.
struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

fn a_missing_path_stops_the_start(stage: &Stage) -> Result<()> {
    let missing = common::policy("").replace("    - /etc ", "    - /no/such/path\n    - /etc ");
    let file = stage.write("missing.yaml", missing)?;
    let done = stage.run(&["--policy", &file.display().to_string()], &["true"])?.expect_code(125)?;
    ensure!(done.err().contains("/no/such/path"), "{}", done.err());
    let optional = common::policy("")
        .replace("    - /etc ", "    - { path: /no/such/path, optional: true }\n    - /etc ");
    let file = stage.write("optional.yaml", optional)?;
    stage.run(&["--policy", &file.display().to_string()], &["true"])?.expect_code(0)?;
    Ok(())
}

fn agents_are_caged_in_exec_too(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("attacks.py", ATTACKS)?;
    let policy = policy_file(stage, "")?;
    let options = ["--policy", &policy, "--workspace", &workspace(stage)];
    let sandbox = Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let done =
        stage.call(&["exec", &sandbox.name, "--", &python, "-B", "/sandbox/attacks.py"])?.expect_code(0)?;
    judge(&done.out())?;
    stage.call(&["exec", &sandbox.name, "--", "sh", "-c", "exit 9"])?.expect_code(9)?;
    stage.call(&["exec", &sandbox.name, "--", "no-such-program"])?.expect_code(127)?;
    Ok(())
}

fn forks_are_bounded(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    // Bounded by the script itself too: it asks for a thousand, and no more.
    let script = "import os,time,signal\npids=[]\ntry:\n  for i in range(1000):\n    p=os.fork()\n    if p==0:\n      \
                  time.sleep(60)\n      os._exit(0)\n    pids.append(p)\nexcept OSError as e: print('stopped', len(pids), e.errno)\n\
                  for p in pids: os.kill(p, signal.SIGKILL)\nfor p in pids: os.waitpid(p,0)\nprint('alive')\n";
    let done = stage.run(&[], &[&python, "-c", script])?.expect_code(0)?;
    ensure!(done.out().contains("stopped") && done.out().contains("alive"), "{}", done.out());
    Ok(())
}

fn doctor_and_status_agree(stage: &Stage) -> Result<()> {
    let doctor = stage.json(&["doctor", "--json"])?;
    let text = doctor.to_string();
    for control in ["landlock", "seccomp", "capabilities", "network"] {
        ensure!(text.contains(control), "doctor is silent about {control}: {text}");
    }
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let status = sandbox.status()?;
    let controls = status["controls"].as_array().unwrap();
    ensure!(!controls.is_empty(), "{status}");
    ensure!(controls.iter().all(|c| c["enforced"] == true), "{controls:?}");
    Ok(())
}
