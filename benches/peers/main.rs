//! What the data path costs beside other proxies, in one run: `cargo bench --bench peers`.
//!
//! The same client and the same server for every contender, in turn, several rounds: direct, cofferdam, squid
//! with OpenSSL, envoy. CPU time is that of all of a contender's own processes; for cofferdam, of heart,
//! supervisor and init. Only cofferdam identifies the client, judges requests and keeps a record; squid and
//! envoy let everything pass. `.ci/run --peers` installs the peers; one that isn't installed is skipped with
//! a message. Arguments name the contenders or jobs to run; `--rounds N` and `--seconds N` set how often and
//! how long each job runs, `--idle N` opens N tunnels at the end.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a bench fails by panic")]

mod client;
mod contender;
mod cpu;
mod upstream;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bed::World;
use bed::authority::Authority;
use bed::harness::say;

use client::Kind;
use contender::{CLIENT, Contender, Figures, Place};

const KINDS: [(Kind, &str); 5] = [
    (Kind::Tunnel, "new CONNECT tunnels"),
    (Kind::Intercepted, "requests inside intercepted TLS, kept alive"),
    (Kind::Handshake, "new intercepted TLS connections, one request each"),
    (Kind::Plain, "plain requests, kept alive"),
    (Kind::Stream, "relayed streams, by the MiB"),
];

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == CLIENT) {
        return client::serve();
    }
    raise_descriptors()?;
    let dir = std::env::temp_dir().join(format!("cofferdam-peers-{}", std::process::id()));
    let _world = World::enter(&dir)?;
    // The proxies close their connections to the server first, and so hold the TIME_WAIT ports. Without this
    // limit, most of what is measured is the search for a free port.
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "256")?;
    let result = compare(&dir, &Choice::of(&args)?);
    let _ = fs::remove_dir_all(&dir);
    result.map(|()| ExitCode::SUCCESS)
}

/// Raises the limit of descriptors for the idle tunnels: the client's ends and the server's ends are ours.
fn raise_descriptors() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const WANTED: u64 = 65_536;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED.max(hard)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// The contenders and jobs that are to be run, and for how long.
struct Choice {
    names: Vec<String>,
    rounds: u64,
    seconds: u64,
    idle: u64,
}

impl Choice {
    fn of(args: &[String]) -> Result<Self> {
        let mut choice = Self { names: Vec::new(), rounds: 5, seconds: 2, idle: 0 };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut number = || args.next().context("a number")?.parse::<u64>().context("a number");
            match arg.as_str() {
                "--rounds" => choice.rounds = number()?,
                "--seconds" => choice.seconds = number()?,
                "--idle" => choice.idle = number()?,
                name => choice.names.push(name.to_owned()),
            }
        }
        Ok(choice)
    }

    /// Whether `name` is to be run. Without any argument of its `sort`, everything of that sort is run.
    fn has(&self, name: &str, sort: &[&str]) -> bool {
        let named = |name: &str| self.names.iter().any(|other| other == name);
        named(name) || !sort.iter().any(|other| named(other))
    }
}

fn compare(dir: &Path, choice: &Choice) -> Result<()> {
    let authority = Authority::new()?;
    let upstream_ca = dir.join("upstream-ca.pem");
    fs::write(&upstream_ca, authority.pem())?;
    let _upstream = upstream::start(&authority)?;
    let place = Place { dir, upstream_ca: &upstream_ca };
    let mut contenders = Vec::new();
    let all = ["direct", "cofferdam", "squid", "envoy"];
    for name in all.into_iter().filter(|name| choice.has(name, &all)) {
        let made = match name {
            "direct" => contender::direct(&place).map(Some),
            "cofferdam" => contender::cofferdam(&place).map(Some),
            "squid" => contender::squid(&place),
            _ => contender::envoy(&place),
        };
        match made.with_context(|| name.to_owned())? {
            Some(contender) => contenders.push(contender),
            None => say(&format!("SKIPPED: {name} is not installed (`.ci/run --peers` does)")),
        }
    }
    for contender in &contenders {
        say(&format!("{:<10} {:>6} KiB  {}", contender.name, contender.pss()?, contender.version));
    }
    let jobs = KINDS.map(|(kind, _)| kind.name());
    for (kind, what) in KINDS.into_iter().filter(|(kind, _)| choice.has(kind.name(), &jobs)) {
        say(&format!("\n{what}: {} connections, medians of {} rounds", client::CONNECTIONS, choice.rounds));
        measure(&mut contenders, kind, choice)?;
    }
    say("\nmemory after it (PSS)");
    for contender in &contenders {
        say(&format!("  {:<10} {:>8} KiB", contender.name, contender.pss()?));
    }
    if choice.idle > 0 {
        idle(&mut contenders, choice.idle)?;
    }
    Ok(())
}

fn measure(contenders: &mut [Contender], kind: Kind, choice: &Choice) -> Result<()> {
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); contenders.len()];
    for round in 0..=choice.rounds {
        for (contender, figures) in contenders.iter_mut().zip(&mut rounds).filter(|(c, _)| c.can(kind)) {
            // The first round is for warming up.
            let length = if round == 0 { 300 } else { choice.seconds * 1000 };
            let got = contender.run(kind, length).with_context(|| contender.name)?;
            if round > 0 {
                figures.push(got);
            }
        }
    }
    let medians: Vec<Option<Figures>> = rounds.iter().map(|rounds| median(rounds)).collect();
    let ours = contenders.iter().position(|c| c.name == "cofferdam").and_then(|at| medians[at]);
    for (contender, median) in contenders.iter().zip(&medians) {
        let Some(figures) = median else { continue };
        let ratio = |of: fn(&Figures) -> f64| ours.map_or(1.0, |ours| of(&ours) / of(figures));
        say(&format!(
            "  {:<10} {:>8.0}/s (ours {:>5.2} ×)   {:>7.1} µs CPU (ours {:>5.2} ×)   p50 {:>7.3} ms   p99 {:>7.3} ms (ours {:>5.2} ×)",
            contender.name,
            figures.rate,
            ratio(|f| f.rate),
            figures.cpu,
            ratio(|f| f.cpu),
            figures.p50,
            figures.p99,
            ratio(|f| f.p99),
        ));
    }
    Ok(())
}

fn median(rounds: &[Figures]) -> Option<Figures> {
    let middle = |of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Figures {
        operations: middle(|f| f.operations)?,
        rate: middle(|f| f.rate)?,
        p50: middle(|f| f.p50)?,
        p99: middle(|f| f.p99)?,
        cpu: middle(|f| f.cpu)?,
    })
}

fn idle(contenders: &mut [Contender], tunnels: u64) -> Result<()> {
    say(&format!("\n{tunnels} idle tunnels"));
    for contender in contenders.iter_mut().filter(|c| c.name != "direct") {
        let before = contender.pss()?;
        contender.run(Kind::Idle, tunnels).with_context(|| contender.name)?;
        let with = contender.pss()?;
        let each = with.saturating_sub(before) as f64 / tunnels as f64;
        say(&format!(
            "  {:<10} {before} KiB before, {with} KiB with them: {each:.1} KiB each",
            contender.name
        ));
        // Closes the idle tunnels.
        contender.run(Kind::Idle, 0)?;
        std::thread::sleep(std::time::Duration::from_secs(1));
        say(&format!("  {:<10} {} KiB after them", "", contender.pss()?));
    }
    Ok(())
}
