//! The load client: one program for every contender. It takes jobs on its standard input, one a line, so that
//! one process (and one sandbox) serves all rounds, and answers each with a line of figures.

use std::io::{BufRead, BufReader, Read, Write, stdin};
use std::net::TcpStream;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bed::harness::say;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};

use crate::upstream::{ECHO_PORT, HOLD_PORT, HOST, PLAIN_PORT, STREAM_PORT, TLS_PORT};

/// Connections side by side.
pub const CONNECTIONS: usize = 8;
/// Bytes read at a time from a stream.
const CHUNK: usize = 256 * 1024;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new tunnel for each operation: CONNECT, five bytes there and back, close.
    Tunnel,
    /// Requests on kept connections whose TLS ends in the proxy.
    Intercepted,
    /// A new connection for each operation, whose TLS ends in the proxy, with one request.
    Handshake,
    /// Requests in absolute form on kept connections.
    Plain,
    /// Streams through tunnels; an operation is a mebibyte.
    Stream,
    /// Tunnels that are opened and then idle, until the next job; an operation is a tunnel.
    Idle,
}

impl Kind {
    /// The job's name on the client's input.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Intercepted => "intercepted",
            Self::Handshake => "handshake",
            Self::Plain => "plain",
            Self::Stream => "stream",
            Self::Idle => "idle",
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;
    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Tunnel, Self::Intercepted, Self::Handshake, Self::Plain, Self::Stream, Self::Idle];
        all.into_iter().find(|kind| kind.name() == name).with_context(|| format!("no such job: {name}"))
    }
}

/// Serves jobs until its input ends: `KIND PROXY AMOUNT`, where `PROXY` may be `direct` and `AMOUNT` is
/// milliseconds, or tunnels for [`Kind::Idle`].
pub fn serve() -> Result<ExitCode> {
    let tls = Arc::new(tls_config()?);
    let mut idle = Vec::new();
    for line in stdin().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let mut next = || words.next().context("a job has three words");
        let kind: Kind = next()?.parse()?;
        let proxy = Some(next()?).filter(|proxy| *proxy != "direct").map(str::to_owned);
        let amount: u64 = next()?.parse()?;
        idle.clear();
        let job = Job { kind, proxy, tls: Arc::clone(&tls) };
        if kind == Kind::Idle {
            for _ in 0..amount {
                idle.push(job.tunnel(HOLD_PORT)?);
            }
            say(&format!("{} 0 0 0", idle.len()));
        } else {
            say(&job.run(Duration::from_millis(amount))?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tls_config() -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let bundle = std::env::var("SSL_CERT_FILE")?;
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(&bundle)?.filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // Every new connection is a whole handshake.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

struct Job {
    kind: Kind,
    proxy: Option<String>,
    tls: Arc<rustls::ClientConfig>,
}

impl Job {
    /// The figures: operations, seconds, median and 99th percentile in milliseconds.
    fn run(&self, length: Duration) -> Result<String> {
        let begun = Instant::now();
        let until = begun + length;
        let mut times: Vec<Duration> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..CONNECTIONS)
                .map(|_| scope.spawn(|| self.work(until).context(self.kind.name())))
                .collect();
            workers.into_iter().map(|w| w.join().expect("a worker panicked")).collect::<Result<Vec<_>>>()
        })?
        .concat();
        let took = begun.elapsed();
        times.sort();
        ensure!(!times.is_empty(), "nothing was done");
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
        Ok(format!("{} {} {} {}", times.len(), took.as_secs_f64(), at(50), at(99)))
    }

    fn work(&self, until: Instant) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        match self.kind {
            Kind::Tunnel => {
                while Instant::now() < until {
                    let begun = Instant::now();
                    let mut stream = self.tunnel(ECHO_PORT)?;
                    stream.write_all(b"hello")?;
                    stream.read_exact(&mut [0; 5])?;
                    // The server closes first. Otherwise each of our ports would stay in TIME_WAIT for a
                    // minute, and free ones would soon be hard to find.
                    ensure!(stream.read(&mut [0; 1])? == 0, "more than was sent came back");
                    times.push(begun.elapsed());
                }
            }
            Kind::Handshake => {
                while Instant::now() < until {
                    let begun = Instant::now();
                    let mut stream = self.secure()?;
                    get(&mut stream, "/", TLS_PORT, "Connection: close\r\n")?;
                    times.push(begun.elapsed());
                }
            }
            Kind::Intercepted => {
                let mut stream = self.secure()?;
                while Instant::now() < until {
                    let begun = Instant::now();
                    get(&mut stream, "/items/7", TLS_PORT, "")?;
                    times.push(begun.elapsed());
                }
            }
            Kind::Plain => {
                let stream = match &self.proxy {
                    Some(proxy) => TcpStream::connect(proxy)?,
                    None => TcpStream::connect((HOST, PLAIN_PORT))?,
                };
                stream.set_nodelay(true)?;
                let mut stream = BufReader::new(stream);
                let target = match self.proxy {
                    Some(_) => format!("http://{HOST}:{PLAIN_PORT}/items/7"),
                    None => "/items/7".to_owned(),
                };
                while Instant::now() < until {
                    let begun = Instant::now();
                    get(&mut stream, &target, PLAIN_PORT, "")?;
                    times.push(begun.elapsed());
                }
            }
            Kind::Stream => {
                let mut stream = self.tunnel(STREAM_PORT)?;
                stream.write_all(b"begin")?;
                let mut buffer = vec![0; CHUNK];
                let (mut begun, mut read) = (Instant::now(), 0);
                while Instant::now() < until {
                    let more = stream.read(&mut buffer)?;
                    ensure!(more > 0, "the stream ended");
                    read += more;
                    while read >= 1 << 20 {
                        read -= 1 << 20;
                        times.push(begun.elapsed());
                        begun = Instant::now();
                    }
                }
            }
            Kind::Idle => bail!("no job for workers"),
        }
        Ok(times)
    }

    fn tunnel(&self, port: u16) -> Result<TcpStream> {
        let Some(proxy) = &self.proxy else {
            let stream = TcpStream::connect((HOST, port))?;
            stream.set_nodelay(true)?;
            return Ok(stream);
        };
        let mut stream = TcpStream::connect(proxy)?;
        stream.set_nodelay(true)?;
        write!(&stream, "CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n")?;
        // The server sends nothing by itself, so there is nothing but the head to read.
        let mut head = [0; 1024];
        let mut length = 0;
        while !head[..length].ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut head[length..])?;
            ensure!(read > 0, "ended early: {}", String::from_utf8_lossy(&head[..length]));
            length += read;
        }
        ensure!(head[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head[..length]));
        Ok(stream)
    }

    fn secure(&self) -> Result<BufReader<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>> {
        let stream = self.tunnel(TLS_PORT)?;
        let connection = rustls::ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from(HOST)?)?;
        Ok(BufReader::new(rustls::StreamOwned::new(connection, stream)))
    }
}

/// One request and its whole answer.
fn get<T: Read + Write>(stream: &mut BufReader<T>, target: &str, port: u16, more: &str) -> Result<()> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}:{port}\r\n{more}\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    stream.get_mut().flush()?;
    let (mut line, mut length, mut first) = (String::new(), None, true);
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "ended early");
        ensure!(!std::mem::take(&mut first) || line.starts_with("HTTP/1.1 200"), "{line}");
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<usize>()?);
        }
    }
    stream.read_exact(&mut vec![0; length.context("no length")?])?;
    Ok(())
}
