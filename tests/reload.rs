//! A new policy ends connections that it no longer allows, and tells each client in the client's protocol;
//! all other connections go on.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, poll};

use common::{COFFERDAM, START, Sandbox, policy, program, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "reload",
        Path::new(COFFERDAM),
        bed::cases![
            each_client_sees_why_by_the_proxy,
            each_client_sees_why_without_a_proxy,
            curl_sees_it_too
        ],
    )
}

/// The entry that allows all connections of a case until the reload.
const GOES: &str = r#"
  goes:
    name: goes
    endpoints:
      - { host: api.bed.test, port: 443, protocol: rest, access: full }
      - { host: h1.bed.test, port: 8443, protocol: websocket, access: full }
      - { host: api.bed.test, port: 8080 }
    binaries: [ { path: "/**", allow_foreign_code: true } ]"#;
/// The entry that both policies have.
const STAYS: &str = r#"
  stays:
    name: stays
    endpoints: [ { host: h2.bed.test, port: 443, protocol: rest, access: full } ]
    binaries: [ { path: "/**", allow_foreign_code: true } ]"#;

/// How each client must report the end of its connection.
const ENDS: &[(&str, &str)] = &[
    ("h1-idle", "closed, 0 bytes"),
    ("h1-silent", "closed, 0 bytes"),
    ("h1-streaming", "closed, broken"),
    ("h1-waiting", "closed, 403 last=True True"),
    ("h2-idle", "closed, goaway=0"),
    ("h2-streaming", "goaway reset"),
    ("ws", "close 1008 'the policy no longer allows this', then closed, 0 bytes"),
    ("tunnel", "reset"),
];
const WS_RELAYED: (&str, &str) =
    ("ws-relayed", "close 1008 'the policy no longer allows this', then closed, 0 bytes");

/// Runs `start` beside a stream that both policies allow. Once each of `open` was printed, sets the policy
/// that allows only that stream. Returns the whole output once each of `ended` was printed.
fn through_reload(stage: &Stage, start: &str, open: &[String], ended: &[String]) -> Result<Finished> {
    let curl = program("curl")?;
    let text = policy(&format!("{GOES}{STAYS}"));
    let file = stage.write("policy.yaml", text)?.display().to_string();
    // The stream that stays goes on until the others have ended.
    let mark = format!("{}stays", stage.marker());
    let script = format!(
        "{curl} -sSfN 'https://h2.bed.test/sse?n=10&every=20&until={mark}' > stays & stays=$!\n{start}\nwait $stays && echo it stayed"
    );
    let options = ["--policy", &file, "--workspace", &workspace(stage)];
    let ready = open.first().context("nothing to wait for")?;
    let mut sandbox = Sandbox::start(stage, &options, &["sh", "-c", &script], ready)?;
    for said in open {
        sandbox.heart().wait_for(said, START)?;
    }
    let new = stage.write("new.yaml", policy(STAYS))?.display().to_string();
    stage.call(&["policy", "set", &sandbox.name, &new])?.expect_code(0)?;
    for said in ended {
        sandbox.heart().wait_for(said, PATIENCE)?;
    }
    stage.world().recorder().let_end(&mark);
    let done = sandbox.running.take().context("it runs")?.finish(PATIENCE)?.expect_code(0)?;
    let stays = std::fs::read_to_string(stage.workspace().join("stays"))?;
    let count = stays.matches("data: tick ").count();
    let whole: String = (1..=count).map(|n| format!("id: {n}\ndata: tick {n}\n\n")).collect();
    ensure!(stays == whole, "the stream that is still allowed broke off after {} bytes", stays.len());
    ensure!(done.out().contains("it stayed"), "{}", done.out());
    Ok(done)
}

fn each_client_sees_why(stage: &Stage, road: &str, ends: &[(&str, &str)]) -> Result<()> {
    let python = program("python3")?;
    stage.script("ends.py", include_str!("inside/ends.py"))?;
    let mark = stage.marker();
    let clients: Vec<String> =
        ends.iter().map(|(kind, _)| format!("{python} /sandbox/ends.py {road} {kind} {mark} &")).collect();
    let open: Vec<String> = ends.iter().map(|(kind, _)| format!("{kind} open\n")).collect();
    let ended: Vec<String> = ends.iter().map(|(kind, _)| format!("{kind} ended: ")).collect();
    let done = through_reload(stage, &clients.join("\n"), &open, &ended)?;
    let said = done.out();
    for (kind, end) in ends {
        let wanted = format!("{kind} ended: {end}");
        ensure!(said.lines().any(|line| line == wanted), "no `{wanted}` in\n{said}\n{}", done.err());
    }
    let server = |mark: &str| {
        let seen = stage.world().recorder().with_marker(mark);
        seen.first()
            .map(|seen| String::from_utf8_lossy(&seen.body).into_owned())
            .filter(|said| !said.is_empty())
    };
    for mark in [format!("{mark}judged"), format!("{mark}relayed")] {
        if stage.world().recorder().with_marker(&mark).is_empty() {
            continue;
        }
        let told = poll("the server to be told", START, || server(&mark))?;
        ensure!(told == "close 1008 the client's side ends this", "{mark}: {told}");
    }
    Ok(())
}

fn each_client_sees_why_by_the_proxy(stage: &Stage) -> Result<()> {
    each_client_sees_why(stage, "proxy", &[ENDS, &[WS_RELAYED]].concat())
}

fn each_client_sees_why_without_a_proxy(stage: &Stage) -> Result<()> {
    each_client_sees_why(stage, "plain", ENDS)
}

fn curl_sees_it_too(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let get = |protocol: &str| {
        format!(
            "( {curl} -sSN -w '%{{stderr}}%{{http_version}} ' {protocol} 'https://api.bed.test/sse?n=10000&every=20' > .{protocol}.out 2>.{protocol}.err; \
             echo {protocol} ended $? ) &\n( until grep -q 'tick 3' ./.{protocol}.out 2>/dev/null; do sleep 0.02; done; \
             echo {protocol} open ) &"
        )
    };
    let start = format!("{}\n{}", get("--http1.1"), get("--http2"));
    let open = ["--http1.1 open\n".to_owned(), "--http2 open\n".to_owned()];
    let ended = ["--http1.1 ended ".to_owned(), "--http2 ended ".to_owned()];
    let done = through_reload(stage, &start, &open, &ended)?;
    // 18: a part of the answer is missing; 92: its stream was not closed cleanly.
    let said = done.out();
    ensure!(said.contains("--http1.1 ended 18"), "{said}");
    ensure!(said.contains("--http2 ended 18") || said.contains("--http2 ended 92"), "{said}");
    let told = std::fs::read_to_string(stage.workspace().join(".--http2.err"))?;
    ensure!(told.contains("2 "), "curl spoke another version: {told}");
    Ok(())
}
