//! `cofferdam policy …`: files in the peers' schema load unchanged, bad files have all their errors reported
//! at once, reloads are atomic.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Mode, PATIENCE, finish, poll};

use common::{COFFERDAM, FRIENDLY, Sandbox, policy, policy_file, program};

fn main() -> ExitCode {
    bed::harness::main(
        "policy_cli",
        Path::new(COFFERDAM),
        bed::cases![
            peers_files_load_unchanged.only(Mode::Rootless),
            every_error_at_once_with_its_place.only(Mode::Rootless),
            paths_that_no_start_shows.only(Mode::Rootless),
            explain_names_the_rule_and_the_nearest.only(Mode::Rootless),
            schema_and_presets_print.only(Mode::Rootless),
            a_preset_of_ones_own_is_a_file.only(Mode::Rootless),
            a_preset_file_outlives_its_reading.only(Mode::Rootless),
            json_has_one_shape_whatever_a_file_holds.only(Mode::Rootless),
            odd_spellings_are_a_verdict.only(Mode::Rootless),
            diff_tells_what_changes.only(Mode::Rootless),
            what_needs_no_state_works_without_a_home.only(Mode::Rootless),
            set_takes_effect_at_once_and_a_bad_one_changes_nothing,
            a_changed_file_is_reloaded,
            a_pipe_in_the_files_place_holds_nothing_up,
            a_policy_of_the_shells_is_read_once,
            a_static_change_needs_a_restart,
            agents_are_started_again_under_a_new_policy,
        ],
    )
}

/// Files in version 1 of the schema, as its users write them.
const PEERS: &[(&str, &str)] = &[
    ("overlapping.yaml", include_str!("peers/overlapping.yaml")),
    ("wildcards.yaml", include_str!("peers/wildcards.yaml")),
    ("deny-rules.yaml", include_str!("peers/deny-rules.yaml")),
    ("l4-and-ips.yaml", include_str!("peers/l4-and-ips.yaml")),
];

fn peers_files_load_unchanged(stage: &Stage) -> Result<()> {
    for (name, text) in PEERS {
        let file = stage.write(name, text)?.display().to_string();
        stage.call(&["policy", "check", &file])?.expect_code(0)?;
    }
    let explain = |file: &str, binary: &str, method: &str, url: &str| -> Result<bool> {
        let file = stage.dir().join(file).display().to_string();
        let args = ["policy", "explain", "--json", "--policy", &file, "--binary", binary, method, url];
        let done = stage.call(&args)?;
        let said: serde_json::Value = serde_json::from_slice(&done.stdout)?;
        match said["verdict"].as_str() {
            Some("allow") => Ok(true),
            Some("deny") => Ok(false),
            _ => anyhow::bail!("{args:?}: {said}"),
        }
    };
    for (file, binary, method, url, allowed) in [
        ("overlapping.yaml", "/usr/bin/gh", "GET", "https://api.github.com/repos/a/b/issues", true),
        ("overlapping.yaml", "/usr/bin/gh", "POST", "https://api.github.com/repos/a/b/issues", true),
        ("overlapping.yaml", "/usr/bin/curl", "POST", "https://api.github.com/repos/a/b/issues", false),
        ("overlapping.yaml", "/usr/bin/curl", "GET", "https://api.github.com/repos/a/b/issues", true),
        ("wildcards.yaml", "/usr/bin/curl", "GET", "https://a.example.com/x", true),
        ("wildcards.yaml", "/usr/bin/curl", "GET", "https://a.b.example.com/x", false),
        ("wildcards.yaml", "/usr/bin/curl", "GET", "https://a.b.example.org/x", true),
        ("wildcards.yaml", "/usr/bin/curl", "GET", "https://example.com/x", false),
        ("deny-rules.yaml", "/usr/bin/curl", "GET", "https://api.github.com/repos/a/b", true),
        ("deny-rules.yaml", "/usr/bin/curl", "PUT", "https://api.github.com/repos/a/b/rulesets/1", false),
        ("deny-rules.yaml", "/usr/bin/curl", "GET", "https://api.github.com/repos/a/b/rulesets", false),
    ] {
        ensure!(
            explain(file, binary, method, url)? == allowed,
            "{file}: {binary} {method} {url} should be {allowed}"
        );
    }
    Ok(())
}

fn every_error_at_once_with_its_place(stage: &Stage) -> Result<()> {
    let text = "version: 1\nnetwork_policies:\n  a:\n    name: a\n    endpoints:\n      - { host: \"*.com\", port: 443 }\n      \
                - { host: api.github.com, port: 70000 }\n      - { hots: api.github.com, port: 443 }\n      \
                - { host: api.github.com, port: 443, protocol: rest, access: full, rules: [] }\n    binaries: [ { path: relative } ]\n";
    let file = stage.write("bad.yaml", text)?.display().to_string();
    let done = stage.call(&["policy", "check", &file])?;
    ensure!(done.code() == 125, "{}", done.code());
    let said = done.out() + &done.err();
    for (line, word) in [(6, "*.com"), (7, "70000"), (8, "host"), (9, "access"), (10, "relative")] {
        ensure!(
            said.contains(&format!(":{line}:")) && said.contains(word),
            "nothing about line {line} ({word}):\n{said}"
        );
    }
    let json = stage.call(&["policy", "check", "--json", &file])?;
    serde_json::from_slice::<serde_json::Value>(&json.stdout)?;
    let warned = stage.write("risky.yaml", policy(FRIENDLY))?.display().to_string();
    let done = stage.call(&["policy", "check", &warned])?.expect_code(0)?;
    ensure!((done.out() + &done.err()).contains("warning"), "/** and access: full bring no warning");
    // An unreadable file doesn't keep the others from being checked.
    let missing = stage.dir().join("missing.yaml").display().to_string();
    let done = stage.call(&["policy", "check", &missing, &file, &warned])?.expect_code(125)?;
    ensure!(done.err().contains("no such file") && done.out().contains("70000"), "{}", done.out());
    ensure!(done.out().contains("risky.yaml: valid"), "{}", done.out());
    let done = stage.call(&["policy", "check", "--json", &missing, &warned])?.expect_code(125)?;
    let reports: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    ensure!(reports[0]["valid"] == false && reports[0]["unreadable"].is_string(), "{reports}");
    ensure!(reports[1]["valid"] == true, "{reports}");
    Ok(())
}

/// `check` says of every path, at once, what a start would refuse by its name.
fn paths_that_no_start_shows(stage: &Stage) -> Result<()> {
    let never = ["/", "/etc/shadow", "/var/run", "/proc/self/root", "/proc/1/cwd", "/proc/thread-self"];
    let text = format!(
        "version: 1\nfilesystem_policy:\n  read_only: [ /usr, /etc, /proc, {} ]\n  read_write: [ /etc, /data ]\n",
        never.join(", ")
    );
    let file = stage.write("shown.yaml", text)?.display().to_string();
    let done = stage.call(&["policy", "check", &file])?.expect_code(125)?;
    for path in never {
        ensure!(done.out().contains(&format!("{path} can't be shown")), "{path}: {}", done.out());
    }
    ensure!(done.out().contains("/etc can't be writable"), "{}", done.out());
    ensure!(done.out().contains("shown.yaml:4:"), "where it stands: {}", done.out());
    let errors = done.out().lines().filter(|line| line.contains(" can't be ")).count();
    ensure!(errors == never.len() + 1, "{}", done.out());
    let refused = stage.run(&["--policy", &file], &["true"])?.expect_code(125)?;
    ensure!(refused.err().contains("/ can't be shown to an agent"), "{}", refused.err());
    Ok(())
}

/// A build machine's user has no home, and still checks policies.
fn what_needs_no_state_works_without_a_home(stage: &Stage) -> Result<()> {
    stage.run(&["--name", "ended"], &["true"])?.expect_code(0)?;
    let file = stage.write("good.yaml", policy(""))?.display().to_string();
    let log = stage.state().join("ended/audit.jsonl").display().to_string();
    let new = stage.dir().join("new.yaml").display().to_string();
    let without_home = |args: &[&str]| {
        let mut command = stage.command(stage.binary());
        command.env_remove("HOME").args(args);
        finish(command, PATIENCE)
    };
    for args in [
        ["policy", "check", &file].as_slice(),
        &["policy", "explain", "--binary", "/usr/bin/curl", "https://a.example.com/"],
        &["policy", "diff", &file, &file],
        &["policy", "schema"],
        &["policy", "presets"],
        &["redact", "/dev/null"],
        &["provider", "list"],
        &["audit", "verify", &log],
        &["doctor"],
        &["onboard", "--non-interactive", "--file", &new, "--", "true"],
    ] {
        without_home(args)?.expect_code(0).with_context(|| format!("{args:?}"))?;
    }
    // The error is about the file that was asked for, not about a missing state directory.
    let said = without_home(&["restore", "--check", "/no/such/file"])?.expect_code(125)?.err();
    ensure!(said.contains("can't read /no/such/file"), "{said}");
    let said = without_home(&["ps"])?.expect_code(125)?.err();
    ensure!(said.contains("no state directory: set HOME, or name one with --state DIR"), "{said}");
    Ok(())
}

fn explain_names_the_rule_and_the_nearest(stage: &Stage) -> Result<()> {
    let ask = |method: &str, url: &str| {
        stage.call(&["policy", "explain", "--preset", "github", "--binary", "/usr/bin/gh", method, url])
    };
    let yes = ask("GET", "https://api.github.com/user")?;
    ensure!(yes.out().contains("ALLOWED") && yes.out().contains("github"), "{}", yes.out());
    let no = ask("POST", "https://api.github.com/user/repos")?;
    ensure!(no.out().contains("DENIED") && no.out().contains("POST"), "{}", no.out());
    let odd = ask("GET", "https://api.github.com/user/../../x")?.expect_code(0)?;
    ensure!(odd.out().starts_with("DENIED  GET api.github.com:443/user/../../x  by "), "{}", odd.out());
    ensure!(odd.out().contains("(bad_request)"), "{}", odd.out());
    // A URL without a method stands for what clients do with it by default.
    let binary = ["policy", "explain", "--preset", "github", "--binary", "/usr/bin/gh"];
    for options in [["--binary", "gh"].as_slice(), &["--binary", "/usr/bin/gh", "--ancestor", "./sh"]] {
        let asked = [&binary[..4], options, &["GET", "https://api.github.com/user"]].concat();
        let refused = stage.call(&asked)?.expect_code(125)?.err();
        ensure!(refused.contains("by their paths") && refused.contains("/usr/bin/"), "{refused}");
    }
    for (odd, mend) in [
        ("", "name a program by its path"),
        ("/usr/bin//gh", "write /usr/bin/gh"),
        ("/usr/bin/gh/", "write /usr/bin/gh"),
        ("/usr/./bin/gh", "write /usr/bin/gh"),
        ("/usr/bin/../bin/gh", "a program's path has no"),
    ] {
        let asked = [&binary[..4], &["--binary", odd, "GET", "https://api.github.com/user"]].concat();
        let refused = stage.call(&asked)?.expect_code(125)?.err();
        ensure!(refused.contains(mend), "{odd}: {refused}");
    }
    let get = stage.call(&[&binary[..], &["https://api.github.com/user"]].concat())?;
    ensure!(get.out().starts_with("ALLOWED  GET "), "{}", get.out());
    // A second resource that a header names is judged as the proxy would judge it.
    let with = |header: &[&str], request: &[&str]| stage.call(&[&binary[..], header, request].concat());
    let to = ["https://api.github.com/user"];
    let besides = with(&["--header", "Destination: https://elsewhere.test/x"], &to)?.expect_code(0)?.out();
    ensure!(besides.contains("DENIED") && besides.contains("GET elsewhere.test:443/x"), "{besides}");
    let allowed = with(&["--header", "x-amz-copy-source: other/key"], &to)?.expect_code(0)?.out();
    ensure!(allowed.contains("ALLOWED") && allowed.contains("api.github.com:443/other/key"), "{allowed}");
    let harmless = with(&["--header", "Accept: text/plain"], &to)?.expect_code(0)?;
    ensure!(harmless.out().starts_with("ALLOWED  GET "), "{}", harmless.out());
    for (header, request) in
        [("Destination", &to[..]), ("Destination: /x", &["CONNECT", "api.github.com:443"])]
    {
        let odd = with(&["--header", header], request)?.expect_code(125)?;
        ensure!(odd.err().contains("--header"), "{}", odd.err());
    }
    Ok(())
}

fn schema_and_presets_print(stage: &Stage) -> Result<()> {
    let schema = stage.json(&["policy", "schema"])?;
    ensure!(schema.to_string().contains("network_policies"));
    let listed = stage.call(&["policy", "presets"])?.expect_code(0)?.out();
    for name in [
        "github",
        "pypi",
        "npm",
        "huggingface",
        "local-inference",
        "locked-down",
        "development",
        "integration-testing",
    ] {
        ensure!(listed.contains(name), "{name} is not listed:\n{listed}");
        let text = stage.call(&["policy", "presets", name])?.expect_code(0)?.out();
        let told = stage.json(&["policy", "presets", name, "--json"])?;
        ensure!(told["name"] == name && told["text"] == text, "{told}");
    }
    Ok(())
}

const PRESET: &str = "preset: { name: ours, description: the friendly host }\nnetwork_policies:\n  ours:\n    endpoints: \
                      [ { host: api.bed.test, port: 443, protocol: rest, access: full } ]\n    binaries: [ { path: \"/**\" } ]\n";

fn a_preset_of_ones_own_is_a_file(stage: &Stage) -> Result<()> {
    let file = stage.write("ours.yaml", PRESET)?.display().to_string();
    let ask = ["--binary", "/usr/bin/curl", "https://api.bed.test/x"];
    let explained = stage.call(&[&["policy", "explain", "--preset", &file], &ask[..]].concat())?;
    ensure!(explained.out().starts_with("ALLOWED") && explained.out().contains(&file), "{}", explained.out());
    for (given, said) in [
        (["--policy", &file], "use `--preset FILE`"),
        (["--preset", "./no-such.yaml"], "no-such.yaml: there is no such file"),
        (["--preset", "nosuch"], "there are github, pypi"),
    ] {
        for command in [&["policy", "explain"], &["run"][..]] {
            let tail = if command.len() == 1 { &["true"][..] } else { &ask };
            let refused = stage.call(&[command, &given, tail].concat())?.expect_code(125)?;
            ensure!(refused.err().contains(said), "{given:?}: {}", refused.err());
        }
    }
    let policy = stage.write("whole.yaml", policy(""))?.display().to_string();
    let refused = stage.call(&["run", "--preset", &policy, "true"])?.expect_code(125)?;
    ensure!(refused.err().contains("--policy FILE"), "{}", refused.err());
    // A preset that a configuration names is looked for beside the configuration.
    let config = stage.write("c.yaml", "presets: [./ours.yaml, pypi]\n")?.display().to_string();
    let curl = program("curl")?;
    let get = [&curl, "-s", "-o", "/dev/null", "-w", "%{http_code}", "https://api.bed.test/echo"];
    let got = stage.call(&[&["run", "--config", &config, "--"], &get[..]].concat())?.expect_code(0)?;
    ensure!(got.out() == "200", "{} {}", got.out(), got.err());
    let config = stage.write("d.yaml", "presets: [nosuch]\n")?.display().to_string();
    let refused = stage.call(&["run", "--config", &config, "true"])?.expect_code(125)?;
    ensure!(refused.err().contains("d.yaml: presets: no preset is called 'nosuch'"), "{}", refused.err());
    Ok(())
}

/// The next supervisor, and every later policy, get the preset from the plan, even if its file is gone.
fn a_preset_file_outlives_its_reading(stage: &Stage) -> Result<()> {
    let (curl, file) = (program("curl")?, stage.write("ours.yaml", PRESET)?);
    let closed = stage.write("closed.yaml", policy(""))?.display().to_string();
    let options = ["--preset", &file.display().to_string(), "--policy", &closed];
    let mut sandbox = Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    std::fs::remove_file(&file)?;
    let name = sandbox.name.clone();
    ensure!(reaches(stage, &name, &curl)?);
    let again = stage.call(&["policy", "set", &name, &closed])?.expect_code(0)?.out();
    ensure!(again.starts_with("unchanged: generation 1 "), "{again}");
    let other = stage.write("other.yaml", policy("") + "# other\n")?.display().to_string();
    let set = stage.json(&["policy", "set", &name, &other, "--json"])?;
    ensure!(set["generation"] == 2 && set["unchanged"] == false, "{set}");
    ensure!(reaches(stage, &name, &curl)?, "a policy that was set is without the preset");
    let supervisor = sandbox.status()?["supervisor_pid"].as_i64().context("a pid")?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(supervisor)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    poll("another supervisor", PATIENCE, || {
        sandbox.status().ok().filter(|status| status["supervisor_restarts"] == 1)
    })?;
    ensure!(reaches(stage, &name, &curl)?, "the next supervisor is without the preset");
    sandbox.heart();
    Ok(())
}

fn json_has_one_shape_whatever_a_file_holds(stage: &Stage) -> Result<()> {
    let text = "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: 443 } ], nonsense: 1 } }\n";
    let bad = stage.write("bad.yaml", text)?.display().to_string();
    let good = stage.write("good.yaml", policy(FRIENDLY))?.display().to_string();
    let missing = stage.dir().join("missing.yaml").display().to_string();
    let done = stage.call(&["policy", "check", "--json", &bad, &good, &missing])?.expect_code(125)?;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&done.stdout)?;
    let keys = |row: &serde_json::Value| row.as_object().map(|row| row.keys().cloned().collect::<Vec<_>>());
    ensure!(rows.iter().all(|row| keys(row) == keys(&rows[0])), "{rows:?}");
    let count = |row: &serde_json::Value, key: &str| row[key].as_array().map(Vec::len);
    ensure!(count(&rows[0], "errors") == Some(1) && count(&rows[0], "warnings") == Some(2), "{}", rows[0]);
    ensure!(count(&rows[1], "errors") == Some(0) && count(&rows[1], "warnings") > Some(0), "{}", rows[1]);
    ensure!(count(&rows[2], "errors") == Some(1) && count(&rows[2], "warnings") == Some(0), "{}", rows[2]);
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let refused = stage.call(&["policy", "set", &sandbox.name, &bad, "--json"])?.expect_code(125)?;
    let row: serde_json::Value = serde_json::from_slice(&refused.stdout)?;
    ensure!(row["valid"] == false && keys(&row) == keys(&rows[0]), "{row}");
    // Standard input is named `-`, as everywhere.
    let mut check = stage.cofferdam(["policy", "check", "-"]);
    check.stdin(std::fs::File::open(&good)?);
    ensure!(finish(check, PATIENCE)?.expect_code(0)?.out().contains("-: valid"));
    ensure!(stage.json(&["policy", "schema", "--json"])? == stage.json(&["policy", "schema"])?);
    Ok(())
}

fn odd_spellings_are_a_verdict(stage: &Stage) -> Result<()> {
    let ask = |url: &str| {
        stage.call(&["policy", "explain", "--preset", "github", "--binary", "/usr/bin/gh", "GET", url])
    };
    for (url, said) in [
        ("https://0x7f.1/", "write `127.0.0.1`"),
        ("https://[::ffff:10.0.0.1]/", "write `10.0.0.1`"),
        ("https://user@api.github.com/user", "write `api.github.com`, which the policy allows"),
        ("https://api.github.com./user", "write `api.github.com`, which the policy allows"),
    ] {
        let told = ask(url)?.expect_code(0)?.out();
        ensure!(
            told.starts_with("DENIED") && told.contains("(bad_request)") && told.contains(said),
            "{told}"
        );
    }
    let private = ask("http://10.0.0.5/")?.expect_code(0)?.out();
    ensure!(private.contains("DENIED") && private.contains("host: \"10.0.0.5\""), "{private}");
    let own = ask("http://127.0.0.1/")?.expect_code(0)?.out();
    ensure!(own.contains("DENIED") && !own.contains("mend:"), "{own}");
    ask("nonsense")?.expect_code(125)?;
    Ok(())
}

fn diff_tells_what_changes(stage: &Stage) -> Result<()> {
    let (a, b) = (stage.write("a.yaml", policy(""))?, stage.write("b.yaml", policy(FRIENDLY))?);
    let (a, b) = (a.display().to_string(), b.display().to_string());
    let done = stage.call(&["policy", "diff", &a, &b])?;
    ensure!(done.out().contains("api.bed.test"), "{} {}", done.out(), done.err());
    Ok(())
}

/// Whether a request gets through, asked in a running sandbox.
fn reaches(stage: &Stage, name: &str, curl: &str) -> Result<bool> {
    let url = format!("https://api.bed.test/echo?m={}", stage.marker());
    Ok(stage.call(&["exec", name, "--", curl, "-sSf", "--max-time", "60", "-o", "/dev/null", &url])?.code()
        == 0)
}

fn set_takes_effect_at_once_and_a_bad_one_changes_nothing(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let closed = stage.write("closed.yaml", policy(""))?.display().to_string();
    let open = stage.write("open.yaml", policy(FRIENDLY))?.display().to_string();
    let bad = stage
        .write("bad.yaml", "version: 1\nnetwork_policies: { a: { nonsense: 1 } }\n")?
        .display()
        .to_string();
    let sandbox =
        Sandbox::start(stage, &["--policy", &closed], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let name = &sandbox.name;
    ensure!(!reaches(stage, name, &curl)?);
    stage.call(&["policy", "set", name, &open])?.expect_code(0)?;
    ensure!(reaches(stage, name, &curl)?);
    let refused = stage.call(&["policy", "set", name, &bad])?.expect_code(125)?;
    ensure!(refused.err().contains("nonsense"), "{}", refused.err());
    ensure!(reaches(stage, name, &curl)?, "a bad policy changed something");
    let records = stage.call(&["audit", "show", name, "--json"])?.expect_code(0)?.out();
    ensure!(records.contains("\"result\":\"rejected\""), "that it was tried is on no record: {records}");
    let shown = stage.call(&["policy", "show", name])?.expect_code(0)?.out();
    ensure!(shown.contains("api.bed.test"), "{shown}");
    stage.call(&["policy", "set", name, &closed])?.expect_code(0)?;
    ensure!(!reaches(stage, name, &curl)?);
    Ok(())
}

fn a_changed_file_is_reloaded(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let file = stage.write("live.yaml", policy(""))?;
    let path = file.display().to_string();
    let sandbox =
        Sandbox::start(stage, &["--policy", &path], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    ensure!(!reaches(stage, &sandbox.name, &curl)?);
    // As editors save: another file, renamed over it.
    let new = stage.write("live.yaml.new", policy(FRIENDLY))?;
    std::fs::rename(new, &file)?;
    let generation = || sandbox.status().ok()?["policy"]["generation"].as_u64();
    poll("the new generation", PATIENCE, || generation().filter(|g| *g >= 2))?;
    ensure!(reaches(stage, &sandbox.name, &curl)?);
    // A bad file is reported, and the last good policy stays in force.
    stage.write("live.yaml", "version: 1\nnonsense: 1\n")?;
    common::ensure_audited(stage, &sandbox.name, &[("kind", "policy"), ("result", "rejected")])?;
    // Under --quiet too, since it is an error.
    let heart = sandbox.running.as_ref().context("it runs")?;
    heart.wait_for_err("the policy is refused, and the one in force stays", PATIENCE)?;
    ensure!(reaches(stage, &sandbox.name, &curl)?);
    Ok(())
}

fn a_pipe_in_the_files_place_holds_nothing_up(stage: &Stage) -> Result<()> {
    let file = stage.write("live.yaml", policy(""))?;
    let path = file.display().to_string();
    let sandbox =
        Sandbox::start(stage, &["--policy", &path], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    std::fs::remove_file(&file)?;
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o644))?;
    nix::unistd::chown(&file, Some(stage.uid().into()), None)?;
    let rejected = || {
        let told = |record: &serde_json::Value| record.to_string().contains("it is a pipe");
        sandbox.audit().ok()?.iter().any(told).then_some(())
    };
    poll("the pipe to be told", PATIENCE, rejected)?;
    let open = policy_file(stage, FRIENDLY)?;
    stage.call(&["policy", "set", &sandbox.name, &open])?.expect_code(0)?;
    // Nor does a command wait for a writer of the pipe.
    let refused = stage.call(&["policy", "set", &sandbox.name, &path])?.expect_code(125)?;
    ensure!(refused.err().contains("it is a pipe, not a regular file"), "{}", refused.err());
    std::fs::remove_file(&file)?;
    stage.write("live.yaml", policy(""))?;
    let generation = || sandbox.status().ok()?["policy"]["generation"].as_u64();
    poll("the file to count again", PATIENCE, || generation().filter(|g| *g >= 3)).map(drop)
}

/// `<(…)` is a pipe that only the command has: there is nothing to watch, and no reason for a warning.
fn a_policy_of_the_shells_is_read_once(stage: &Stage) -> Result<()> {
    let bash = program("bash")?;
    let path = stage.write("shell.yaml", policy(""))?.display().to_string();
    let mut command = stage.command(bash);
    command
        .env("COFFERDAM_STATE", stage.state())
        .args(["-c", "exec \"$0\" run --policy <(cat \"$1\") -- sleep 0.5"]);
    command.arg(stage.binary()).arg(path);
    let done = finish(command, PATIENCE)?.expect_code(0)?;
    ensure!(!done.err().contains("policy"), "{}", done.err());
    Ok(())
}

fn a_static_change_needs_a_restart(stage: &Stage) -> Result<()> {
    let first = stage.write("first.yaml", policy(""))?.display().to_string();
    let text = policy("").replace("    - /etc ", "    - { path: /srv, optional: true }\n    - /etc ");
    let second = stage.write("second.yaml", text)?.display().to_string();
    let sandbox =
        Sandbox::start(stage, &["--policy", &first], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let refused = stage.call(&["policy", "set", &sandbox.name, &second])?.expect_code(125)?;
    ensure!(refused.err().contains("--restart-agents"), "{}", refused.err());
    // The agent of `run` can't be restarted: its end is the sandbox's end.
    let refused =
        stage.call(&["policy", "set", &sandbox.name, &first, "--restart-agents"])?.expect_code(125)?;
    ensure!(refused.err().contains("cofferdam up"), "{}", refused.err());
    ensure!(sandbox.status()?["policy"]["generation"] == 1, "a refused policy is in force");
    Ok(())
}

fn agents_are_started_again_under_a_new_policy(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let first = stage.write("first.yaml", policy(""))?.display().to_string();
    let config = format!(
        "name: {name}\npolicy: {first}\nmetrics: {{ listen: \"off\" }}\nagents:\n  one:\n    command: [sleep, '1000']\n  two:\n    command: [sleep, '1001']\n  \
         once:\n    command: [sh, -c, 'echo x >> ran']\n    restart: {{ policy: never }}\n"
    );
    let file = stage.write("cofferdam.yaml", config)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
    let sandbox = Sandbox::adopt(stage, name, running);
    let pids = || -> Option<Vec<i64>> {
        let status = sandbox.status().ok()?;
        Some(
            status["agents"].as_array()?.iter().filter_map(|agent| agent["pid"].as_i64()).collect::<Vec<_>>(),
        )
    };
    // The third agent has ended, as intended, and isn't started again.
    let ran = || std::fs::read_to_string(stage.state().join(&sandbox.name).join("workspace/ran")).ok();
    poll("the third to end", common::START, || {
        ran().filter(|text| text == "x\n").and_then(|_| pids()).filter(|pids| pids.len() == 2)
    })?;
    let before = pids().context("both agents")?;
    let set = |file: &str| stage.call(&["policy", "set", &sandbox.name, file, "--restart-agents", "--json"]);
    let second = stage.write("second.yaml", policy(FRIENDLY))?.display().to_string();
    let said: serde_json::Value = serde_json::from_slice(&set(&second)?.expect_code(0)?.stdout)?;
    ensure!(said["generation"] == 2 && said["restarted"] == serde_json::json!(["one", "two"]), "{said}");
    let after = poll("both agents again", common::START, || pids().filter(|pids| pids.len() == 2))?;
    ensure!(after.iter().all(|pid| !before.contains(pid)), "{before:?}, {after:?}");
    ensure!(ran().as_deref() == Some("x\n"), "one that had ended was started again");
    Ok(())
}
