//! The demo's agent: a program that tries every control and reports what happened, one JSON object per line.
//!
//! It runs inside the sandbox as any agent would, and knows nothing of cofferdam but the environment that it
//! is given. It must never be trusted: the tour compares its report with the audit log.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::{Deserialize, Serialize};

/// How long one attempt may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time between two numbers while it counts and cofferdam's parts are killed.
const BEAT: Duration = Duration::from_millis(20);
/// Bytes that are read of an answer: more than any of the demo's servers sends.
const ANSWER_MAX: u64 = 64 * 1024;

/// One line of the agent's report.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// It tried something.
    Tried {
        /// The layer that should judge it.
        layer: String,
        /// What it did, in words.
        what: String,
        /// Whether it is meant to work.
        meant_to_work: bool,
        /// Whether it did.
        worked: bool,
        /// What came back.
        answer: String,
    },
    /// It is alive, and this is how far it has counted.
    Count(u64),
}

fn tell(line: &Line) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn tried(layer: &str, what: &str, meant_to_work: bool, result: Result<String, String>) -> io::Result<()> {
    let worked = result.is_ok();
    let (Ok(answer) | Err(answer)) = result;
    tell(&Line::Tried { layer: layer.into(), what: what.into(), meant_to_work, worked, answer })
}

/// Tries every layer's controls, then counts until standard input ends.
pub fn main() -> io::Result<()> {
    network()?;
    filesystem()?;
    process()?;
    inference()?;
    count()
}

fn network() -> io::Result<()> {
    let web = "network";
    tried(web, "GET https://api.bed.test/items", true, fetch("api.bed.test", "GET", "/items", None))?;
    tried(
        web,
        "DELETE https://api.bed.test/items/1",
        false,
        fetch("api.bed.test", "DELETE", "/items/1", None),
    )?;
    tried(
        web,
        "GET https://api.bed.test/admin%2f..;/x",
        false,
        fetch("api.bed.test", "GET", "/admin%2f..;/x", None),
    )?;
    tried(web, "GET https://evil.bed.test/", false, fetch("evil.bed.test", "GET", "/", None))?;
    tried(
        web,
        "CONNECT 169.254.169.254:80, the cloud's key server",
        false,
        tunnel("169.254.169.254:80").map(drop_stream),
    )?;
    tried(web, "connect past the proxy", false, direct("93.184.215.14:443"))
}

fn filesystem() -> io::Result<()> {
    let fs = "filesystem";
    let write =
        |path: &str| std::fs::write(path, b"x").map(|()| "written".to_owned()).map_err(|e| e.to_string());
    let read =
        |path: &str| std::fs::read(path).map(|b| format!("{} bytes", b.len())).map_err(|e| e.to_string());
    tried(fs, "write /sandbox/notes", true, write("/sandbox/notes"))?;
    tried(fs, "read /etc/passwd", true, read("/etc/passwd"))?;
    tried(fs, "read /etc/shadow", false, read("/etc/shadow"))?;
    // The file is only opened for writing: if a control is missing, that is reported, and nothing is damaged.
    let open = |path: &str| {
        let opened = std::fs::OpenOptions::new().write(true).open(path);
        opened.map(|_| "opened to be written".to_owned()).map_err(|e| e.to_string())
    };
    tried(fs, "write /usr/bin/sh", false, open("/usr/bin/sh"))?;
    tried(
        fs,
        "list /root",
        false,
        std::fs::read_dir("/root").map(|_| "listed".into()).map_err(|e| e.to_string()),
    )?;
    tried(fs, "write /proc/sys/kernel/core_pattern", false, open("/proc/sys/kernel/core_pattern"))
}

fn process() -> io::Result<()> {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::{Pid, Uid, getuid, setuid};
    let layer = "process";
    let said = |r: nix::Result<()>| r.map(|()| "done".to_owned()).map_err(|e| e.to_string());
    tried(layer, "be an ordinary user", true, ordinary(getuid()))?;
    tried(layer, "become root", false, said(setuid(Uid::from_raw(0))))?;
    tried(layer, "make a namespace of its own", false, said(unshare(CloneFlags::CLONE_NEWUSER)))?;
    let nothing: Option<&str> = None;
    tried(
        layer,
        "mount a filesystem",
        false,
        said(mount(nothing, "/tmp", Some("tmpfs"), MsFlags::empty(), nothing)),
    )?;
    tried(layer, "kill the sandbox's init", false, killed_init(kill(Pid::from_raw(1), Signal::SIGKILL)))?;
    tried(layer, "trace a process", false, said(nix::sys::ptrace::attach(Pid::from_raw(1))))
}

fn ordinary(uid: nix::unistd::Uid) -> Result<String, String> {
    if uid.is_root() { Err("it is root".into()) } else { Ok(format!("uid {uid}")) }
}

/// The kernel silently drops a signal that is sent to pid 1 from inside. So the proof is that this process
/// still lives to report it.
fn killed_init(sent: nix::Result<()>) -> Result<String, String> {
    Err(sent.map_or_else(|e| e.to_string(), |()| "the kernel dropped the signal".into()))
}

fn inference() -> io::Result<()> {
    let layer = "inference";
    let ask = |model: &str| {
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hello"}}]}}"#);
        fetch("inference.local", "POST", "/v1/chat/completions", Some(&body))
    };
    tried(layer, "ask model `demo` at https://inference.local", true, ask("demo"))?;
    tried(layer, "ask a model that no route names", false, ask("other"))?;
    tried(layer, "find the provider's key in the environment", false, provider_key())?;
    let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8");
    tried("redaction", "print a token", true, Ok(format!("this is the token: {token}")))
}

fn provider_key() -> Result<String, String> {
    let looks_real = |value: &String| value.starts_with("sk-") && !value.contains("placeholder");
    match std::env::vars().find(|(_, value)| looks_real(value)) {
        Some((key, _)) => Ok(format!("found in {key}")),
        None => Err("no variable holds one".into()),
    }
}

fn count() -> io::Result<()> {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read_line(&mut String::new());
        drop(stop);
    });
    for n in 1.. {
        tell(&Line::Count(n))?;
        if stopped.recv_timeout(BEAT) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(())
}

fn drop_stream(_: TcpStream) -> String {
    "connected".into()
}

fn direct(address: &str) -> Result<String, String> {
    let attempt = || -> io::Result<String> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The connection arrives at the proxy all the same: the answer shows whether there was a way past it.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: past.bed.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match attempt() {
        Ok(answer) if answer.contains("policy_denied") => Err("the proxy answers: policy_denied".into()),
        Ok(_) => Ok("connected".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Opens a tunnel through the proxy that the environment names.
fn tunnel(target: &str) -> Result<TcpStream, String> {
    let proxy = std::env::var("HTTPS_PROXY").map_err(|e| e.to_string())?;
    let address: SocketAddr = proxy
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .map_err(|e| format!("{proxy}: {e}"))?;
    let attempt = || -> io::Result<(TcpStream, String, String)> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let (status, length) = head(&mut reader)?;
        let mut body = String::new();
        if !status.contains(" 200") {
            reader.take(length.unwrap_or(ANSWER_MAX).min(ANSWER_MAX)).read_to_string(&mut body)?;
        }
        Ok((stream, status, body))
    };
    let (stream, status, body) = attempt().map_err(|e| e.to_string())?;
    if status.contains(" 200") { Ok(stream) } else { Err(reason(&status, &body)) }
}

/// Sends one request over TLS through the proxy. A status of 400 or more is a refusal.
fn fetch(host: &str, method: &str, path: &str, body: Option<&str>) -> Result<String, String> {
    let stream = tunnel(&format!("{host}:443"))?;
    let attempt = || -> anyhow::Result<(String, String)> {
        let name = ServerName::try_from(host.to_owned())?;
        let tls = rustls::ClientConnection::new(tls_config()?, name)?;
        let mut tls = rustls::StreamOwned::new(tls, stream);
        let body = body.unwrap_or_default();
        write!(
            tls,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Authorization: Bearer placeholder\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut reader = BufReader::new(tls);
        let (status, length) = head(&mut reader)?;
        let mut text = Vec::new();
        reader.take(length.unwrap_or(ANSWER_MAX).min(ANSWER_MAX)).read_to_end(&mut text)?;
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    };
    let (status, body) = attempt().map_err(|e| e.to_string())?;
    let code: u16 = status.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
    if (200..400).contains(&code) { Ok(format!("{code}")) } else { Err(reason(&status, &body)) }
}

fn tls_config() -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let bundle = std::env::var("SSL_CERT_FILE")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(bundle)?.filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Reads a response's head: its status line and Content-Length.
fn head(reader: &mut impl BufRead) -> io::Result<(String, Option<u64>)> {
    let mut status = String::new();
    reader.take(ANSWER_MAX).read_line(&mut status)?;
    let mut length = None;
    loop {
        let mut line = String::new();
        reader.take(ANSWER_MAX).read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Ok((status.trim_end().to_owned(), length));
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
    }
}

/// Returns the reason of a refusal for people: the body's `detail` if it has one, else the status line.
fn reason(status: &str, body: &str) -> String {
    let detail = serde_json::from_str::<serde_json::Value>(body).ok().and_then(|v| {
        let by = v.get("layer").filter(|l| !l.is_null()).or(v.get("error"))?;
        Some(format!("{} ({})", v.get("detail")?.as_str()?, by.as_str()?))
    });
    detail.unwrap_or_else(|| status.to_owned())
}
