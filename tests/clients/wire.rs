//! HTTP features beyond a plain request and answer, by clients that use them.

use anyhow::{Result, ensure};
use bed::Stage;

use crate::client::{Evil, Told, both};
use crate::common::program;
use crate::node::newest;
use crate::tools::DENIED;

fn script(stage: &Stage, program: &str, file: &str, text: &str, prints: &[&str]) -> Result<()> {
    stage.script(file, text)?;
    both(stage, &format!("{program} {file} MARK ROAD"), &Told { prints, arrives: "", evil: Evil::Untried })
}

/// HEAD, ranges, 204 and 304 have no body, or a part of one, and the connection goes on behind each.
pub fn ranges_and_heads(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let curl = format!("{curl} -sS --max-time 60");
    let shown = "-o /dev/null -w '%{http_code}:%{size_download} '";
    let mut script = String::from("set -e\n");
    for base in ["https://api.bed.test", "https://h1.bed.test", "http://api.bed.test"] {
        for version in ["--http1.1", "--http2"] {
            let asked = [
                format!("-I {base}/file/1000"),
                format!("-r 100-199 {base}/file/1000"),
                format!("-H 'If-None-Match: \"bed\"' {base}/file/1000"),
                format!("{base}/status/204"),
                format!("{base}/file/1000"),
            ];
            let asked = asked.map(|asked| format!("{version} {shown} {asked}")).join(" --next -sS ");
            script.push_str(&format!("{curl} {asked}; echo\n"));
        }
    }
    script.push_str(&format!("{curl} -I https://api.bed.test/secret/x"));
    let prints = [&["200:0 206:100 304:0 204:0 200:1000"; 6][..], &["403"]].concat();
    both(stage, &script, &Told { prints: &prints, arrives: "", evil: Evil::Untried })
}

pub fn trailers_both_ways(stage: &Stage) -> Result<()> {
    let prints = ["https x-sum=7 the end", "http x-sum=7 the end", "secret 403"];
    script(stage, &newest()?, "trailers.mjs", include_str!("inside/trailers.mjs"), &prints)
}

/// `Expect: 100-continue` is answered once the request is allowed, and not before.
pub fn expectations(stage: &Stage) -> Result<()> {
    let prints = ["https continued 200 body", "http continued 200 body", "secret 403 not continued"];
    script(stage, &newest()?, "expect.mjs", include_str!("inside/expect.mjs"), &prints)
}

/// An early-hints response (RFC 8297) reaches HTTP/1.1 clients, and doesn't confuse HTTP/2 clients.
pub fn early_hints(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let script = format!(
        "get() {{ {curl} -sS --max-time 60 --suppress-connect-headers -i \"$@\" | tr -d '\\r' | grep -E '^(HTTP|link|ok)' | tr '\\n' ' '; echo; }}
        for url in https://h1.bed.test:8490 http://h1.bed.test:8090; do
            get --http1.1 --proxytunnel $url/hints $url/plain $url/hints
        done
        get --http2 https://h1.bed.test:8490/hints
        {curl} -sS --max-time 60 https://api.bed.test/secret/hints"
    );
    let hinted = "HTTP/1.1 103 Early Hints link: </style.css>; rel=preload HTTP/1.1 200 OK ok";
    let three = format!("{hinted} HTTP/1.1 200 OK ok {hinted}");
    let prints = [&three, &three, "HTTP/2 200  ok", DENIED];
    both(stage, &script, &Told { prints: &prints, arrives: "", evil: Evil::Untried })
}

/// Events come one by one, while the stream stays open.
pub fn server_sent_events(stage: &Stage) -> Result<()> {
    let prints = ["https tick 1 tick 2 tick 3", "http tick 1 tick 2 tick 3", "secret 403"];
    script(stage, &newest()?, "events.mjs", include_str!("inside/events.mjs"), &prints)
}

/// Only WebSocket is upgraded to; HTTP/2 in the clear isn't taken, and every other is refused by name.
pub fn upgrades(stage: &Stage) -> Result<()> {
    let prints = [
        "h2c HTTP/1.1 200 OK",
        "again HTTP/1.1 200 OK",
        "spdy HTTP/1.1 400",
        "WebSocket",
        "secret HTTP/1.1 403",
        DENIED,
    ];
    script(stage, &program("python3")?, "upgrades.py", include_str!("inside/upgrades.py"), &prints)?;
    let seen = stage.world().recorder().with_marker(&stage.marker());
    ensure!(!seen.is_empty() && seen.iter().all(|s| s.header("upgrade").is_none()), "{seen:?}");
    Ok(())
}

/// HTTP/2 to the proxy itself: tunnels, plain requests and refusals as streams of one connection.
pub fn connect_over_http2(stage: &Stage) -> Result<()> {
    let prints = [
        "first 200 HTTP/2.0",
        "second 200 HTTP/1.1",
        "relayed PONG",
        "plain 200",
        "evil 403",
        DENIED,
        "secret inside 403",
        DENIED,
        "head inside 403",
        "metadata 403",
        DENIED,
    ];
    script(stage, &newest()?, "connect.mjs", include_str!("inside/connect.mjs"), &prints)
}
