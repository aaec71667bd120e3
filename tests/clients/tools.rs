//! Command-line programs: curl, wget, git, ssh, redis-cli.

use anyhow::{Result, ensure};
use bed::Stage;

use crate::client::{Evil, Road, Told, both, run};
use crate::common::program;

/// What a refusal looks like whose body the client shows.
pub const DENIED: &str = "\"error\":\"policy_denied\"";

/// Over IPv6: to a host that has nothing else, and of one that has both where curl itself makes the
/// connection.
const SIX: &str =
    "get -f https://six.bed.test/; [ ROAD = given ] || get -f -6 https://api.bed.test:8443/echo";

pub fn curl(stage: &Stage) -> Result<()> {
    fetch_by(stage, "--http1.1")
}

pub fn curl_http2(stage: &Stage) -> Result<()> {
    fetch_by(stage, "--http2")
}

/// Curl by one version of HTTP, over TLS and in the clear, over both families.
fn fetch_by(stage: &Stage, version: &str) -> Result<()> {
    let curl = program("curl")?;
    let script = format!(
        "get() {{ {curl} -sS --max-time 60 {version} \"$@\"; }}; set -e
        get -f https://api.bed.test/echo?m=MARK; echo
        get -f -d body https://h1.bed.test/echo?m=MARK; echo
        get -f -d body https://h2.bed.test/echo?m=MARK; echo
        get -f http://api.bed.test/echo?m=MARK; echo
        get -f -d body http://api.bed.test:8080/echo?m=MARK; echo
        get -f https://files.bed.test/; {{six}}
        echo denied path
        get -w ' status %{{http_code}}\\n' https://api.bed.test/secret/x
        get -w ' status %{{http_code}}\\n' http://api.bed.test/secret/x
        echo denied host
        get https://evil.bed.test/ 2>&1 || true
        get -w ' status %{{http_code}}\\n' http://evil.bed.test/ 2>&1 || true"
    );
    let script = script.replace("{six}", if stage.world().ipv6() { SIX } else { "" });
    both(
        stage,
        &script,
        &Told {
            prints: &[
                "\"host\":\"api.bed.test\"",
                "\"version\":\"HTTP/1.1\"",
                "\"version\":\"HTTP/2.0\"",
                "denied path",
                DENIED,
                "status 403",
                DENIED,
                "status 403",
                "denied host",
            ],
            arrives: "api.bed.test",
            evil: Evil::ByProxy,
        },
    )?;
    let seen_by: Vec<_> = stage.world().recorder().with_marker(&stage.marker());
    ensure!(seen_by.len() == 10, "{} of 10 requests arrived", seen_by.len());
    ensure!(seen_by.iter().all(|s| s.host != "h1.bed.test" || s.version == "HTTP/1.1"));
    ensure!(seen_by.iter().all(|s| s.host != "h2.bed.test" || s.version == "HTTP/2.0"));
    // Nothing of the proxy's own is added to what the server sees, and an upgrade is never passed on.
    for header in
        ["via", "x-forwarded-for", "forwarded", "proxy-connection", "x-cofferdam-request-id", "upgrade"]
    {
        ensure!(seen_by.iter().all(|s| s.header(header).is_none()), "{header} was sent: {seen_by:?}");
    }
    // What each road says of a host that nobody may reach.
    let host = format!("{curl} -sS --max-time 60 {version} https://evil.bed.test/ 2>&1");
    let given = run(stage, Road::Given, &host)?.out();
    ensure!(given.contains("403"), "{given}");
    let unset = run(stage, Road::Unset, &host)?.out();
    ensure!(unset.contains("Could not resolve host"), "{unset}");
    Ok(())
}

pub fn wget(stage: &Stage) -> Result<()> {
    let wget = program("wget")?;
    let script = format!(
        "get() {{ {wget} -q -t 1 -T 60 -O - \"$@\"; }}; set -e
        get https://api.bed.test/echo?m=MARK; get http://api.bed.test/echo?m=MARK; echo
        get -S --content-on-error https://api.bed.test/secret/x 2>&1 || echo code $?
        get -S https://evil.bed.test/ 2>&1 || echo code $?"
    );
    both(
        stage,
        &script,
        &Told {
            prints: &["\"host\":\"api.bed.test\"", "403 Forbidden", DENIED, "code 8", "code "],
            arrives: "api.bed.test",
            evil: Evil::ByProxy,
        },
    )
}

pub fn git(stage: &Stage) -> Result<()> {
    let git = program("git")?;
    let script = format!(
        "set -e; export GIT_TERMINAL_PROMPT=0
        {git} clone -q https://git.bed.test/demo.git ROAD && cat ROAD/README.md
        {git} -C ROAD pull -q && echo pulled
        {git} clone https://git.bed.test/secret.git no 2>&1 || echo code $?
        {git} clone https://evil.bed.test/demo.git no 2>&1 || echo code $?"
    );
    both(
        stage,
        &script,
        &Told {
            prints: &["cloned through", "pulled", "403", "code 128", "code 128"],
            arrives: "git.bed.test",
            evil: Evil::ByProxy,
        },
    )
}

/// A server that a rule names is reached; every other is denied in SSH's own words, or doesn't exist.
pub fn openssh(stage: &Stage) -> Result<()> {
    let ssh = program("ssh")?;
    let script = format!(
        "ssh() {{ {ssh} -o BatchMode=yes -o ConnectTimeout=30 -o StrictHostKeyChecking=no git@$1 2>&1; echo code $?; }}
        ssh ssh.bed.test; echo; ssh llm.bed.test; echo; ssh evil.bed.test; ssh api.bed.test"
    );
    both(
        stage,
        &script,
        &Told {
            prints: &[
                "this is the world's ssh server",
                "code 255",
                "cofferdam",
                "policy",
                "code 255",
                "Could not resolve hostname evil.bed.test",
                "code 255",
                "code 255",
            ],
            arrives: "",
            evil: Evil::ByName,
        },
    )
}

pub fn redis_cli(stage: &Stage) -> Result<()> {
    let redis = program("redis-cli")?;
    let script = format!(
        "printf 'PING\\nSET k hello-redis\\nGET k\\n' | {redis} -h redis.bed.test
        for h in llm evil; do {redis} -h $h.bed.test PING 2>&1; echo code $?; done"
    );
    both(
        stage,
        &script,
        &Told { prints: &["PONG", "OK", "hello-redis", "code 1", "code 1"], arrives: "", evil: Evil::ByName },
    )
}
