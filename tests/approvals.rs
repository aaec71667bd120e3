//! Requests that no policy entry names are held for the operator's decision: asked about, approved once, for
//! the run and for good, denied, and revoked.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Mode, PATIENCE, finish, poll};
use serde_json::Value;

use common::{COFFERDAM, START, Sandbox, program, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "approvals",
        Path::new(COFFERDAM),
        bed::cases![
            one_word_lets_one_request_through,
            an_answer_for_the_run_is_an_entry_and_can_be_taken_back,
            a_denied_one_is_refused_at_once,
            who_knows_no_proxy_is_asked_about_too,
            what_nobody_answers_is_refused_and_can_be_answered_later,
            held_requests_outlive_the_operators_actor_and_answers_the_supervisor,
            an_answer_for_good_outlives_the_sandbox,
            whoever_answers_hears_of_it_though_that_ends_the_run,
            a_runs_answer_is_no_later_runs.only(Mode::Rootless),
            the_operator_is_told_where_that_is_wanted.only(Mode::Rootless),
            where_nobody_is_asked_nothing_changes.only(Mode::Rootless),
            a_watch_ends_with_its_sandbox.only(Mode::Rootless),
        ],
    )
}

/// A sandbox whose agent runs the scripts that the test puts into its workspace, and prints one line for
/// each.
struct Asking<'a> {
    stage: &'a Stage<'a>,
    sandbox: Sandbox<'a>,
    curl: String,
    sent: u32,
}

impl<'a> Asking<'a> {
    fn start(stage: &'a Stage, hold: &str) -> Result<Self> {
        let curl = program("curl")?;
        let file = stage.write("c.yaml", format!("approvals: {{ unlisted: ask, hold: {hold} }}\n"))?;
        let file = file.display().to_string();
        let policy = common::policy_file(stage, "")?;
        let options = [
            "--config",
            &file,
            "--policy",
            &policy,
            "--workspace",
            &workspace(stage),
            "--allow-fault-injection",
        ];
        // Each file that appears is a script, run concurrently with the others.
        let script = "mkdir -p do; echo ready; while :; do for f in do/*.sh; do [ -f \"$f\" ] || continue; mv \"$f\" \"$f.run\"; \
                      sh \"$f.run\" & done; sleep 0.05; done";
        let sandbox = Sandbox::start(stage, &options, &["sh", "-c", script], "ready")?;
        Ok(Self { stage, sandbox, curl, sent: 0 })
    }

    /// Begins a request; the agent will print its number and status.
    fn send(&mut self, request: &str) -> Result<u32> {
        self.sent += 1;
        let (curl, n) = (&self.curl, self.sent);
        let text = format!(
            "out=$({curl} -s -m 50 -w ' %{{http_code}}' {request} | tr '\\n' ' '); echo \"answer {n}: $out\"\n"
        );
        let place = self.stage.workspace().join(format!("do/{n}"));
        std::fs::write(&place, text)?;
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        std::fs::rename(&place, place.with_extension("sh"))?;
        Ok(n)
    }

    /// The agent's line about a request.
    fn answer(&mut self, n: u32) -> Result<String> {
        let said = format!("answer {n}: ");
        self.sandbox.heart().wait_for(&said, PATIENCE)?;
        let out = poll("the whole line", PATIENCE, || {
            let out = self.sandbox.heart().out();
            out.split(&said).nth(1).and_then(|rest| rest.split_once('\n')).map(|(line, _)| line.to_owned())
        })?;
        Ok(out)
    }

    fn list(&self) -> Result<Vec<Value>> {
        let list = self.stage.json(&["approvals", "list", &self.sandbox.name, "--json"])?;
        Ok(list.as_array().context("a list")?.clone())
    }

    /// Waits for a question about this path that is in this state.
    fn question(&self, path: &str, state: &str) -> Result<Value> {
        poll(&format!("{path} to be {state}"), PATIENCE, || {
            self.list().ok()?.into_iter().find(|q| q["path"] == path && q["state"] == state)
        })
    }

    fn say(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> =
            ["approvals"].into_iter().chain(words.iter().copied()).chain(["--json"]).collect();
        self.stage.json(&words)
    }

    fn arrived(&self, mark: &str) -> usize {
        self.stage.world().recorder().with_marker(mark).len()
    }
}

fn id(question: &Value) -> &str {
    question["id"].as_str().unwrap()
}

fn one_word_lets_one_request_through(stage: &Stage) -> Result<()> {
    let mut asking = Asking::start(stage, "50s")?;
    let mark = stage.marker();
    let first = asking.send(&format!("'https://api.bed.test/{mark}/a?x=1'"))?;
    let path = format!("/{mark}/a");
    let question = asking.question(&path, "held")?;
    ensure!(
        question["host"] == "api.bed.test" && question["port"] == 443 && question["method"] == "GET",
        "{question}"
    );
    ensure!(
        question["binary"].as_str().is_some_and(|b| b.ends_with("curl")) && question["asked"] == 1,
        "{question}"
    );
    ensure!(question["sha256"].as_str().is_some_and(|sha| sha.len() == 64), "{question}");
    ensure!(asking.arrived(&mark) == 0, "nothing before the word");
    let said = stage.call(&["approvals", "approve", id(&question)])?.expect_code(0)?.out();
    ensure!(said.starts_with(&format!("approved once: {}", id(&question))), "{said}");
    let answer = asking.answer(first)?;
    ensure!(answer.ends_with(" 200"), "{answer}");
    ensure!(asking.arrived(&mark) == 1);
    // The next request is asked about anew.
    let again = asking.send(&format!("'https://api.bed.test/{mark}/a'"))?;
    ensure!(asking.question(&path, "held")?["asked"] == 2);
    stage.call(&["approvals", "deny", id(&question)])?.expect_code(0)?;
    let answer = asking.answer(again)?;
    ensure!(answer.ends_with(" 403") && answer.contains("the operator refused it"), "{answer}");
    ensure!(asking.arrived(&mark) == 1);
    let audit = asking.sandbox.audit()?;
    for change in ["asked", "approved_once", "denied"] {
        ensure!(
            audit
                .iter()
                .any(|record| record["event"]["kind"] == "approval" && record["event"]["change"] == change),
            "no record of {change}"
        );
    }
    Ok(())
}

fn an_answer_for_the_run_is_an_entry_and_can_be_taken_back(stage: &Stage) -> Result<()> {
    let mut asking = Asking::start(stage, "50s")?;
    let mark = stage.marker();
    let get = format!("'https://api.bed.test/{mark}/a'");
    let waiting = [asking.send(&get)?, asking.send(&get)?];
    let path = format!("/{mark}/a");
    let question = poll("both to be held", PATIENCE, || {
        asking.question(&path, "held").ok().filter(|question| question["held"] == 2)
    })?;
    let approved = asking.say(&["approve", id(&question), "--for", "run"])?;
    ensure!(approved["state"] == "approved" && approved["for"] == "run", "{approved}");
    for n in waiting {
        ensure!(asking.answer(n)?.ends_with(" 200"));
    }
    let shown = stage.call(&["policy", "show", &asking.sandbox.name])?.expect_code(0)?.out();
    ensure!(shown.contains("approved-") && shown.contains("public_only: true"), "{shown}");
    // The answer is for that request alone: another path is another question.
    let other = asking.send(&format!("'https://api.bed.test/{mark}/b'"))?;
    let another = asking.question(&format!("/{mark}/b"), "held")?;
    asking.say(&["deny", id(&another)])?;
    let answer = asking.answer(other)?;
    ensure!(answer.ends_with(" 403") && answer.contains("no rule allows"), "{answer}");
    let next = asking.send(&get)?;
    ensure!(asking.answer(next)?.ends_with(" 200"), "no word is needed any more");
    asking.say(&["revoke", id(&question)])?;
    let last = asking.send(&get)?;
    let anew = asking.question(&path, "held")?;
    ensure!(id(&anew) != id(&question), "it is asked for anew");
    asking.say(&["deny", id(&anew)])?;
    ensure!(asking.answer(last)?.ends_with(" 403"));
    ensure!(asking.arrived(&mark) == 3);
    // A pattern of the operator's own.
    let more = asking.send(&format!("'https://h2.bed.test/{mark}/c'"))?;
    let question = asking.question(&format!("/{mark}/c"), "held")?;
    asking.say(&["approve", id(&question), "--for", "run", "--path", &format!("/{mark}/**")])?;
    ensure!(asking.answer(more)?.ends_with(" 200"));
    let more = asking.send(&format!("'https://h2.bed.test/{mark}/d/e'"))?;
    ensure!(asking.answer(more)?.ends_with(" 200"));
    Ok(())
}

fn a_denied_one_is_refused_at_once(stage: &Stage) -> Result<()> {
    let mut asking = Asking::start(stage, "50s")?;
    let mark = stage.marker();
    let get = format!("'http://api.bed.test:8080/{mark}'");
    let first = asking.send(&get)?;
    let question = asking.question(&format!("/{mark}"), "held")?;
    asking.say(&["deny", id(&question)])?;
    ensure!(asking.answer(first)?.ends_with(" 403"));
    let second = asking.send(&get)?;
    ensure!(asking.answer(second)?.contains("the operator refused it"));
    ensure!(asking.list()?.len() == 1);
    for (words, said) in [
        (vec!["approve", "nobody-1"], "nobody"),
        (vec!["approve", "1"], "no id of a question"),
        (vec!["approve", &format!("{}-99", asking.sandbox.name)], "nothing was asked under that id"),
        (vec!["approve", id(&question), "--path", "/x"], "for the run or for good"),
        (vec!["approve", id(&question), "--for", "run", "--path", "x"], "can't be an entry"),
    ] {
        let words: Vec<&str> = ["approvals"].into_iter().chain(words).collect();
        let refused = stage.call(&words)?.expect_code(125)?;
        ensure!(refused.err().contains(said), "{words:?}: {}", refused.err());
        ensure!(refused.err().lines().count() <= 2, "{words:?}: {}", refused.err());
    }
    ensure!(asking.arrived(&mark) == 0);
    // A method that would mean "any" in a rule.
    let any = asking.send(&format!("-X '*' 'http://api.bed.test:8080/{mark}/any'"))?;
    let question = asking.question(&format!("/{mark}/any"), "held")?;
    let refused = stage.call(&["approvals", "approve", id(&question), "--for", "run"])?.expect_code(125)?;
    ensure!(refused.err().contains("the method"), "{}", refused.err());
    asking.say(&["deny", id(&question)])?;
    ensure!(asking.answer(any)?.ends_with(" 403"));
    Ok(())
}

/// For a program that uses no proxy, the name isn't resolved outside, and each request is asked about, over
/// TLS and in the clear.
fn who_knows_no_proxy_is_asked_about_too(stage: &Stage) -> Result<()> {
    let mut asking = Asking::start(stage, "50s")?;
    let mark = stage.marker();
    for (scheme, port) in [("https", 443), ("http", 80)] {
        let url = format!("{scheme}://api.bed.test/{mark}/{scheme}");
        let sent = asking.send(&format!("--noproxy '*' '{url}'"))?;
        let question = asking.question(&format!("/{mark}/{scheme}"), "held")?;
        ensure!(question["host"] == "api.bed.test" && question["port"] == port, "{question}");
        stage.call(&["approvals", "approve", id(&question)])?.expect_code(0)?;
        let answer = asking.answer(sent)?;
        ensure!(answer.ends_with(" 200"), "{answer}");
        let sent = asking.send(&format!("--noproxy '*' '{url}'"))?;
        asking.question(&format!("/{mark}/{scheme}"), "held")?;
        stage.call(&["approvals", "deny", id(&question)])?.expect_code(0)?;
        let answer = asking.answer(sent)?;
        ensure!(answer.ends_with(" 403") && answer.contains("the operator refused it"), "{answer}");
    }
    ensure!(asking.arrived(&mark) == 2);
    // A name that doesn't exist outside isn't asked about, and other ports stay closed.
    let unknown = asking.send("--noproxy '*' http://metadata.google.internal/")?;
    ensure!(asking.answer(unknown)?.ends_with(" 000"));
    let shut = asking.send(&format!("--noproxy '*' http://api.bed.test:8080/{mark}/shut"))?;
    ensure!(asking.answer(shut)?.ends_with(" 000"));
    ensure!(asking.list()?.len() == 2);
    Ok(())
}

fn what_nobody_answers_is_refused_and_can_be_answered_later(stage: &Stage) -> Result<()> {
    let mut asking = Asking::start(stage, "1s")?;
    let mark = stage.marker();
    let get = format!("'https://api.bed.test/{mark}'");
    let first = asking.send(&get)?;
    let answer = asking.answer(first)?;
    ensure!(answer.ends_with(" 403") && answer.contains("cofferdam approvals approve"), "{answer}");
    let question = asking.question(&format!("/{mark}"), "waiting")?;
    asking.say(&["approve", id(&question)])?;
    let second = asking.send(&get)?;
    ensure!(asking.answer(second)?.ends_with(" 200"), "the next one goes");
    let third = asking.send(&get)?;
    ensure!(asking.answer(third)?.ends_with(" 403"), "and no other");
    ensure!(asking.arrived(&mark) == 1);
    Ok(())
}

fn held_requests_outlive_the_operators_actor_and_answers_the_supervisor(stage: &Stage) -> Result<()> {
    let mut asking = Asking::start(stage, "50s")?;
    let mark = stage.marker();
    let get = |path: &str| format!("'https://api.bed.test/{mark}/{path}'");
    let held = asking.send(&get("held"))?;
    let question = asking.question(&format!("/{mark}/held"), "held")?;
    let before = asking.sandbox.restarts("operator")?;
    asking.sandbox.crash("operator")?;
    asking.sandbox.wait_restarted("operator", before)?;
    ensure!(asking.question(&format!("/{mark}/held"), "held")?["held"] == 1, "it is held still");
    asking.say(&["approve", id(&question), "--for", "run"])?;
    ensure!(asking.answer(held)?.ends_with(" 200"));
    let denied = asking.send(&format!("'https://h2.bed.test/{mark}/denied'"))?;
    let no = asking.question(&format!("/{mark}/denied"), "held")?;
    asking.say(&["deny", id(&no)])?;
    ensure!(asking.answer(denied)?.ends_with(" 403"));
    common::replace_supervisor(stage, &asking.sandbox.name)?;
    let after = asking.send(&get("held"))?;
    ensure!(asking.answer(after)?.ends_with(" 200"), "what was approved for the run is in force");
    let again = asking.send(&format!("'https://h2.bed.test/{mark}/denied'"))?;
    ensure!(asking.answer(again)?.contains("the operator refused it"));
    Ok(())
}

fn an_answer_for_good_outlives_the_sandbox(stage: &Stage) -> Result<()> {
    let mark = stage.marker();
    let curl = program("curl")?;
    let file = stage.write("c.yaml", "approvals: { unlisted: ask, hold: 50s }\n")?.display().to_string();
    let policy = common::policy_file(stage, "")?;
    let name = stage.name();
    let options = ["--config", &file, "--policy", &policy];
    let get = |path: &str| {
        format!("{curl} -s -m 50 -o /dev/null -w '%{{http_code}}' 'https://api.bed.test/{mark}/{path}'")
    };
    let answer = |command: &str, words: &[&str]| -> Result<String> {
        let run = stage.start_run(&name, &options, &["sh", "-c", command])?;
        if !words.is_empty() {
            let question = poll("a question", START, || {
                let list = stage.json(&["approvals", "list", &name, "--json"]).ok()?;
                list.as_array()?.iter().find(|q| q["state"] == "held").cloned()
            })?;
            let words: Vec<&str> =
                ["approvals", "approve", id(&question)].into_iter().chain(words.iter().copied()).collect();
            stage.call(&words)?.expect_code(0)?;
        }
        Ok(run.finish(PATIENCE)?.expect_code(0)?.out())
    };
    ensure!(answer(&get("run"), &["--for", "run"])?.ends_with("200"));
    // An approval for a run ends with the run: the request is asked about again.
    ensure!(answer(&get("run"), &["--for", "good"])?.ends_with("200"));
    ensure!(answer(&get("run"), &[])?.ends_with("200"), "nobody is asked any more");
    let kept = stage.state().join(&name).join("approvals.json");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&kept)?);
    ensure!(mode & 0o077 == 0, "{mode:o}");
    // A file that can't be read grants nothing.
    std::fs::write(&kept, "{")?;
    let file = stage.write("short.yaml", "approvals: { unlisted: ask, hold: 1s }\n")?.display().to_string();
    let options = ["--config", &file, "--policy", &policy];
    let run = stage.start_run(&name, &options, &["sh", "-c", &get("run")])?.finish(PATIENCE)?;
    ensure!(run.out().ends_with("403"), "{} {}", run.out(), run.err());
    Ok(())
}

fn whoever_answers_hears_of_it_though_that_ends_the_run(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let file = stage.write("c.yaml", "approvals: { unlisted: ask, hold: 50s }\n")?.display().to_string();
    let policy = common::policy_file(stage, "")?;
    let options = ["--config", &file, "--policy", &policy];
    for round in 0..12 {
        let name = format!("{}-{round}", stage.name());
        // The program ends with its answer, and the sandbox with it.
        let run = stage.start_run(
            &name,
            &options,
            &[&curl, "-s", "-m", "50", "-o", "/dev/null", "https://api.bed.test/"],
        )?;
        let question = poll("a question", START, || {
            let list = stage.json(&["approvals", "list", &name, "--json"]).ok()?;
            list.as_array()?.iter().find(|q| q["state"] == "held").cloned()
        })?;
        let word = if round % 2 == 0 { "approve" } else { "deny" };
        stage.call(&["approvals", word, id(&question)])?.expect_code(0)?;
        run.finish(PATIENCE)?.expect_code(0)?;
    }
    Ok(())
}

/// Even where nothing was asked in the later run, and its supervisor is replaced.
fn a_runs_answer_is_no_later_runs(stage: &Stage) -> Result<()> {
    let mark = stage.marker();
    let get = format!("'https://api.bed.test/{mark}'");
    let name = {
        let mut asking = Asking::start(stage, "50s")?;
        let n = asking.send(&get)?;
        let question = asking.question(&format!("/{mark}"), "held")?;
        asking.say(&["approve", id(&question), "--for", "run"])?;
        ensure!(asking.answer(n)?.ends_with(" 200"));
        asking.sandbox.name.clone()
    };
    let file = stage.write("c.yaml", "approvals: { unlisted: ask, hold: 1s }\n")?.display().to_string();
    let policy = common::policy_file(stage, "")?;
    let curl = program("curl")?;
    let script = format!(
        "echo up; while [ ! -e go ]; do sleep 0.05; done; {curl} -s -o /dev/null -w '%{{http_code}}' {get}"
    );
    let options = ["--config", &file, "--policy", &policy, "--workspace", &workspace(stage)];
    let mut run = stage.start_run(&name, &options, &["sh", "-c", &script])?;
    run.wait_for("up", START)?;
    common::replace_supervisor(stage, &name)?;
    std::fs::write(stage.workspace().join("go"), "")?;
    let out = run.finish(PATIENCE)?.out();
    ensure!(out.ends_with("403"), "{out}");
    Ok(())
}

fn the_operator_is_told_where_that_is_wanted(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let file = stage.write("c.yaml", "approvals: { unlisted: ask, hold: 1s }\n")?.display().to_string();
    let policy = common::policy_file(stage, "")?;
    let name = stage.name();
    let get = format!("{curl} -s -o /dev/null https://api.bed.test/told");
    let args = ["run", "--name", &name, "--config", &file, "--policy", &policy, "--", "sh", "-c", &get];
    let done = stage.call(&args)?.expect_code(0)?;
    let told = format!(
        "`cofferdam approvals approve {name}-1` (or `deny {name}-1`) answers \"GET api.bed.test:443/told\""
    );
    ensure!(done.err().contains(&told), "{}", done.err());
    let quiet = ["run", "--quiet"].iter().chain(&args[1..]).copied().collect::<Vec<_>>();
    let done = stage.call(&quiet)?.expect_code(0)?;
    ensure!(!done.err().contains("approvals approve"), "{}", done.err());
    Ok(())
}

fn where_nobody_is_asked_nothing_changes(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let policy = common::policy_file(stage, "")?;
    let options = ["--policy", &policy, "--workspace", &workspace(stage)];
    let script =
        format!("{curl} -s -o /dev/null -w '%{{http_connect}}\\n' https://api.bed.test/; sleep 1000");
    let sandbox = Sandbox::start(stage, &options, &["sh", "-c", &script], "403")?;
    let list = stage.json(&["approvals", "list", &sandbox.name, "--json"])?;
    ensure!(list == serde_json::json!([]));
    let refused = stage.call(&["approvals", "approve", &format!("{}-1", sandbox.name)])?.expect_code(125)?;
    ensure!(refused.err().contains("unlisted: ask"), "{}", refused.err());
    Ok(())
}

fn a_watch_ends_with_its_sandbox(stage: &Stage) -> Result<()> {
    for forceful in [false, true] {
        let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; sleep 1000"], "ready")?;
        let command = stage.cofferdam(["approvals", "watch", &sandbox.name]);
        let watch = std::thread::spawn(move || finish(command, PATIENCE));
        // Long enough to be listening; one that comes too late is refused, which the check below would tell.
        std::thread::sleep(std::time::Duration::from_secs(2));
        match forceful {
            false => drop(stage.call(&["stop", &sandbox.name])?.expect_code(0)?),
            true => drop(sandbox),
        }
        let done = watch.join().map_err(|_| anyhow::anyhow!("the watch panicked"))??.expect_code(0)?;
        ensure!(done.stderr.is_empty() && done.stdout.is_empty(), "{}{}", done.out(), done.err());
    }
    Ok(())
}
