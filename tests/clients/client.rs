//! One client, twice: with the environment as given, and with every proxy variable unset, when its
//! connections are captured.
//!
//! A script does what must work, then what must be refused, and prints what the client reported. Besides that
//! output, the world's recorder shows what arrived, and the audit log what was decided.

use std::fmt;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::Finished;

use crate::common::{ensure_audited, policy, tools, workspace};

/// How a client finds its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// The variables that cofferdam sets.
    Given,
    /// None of them: every connection is captured.
    Unset,
}

impl Road {
    const BOTH: [Self; 2] = [Self::Given, Self::Unset];
    /// Takes every variable of a proxy's out of a shell's environment.
    const UNSET: &'static str = "for v in $(env | sed -n 's/=.*//p' | grep -i _proxy); do unset $v; done\n\
        if env | grep -i _proxy=; then exit 99; fi\n";

    fn preamble(self) -> &'static str {
        match self {
            Self::Given => "[ \"$HTTPS_PROXY\" = http://127.0.0.1:3128 ] || exit 98\n",
            Self::Unset => Self::UNSET,
        }
    }
}

impl fmt::Display for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "given",
            Self::Unset => "unset",
        })
    }
}

/// What every client of this suite may reach. Paths below `/secret/` are refused, and so are chat messages
/// that say `forbidden`. `evil.bed.test` isn't in the policy.
const POLICY: &str = r#"  clients:
    name: clients
    endpoints:
      - host: api.bed.test
        ports: [80, 443, 8080, 8443]
        protocol: rest
        access: full
        deny_rules: [ { method: "*", path: "/secret/**" } ]
      - { host: h1.bed.test, ports: [443, 8490], protocol: rest, access: full }
      - { host: h1.bed.test, ports: [8090], protocol: rest, access: full }
      - { host: h2.bed.test, port: 443, protocol: rest, access: full }
      - { host: six.bed.test, port: 443, protocol: rest, access: read-only }
      - { host: files.bed.test, port: 443, protocol: rest, access: read-only }
      - { host: git.bed.test, port: 443, protocol: rest, access: read-write, deny_rules: [ { method: "*", path: "/secret.git/**" } ] }
      - { host: pypi.bed.test, port: 443, protocol: rest, access: read-only, deny_rules: [ { method: "*", path: "/simple/secretpkg/**" } ] }
      - { host: npm.bed.test, port: 443, protocol: rest, access: read-only, deny_rules: [ { method: "*", path: "/secretpkg**" } ] }
      - { host: crates.bed.test, port: 443, protocol: rest, access: read-only, deny_rules: [ { method: "*", path: "/index/se/cr/**" } ] }
      - { host: deb.bed.test, ports: [80, 443], protocol: rest, access: read-only, deny_rules: [ { method: "*", path: "/secret/**" } ] }
      - host: grpc.bed.test
        ports: [443, 8080]
        protocol: rest
        rules: [ { allow: { method: POST, path: "/bed.Echo/*" } } ]
        deny_rules: [ { method: "*", path: "/bed.Echo/Secret" } ]
      - host: chat.bed.test
        ports: [80, 443]
        protocol: websocket
        rules:
          - { allow: { method: GET, path: /gateway } }
          - { allow: { method: WEBSOCKET_TEXT, path: /gateway, json: { op: { any: [1, 2, 3] } } } }
        deny_rules: [ { method: WEBSOCKET_TEXT, path: /gateway, text: "**forbidden**" } ]
      - { host: redis.bed.test, port: 6379, protocol: tcp }
      - { host: ssh.bed.test, port: 22, protocol: tcp }
    binaries: [ { path: "/**", allow_foreign_code: true } ]
  nobody:
    name: nobody
    endpoints: [ { host: llm.bed.test, ports: [22, 443, 6379, 8080] } ]
    binaries: [ { path: /usr/bin/nothing-here } ]"#;

/// The expected results of a script, on either road.
pub struct Told<'a> {
    /// What it prints, in this order.
    pub prints: &'a [&'a str],
    /// The host at which the script's request arrives. Its target holds the case's marker, where the test can
    /// choose the URL.
    pub arrives: &'a str,
    /// Where `evil.bed.test` is refused.
    pub evil: Evil,
}

/// How a request to a host that the policy doesn't allow is refused, which depends on the road.
#[derive(Debug, Clone, Copy)]
pub enum Evil {
    /// The client uses the proxy where variables name it.
    ByProxy,
    /// The client never uses a proxy: the name doesn't resolve.
    ByName,
    /// The script doesn't ask for the host.
    Untried,
}

impl Evil {
    fn layer(self, road: Road) -> Option<&'static str> {
        match (self, road) {
            (Self::Untried, _) => None,
            (Self::ByProxy, Road::Given) => Some("l4"),
            _ => Some("dns"),
        }
    }
}

/// Hosts whose clients choose the URLs themselves, so that the marker can't be in them.
const OWN_URLS: &[&str] =
    &["git.bed.test", "pypi.bed.test", "npm.bed.test", "crates.bed.test", "deb.bed.test", "grpc.bed.test"];

/// A script in a sandbox of its own.
pub fn run(stage: &Stage, road: Road, script: &str) -> Result<Finished> {
    let file = stage.write("policy.yaml", policy(POLICY))?.display().to_string();
    let script = format!("{}cd /sandbox\n{script}", road.preamble());
    let script = script.replace("MARK", &stage.marker()).replace("ROAD", &road.to_string());
    let options = ["--name", &road.to_string(), "--policy", &file, "--workspace", &workspace(stage)];
    stage.run(&options, &["bash", "-c", &script])
}

/// Runs a script for a shell on both roads; in it `MARK` is the case's word and `ROAD` the road's name.
/// Nothing refused ever arrives, and each refusal is on record.
pub fn both(stage: &Stage, script: &str, told: &Told<'_>) -> Result<()> {
    for road in Road::BOTH {
        one(stage, road, script, told).with_context(|| format!("proxy variables {road}"))?;
    }
    Ok(())
}

fn one(stage: &Stage, road: Road, script: &str, told: &Told<'_>) -> Result<()> {
    let recorder = stage.world().recorder();
    let mark = stage.marker();
    let arrived = |host: &str| {
        let ours = |target: &str| OWN_URLS.contains(&host) || target.contains(&mark);
        recorder.for_host(host).iter().filter(|seen| ours(&seen.target)).count()
    };
    let (before, evil) = (arrived(told.arrives), recorder.for_host("evil.bed.test").len());
    let done = run(stage, road, script)?;
    let out = done.out();
    printed(&out, told.prints)
        .with_context(|| format!("code {}\n{out}\n--- stderr\n{}", done.code(), done.err()))?;
    ensure!(done.code() == 0, "code {}\n{out}\n--- stderr\n{}", done.code(), done.err());
    if !told.arrives.is_empty() {
        ensure!(arrived(told.arrives) > before, "nothing arrived at {}", told.arrives);
        ensure_audited(stage, &road.to_string(), &[("verdict", "allowed"), ("host", told.arrives)])?;
    }
    ensure!(recorder.for_host("evil.bed.test").len() == evil, "a refused request arrived");
    ensure!(!recorder.was_asked_for("evil.bed.test"), "a refused name left the machine");
    let secret = recorder.all().iter().filter(|seen| seen.target.to_lowercase().contains("secret")).count();
    ensure!(secret == 0, "a refused path arrived");
    if let Some(layer) = told.evil.layer(road) {
        let refused = [("verdict", "denied"), ("host", "evil.bed.test"), ("layer", layer)];
        ensure_audited(stage, &road.to_string(), &refused)?;
    }
    ensure_audited(stage, &road.to_string(), &[("verdict", "denied")])
}

/// Each text, in this order.
fn printed(out: &str, texts: &[&str]) -> Result<()> {
    let mut rest = out;
    for text in texts {
        let at =
            rest.find(text).with_context(|| format!("{text:?} was not printed, or not in this order"))?;
        rest = rest.get(at + text.len()..).unwrap_or_default();
    }
    Ok(())
}

/// A program among those that `.ci/run --tools` installs, by its path below that directory.
pub fn installed(path: &str) -> Result<String> {
    let program = tools().join(path);
    if !program.exists() {
        bed::skip!("no {}: run `.ci/run --tools`", program.display());
    }
    Ok(program.display().to_string())
}
