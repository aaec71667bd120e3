//! `cofferdam run` as a shell sees it: exit codes, streams, signals, environment, refusals.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

#[path = "../common/mod.rs"]
mod common;
mod refusals;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bed::stage::{PATIENCE, finish};
use bed::{Mode, Stage};
use nix::sys::signal::Signal;

use common::{COFFERDAM, START, policy_file, workspace};
use refusals::{
    a_program_in_a_home_is_told_of, a_program_of_endless_name_is_refused_once,
    a_refused_start_spoils_no_name, a_service_without_its_program_is_refused,
    a_working_directory_that_is_gone_is_named, refusals_are_one_line_with_a_mend,
};

fn main() -> ExitCode {
    bed::harness::main(
        "run",
        Path::new(COFFERDAM),
        bed::cases![
            exit_codes,
            no_umask_keeps_us_out,
            refusals_are_one_line_with_a_mend,
            what_is_typed_goes_before_the_file,
            a_refused_start_spoils_no_name,
            a_working_directory_that_is_gone_is_named,
            a_program_of_endless_name_is_refused_once,
            what_was_refused_is_told_at_the_end,
            stdout_is_the_agents_alone,
            big_binary_output_comes_whole,
            output_that_does_not_arrive_is_a_failure,
            stdin_reaches_the_agent,
            environment_is_scrubbed_and_set,
            the_command_line_does_not_show_inside,
            ctrl_c_reaches_the_agent,
            a_second_ctrl_c_ends_it,
            sigterm_ends_in_order,
            a_name_is_taken_once,
            what_was_run_is_not_started_again,
            the_gateway_has_no_hand_in_the_next_start.only(Mode::Rooted),
            a_policy_in_the_peers_form_runs_unchanged,
            a_policy_that_the_agent_can_change_is_not_followed,
            a_socket_of_the_hosts_that_the_agent_sees_is_named,
            a_service_without_its_program_is_refused,
            a_program_in_a_home_is_told_of,
            messages_are_json_where_that_is_asked_for,
            a_policy_may_leave_etc_out,
        ],
    )
}

/// Before Landlock's ninth version, nothing keeps an agent from connecting to a socket that it sees, so the
/// operator is warned.
fn a_socket_of_the_hosts_that_the_agent_sees_is_named(stage: &Stage) -> Result<()> {
    let socket = stage.dir().join("workspace/answers");
    let (workspace, policy) = (workspace(stage), policy_file(stage, "")?);
    let run =
        || stage.call(&["run", "--policy", &policy, "--workspace", &workspace, "--", "true"])?.expect_code(0);
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    let said = run()?.err();
    ensure!(said.contains(&format!("a process of the host answers on {}", socket.display())), "{said}");
    drop(listener);
    let said = run()?.err();
    ensure!(socket.exists() && !said.contains("answers on"), "nobody answers any more: {said}");
    Ok(())
}

/// A run goes by what the file held at its start, and says so; a service is refused, since it starts again
/// unattended.
fn a_policy_that_the_agent_can_change_is_not_followed(stage: &Stage) -> Result<()> {
    let mine = stage.write("workspace/policy.yaml", common::policy(""))?.display().to_string();
    let change = "sed -i 's/^network_policies.*/network_policies: {}\\n# mine/' policy.yaml && grep -c mine policy.yaml; sleep 2";
    let workspace = workspace(stage);
    let args =
        ["run", "--name", "mine", "--policy", &mine, "--workspace", &workspace, "--", "sh", "-c", change];
    let done = stage.call(&args)?.expect_code(0)?;
    ensure!(done.out() == "1\n", "the workspace is the agent's: {}{}", done.out(), done.err());
    ensure!(done.err().contains("lies where the agent can change it"), "{}", done.err());
    let records = std::fs::read_to_string(stage.state().join("mine/audit.jsonl"))?;
    ensure!(!records.contains("\"generation\":2"), "it was taken up: {records}");
    for (place, text) in [
        ("workspace/cofferdam.yaml", format!("workspace: {workspace}")),
        ("up.yaml", format!("workspace: {workspace}\npolicy: {mine}")),
    ] {
        let text = format!("name: service\n{text}\nagents:\n  a: {{ command: [\"true\"] }}\n");
        let file = stage.write(place, text)?.display().to_string();
        let refused = stage.call(&["up", "--file", &file, "--metrics", "off"])?.expect_code(125)?.err();
        ensure!(refused.contains("where the agent can change it: move it out"), "{refused}");
    }
    // Every supervisor reads root certificates anew, so a run is refused, too.
    let roots = stage.write("workspace/roots.pem", "")?;
    let mut command = stage.cofferdam(["run", "--workspace", &workspace, "--", "true"]);
    command.env("SSL_CERT_FILE", roots);
    let refused = finish(command, PATIENCE)?.expect_code(125)?.err();
    ensure!(
        refused.contains("SSL_CERT_FILE") && refused.contains("where the agent can change it"),
        "{refused}"
    );
    Ok(())
}

/// A compromised gateway could leave links for root's next start. So whatever root uses in that directory
/// belongs to root, and the directory (sticky) lets no other user touch it.
fn the_gateway_has_no_hand_in_the_next_start(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    stage.run(&["--name", "mine"], &["true"])?.expect_code(0)?;
    let dir = stage.state().join("mine");
    let of = |name: &str| std::fs::symlink_metadata(dir.join(name));
    ensure!(of("")?.uid() == 0 && of("")?.permissions().mode() & 0o7777 == 0o1770, "{:?}", of("")?);
    let gateway = of("audit.jsonl")?.uid();
    ensure!(gateway != 0 && of("logs")?.uid() == gateway, "the gateway writes what it records");
    let group = of("")?.gid();
    let moves = |name: &str| -> Result<bool> {
        let mut command = std::process::Command::new("mv");
        std::os::unix::process::CommandExt::uid(&mut command, gateway);
        std::os::unix::process::CommandExt::gid(&mut command, group);
        // By its working directory: the gateway user can't reach the directory by its path, and neither can
        // the supervisor.
        command.current_dir(&dir).args([name, "moved"]);
        Ok(command.output()?.status.success())
    };
    for kept in ["lock", "workspace"] {
        ensure!(of(kept)?.uid() != gateway, "{kept} is the gateway's");
        ensure!(!moves(kept)?, "the gateway moved {kept}");
    }
    ensure!(moves("audit.head")?, "what is its own it can move");
    std::fs::rename(dir.join("moved"), dir.join("audit.head"))?;
    // A link in the workspace's place is not followed, whoever made it.
    let precious = stage.write("precious", "")?;
    std::fs::remove_file(&precious)?;
    std::fs::create_dir(&precious)?;
    std::fs::remove_dir(dir.join("workspace"))?;
    std::os::unix::fs::symlink(&precious, dir.join("workspace"))?;
    let refused = stage.run(&["--name", "mine"], &["true"])?.expect_code(125)?.err();
    ensure!(refused.contains("is no directory: remove it"), "{refused}");
    Ok(())
}

/// Neither the words of the command line nor its length show inside, whether an environment stands behind it
/// or not.
fn the_command_line_does_not_show_inside(stage: &Stage) -> Result<()> {
    for without_environment in [false, true] {
        let mut command = stage.command(stage.binary());
        command.args(["run", "--quiet", "--state"]).arg(stage.state()).args(["--", "cat", "/proc/1/cmdline"]);
        if without_environment {
            command.env_clear();
        }
        let done = bed::stage::finish(command, PATIENCE)?.expect_code(0)?;
        ensure!(
            done.stdout.strip_suffix(b"\0").unwrap_or(&done.stdout) == b"cofferdam: init",
            "{:?}",
            done.out()
        );
    }
    Ok(())
}

/// What the operator's umask(2) denies the owner would keep us out of our own directories, and every later
/// start of the name.
fn no_umask_keeps_us_out(stage: &Stage) -> Result<()> {
    for mask in ["0177", "0277", "0777", "0077", "0"] {
        let name = format!("{}-{mask}", stage.name());
        for mask in [mask, "0022"] {
            let mut command = stage.command("/bin/sh");
            command.env("COFFERDAM_STATE", stage.state());
            command.args(["-c", &format!("umask {mask}; exec \"$0\" \"$@\"")]).arg(stage.binary());
            command.args(["run", "--name", &name, "--", "sh", "-c", "umask"]);
            let done = finish(command, PATIENCE)?.expect_code(0)?;
            ensure!(done.out() == "0022\n", "{mask}: the agent's is its own: {}", done.out());
        }
    }
    Ok(())
}

fn exit_codes(stage: &Stage) -> Result<()> {
    std::os::unix::fs::symlink("ring", stage.workspace().join("ring"))?;
    stage.script("own-interpreter", "#!/sandbox/own-interpreter\n")?;
    let (workspace, long) = (workspace(stage), "n".repeat(300));
    let commands: &[(&[&str], i32)] = &[
        (&["true"], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
        (&["/etc/passwd"], 126),
        (&["/usr"], 126),
        (&["no-such-program"], 127),
        (&["/no/such/program"], 127),
        // A name that is too long for a file; a link, and a script's interpreter, that lead to themselves.
        (&[&long], 126),
        (&["./ring"], 126),
        (&["./own-interpreter"], 126),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        // A real-time signal (signal(7)), which libraries have no name for.
        (&["sh", "-c", "kill -40 $$"], 168),
    ];
    for (command, code) in commands {
        let done = stage.run(&["--workspace", &workspace], command)?;
        ensure!(done.code() == *code, "{command:?}: {} instead of {code}\n{}", done.code(), done.err());
        ensure!(done.stdout.is_empty(), "{command:?} put {:?} on stdout", done.out());
        if matches!(code, 126 | 127) {
            ensure!(done.err().starts_with("cofferdam: "), "{command:?} says {:?}", done.err());
        }
    }
    // An unknown option isn't taken for the program; options behind the program belong to the program.
    let mistyped = stage.call(&["run", "--bogus", "--", "true"])?.expect_code(125)?.err();
    ensure!(mistyped.starts_with("cofferdam: ") && mistyped.lines().count() == 1, "{mistyped}");
    ensure!(mistyped.contains("--bogus") && mistyped.contains("cofferdam run --help"), "{mistyped}");
    let passed_on = stage.run(&[], &["echo", "-n", "--bogus"])?.expect_code(0)?.out();
    ensure!(passed_on == "--bogus", "{passed_on}");
    Ok(())
}

/// Every message, from whichever process, is a JSON object on a line of its own, with its level.
fn messages_are_json_where_that_is_asked_for(stage: &Stage) -> Result<()> {
    let policy = stage.write(
        "warned.yaml",
        common::policy("  a: { endpoints: [ { host: a.example.com, port: 443, tls: skip } ] }\n"),
    )?;
    let policy = policy.display().to_string();
    let ask = "curl -s https://host.bed.test/; true";
    for (options, command, expected) in [
        (
            ["--policy", &policy].as_slice(),
            ["no-such-program"].as_slice(),
            [("WARN", "`tls: skip` relays what can't be read"), ("ERROR", "not found inside the sandbox")]
                .as_slice(),
        ),
        (
            &["--timings"],
            &["sh", "-c", ask],
            &[("WARN", "no policy entry names host"), ("INFO", "cage proven")],
        ),
        (&["--profile", "none"], &["true"], &[("ERROR", "no profile is called 'none'")]),
    ] {
        let args = [&["run", "--log-format", "json"], options, &["--"], command].concat();
        let said = stage.call(&args)?.err();
        let ours: Vec<serde_json::Value> =
            said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        for (level, wanted) in expected {
            let has = |line: &serde_json::Value| {
                line["fields"]["message"].as_str().is_some_and(|text| text.contains(wanted))
                    && line["level"] == *level
            };
            ensure!(ours.iter().any(has), "no object says `{wanted}` as {level}: {said}");
        }
    }
    Ok(())
}

/// A policy may show fewer paths than usual: an agent that can't read /etc still starts.
fn a_policy_may_leave_etc_out(stage: &Stage) -> Result<()> {
    let text = "version: 1\nfilesystem_policy: { read_only: [/usr, /bin, { path: /lib, optional: true }, { path: /lib64, optional: true }], include_workdir: true }\n";
    let policy = stage.write("bare.yaml", text)?.display().to_string();
    let said =
        stage.run(&["--policy", &policy], &["sh", "-c", "cat /etc/passwd; echo ran"])?.expect_code(0)?;
    ensure!(said.out() == "ran\n", "{}{}", said.out(), said.err());
    Ok(())
}

/// A profile on the command line is meant as protection, so the file's policy must not silently take
/// precedence over it. Presets add up.
fn what_is_typed_goes_before_the_file(stage: &Stage) -> Result<()> {
    let marked = |host: &str| {
        common::policy(&format!(
            "  mine: {{ endpoints: [ {{ host: {host}, port: 22 }} ], binaries: [ {{ path: /usr/bin/ssh }} ] }}\n"
        ))
    };
    stage.write("loose.yaml", marked("file.example.com"))?;
    let typed = stage.write("typed.yaml", marked("typed.example.com"))?.display().to_string();
    let with_policy = stage.write("policy.yaml", "policy: ./loose.yaml\npresets: [pypi]\n")?;
    let with_profile = stage.write("profile.yaml", "profile: locked-down\n")?;
    let in_force = |config: &Path, options: &[&str]| -> Result<String> {
        let config = config.display().to_string();
        let options = [&["--config", &config], options].concat();
        let sandbox =
            common::Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
        Ok(stage.call(&["policy", "show", &sandbox.name])?.expect_code(0)?.out())
    };
    let shown = in_force(&with_policy, &[])?;
    ensure!(shown.contains("file.example.com") && shown.contains("pypi.org"), "{shown}");
    let shown = in_force(&with_policy, &["--profile", "locked-down", "--preset", "npm"])?;
    ensure!(!shown.contains("file.example.com"), "the file's policy won over the typed profile: {shown}");
    ensure!(
        shown.contains("pypi.org") && shown.contains("registry.npmjs.org"),
        "a preset is missing: {shown}"
    );
    for file in [&with_policy, &with_profile] {
        let shown = in_force(file, &["--policy", &typed])?;
        ensure!(shown.contains("typed.example.com") && !shown.contains("file.example.com"), "{shown}");
    }
    let config = with_policy.display().to_string();
    let said = stage.run(&["--config", &config, "--profile", "nonsense"], &["true"])?.expect_code(125)?.err();
    ensure!(said.contains("no profile is called 'nonsense'"), "{said}");
    Ok(())
}

fn what_was_refused_is_told_at_the_end(stage: &Stage) -> Result<()> {
    let ask = "for n in 1 2 3 4 5 6 7; do curl -s https://host$n.bed.test/; curl -s https://host$n.bed.test/; done; exit 3";
    let done = stage.call(&["run", "--", "sh", "-c", ask])?.expect_code(3)?;
    let said = done.err();
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.iter().all(|line| line.starts_with("cofferdam: ")), "{said}");
    let refused =
        lines.iter().filter(|line| line.contains("/curl to host") && line.contains("no policy entry names"));
    ensure!(refused.count() == 5 && said.contains("refused: 4 more"), "not five, or not the rest: {said}");
    ensure!(lines.last().is_some_and(|line| line.contains("cofferdam audit show sh")), "no way on: {said}");
    // For a program that uses no proxy, the message has the name that it looked up.
    let named = stage.call(&["run", "--", "getent", "hosts", "evil.example.net"])?.err();
    ensure!(named.contains("refused: the name evil.example.net"), "{named}");
    let quiet = stage.run(&[], &["sh", "-c", ask])?.expect_code(3)?;
    ensure!(quiet.stderr.is_empty(), "--quiet says {}", quiet.err());
    ensure!(!stage.call(&["run", "--", "true"])?.err().contains("refused"), "nothing was refused");
    Ok(())
}

fn stdout_is_the_agents_alone(stage: &Stage) -> Result<()> {
    let done = stage.call(&["run", "--", "printf", "a\\0b\\377\\n\\0"])?.expect_code(0)?;
    ensure!(done.stdout == b"a\0b\xff\n\0", "{:?}", done.stdout);
    ensure!(done.err().lines().all(|line| line.starts_with("cofferdam: ")), "{}", done.err());
    let done = stage.run(&[], &["sh", "-c", "echo out; echo err >&2"])?.expect_code(0)?;
    ensure!(done.stdout == b"out\n" && done.stderr == b"err\n", "{done:?}");
    Ok(())
}

fn big_binary_output_comes_whole(stage: &Stage) -> Result<()> {
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    stage.write("workspace/big", &bytes)?;
    let done = stage.run(&["--workspace", &workspace(stage)], &["cat", "/sandbox/big"])?.expect_code(0)?;
    ensure!(done.stdout == bytes, "{} bytes came of {}, or other ones", done.stdout.len(), bytes.len());
    Ok(())
}

/// Where the agent didn't notice. One that did, or that failed for another reason, has its own exit code.
fn output_that_does_not_arrive_is_a_failure(stage: &Stage) -> Result<()> {
    for (script, code) in [("echo lost", 125), ("echo lost; exit 7", 7), ("echo shown >&2", 0)] {
        let mut command = stage.command("/bin/sh");
        command.env("COFFERDAM_STATE", stage.state());
        command.args(["-c", "exec \"$0\" \"$@\" >/dev/full"]).arg(stage.binary());
        command.args(["run", "--", "sh", "-c", script]);
        let done = finish(command, PATIENCE)?.expect_code(code)?;
        ensure!(code == 0 || done.err().contains("No space left on device"), "{}", done.err());
    }
    let sandbox = common::Sandbox::start(stage, &[], &["sh", "-c", "echo up; exec sleep 600"], "up")?;
    for args in [&["exec", &sandbox.name, "--", "echo", "lost"][..], &["redact"], &["--help"]] {
        let mut command = stage.command("/bin/sh");
        command.env("COFFERDAM_STATE", stage.state());
        command.args(["-c", "echo lost | \"$0\" \"$@\" >/dev/full"]).arg(stage.binary()).args(args);
        let said = finish(command, PATIENCE)?.expect_code(125)?.err();
        ensure!(
            said.contains("can't be written") && said.contains("No space left on device"),
            "{args:?}: {said}"
        );
    }
    Ok(())
}

fn stdin_reaches_the_agent(stage: &Stage) -> Result<()> {
    let mut command = stage.cofferdam(["run", "--quiet", "--", "sh", "-c", "wc -c; echo done"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(&vec![b'x'; 200_000])?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("200000") && text.contains("done"), "{text:?}");
    Ok(())
}

fn environment_is_scrubbed_and_set(stage: &Stage) -> Result<()> {
    let mut command = stage.cofferdam(["run", "--quiet", "--env", "GIVEN=1", "--env", "PASSED", "--", "env"]);
    command.env("OPERATOR_SECRET", "hunter2").env("PASSED", "through").env("LD_PRELOAD", "");
    let shown = bed::stage::finish(command, PATIENCE)?.expect_code(0)?.out();
    for line in [
        "HOME=/sandbox",
        "HTTP_PROXY=http://127.0.0.1:3128",
        "https_proxy=http://127.0.0.1:3128",
        "ALL_PROXY=http://127.0.0.1:3128",
        "NO_PROXY=localhost,127.0.0.1,::1",
        "NODE_USE_ENV_PROXY=1",
        "SSL_CERT_FILE=/run/cofferdam/ca-bundle.pem",
        "PIP_CERT=/run/cofferdam/ca-bundle.pem",
        "NPM_CONFIG_CAFILE=/run/cofferdam/ca-bundle.pem",
        "OPENAI_BASE_URL=https://inference.local/v1",
        "ANTHROPIC_BASE_URL=https://inference.local",
        "AWS_EC2_METADATA_DISABLED=true",
        "GIVEN=1",
        "PASSED=through",
    ] {
        ensure!(shown.lines().any(|l| l == line), "no {line} in\n{shown}");
    }
    ensure!(shown.contains("\nPATH=/usr/local/") || shown.starts_with("PATH=/usr/local/"), "{shown}");
    for absent in ["hunter2", "LD_PRELOAD", "COFFERDAM_STATE", "bed"] {
        ensure!(!shown.lines().any(|l| l.contains(absent)), "{absent} passed:\n{shown}");
    }
    let place = stage.run(&[], &["sh", "-c", "pwd; id -u; hostname"])?.expect_code(0)?.out();
    ensure!(place.starts_with("/sandbox\n1000\n"), "{place}");
    Ok(())
}

fn ctrl_c_reaches_the_agent(stage: &Stage) -> Result<()> {
    let script = "trap 'echo got it; exit 42' INT; echo ready; while :; do sleep 0.05; done";
    let mut running = stage.start_run(&stage.name(), &[], &["sh", "-c", script])?;
    running.wait_for("ready", START)?;
    running.signal(Signal::SIGINT)?;
    let done = running.finish(PATIENCE)?.expect_code(42)?;
    ensure!(done.out() == "ready\ngot it\n", "{:?}", done.out());
    Ok(())
}

fn a_second_ctrl_c_ends_it(stage: &Stage) -> Result<()> {
    let script = "trap 'echo no' INT TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = stage.start_run(&stage.name(), &[], &["sh", "-c", script])?;
    running.wait_for("ready", START)?;
    running.signal(Signal::SIGINT)?;
    running.wait_for("no", START)?;
    running.signal(Signal::SIGINT)?;
    let done = running.finish(PATIENCE)?;
    ensure!(done.code() > 128 || done.code() == 125, "{}", done.code());
    Ok(())
}

fn sigterm_ends_in_order(stage: &Stage) -> Result<()> {
    let mut running = stage.start_run(&stage.name(), &[], &["sh", "-c", "echo ready; exec sleep 1000"])?;
    running.wait_for("ready", START)?;
    running.signal(Signal::SIGTERM)?;
    running.finish(PATIENCE)?.expect_code(143)?;
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = stage.start_run(&stage.name(), &[], &["sh", "-c", script])?;
    running.wait_for("ready", START)?;
    running.signal(Signal::SIGTERM)?;
    let done = running.finish(PATIENCE)?.expect_code(3)?;
    ensure!(done.out().ends_with("bye\n"), "{:?}", done.out());
    Ok(())
}

fn a_name_is_taken_once(stage: &Stage) -> Result<()> {
    let mut running = stage.start_run("twin", &[], &["sh", "-c", "echo ready; exec sleep 1000"])?;
    running.wait_for("ready", START)?;
    let done = stage.run(&["--name", "twin"], &["true"])?.expect_code(125)?;
    ensure!(done.err().contains("twin") && done.err().contains(&running.pid().to_string()), "{}", done.err());
    ensure!(done.err().contains("choose another --name"), "{}", done.err());
    let service = "name: twin\nagents: { a: { command: [\"true\"] } }\n";
    let service = stage.write("twin.yaml", service)?.display().to_string();
    let said = stage.call(&["up", "-f", &service])?.expect_code(125)?.err();
    ensure!(said.contains("another `name:` in its file") && !said.contains("--name"), "{said}");
    running.signal(Signal::SIGTERM)?;
    running.finish(PATIENCE)?;
    stage.run(&["--name", "twin"], &["true"])?.expect_code(0)?;
    Ok(())
}

/// A `run`'s agent can't be restarted: its end would be the end of the sandbox.
fn what_was_run_is_not_started_again(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let mut running = stage.start_run(&name, &[], &["sh", "-c", "echo ready; exec sleep 1000"])?;
    running.wait_for("ready", START)?;
    let status = stage.json(&["status", &name, "--json"])?;
    let agent = format!("agents/{}", status["agents"][0]["name"].as_str().unwrap_or_default());
    let said = stage.call(&["restart", &name, &agent])?.expect_code(125)?.err();
    ensure!(said.contains("the end of its sandbox"), "{said}");
    stage.call(&["restart", &name, "proxy"])?.expect_code(0)?;
    ensure!(stage.json(&["status", &name, "--json"])?["agents"][0]["state"] == "running");
    running.signal(Signal::SIGTERM)?;
    running.finish(PATIENCE)?;
    Ok(())
}

fn a_policy_in_the_peers_form_runs_unchanged(stage: &Stage) -> Result<()> {
    // The static part as files of the peers' schema write it, with entries for /proc and /dev.
    let text = "version: 1\nfilesystem_policy:\n  include_workdir: true\n  read_only: [/usr, /lib, /bin, /etc, /proc, \
                /dev/urandom, /var/log]\n  read_write: [/sandbox, /tmp, /dev/null]\nlandlock: { compatibility: best_effort }\n\
                process: { run_as_user: sandbox, run_as_group: sandbox }\n";
    let file = stage.write("peer.yaml", text)?.display().to_string();
    stage
        .run(&["--policy", &file], &["sh", "-c", "head -c 4 /dev/urandom >/dev/null && cat /proc/self/stat"])?
        .expect_code(0)?;
    let ours = policy_file(stage, "")?;
    stage.run(&["--policy", &ours], &["true"])?.expect_code(0)?;
    Ok(())
}
