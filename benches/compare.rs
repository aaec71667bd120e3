//! What cofferdam costs, as ratios taken in one run: `cargo bench --bench compare`.
//!
//! - starting `/bin/true` in a sandbox against starting it bare, and under bubblewrap where that is
//!   installed: the time until it has exited, the CPU time of all processes, and where the time goes (`run
//!   --timings`);
//! - requests per second and the 99th percentile through the proxy against direct, for a relayed CONNECT
//!   tunnel (`tls: skip`), an inspected one, and plain HTTP.
//!
//! Ratios hold across machines where absolute figures don't. The same client program makes the requests on
//! both sides: this program, copied into the sandbox.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a bench fails by panic")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::World;
use bed::harness::say;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};

/// First argument of the client role.
const CLIENT: &str = "__client";
/// Starts per contender, taken in turn, so that a slow moment affects all alike.
const STARTS: usize = 60;
/// Starts in which every step is timed.
const TIMED: usize = 31;
/// Connections side by side.
const CONNECTIONS: usize = 8;
/// Requests on each.
const REQUESTS: usize = 500;
/// Where the proxy listens inside.
const PROXY: &str = "127.0.0.1:3128";

const POLICY: &str = r#"
network_policies:
  bench:
    name: bench
    endpoints:
      - { host: h1.bed.test, port: 443, tls: skip }
      - { host: h1.bed.test, port: 8443, protocol: rest, access: full }
      - { host: api.bed.test, port: 8080, protocol: rest, access: full }
    binaries: [ { path: /sandbox/client } ]
"#;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(CLIENT) {
        return client(&args[2], args.get(3).map(String::as_str) == Some("direct"));
    }
    let dir = std::env::temp_dir().join(format!("cofferdam-compare-{}", std::process::id()));
    let world = World::enter(&dir)?;
    let bench = Bench { world, cofferdam: Path::new(env!("CARGO_BIN_EXE_cofferdam")) };
    let result = bench.starts().and_then(|()| bench.requests());
    let _ = std::fs::remove_dir_all(&dir);
    result.map(|()| ExitCode::SUCCESS)
}

struct Bench {
    world: World,
    cofferdam: &'static Path,
}

impl Bench {
    fn cofferdam(&self) -> Command {
        let mut command = Command::new(self.cofferdam);
        command
            .env("COFFERDAM_STATE", self.world.dir().join("state"))
            .env("SSL_CERT_FILE", self.world.ca_file());
        command
    }

    fn starts(&self) -> Result<()> {
        let bwrap = ["/usr/bin/bwrap", "/usr/local/bin/bwrap"].into_iter().find(|p| Path::new(p).exists());
        let contenders = ["bare exec", "bubblewrap", "cofferdam"];
        let command = |who: &str| match who {
            "bare exec" => Some(Command::new("/bin/true")),
            "bubblewrap" => bwrap.map(|bwrap| {
                let mut command = Command::new(bwrap);
                command.args([
                    "--unshare-all",
                    "--ro-bind",
                    "/",
                    "/",
                    "--proc",
                    "/proc",
                    "--dev",
                    "/dev",
                    "--tmpfs",
                    "/tmp",
                    "/bin/true",
                ]);
                command
            }),
            _ => {
                let mut command = self.cofferdam();
                command.args(["run", "--quiet", "--", "/bin/true"]);
                Some(command)
            }
        };
        let mut starts = vec![Vec::new(); contenders.len()];
        for _ in 0..STARTS {
            for (who, starts) in contenders.iter().zip(&mut starts) {
                if let Some(command) = command(who) {
                    starts.push(Start::of(command).with_context(|| (*who).to_owned())?);
                }
            }
        }
        say("start to exit of /bin/true, median; processors' time of all processes, mean");
        let reference = Median::of(&starts[1]).or(Median::of(&starts[0])).context("no start measured")?;
        for (who, starts) in contenders.iter().zip(&starts) {
            match Median::of(starts) {
                Some(Median { wall, cpu }) => say(&format!(
                    "  {who:<12} {wall:>9.2?} ({:.2} × bubblewrap)   {cpu:>9.2?} ({:.2} ×)",
                    wall.div_duration_f64(reference.wall),
                    cpu.div_duration_f64(reference.cpu),
                )),
                None => say(&format!("  {who:<12} SKIPPED: not installed")),
            }
        }
        self.steps()
    }

    /// Where a start's time goes: the median of every step.
    fn steps(&self) -> Result<()> {
        let mut order: Vec<String> = Vec::new();
        let mut times: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for _ in 0..TIMED {
            let mut command = self.cofferdam();
            command.args(["run", "--quiet", "--timings", "--", "/bin/true"]).stdin(Stdio::null());
            let text = String::from_utf8(command.output()?.stderr)?;
            for line in text.lines().skip(1) {
                let line = line.trim_start_matches("cofferdam:");
                let mut words = line.trim().splitn(2, ' ');
                let at: f64 = words.next().unwrap_or_default().parse()?;
                let (own, what) =
                    words.next().unwrap_or_default().trim().split_once("  ").context("a step")?;
                if !times.contains_key(what) {
                    order.push(what.to_owned());
                }
                times.entry(what.to_owned()).or_default().push((at, own.parse()?));
            }
        }
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let mut rows: Vec<(f64, f64, String)> = order
            .into_iter()
            .map(|what| {
                let (at, own) = times[&what].iter().copied().unzip();
                (middle(at), middle(own), what)
            })
            .collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        say(
            "\nmilliseconds since the command began, since the process's step before, what was done (medians)",
        );
        rows.iter().for_each(|(at, own, what)| say(&format!("  {at:>7.2} {own:>+7.2}  {what}")));
        Ok(())
    }

    fn requests(&self) -> Result<()> {
        let dir = self.world.dir();
        let workspace = dir.join("work");
        std::fs::create_dir(&workspace)?;
        std::fs::copy(std::env::current_exe()?, workspace.join("client"))?;
        let profile = include_str!("../policies/profiles/locked-down.yaml");
        std::fs::write(dir.join("policy.yaml"), profile.replace("network_policies: {}", POLICY.trim()))?;
        say(&format!("\n{REQUESTS} requests on each of {CONNECTIONS} connections, kept alive"));
        for (kind, what) in
            [("relayed", "CONNECT, relayed"), ("inspected", "CONNECT, inspected"), ("plain", "plain HTTP")]
        {
            let mut direct = Command::new(std::env::current_exe()?);
            direct.args([CLIENT, kind, "direct"]).env("SSL_CERT_FILE", self.world.ca_file());
            let direct = Figures::of(direct)?;
            let mut through = self.cofferdam();
            through.args(["run", "--quiet", "--policy"]).arg(dir.join("policy.yaml"));
            through.arg("--workspace").arg(&workspace).args(["--", "/sandbox/client", CLIENT, kind]);
            let through = Figures::of(through)?;
            say(&format!(
                "  {what:<20} {:>8.0} of {:>8.0} requests/s ({:.2} ×)   p99 {:>7.2} of {:>7.2} ms ({:.1} ×)",
                through.rate,
                direct.rate,
                through.rate / direct.rate,
                through.p99_ms,
                direct.p99_ms,
                through.p99_ms / direct.p99_ms,
            ));
        }
        Ok(())
    }
}

/// One start: the time until its exit, and the CPU time of all its processes.
#[derive(Clone, Copy)]
struct Start {
    wall: Duration,
    cpu: Duration,
}

impl Start {
    fn of(mut command: Command) -> Result<Self> {
        let (begun, before) = (Instant::now(), children()?);
        let status = command.stdin(Stdio::null()).status()?;
        ensure!(status.success(), "{status}");
        Ok(Self { wall: begun.elapsed(), cpu: children()? - before })
    }
}

/// CPU time of every child that was waited for, and of their children (getrusage(2)).
fn children() -> Result<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or_default()
    };
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

struct Median {
    wall: Duration,
    cpu: Duration,
}

impl Median {
    /// Some kernels count CPU time in ticks, so its mean is taken rather than its median.
    fn of(starts: &[Start]) -> Option<Self> {
        let mut walls: Vec<Duration> = starts.iter().map(|start| start.wall).collect();
        walls.sort();
        let cpu =
            starts.iter().map(|start| start.cpu).sum::<Duration>() / u32::try_from(starts.len()).ok()?.max(1);
        Some(Self { wall: *walls.get(walls.len() / 2)?, cpu })
    }
}

/// The figures that a client prints at its end.
struct Figures {
    rate: f64,
    p99_ms: f64,
}

impl Figures {
    fn of(mut command: Command) -> Result<Self> {
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "a client failed: {text}");
        let mut words = text.split_whitespace().map(str::parse::<f64>);
        let mut next = || words.next().context("too few figures")?.context("no figure");
        Ok(Self { rate: next()?, p99_ms: next()? })
    }
}

/// Makes the requests, one connection a thread, and prints the rate and the 99th percentile in milliseconds.
fn client(kind: &str, direct: bool) -> Result<ExitCode> {
    let tls = Arc::new(tls_config()?);
    let begun = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| worker(kind, direct, &tls))).collect();
        workers.into_iter().map(|w| w.join().expect("a worker panicked")).collect::<Result<Vec<_>>>()
    })?
    .concat();
    let took = begun.elapsed();
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    say(&format!("{} {}", times.len() as f64 / took.as_secs_f64(), p99.as_secs_f64() * 1000.0));
    Ok(ExitCode::SUCCESS)
}

fn tls_config() -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let bundle = std::env::var("SSL_CERT_FILE")?;
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(&bundle)?.filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn worker(kind: &str, direct: bool, tls: &Arc<rustls::ClientConfig>) -> Result<Vec<Duration>> {
    let (host, port) = match kind {
        "relayed" => ("h1.bed.test", 443),
        "inspected" => ("h1.bed.test", 8443),
        _ => ("api.bed.test", 8080),
    };
    let mut stream = if direct { TcpStream::connect((host, port))? } else { TcpStream::connect(PROXY)? };
    stream.set_nodelay(true)?;
    let authority = format!("{host}:{port}");
    if kind == "plain" {
        let target = if direct { "/".to_owned() } else { format!("http://{authority}/") };
        return exchange(&mut stream, &target, &authority);
    }
    if !direct {
        write!(stream, "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")?;
        let head = head(&mut stream)?;
        ensure!(head.contains(" 200"), "{head}");
    }
    let name = ServerName::try_from(host)?;
    let mut stream = rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::clone(tls), name)?, stream);
    exchange(&mut stream, "/", &authority)
}

fn exchange(stream: &mut (impl Read + Write), target: &str, authority: &str) -> Result<Vec<Duration>> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let head = head(stream)?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head
            .lines()
            .find_map(|l| {
                l.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse::<usize>().ok()
            })
            .context("no length")?;
        stream.read_exact(&mut vec![0; length])?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// A response's head, byte by byte so that nothing of the body is taken.
fn head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0u8];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read(&mut byte)? == 1, "ended early: {}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}
