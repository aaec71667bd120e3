//! The way out with the default environment: allowed requests arrive and refused ones never leave, whatever
//! happens meanwhile. The clients themselves are in `tests/clients`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, finish, poll};
use serde_json::Value;

use common::{
    COFFERDAM, FRIENDLY, Sandbox, audit, ensure_audited, policy, policy_file, program, record_has, workspace,
};

fn main() -> ExitCode {
    bed::harness::main(
        "egress",
        Path::new(COFFERDAM),
        bed::cases![
            h1_and_h2_upstreams,
            rules_judge_method_and_path,
            binaries_are_judged,
            no_ssrf,
            what_upstream_breaks_is_told,
            ambiguous_requests_never_leave,
            what_its_client_has_left_is_given_up,
            sse_outlives_reload_and_crash,
            websocket_outlives_reload_and_crash,
            a_gigabyte_both_ways_in_flat_memory.alone().within(Duration::from_secs(3600)),
        ],
    )
}

/// A command in a sandbox that may reach the friendly hosts.
fn friendly(stage: &Stage, name: &str, command: &[&str]) -> Result<Finished> {
    let file = policy_file(stage, FRIENDLY)?;
    stage.run(&["--name", name, "--policy", &file, "--workspace", &workspace(stage)], command)
}

fn h1_and_h2_upstreams(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let mark = stage.marker();
    let six = if stage.world().ipv6() { "six" } else { "api" };
    let script = format!(
        "set -e; for host in h1 h2 api {six}; do for way in --http1.1 --http2; do {curl} -sSf --max-time 30 $way \
         -d body-$host https://$host.bed.test/echo?m={mark}; echo; done; done; {curl} -sSf http://api.bed.test:8080/echo?m={mark}"
    );
    friendly(stage, "versions", &["sh", "-c", &script])?.expect_code(0)?;
    let seen = stage.world().recorder().with_marker(&mark);
    ensure!(seen.len() == 9, "{} of 9 requests arrived", seen.len());
    let versions =
        |host: &str| seen.iter().filter(|s| s.host == host).map(|s| s.version.as_str()).collect::<Vec<_>>();
    ensure!(versions("h1.bed.test") == ["HTTP/1.1", "HTTP/1.1"], "{:?}", versions("h1.bed.test"));
    ensure!(versions("h2.bed.test") == ["HTTP/2.0", "HTTP/2.0"], "{:?}", versions("h2.bed.test"));
    ensure!(seen.iter().filter(|s| s.method == "POST").all(|s| s.body.starts_with(b"body-")));
    Ok(())
}

/// `curl`'s status and body for each URL, in order, one request after another.
fn statuses(stage: &Stage, entries: &str, requests: &[&[&str]]) -> Result<Vec<(u16, Value)>> {
    let curl = program("curl")?;
    let file = policy_file(stage, entries)?;
    let lines: Vec<String> = requests
        .iter()
        .map(|args| {
            let args: Vec<String> = args.iter().map(|a| format!("'{a}'")).collect();
            format!("{curl} -s -o /tmp/b -w '%{{http_code}} %{{http_connect}}' --max-time 30 {}; echo; cat /tmp/b; echo; \
                     echo; echo ---; rm -f /tmp/b", args.join(" "))
        })
        .collect();
    let name = format!("st{}", stage.world().recorder().all().len());
    let options = ["--name", &name, "--policy", &file, "--workspace", &workspace(stage)];
    let done = stage.run(&options, &["sh", "-c", &format!("{}; true", lines.join("\n"))])?.expect_code(0)?;
    let out = done.out();
    let answers: Vec<(u16, Value)> = out
        .split("---\n")
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (codes, body) = part.split_once('\n').unwrap_or((part, ""));
            let mut codes = codes.split(' ').map(|c| c.trim().parse::<u16>().unwrap_or(0));
            let (code, connect) = (codes.next().unwrap_or(0), codes.next().unwrap_or(0));
            // A refused CONNECT has no inner status, so its own status counts.
            (if code == 0 { connect } else { code }, serde_json::from_str(body.trim()).unwrap_or(Value::Null))
        })
        .collect();
    ensure!(
        answers.len() == requests.len(),
        "{} answers to {} requests: {out}",
        answers.len(),
        requests.len()
    );
    Ok(answers)
}

fn rules_judge_method_and_path(stage: &Stage) -> Result<()> {
    let entries = r#"  api:
    name: api
    endpoints:
      - host: api.bed.test
        port: 443
        protocol: rest
        rules:
          - { allow: { method: GET, path: "/repos/*/issues" } }
          - { allow: { method: POST, path: "/repos/**" } }
          - { allow: { method: GET, path: "/search", query: { state: open } } }
        deny_rules: [ { method: "*", path: "/repos/secret/**" } ]
    binaries: [ { path: "/usr/bin/curl" } ]"#;
    let mark = stage.marker();
    let url = |path: &str| format!("https://api.bed.test{path}");
    let urls = [
        url(&format!("/repos/{mark}/issues")),
        url(&format!("/repos/{mark}/issues/1")),
        url("/repos/secret/issues"),
        url("/repos/secret/%69ssues"),
        url("/repos/x/../secret/issues"),
        url("/search?state=open"),
        url("/search?state=closed"),
        url(&format!("/repos/{mark}%2Fissues")),
    ];
    let mut requests: Vec<Vec<&str>> = urls.iter().map(|u| vec!["--path-as-is", u.as_str()]).collect();
    requests.push(vec!["-X", "DELETE", &urls[0]]);
    requests.push(vec!["-X", "HEAD", "-I", &urls[0]]);
    requests.push(vec!["-d", "x", &urls[1]]);
    requests.push(vec!["-X", "get", &urls[0]]);
    let requests: Vec<&[&str]> = requests.iter().map(Vec::as_slice).collect();
    let before = stage.world().recorder().all().iter().filter(|s| s.target.contains("secret")).count();
    let answers = statuses(stage, entries, &requests)?;
    let codes: Vec<u16> = answers.iter().map(|(code, _)| *code).collect();
    ensure!(codes[..7] == [200, 403, 403, 403, 403, 200, 403], "{answers:?}");
    ensure!(matches!(codes[7], 400 | 403), "an encoded slash: {:?}", answers[7]);
    ensure!(codes[8..] == [403, 200, 200, 403], "{answers:?}");
    let denial = &answers[1].1;
    for (key, value) in
        [("error", "policy_denied"), ("layer", "l7"), ("host", "api.bed.test"), ("method", "GET")]
    {
        ensure!(denial[key] == value, "{key}: {denial}");
    }
    for key in ["detail", "path", "binary", "request_id", "port"] {
        ensure!(!denial[key].is_null(), "no {key}: {denial}");
    }
    let after = stage.world().recorder().all().iter().filter(|s| s.target.contains("secret")).count();
    ensure!(before == after, "a denied path arrived");
    Ok(())
}

fn binaries_are_judged(stage: &Stage) -> Result<()> {
    let (curl, python) = (program("curl")?, program("python3")?);
    let entries = format!(
        "  api:\n    name: api\n    endpoints: [ {{ host: api.bed.test, port: 443, protocol: rest, access: full }} ]\n    \
         binaries: [ {{ path: {curl} }} ]\n"
    );
    let file = policy_file(stage, &entries)?;
    let mark = stage.marker();
    // The allowed program and a copy of it, the refused one, and one that calls itself by the allowed one's
    // name.
    let script = format!(
        "cp {curl} /sandbox/curl; get() {{ \"$@\" >/dev/null 2>&1 && echo yes || echo no; }}\n\
         get {curl} -sSf https://api.bed.test/echo?m={mark}\n\
         get /sandbox/curl -sSf https://api.bed.test/echo?m={mark}\n\
         get {python} -c \"import urllib.request as r; r.urlopen('https://api.bed.test/echo?m={mark}', timeout=30)\"\n\
         get bash -c \"exec -a {curl} {python} -c \\\"import urllib.request as r; r.urlopen('https://api.bed.test/echo?m={mark}')\\\"\"\n"
    );
    let done = stage.run(&["--name", "bin", "--policy", &file], &["sh", "-c", &script])?.expect_code(0)?;
    ensure!(done.out() == "yes\nno\nno\nno\n", "{:?}", done.out());
    ensure!(stage.world().recorder().with_marker(&mark).len() == 1);
    let denied = audit(stage, "bin")?.iter().filter(|r| record_has(r, &[("verdict", "denied")])).count();
    ensure!(denied >= 3, "{denied} denials on record");
    Ok(())
}

fn no_ssrf(stage: &Stage) -> Result<()> {
    // The policy allows every one of them by a wildcard: only the guard stands between.
    let entries = r#"  any:
    name: any
    endpoints:
      - { host: "*.bed.test", ports: [443, 80, 8000], protocol: rest, access: full }
      - { host: 169.254.169.254, port: 80, protocol: rest, access: full }
    binaries: [ { path: "/**" } ]"#;
    // A policy that would lift it doesn't load.
    for lifted in ["169.254.0.0/16", "127.0.0.0/8", "::1/128", "0.0.0.0/0"] {
        let entry = format!(
            "  a:\n    name: a\n    endpoints: [ {{ host: a.bed.test, port: 80, allowed_ips: [\"{lifted}\"] }} ]"
        );
        let file = stage.write("lifted.yaml", policy(&entry))?.display().to_string();
        stage.call(&["policy", "check", &file])?.expect_code(125)?;
    }
    let hosts = ["loopback", "private", "metadata", "alibaba-metadata", "mixed", "mapped"];
    let urls: Vec<String> = hosts.iter().map(|h| format!("http://{h}.bed.test/")).collect();
    let mut requests: Vec<Vec<&str>> = urls.iter().map(|u| vec![u.as_str()]).collect();
    requests.push(vec!["http://169.254.169.254/latest/meta-data/"]);
    requests.push(vec!["https://api.bed.test/"]);
    let requests: Vec<&[&str]> = requests.iter().map(Vec::as_slice).collect();
    let seen = |host: &str| stage.world().recorder().for_host(host).len();
    let before: usize = hosts.iter().map(|h| seen(&format!("{h}.bed.test"))).sum();
    let answers = statuses(stage, entries, &requests)?;
    let (control, refused) = answers.split_last().unwrap();
    ensure!(control.0 == 200, "the positive control is dead: {control:?}");
    for (answer, url) in refused.iter().zip(urls.iter().map(String::as_str).chain(["169.254.169.254"])) {
        ensure!(answer.0 == 403 && answer.1["layer"] == "ssrf", "{url}: {answer:?}");
    }
    let after: usize = hosts.iter().map(|h| seen(&format!("{h}.bed.test"))).sum();
    ensure!(before == after, "something arrived");
    Ok(())
}

fn what_upstream_breaks_is_told(stage: &Stage) -> Result<()> {
    let entries = r#"  odd:
    name: odd
    endpoints:
      - { host: untrusted.bed.test, port: 443, protocol: rest, access: full }
      - { host: closed.bed.test, port: 444, protocol: rest, access: full }
      - { host: nobody.bed.test, port: 443, protocol: rest, access: full }
      - { host: api.bed.test, port: 443, protocol: rest, access: full }
    binaries: [ { path: "/**" } ]"#;
    let answers = statuses(
        stage,
        entries,
        &[
            &["https://untrusted.bed.test/"],
            &["https://closed.bed.test:444/"],
            &["https://nobody.bed.test/"],
            &["https://api.bed.test/status/503"],
            &["https://api.bed.test/redirect?to=https://evil.bed.test/"],
        ],
    )?;
    for (n, what) in
        ["an untrusted certificate", "a closed port", "a name that isn't there"].iter().enumerate()
    {
        // Curl shows no body of a refused CONNECT.
        let (code, body) = &answers[n];
        let told = body.is_null() || body["error"] == "upstream_unreachable";
        ensure!(*code == 502 && told, "{what}: {:?}", answers[n]);
    }
    ensure!(answers.iter().any(|(_, body)| body["error"] == "upstream_unreachable"), "{answers:?}");
    ensure!(answers[3].0 == 503 && answers[4].0 == 302, "what upstream says passes: {answers:?}");
    Ok(())
}

fn ambiguous_requests_never_leave(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let mark = stage.marker();
    let script = r#"
import socket, sys
MARK = sys.argv[1]
def say(name, data):
    s = socket.create_connection(("127.0.0.1", 3128), 60)
    s.settimeout(60)
    s.sendall(data)
    got = b""
    try:
        while b"\r\n" not in got:
            more = s.recv(4096)
            if not more: break
            got += more
    except OSError as e:
        got = repr(e).encode()
    print(name, got.split(b"\r\n")[0].decode(errors="replace"), flush=True)
U = "http://api.bed.test:8080/echo?m=" + MARK
def get(line, *headers, body=b""):
    return (line + "\r\n" + "".join(h + "\r\n" for h in headers) + "\r\n").encode("latin-1") + body
H = "Host: api.bed.test:8080"
say("control", get(f"GET {U} HTTP/1.1", H, "Connection: close"))
say("two-lengths", get(f"POST {U} HTTP/1.1", H, "Content-Length: 1", "Content-Length: 2", body=b"ab"))
say("same-lengths", get(f"POST {U} HTTP/1.1", H, "Content-Length: 1", "Content-Length: 1", body=b"a"))
say("length-and-chunked", get(f"POST {U} HTTP/1.1", H, "Content-Length: 1", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"))
say("signed-length", get(f"POST {U} HTTP/1.1", H, "Content-Length: +1", body=b"a"))
say("odd-coding", get(f"POST {U} HTTP/1.1", H, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"))
say("two-hosts", get(f"GET {U} HTTP/1.1", H, "Host: evil.bed.test"))
say("other-host", get(f"GET {U} HTTP/1.1", "Host: evil.bed.test"))
say("space-before-colon", get(f"GET {U} HTTP/1.1", "Host : api.bed.test:8080"))
say("folded", get(f"GET {U} HTTP/1.1", H, "X-A: b", " c"))
say("bare-lf", f"GET {U} HTTP/1.1\n{H}\n\n".encode())
say("nul", get(f"GET {U} HTTP/1.1", H, "X-A: a\0b"))
say("userinfo", get("GET http://a@api.bed.test:8080/echo?m=" + MARK + " HTTP/1.1", H))
say("non-ascii-path", get("GET http://api.bed.test:8080/\xe9?m=" + MARK + " HTTP/1.1", H))
say("backslash", get("GET http://api.bed.test:8080/a\\b?m=" + MARK + " HTTP/1.1", H))
say("h2c", get(f"GET {U} HTTP/1.1", H, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"))
say("octal", get("GET http://0177.0.0.1:8000/ HTTP/1.1", "Host: 0177.0.0.1:8000"))
say("dword", get("GET http://2130706433:8000/ HTTP/1.1", "Host: 2130706433:8000"))
say("mapped", get("GET http://[::ffff:127.0.0.1]:8000/ HTTP/1.1", "Host: [::ffff:127.0.0.1]:8000"))
say("big-head", get(f"GET {U} HTTP/1.1", H, "X-A: " + "a" * 300000))
"#;
    stage.script("odd.py", script)?;
    let done = friendly(stage, "odd", &[&python, "/sandbox/odd.py", &mark])?.expect_code(0)?;
    let out = done.out();
    let mut lines = out.lines();
    ensure!(lines.next().is_some_and(|l| l.starts_with("control HTTP/1.1 200")), "{out}");
    for line in lines {
        let refused =
            ["400", "403", "431", "501"].iter().any(|code| line.contains(&format!("HTTP/1.1 {code}")));
        // An upgrade that isn't taken is stripped, and the plain request goes on.
        ensure!(refused || line.starts_with("h2c HTTP/1.1 200"), "{line}\n{out}");
    }
    let arrived = stage.world().recorder().with_marker(&mark);
    ensure!(arrived.len() <= 2, "{} arrived: {arrived:?}", arrived.len());
    ensure!(arrived.iter().all(|s| s.header("upgrade").is_none()), "{arrived:?}");
    Ok(())
}

/// Starts `command` in the background, reloads the policy and crashes the proxy while it runs, lets it end,
/// and gives its output.
fn through_reload_and_crash(
    stage: &Stage,
    command: &[&str],
    begun: &str,
    let_end: impl FnOnce() -> Result<()>,
) -> Result<Finished> {
    let file = policy_file(stage, FRIENDLY)?;
    let options = ["--policy", &file, "--workspace", &workspace(stage), "--allow-fault-injection"];
    let mut sandbox = Sandbox::start(stage, &options, command, begun)?;
    let generation = |s: &Value| s["policy"]["generation"].as_u64();
    let before = generation(&sandbox.status()?);
    let more = format!(
        "{FRIENDLY}\n  more:\n    name: more\n    endpoints: [ {{ host: later.bed.test, port: 443 }} ]\n    binaries: [ {{ path: \"/**\" }} ]"
    );
    let new = stage.write("new.yaml", policy(&more))?.display().to_string();
    stage.call(&["policy", "set", &sandbox.name, &new])?.expect_code(0)?;
    ensure!(generation(&sandbox.status()?) > before, "no new generation");
    sandbox.crash("proxy")?;
    // A new connection is taken by the new actor.
    let curl = program("curl")?;
    let url = format!("https://api.bed.test/echo?m={}", stage.marker());
    stage.call(&["exec", &sandbox.name, "--", &curl, "-sSf", "--max-time", "60", &url])?.expect_code(0)?;
    let_end()?;
    sandbox.running.take().unwrap().finish(PATIENCE)
}

/// Requests whose client is gone are given up, on every road of HTTP/1: the kernel is asked in the client's
/// namespace.
fn what_its_client_has_left_is_given_up(stage: &Stage) -> Result<()> {
    let (curl, file, space) = (program("curl")?, policy_file(stage, FRIENDLY)?, workspace(stage));
    let (ask, mark) = (format!("{curl} -s --http1.1"), stage.marker());
    let script = format!(
        "echo asks; {ask} http://api.bed.test:8080/hang?m={mark} & a=$!; {ask} https://h1.bed.test/hang?m={mark} & b=$!; \
         {ask} --noproxy '*' https://files.bed.test/hang?m={mark} & c=$!; until [ -e leave ]; do sleep 0.02; done; \
         kill $a $b $c; wait; echo left; exec sleep 1000"
    );
    let options = ["--policy", &file, "--workspace", &space];
    let mut sandbox = Sandbox::start(stage, &options, &["sh", "-c", &script], "asks")?;
    poll("all three to be asked", PATIENCE, || {
        (stage.world().recorder().with_marker(&mark).len() == 3).then_some(())
    })?;
    stage.write("workspace/leave", "")?;
    sandbox.heart().wait_for("left", PATIENCE)?;
    for host in ["api.bed.test", "h1.bed.test", "files.bed.test"] {
        let finished = [("phase", "finished"), ("host", host), ("path", "/hang")];
        ensure_audited(stage, &sandbox.name, &finished)?;
    }
    Ok(())
}

fn sse_outlives_reload_and_crash(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let mark = stage.marker();
    let url = format!("https://api.bed.test/sse?n=300&every=20&until={mark}");
    let let_end = || {
        stage.world().recorder().let_end(&mark);
        Ok(())
    };
    let done = through_reload_and_crash(stage, &[&curl, "-sSfN", &url], "tick 3", let_end)?.expect_code(0)?;
    let out = done.out();
    let count = out.matches("data: tick ").count();
    let expected: String = (1..=count).map(|n| format!("id: {n}\ndata: tick {n}\n\n")).collect();
    ensure!(count >= 300 && out == expected, "the stream is not whole: {count} ticks in {} bytes", out.len());
    Ok(())
}

fn websocket_outlives_reload_and_crash(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("websocket.py", include_str!("inside/websocket.py"))?;
    let allow = friendly(stage, "ws", &[&python, "/sandbox/websocket.py", "h1.bed.test:8443", "/ws", "3"])?;
    if allow.code() != 0 {
        bail!("a WebSocket that a rule allows: {} {}", allow.out(), allow.err());
    }
    // The policy has no rule for WebSocket there.
    let refused =
        friendly(stage, "nows", &[&python, "/sandbox/websocket.py", "api.bed.test:443", "/ws", "3"])?;
    ensure!(refused.code() != 0 && !refused.out().contains("open"), "{} {}", refused.out(), refused.err());
    let command =
        [&python, "-u", "/sandbox/websocket.py", "h1.bed.test:8443", "/ws/ticks?every=20", "/sandbox/enough"];
    let let_end = || stage.write("workspace/enough", "").map(drop);
    let done =
        through_reload_and_crash(stage, &command.map(|s| s as &str), "tick 3", let_end)?.expect_code(0)?;
    let out = done.out();
    let count = out.matches("tick ").count();
    let expected: String =
        std::iter::once("open\n".into()).chain((1..=count).map(|n| format!("tick {n}\n"))).collect();
    ensure!(out == expected, "the stream is not whole: {out}");
    Ok(())
}

/// The peak of the memory that cofferdam's processes hold together, in KiB, sampled until `stop`.
fn peak_rss(stage: &Stage, stop: &std::sync::atomic::AtomicBool) -> u64 {
    let mut peak = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        peak = peak.max(rss(stage));
        std::thread::sleep(Duration::from_millis(50));
    }
    peak
}

fn rss(stage: &Stage) -> u64 {
    let of = |pid: i32| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status
            .lines()
            .find_map(|l| l.strip_prefix("RssAnon:"))?
            .trim()
            .trim_end_matches(" kB")
            .trim()
            .parse()
            .ok()
    };
    stage.cofferdam_processes().into_iter().filter_map(of).sum()
}

fn a_gigabyte_both_ways_in_flat_memory(stage: &Stage) -> Result<()> {
    /// The issue's gigabyte.
    const LENGTH: u64 = 1 << 30;
    /// What buffers of a few connections may add, whatever the length.
    const GROWTH_MAX_KIB: u64 = 48 * 1024;
    let curl = program("curl")?;
    let file = policy_file(stage, FRIENDLY)?;
    let options = ["--policy", &file, "--workspace", &workspace(stage)];
    let sandbox = Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let exec = |script: &str, deadline| -> Result<Finished> {
        finish(stage.cofferdam(["exec", &sandbox.name, "--", "sh", "-c", script]), deadline)?.expect_code(0)
    };
    let url = format!("https://files.bed.test/bytes/{LENGTH}");
    exec(&format!("{curl} -sSf https://files.bed.test/bytes/1000000 | wc -c"), PATIENCE)?;
    let before = rss(stage);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let long = Duration::from_secs(1100);
    let (down, up, peak) = std::thread::scope(|scope| {
        let peak = scope.spawn(|| peak_rss(stage, &stop));
        let begun = std::time::Instant::now();
        let down = exec(&format!("{curl} -sSf {url} | sha256sum"), long);
        let down = down.map(|d| (d.out(), begun.elapsed()));
        let begun = std::time::Instant::now();
        let up = exec(
            &format!("head -c {LENGTH} /dev/zero | {curl} -sSf -T - https://files.bed.test/upload"),
            long,
        );
        let up = up.map(|d| (d.out(), begun.elapsed()));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (down, up, peak.join().unwrap())
    });
    let ((down, down_took), (up, up_took)) = (down?, up?);
    let direct = {
        let mut command = stage.command("sh");
        let ca = stage.world().ca_file();
        command.arg("-c").arg(format!("{curl} -sSf --cacert {} {url} | sha256sum", ca.display()));
        finish(command, long)?.expect_code(0)?.out()
    };
    ensure!(down == direct, "the download differs: {down} {direct}");
    ensure!(up.contains(&LENGTH.to_string()), "{up}");
    let rate = |took: Duration| (LENGTH >> 20) as f64 / took.as_secs_f64();
    bed::harness::say(&format!(
        "    1 GiB down at {:.0} MiB/s, up at {:.0} MiB/s; memory {before} KiB before, {peak} KiB at most",
        rate(down_took),
        rate(up_took)
    ));
    ensure!(peak.saturating_sub(before) < GROWTH_MAX_KIB, "memory grew from {before} to {peak} KiB");
    Ok(())
}
