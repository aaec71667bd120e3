//! `cofferdam identity`: an upgraded program is denied until the operator accepts exactly the content that
//! was seen, or forgets the old pin.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::common::{START, Sandbox, ensure_audited};
use super::{CLIENT, prepare};

/// Uses the client, replaces it, uses it again, and goes on when the test creates the next file. Each use
/// prints yes or no.
const UPGRADE: &str = "at() { until [ -e /sandbox/$1 ]; do sleep 0.02; done; }\nget /sandbox/client\nat upgrade\n\
                       cp /sandbox/client /sandbox/new; printf x >> /sandbox/new; mv /sandbox/new /sandbox/client\n\
                       get /sandbox/client\nat again\nget /sandbox/client\nat last\nget /sandbox/client\n\
                       /sandbox/client -s http://api.bed.test/echo\necho end; exec sleep 1000";

/// A sandbox whose agent has used its client once.
struct Upgraded<'a> {
    stage: &'a Stage<'a>,
    sandbox: Sandbox<'a>,
}

impl<'a> Upgraded<'a> {
    fn start(stage: &'a Stage<'a>) -> Result<Self> {
        let (file, whole) = prepare(stage, CLIENT, UPGRADE)?;
        let sandbox = Sandbox::start(stage, &["--policy", &file], &["sh", "-c", &whole], "yes\n")?;
        Ok(Self { stage, sandbox })
    }

    fn workspace(&self) -> PathBuf {
        self.stage.state().join(&self.sandbox.name).join("workspace")
    }

    /// Creates the file that the script waits for, and waits until its whole output is `said`.
    fn goes_on(&mut self, sign: &str, said: &str) -> Result<()> {
        std::fs::write(self.workspace().join(sign), "")?;
        let result = self.sandbox.heart().wait_for(said, START);
        result.with_context(|| format!("after `{sign}`"))
    }

    fn identity(&self, words: &[&str]) -> Result<Finished> {
        let (verb, rest) = words.split_first().context("no verb")?;
        self.stage.call(&[&["identity", verb, &self.sandbox.name], rest].concat())
    }

    fn listed(&self) -> Result<Value> {
        let all = self.stage.json(&["identity", "list", &self.sandbox.name, "--json"])?;
        let found = all.as_array().and_then(|all| all.iter().find(|it| it["path"] == "/sandbox/client"));
        found.cloned().with_context(|| format!("the client is not listed: {all}"))
    }

    fn content_now(&self) -> Result<String> {
        let mut sum = self.stage.command("sha256sum");
        sum.arg(self.workspace().join("client"));
        let done = bed::stage::finish(sum, bed::stage::PATIENCE)?.expect_code(0)?;
        Ok(done.out().split(' ').next().unwrap_or_default().to_owned())
    }

    fn kill_supervisor(&self) -> Result<()> {
        let supervisor = || self.sandbox.status().ok()?["supervisor_pid"].as_i64();
        let before = supervisor().context("status names no supervisor")?;
        kill(Pid::from_raw(i32::try_from(before)?), Signal::SIGKILL)?;
        poll("another supervisor", START, || supervisor().filter(|pid| *pid != before)).map(drop)
    }
}

pub fn an_upgraded_program_is_denied_until_it_is_accepted(stage: &Stage) -> Result<()> {
    let mut it = Upgraded::start(stage)?;
    let first = it.content_now()?;
    ensure!(it.listed()?["sha256"] == *first && it.listed()?["pending"].is_null(), "{}", it.listed()?);
    let early = it.identity(&["accept", "/sandbox/client"])?.expect_code(125)?;
    ensure!(early.err().contains("has not changed since it was first used"), "{}", early.err());

    it.goes_on("upgrade", "yes\nno\n")?;
    let now = it.content_now()?;
    ensure!(it.listed()?["sha256"] == *first && it.listed()?["pending"] == *now, "{}", it.listed()?);
    let text = it.identity(&["list"])?.expect_code(0)?.out();
    ensure!(text.lines().any(|l| l.contains("/sandbox/client") && l.contains(&now)), "{text}");

    let insisting = it.identity(&["accept", "/sandbox/client", "--sha256", &first])?.expect_code(125)?;
    ensure!(
        insisting.err().contains(&now) && insisting.err().contains("changed again"),
        "{}",
        insisting.err()
    );
    let odd = it.identity(&["accept", "/sandbox/client", "--sha256", "12"])?.expect_code(125)?;
    ensure!(odd.err().contains("64 hexadecimal digits"), "{}", odd.err());
    for verb in ["accept", "forget"] {
        let unknown = it.identity(&[verb, "/sandbox/cleint"])?.expect_code(125)?;
        ensure!(unknown.err().contains("did you mean `/sandbox/client`?"), "{}", unknown.err());
        let moved = it.identity(&[verb, "/opt/elsewhere/client"])?.expect_code(125)?;
        ensure!(moved.err().contains("did you mean `/sandbox/client`?"), "{}", moved.err());
        let strange = it.identity(&[verb, "/nothing/like/it"])?.expect_code(125)?;
        ensure!(strange.err().contains("cofferdam identity list"), "{}", strange.err());
    }
    // None of this makes the program allowed.
    it.goes_on("again", "yes\nno\nno\n")?;

    it.identity(&["accept", "/sandbox/client", "--sha256", &now])?.expect_code(0)?;
    ensure!(it.listed()?["sha256"] == *now && it.listed()?["pending"].is_null(), "{}", it.listed()?);
    let name = it.sandbox.name.clone();
    ensure_audited(stage, &name, &[("change", "accepted"), ("was", &first), ("is", &now)])?;
    ensure_audited(stage, &name, &[("action", "identity accept"), ("detail", "/sandbox/client")])?;
    it.goes_on("last", "yes\nno\nno\nyes\n")
}

pub fn a_forgotten_program_is_used_for_the_first_time_again(stage: &Stage) -> Result<()> {
    let mut it = Upgraded::start(stage)?;
    let first = it.content_now()?;
    it.goes_on("upgrade", "yes\nno\n")?;
    it.identity(&["forget", "/sandbox/client"])?.expect_code(0)?;
    ensure!(it.listed().is_err(), "it is still there");
    let name = it.sandbox.name.clone();
    ensure_audited(stage, &name, &[("change", "forgotten"), ("was", &first)])?;
    it.goes_on("again", "yes\nno\nyes\n")?;
    ensure!(it.listed()?["sha256"] == *it.content_now()?, "{}", it.listed()?);
    Ok(())
}

pub fn what_waits_and_what_was_accepted_outlive_the_supervisor(stage: &Stage) -> Result<()> {
    let mut it = Upgraded::start(stage)?;
    it.goes_on("upgrade", "yes\nno\n")?;
    let waits = it.listed()?;
    it.kill_supervisor()?;
    ensure!(it.listed()? == waits, "{} was {waits}", it.listed()?);
    it.goes_on("again", "yes\nno\nno\n")?;
    it.identity(&["accept", "/sandbox/client"])?.expect_code(0)?;
    let accepted = it.listed()?;
    it.kill_supervisor()?;
    ensure!(it.listed()? == accepted, "{} was {accepted}", it.listed()?);
    it.goes_on("last", "yes\nno\nno\nyes\n")
}

pub fn a_denial_says_how_to_accept(stage: &Stage) -> Result<()> {
    let mut it = Upgraded::start(stage)?;
    it.goes_on("upgrade", "yes\nno\n")?;
    it.goes_on("again", "yes\nno\nno\n")?;
    it.goes_on("last", "end\n")?;
    let said = it.sandbox.heart().out();
    ensure!(said.contains("`cofferdam identity accept NAME /sandbox/client`"), "{said}");
    Ok(())
}
