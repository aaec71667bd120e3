//! `cofferdam.yaml`: the file that `up` runs from, read once and checked whole.
//!
//! Holds the data model and its parser, no behaviour. Unknown fields and impossible values are errors: a
//! field that protects is never silently ignored.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::built_in;
use crate::failure::Failure;
use crate::name::Name;
use upstream::{ClientCert, UpstreamProxy};

mod approvals;
mod health;
mod literal;
mod reading;
pub mod upstream;

pub use health::{Health, HealthUrl};

/// A configuration file larger than this is refused before it is parsed.
const FILE_MAX: u64 = 1 << 20;
/// The remedy if there is no such file.
const MEND: &str = "name the right one (`up -f FILE`, `run --config FILE`), or write it: `cofferdam onboard` does, and docs/config.md has an example";
/// The smallest share of a processor: the kernel takes no less than 1 ms of every 100 (`cpu.max`).
const CPU_MIN: f64 = 0.01;
/// The most processors; far above any machine's.
pub const CPU_MAX: f64 = 4096.0;
/// More nodes than any real configuration has; bounds what aliases can expand to.
const NODES_MAX: usize = 20_000;

/// A whole `cofferdam.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The sandbox's name; `run --config` may leave it out.
    pub name: Option<String>,
    /// Built-in profile; or `policy`.
    pub profile: Option<String>,
    /// Policy file, relative to this file.
    pub policy: Option<PathBuf>,
    /// Presets to add: built-in ones, and files, relative to this file.
    #[serde(default)]
    pub presets: Vec<String>,
    /// Directory shown at /sandbox, relative to this file.
    pub workspace: Option<PathBuf>,
    /// Another root than this machine's, a directory or a pinned image, relative to this file.
    pub root: Option<PathBuf>,
    /// The agents, by name.
    #[serde(default)]
    pub agents: BTreeMap<String, Agent>,
    /// Ports of this machine that lead into the sandbox.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// Providers and routes of `inference.local`.
    pub inference: Option<gateway::config::Inference>,
    /// Credentials that the agents use by placeholders and never see, by name.
    #[serde(default)]
    pub credentials: proxy::credentials::Section,
    /// Limits on what the agents may use together.
    #[serde(default)]
    pub limits: Limits,
    /// The metrics listener.
    pub metrics: Option<Metrics>,
    /// A PEM file with additional root certificates for upstream servers, relative to this file.
    pub upstream_ca: Option<PathBuf>,
    /// Certificates for upstream servers that demand one.
    #[serde(default)]
    pub client_certs: Vec<ClientCert>,
    /// The proxy through which everything goes.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// `strict` or `best-effort`.
    pub enforcement: Option<Enforcement>,
    /// What becomes of requests that no policy entry names.
    #[serde(default)]
    pub approvals: approvals::Approvals,
}

/// One agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// The health check: whether the agent still answers, and what follows when it doesn't.
    #[serde(default)]
    pub health: Option<Health>,
    /// Variables set inside.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// When an agent is started again, and how often at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// `never`, `on-failure` or `always`.
    pub policy: RestartPolicy,
    /// The wait before it, doubling from `min` to `max`.
    pub backoff: Backoff,
    /// At most this many restarts…
    pub at_most: u32,
    /// …in this time; beyond it the agent stays down and the others go on.
    #[serde(with = "duration")]
    pub within: Duration,
}

impl Default for Restart {
    /// An agent in a file is meant to run always. After ten restarts in ten minutes it stays down.
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Always,
            backoff: Backoff::default(),
            at_most: 10,
            within: Duration::from_secs(600),
        }
    }
}

/// Whether an exit is followed by a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    Never,
    /// After any exit but 0.
    OnFailure,
    /// After every exit.
    Always,
}

/// The wait before a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// The first wait.
    #[serde(with = "duration")]
    pub min: Duration,
    /// The longest wait.
    #[serde(with = "duration")]
    pub max: Duration,
}

impl Default for Backoff {
    /// Soon enough that a person doesn't notice one failure, rare enough that a broken agent doesn't burn the
    /// machine.
    fn default() -> Self {
        Self { min: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

/// A port of this machine that leads into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where to listen on this machine.
    pub listen: SocketAddr,
    /// The port on the sandbox's loopback.
    pub to: u16,
}

impl FromStr for Forward {
    type Err = String;

    /// `[IP:]PORT[:SANDBOX_PORT]`; an IPv6 address in brackets; without an address, 127.0.0.1.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = text.escape_debug();
            format!("'{shown}' is not [IP:]PORT[:SANDBOX_PORT], such as 8080 or 127.0.0.1:8080:80")
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(wrong);
        let (ip, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (ip, ports) = rest.split_once("]:").ok_or_else(wrong)?;
                (IpAddr::V6(ip.parse().map_err(|_| wrong())?), ports)
            }
            None => match text.split_once(':') {
                Some((first, rest)) if first.contains('.') => {
                    (IpAddr::V4(first.parse().map_err(|_| wrong())?), rest)
                }
                _ => (IpAddr::V4(Ipv4Addr::LOCALHOST), text),
            },
        };
        let (outer, inner) = match ports.split_once(':') {
            Some((outer, inner)) => (port(outer)?, port(inner)?),
            None => (port(ports)?, port(ports)?),
        };
        Ok(Self { listen: SocketAddr::new(ip, outer), to: inner })
    }
}

/// What the agents may use together. Without a value: no cgroup limit (rlimits hold always).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory, such as `4GiB`.
    #[serde(default)]
    pub memory: Option<bytesize::ByteSize>,
    /// Processes and threads.
    #[serde(default)]
    pub pids: Option<u32>,
    /// Processors, such as `2` or `0.5`.
    #[serde(default)]
    pub cpu: Option<f64>,
    /// Bytes a second read from the disk that the workspace is on, such as `50MiB`.
    #[serde(default)]
    pub disk_read: Option<bytesize::ByteSize>,
    /// Bytes a second written to it.
    #[serde(default)]
    pub disk_write: Option<bytesize::ByteSize>,
}

/// The metrics listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// An address, or `off`.
    pub listen: String,
}

/// What happens where the kernel can't enforce a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// An error at start.
    Strict,
    /// Go on, and say what is missing.
    BestEffort,
}

impl Config {
    /// Reads and checks a file. Paths in it are taken relative to its directory.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        Self::of_text(&crate::given::read(path, FILE_MAX, MEND)?, path)
    }

    /// Parses and checks a text as the content of the file `path`, which need not exist yet.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn of_text(text: &str, path: &Path) -> Result<Self, Failure> {
        let mut config =
            Self::parse(text).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))?;
        let base = path.parent().unwrap_or(Path::new(""));
        for relative in [&mut config.policy, &mut config.workspace, &mut config.root, &mut config.upstream_ca]
            .into_iter()
            .flatten()
        {
            *relative = base.join(&relative);
        }
        for preset in config.presets.iter_mut().filter(|preset| built_in::is_a_file(preset)) {
            // Nothing is lost here: the preset is text, and `base` is a directory whose path is text too.
            *preset = base.join(&*preset).to_string_lossy().into_owned();
        }
        for cert in &mut config.client_certs {
            cert.cert = base.join(&cert.cert);
        }
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let budget = serde_yaml::budget!(max_nodes: NODES_MAX, max_depth: 32, max_aliases: 64);
        let options = serde_yaml::options!(strict_booleans: true, budget: budget);
        // First: every error behind this one may repeat what stands in the text.
        literal::none_in(text)?;
        let config: Self = reading::read(text, options)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.profile.is_some() && self.policy.is_some() {
            return Err("`profile` and `policy` together: name one of them".into());
        }
        if let Some(profile) = &self.profile {
            built_in::profile(profile).map_err(|why| format!("profile: {why}"))?;
        }
        for preset in self.presets.iter().filter(|preset| !built_in::is_a_file(preset)) {
            built_in::preset(preset).map_err(|why| format!("presets: {why}"))?;
        }
        self.approvals.check().map_err(|why| format!("approvals: {why}"))?;
        self.credentials.check().map_err(|faults| faults.to_string())?;
        self.limits.check().map_err(|why| format!("limits.{why}"))?;
        // A connection to port 0 reaches nothing, and when listening on it the kernel would choose an unknown
        // port.
        if self.forwards.iter().any(|forward| forward.listen.port() == 0 || forward.to == 0) {
            return Err("forwards: a port is a number from 1 to 65535".into());
        }
        if let Some(address) = twice(&self.forwards) {
            return Err(format!("forwards: two of them listen on {address}: give one of them another port"));
        }
        self.agents.iter().try_for_each(|(name, agent)| agent.check(name))
    }
}

/// Returns an address on which more than one of the forwards would listen.
pub fn twice(forwards: &[Forward]) -> Option<SocketAddr> {
    let listens: Vec<SocketAddr> = forwards.iter().map(|forward| forward.listen).collect();
    let clash = |a: &SocketAddr, b: &SocketAddr| {
        // The unspecified address covers every address of the machine.
        let is_one = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && is_one
    };
    let doubled = |(n, a): (usize, &SocketAddr)| listens.iter().take(n).any(|b| clash(a, b)).then_some(*a);
    listens.iter().enumerate().find_map(doubled)
}

impl Agent {
    fn check(&self, name: &str) -> Result<(), String> {
        if !Name::fits(name) {
            return Err(format!("agents: '{}' can't name an agent: {}", name.escape_debug(), Name::RULE));
        }
        if self.command.first().is_none_or(String::is_empty) {
            return Err(format!("agents.{name}: `command` is empty: give the program and its arguments"));
        }
        if let Some(health) = &self.health {
            health.check().map_err(|why| format!("agents.{name}.health: {why}"))?;
        }
        let Backoff { min, max } = self.restart.backoff;
        if min > max {
            return Err(format!("agents.{name}.restart.backoff: `min` is above `max`"));
        }
        if self.restart.within.is_zero() {
            return Err(format!(
                "agents.{name}.restart.within: 0 would count no restart: give a time, such as 10m"
            ));
        }
        Ok(())
    }
}

impl Limits {
    /// Checks that something could run under each limit.
    fn check(&self) -> Result<(), String> {
        let none = |bytes: Option<bytesize::ByteSize>| bytes.is_some_and(|bytes| bytes.as_u64() == 0);
        let rows = [
            ("memory", none(self.memory), "more than 0, such as 4GiB"),
            ("pids", self.pids == Some(0), "more than 0, such as 512"),
            ("cpu", self.cpu.is_some_and(|cpus| !(CPU_MIN..=CPU_MAX).contains(&cpus)), "from 0.01 to 4096"),
            ("disk_read", none(self.disk_read), "more than 0, such as 50MiB"),
            ("disk_write", none(self.disk_write), "more than 0, such as 50MiB"),
        ];
        let unfit = rows.into_iter().find(|(_, unfit, _)| *unfit);
        unfit.map_or(Ok(()), |(name, _, wanted)| Err(format!("{name}: a number {wanted}, is needed here")))
    }
}

/// Durations as people write them: `250ms`, `10s`, `1m`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|e| D::Error::custom(format!("this is not a duration: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_repeats_a_key_wherever_it_stands() {
        let token = format!("ghp_{}", "a1B2c3".repeat(6));
        for place in [
            "enforcement: KEY",
            "profile: KEY",
            "presets: [KEY]",
            "KEY: 1",
            "agents: { KEY: { command: [x] } }",
            "agents: { a: { command: [x], restart: { within: KEY } } }",
            "agents: { a: { command: [x], restart: { policy: KEY } } }",
            "agents: { a: { command: [x], health: { http: 'http://me:KEY@127.0.0.1:80/' } } }",
            "inference: { providers: { x: { kind: KEY } } }",
        ] {
            let why = Config::parse(&place.replace("KEY", &token)).unwrap_err();
            assert!(!why.contains("a1B2c3") && why.starts_with("line 1: a key"), "{place}: {why}");
        }
        // One without a known form is not repeated where an address was wanted.
        let odd = "agents: { a: { command: [x], health: { http: 'https://me:horse@127.0.0.1:80/' } } }";
        let why = Config::parse(odd).unwrap_err();
        assert!(!why.contains("horse"), "{why}");
    }

    #[test]
    fn forwards_are_read_as_documented() {
        let of = |text: &str| text.parse::<Forward>().map(|f| (f.listen.to_string(), f.to));
        assert_eq!(of("8080"), Ok(("127.0.0.1:8080".into(), 8080)));
        assert_eq!(of("8080:80"), Ok(("127.0.0.1:8080".into(), 80)));
        assert_eq!(of("0.0.0.0:8080:80"), Ok(("0.0.0.0:8080".into(), 80)));
        assert_eq!(of("[::1]:8080:80"), Ok(("[::1]:8080".into(), 80)));
        for bad in ["", "0", "70000", "a:1", "1:2:3", "[::1]", "1.2.3.4"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_example_is_read() {
        let config = Config::parse(
            "name: assistant\nprofile: locked-down\npresets: [pypi]\nworkspace: ./assistant\nagents:\n  hermes:\n    \
             command: [hermes, gateway, run]\n    restart: { policy: always, backoff: { min: 1s, max: 1m }, at_most: 10, within: 10m }\n    \
             env: { TZ: UTC }\nforwards: [ { listen: \"127.0.0.1:8642\", to: 8642 } ]\nlimits: { memory: 4GiB, pids: 512, cpu: 2 }\n\
             metrics: { listen: \"127.0.0.1:9464\" }\n",
        )
        .unwrap();
        assert_eq!(
            config.agents["hermes"].restart,
            Restart { backoff: Backoff::default(), ..Restart::default() }
        );
        assert_eq!(config.limits.memory, Some(bytesize::ByteSize::gib(4)));
    }

    const PAGE: &str = include_str!("../docs/config.md");

    #[test]
    fn the_pages_example_is_read() {
        let example = PAGE.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
        let config = Config::parse(example).unwrap();
        assert_eq!(config.limits.disk_write, Some(bytesize::ByteSize::mib(50)));
        assert_eq!(config.agents["hermes"].restart, Restart::default(), "the page tells the defaults");
    }

    #[test]
    fn the_agents_pages_example_is_read() {
        let page = include_str!("../docs/agents.md");
        let example = page.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
        let config = Config::parse(example).unwrap();
        assert_eq!(config.agents.len(), 2);
    }

    #[test]
    fn the_page_has_a_row_for_each_key() {
        for (section, unknown) in [
            ("The file", "zz: 1"),
            ("`agents.NAME`", "agents: { a: { command: [x], zz: 1 } }"),
            ("`agents.NAME.restart`", "agents: { a: { command: [x], restart: { zz: 1 } } }"),
            ("`agents.NAME.health`", "agents: { a: { command: [x], health: { zz: 1 } } }"),
            ("`forwards`", "forwards: [ { zz: 1 } ]"),
            ("`limits`", "limits: { zz: 1 }"),
            ("`metrics`", "metrics: { zz: 1 }"),
        ] {
            let heading = format!("\n## {section}\n");
            let text =
                PAGE.split_once(&heading).map(|(_, rest)| rest.split("\n## ").next().unwrap()).unwrap();
            let rows: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
            // The error names the fields of the type itself.
            let why = Config::parse(unknown).unwrap_err();
            let known = why.split_once("expected one of ").unwrap().1.split(" at line").next().unwrap();
            assert_eq!(rows, known.split(", ").collect::<Vec<_>>(), "{section}");
        }
    }

    #[test]
    fn the_examples_of_the_credentials_page_are_read() {
        let page = include_str!("../docs/credentials.md");
        let block =
            |opening: &str| page.split_once(opening).and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
        let config = Config::parse(block("```yaml\n")).unwrap();
        let told = config.credentials.told().unwrap();
        assert_eq!(told[1].name, "github");
        assert_eq!(told[1].env.as_deref(), Some("GITHUB_TOKEN"));
        assert_eq!(told[1].uses[0], "api.github.com:443 /repos/** by /usr/bin/gh");
        let policy = policy::parse("example", block("```yaml policy\n")).unwrap().policy;
        let warnings = config.credentials.warnings(&policy).unwrap().join("\n");
        assert!(
            !warnings.contains("api.github.com") && warnings.contains("uploads.github.com"),
            "{warnings}"
        );
    }

    #[test]
    fn a_credential_that_is_no_reference_is_not_repeated() {
        let place = "use: [ { host: a.example, path: /**, binaries: [/x] } ]";
        let why = Config::parse(&format!("credentials:\n  a: {{ from: ghp_literal, {place} }}")).unwrap_err();
        assert!(why.contains("credentials.a.from") && !why.contains("ghp_"), "{why}");
        let why =
            Config::parse(&format!("credentials:\n  a: {{ from: env:A, unknown: ghp_literal, {place} }}"))
                .unwrap_err();
        assert!(why.contains("unknown") && !why.contains("ghp_"), "{why}");
    }

    #[test]
    fn what_is_not_there_yet_is_refused_not_ignored() {
        for (field, said) in [
            ("approvals: { unlisted: ask, hold: 1h }", "approvals: `hold: 1h` is not from 1s to 10m"),
            ("approvals: { unlisted: ask, hold: soon }", "is not a duration"),
            ("approvals: { unlisted: perhaps }", "unknown variant"),
            ("budget: {}", "unknown field"),
            ("agents: { a: { command: [] } }", "`command` is empty"),
        ] {
            let why = Config::parse(field).unwrap_err();
            assert!(why.contains(said), "{field}: {why}");
        }
        for what_is_in_force in ["approvals: { unlisted: deny, hold: 30s }", "approvals: {}"] {
            assert!(Config::parse(what_is_in_force).is_ok(), "{what_is_in_force}");
        }
        assert!(Config::parse("profile: a\npolicy: b").unwrap_err().contains("name one"));
    }

    #[test]
    fn what_is_wanted_is_said_in_plain_words() {
        let agent = |fields: &str| format!("agents: {{ a: {{ {fields} }} }}");
        for (text, said) in [
            ("name: a\n---\nname: b\n".to_owned(), "one document"),
            (agent("command: [sleep, ~]"), "agents.a.command[1]: a text is wanted"),
            (agent("command: [sleep, [a]]"), "agents.a.command[1]: a single text is wanted"),
            (agent("command: [sleep], restart: { at_most: -1 }"), "a whole number from 0 to"),
            ("limits: { memory: -1 }".to_owned(), "limits.memory: a size is wanted, such as 512MiB"),
            ("limits: { memory: lots }".to_owned(), "limits.memory: a size is wanted, such as 512MiB"),
            ("limits: { memory: 1.5 }".to_owned(), "limits.memory: a size is wanted, such as 512MiB"),
            ("limits: { pids: -5 }".to_owned(), "limits.pids: a whole number from 0 to"),
            ("limits: { cpu: lots }".to_owned(), "limits.cpu: a number is wanted"),
            ("forwards: [ { listen: \"localhost:8642\", to: 1 } ]".to_owned(), "such as `127.0.0.1:8642`"),
            ("forwards: [ { listen: \"127.0.0.1:1\", to: 70000 } ]".to_owned(), "from 0 to 65535"),
        ] {
            let why = Config::parse(&text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
            for library in ["from_str", "Option<", "overflow", "u32", "u16", "parsable", "syntax", "scalar"] {
                assert!(!why.contains(library), "{text}: {why}");
            }
        }
    }

    #[test]
    fn a_bound_that_nothing_could_run_under_is_refused() {
        for (field, said) in [
            ("limits: { memory: 0 }", "limits.memory"),
            ("limits: { pids: 0 }", "limits.pids"),
            ("limits: { cpu: 0 }", "limits.cpu"),
            ("limits: { cpu: -1 }", "limits.cpu"),
            ("limits: { cpu: .nan }", "limits.cpu"),
            ("limits: { cpu: .inf }", "limits.cpu"),
            ("limits: { disk_read: 0 }", "limits.disk_read"),
            ("limits: { disk_write: 0 }", "limits.disk_write"),
            ("forwards: [ { listen: \"127.0.0.1:80\", to: 0 } ]", "1 to 65535"),
            ("forwards: [ { listen: \"127.0.0.1:0\", to: 80 } ]", "1 to 65535"),
            (
                "forwards: [ { listen: \"127.0.0.1:80\", to: 80 }, { listen: \"0.0.0.0:80\", to: 81 } ]",
                "two of them listen on 0.0.0.0:80",
            ),
            ("profile: nosuch", "profile: no profile is called 'nosuch': there are "),
            ("presets: [pypi, nosuch]", "presets: no preset is called 'nosuch': there are "),
            (
                "agents: { a: { command: [x], restart: { backoff: { min: 2s, max: 1s } } } }",
                "agents.a.restart.backoff",
            ),
            ("agents: { a: { command: [x], restart: { within: 0s } } }", "agents.a.restart.within"),
        ] {
            let why = Config::parse(field).unwrap_err();
            assert!(why.contains(said), "{field}: {why}");
        }
        assert!(Config::parse("limits: { memory: 64MiB, pids: 1, cpu: 0.01, disk_read: 1 }").is_ok());
    }
}
