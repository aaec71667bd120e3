//! Rules about the content of bodies and messages, tested from inside a real sandbox: allowed content arrives
//! byte for byte, over HTTP/1.1 and HTTP/2; refused content never arrives, and the refusal is reported and
//! recorded.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bed::Stage;

use common::{COFFERDAM, audit, ensure_audited, policy_file, program, record_has, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "protocols",
        Path::new(COFFERDAM),
        bed::cases![bodies_are_judged, messages_are_judged, audit_records_what_enforce_would_refuse],
    )
}

const BODIES: &str = r#"  bodies:
    name: bodies
    endpoints:
      - { host: api.bed.test, port: 443, path: /echo, protocol: mcp, rules: [ { allow: { method: tools/call, tool: "read_*", arguments: { path: "/work/**" } } } ] }
      - { host: h1.bed.test, port: 443, path: /echo, protocol: graphql, access: read-only, deny_rules: [ { operation_type: query, fields: [secrets] } ] }
      - { host: h2.bed.test, port: 443, path: /echo, protocol: json-rpc, rules: [ { allow: { method: "reports.*" } } ] }
    binaries: [ { path: "/usr/bin/curl" } ]"#;

/// Host, body, and whether it may pass.
fn requests(mark: &str) -> Vec<(&'static str, String, bool)> {
    let call = |tool: &str, path: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"{mark}","method":"tools/call","params":{{"name":"{tool}","arguments":{{"path":"{path}"}}}}}}"#
        )
    };
    let query = |text: &str| format!(r##"{{"query":"#{mark}\n{text}"}}"##);
    let rpc = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":"{mark}","method":"{method}"}}"#);
    vec![
        ("api", call("read_file", "/work/a/b"), true),
        ("api", call("read_file", "/etc/passwd"), false),
        ("api", call("delete_file", "/work/a"), false),
        ("api", format!("[{},{}]", call("read_file", "/work/a"), call("read_all", "/work/b")), true),
        ("api", format!("[{},{}]", call("read_file", "/work/a"), call("delete_file", "/work/b")), false),
        ("api", call("read_file\",\"name\":\"delete_file", "/work/a"), false),
        ("h1", query("{ viewer }"), true),
        ("h1", query("{ viewer: secrets }"), false),
        ("h1", query("{ ...F } fragment F on Query { secrets }"), false),
        ("h1", query("mutation { viewer }"), false),
        ("h2", rpc("reports.list"), true),
        ("h2", rpc("users.list"), false),
    ]
}

fn bodies_are_judged(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let file = policy_file(stage, BODIES)?;
    for (version, more) in
        [("--http1.1", ""), ("--http2", ""), ("--http1.1", "-H 'Transfer-Encoding: chunked'")]
    {
        let mark = format!("{}v{}", stage.marker(), version.len() + more.len());
        let requests = requests(&mark);
        let mut script = String::new();
        for (index, (host, body, _)) in requests.iter().enumerate() {
            stage.write(&format!("workspace/{index}.json"), body)?;
            script += &format!(
                "{curl} -s -o /tmp/b -w '%{{http_code}}\\n' --max-time 60 {version} {more} -H 'Content-Type: application/json' \
                 --data-binary @/sandbox/{index}.json https://{host}.bed.test/echo\n"
            );
        }
        let name = format!("bodies{}", version.len() + more.len());
        let options = ["--name", &name, "--policy", &file, "--workspace", &workspace(stage)];
        let done = stage.run(&options, &["sh", "-c", &script])?.expect_code(0)?;
        let out = done.out();
        let arrived: Vec<_> = stage.world().recorder().all().into_iter().map(|seen| seen.body).collect();
        let codes: Vec<&str> = out.lines().collect();
        ensure!(codes.len() == requests.len(), "{out}");
        for (code, (host, body, passes)) in codes.iter().zip(&requests) {
            ensure!(*code == if *passes { "200" } else { "403" }, "{version} {more} {host} {body}: {code}");
            let there = arrived.iter().any(|seen| seen == body.as_bytes());
            ensure!(there == *passes, "{version} {more} {host} {body}: arrived: {there}");
        }
        ensure_audited(stage, &name, &[("verdict", "denied"), ("layer", "l7"), ("host", "api.bed.test")])?;
        let denied = audit(stage, &name)?.iter().filter(|r| record_has(r, &[("verdict", "denied")])).count();
        ensure!(
            denied == requests.iter().filter(|(_, _, passes)| !passes).count(),
            "{denied} denials on record"
        );
    }
    Ok(())
}

/// With an HTTP/1.1 server, and with an HTTP/2-only server, where the WebSocket is a stream (RFC 8441).
fn messages_are_judged(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("websocket.py", include_str!("inside/websocket.py"))?;
    for (server, host, port, version) in
        [("old", "h1.bed.test", 8443, "HTTP/1.1"), ("new", "h2.bed.test", 443, "HTTP/2.0")]
    {
        let entries = format!(
            r#"  live:
    name: live
    endpoints:
      - host: {host}
        port: {port}
        protocol: websocket
        rules:
          - {{ allow: {{ method: GET, path: /ws }} }}
          - {{ allow: {{ method: WEBSOCKET_TEXT, path: /ws, text: "echo *" }} }}
        deny_rules: [ {{ method: WEBSOCKET_TEXT, path: /ws, text: "echo 4*" }} ]
    binaries: [ {{ path: "/**" }} ]"#
        );
        let file = policy_file(stage, &entries)?;
        let (well, badly) = (format!("{server}-three"), format!("{server}-five"));
        let run = |name: &str, count: &str| {
            let options = ["--name", name, "--policy", &file, "--workspace", &workspace(stage)];
            let to = format!("{host}:{port}");
            stage.run(&options, &[&python, "-u", "/sandbox/websocket.py", &to, "/ws", count])
        };
        let done = run(&well, "3")?.expect_code(0)?;
        ensure!(done.out() == "open\necho 1\necho 2\necho 3\n", "{host}: {}", done.out());
        // The fourth message is refused: its echo never comes, the reason does.
        let done = run(&badly, "5")?;
        ensure!(done.code() != 0 || !done.out().contains("echo 5"), "{host}: {}", done.out());
        ensure!(done.out().starts_with("open\necho 1\necho 2\necho 3\n"), "{host}: {}", done.out());
        ensure!(!done.out().contains("\necho 4"), "{host}: a refused message came back: {}", done.out());
        let refused = [("verdict", "denied"), ("method", "WEBSOCKET_TEXT"), ("layer", "l7")];
        ensure_audited(stage, &badly, &refused)?;
        let seen = stage.world().recorder().for_host(host);
        let asked = seen.iter().filter(|seen| seen.version == version).count();
        ensure!(asked >= 2, "{host}: not by {version}: {seen:?}");
    }
    Ok(())
}

fn audit_records_what_enforce_would_refuse(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let entries = BODIES.replace("protocol: mcp,", "protocol: mcp, enforcement: audit,");
    let file = policy_file(stage, &entries)?;
    let mark = stage.marker();
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":"{mark}","method":"tools/call","params":{{"name":"delete_file"}}}}"#
    );
    stage.write("workspace/body.json", &body)?;
    let script = format!(
        "{curl} -sSf --max-time 60 -H 'Content-Type: application/json' --data-binary @/sandbox/body.json https://api.bed.test/echo"
    );
    let options = ["--name", "audited", "--policy", &file, "--workspace", &workspace(stage)];
    stage.run(&options, &["sh", "-c", &script])?.expect_code(0)?;
    ensure!(
        stage.world().recorder().all().iter().any(|seen| seen.body == body.as_bytes()),
        "it did not arrive"
    );
    ensure_audited(stage, "audited", &[("verdict", "audited"), ("layer", "l7"), ("host", "api.bed.test")])?;
    let told =
        audit(stage, "audited")?.iter().any(|record| record.to_string().contains("tools/call delete_file"));
    ensure!(told, "the record doesn't say what was refused");
    Ok(())
}
