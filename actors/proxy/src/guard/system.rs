//! The host's own way to resolve names: `/etc/hosts` first, then the servers of `/etc/resolv.conf`.
//!
//! Both files are read anew when they change: a laptop that roams or brings up a VPN must not need a restart.
//! Search domains are never tried, since a name that the policy judged must not turn into another one.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};
use policy::DomainName;

use super::resolve::{Lookup, LookupError};

/// Least time between two checks whether the files have changed.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Most bytes read of either file: an ad-blocking hosts file may have a few MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// How long one server's answer to one try is waited for.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// Tries after the first.
const RETRIES: usize = 1;
/// Most names that are cached with their answers, each for its TTL.
const CACHED_NAMES: u64 = 1024;
/// Longest that an answer is cached: a service that moves is found again within five minutes, even if its TTL
/// is a day.
const MAX_TTL: Duration = Duration::from_secs(300);
/// Longest that a "no such name" is cached.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// How long the slower of the two address families is waited for once the other has answered (RFC 8305
/// section 3 has 50 ms for AAAA after A; we wait longer, since it is the operator's network).
const OTHER_FAMILY_GRACE: Duration = Duration::from_millis(150);

/// Resolves as the host is configured.
pub struct SystemLookup {
    hosts_file: PathBuf,
    resolv_conf: PathBuf,
    snapshot: ArcSwap<Snapshot>,
    epoch: Instant,
    /// Milliseconds after `epoch` of the last look at the files.
    checked_at: AtomicU64,
}

/// What the files said.
struct Snapshot {
    hosts: Hosts,
    /// None when resolv.conf names no server: then the hosts file alone answers.
    servers: Option<TokioResolver>,
    stamps: [Stamp; 2],
}

/// Device, inode, size and mtime, which tell one version of a file from the next; `None` if there is no file.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl std::fmt::Debug for SystemLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemLookup").field("resolv_conf", &self.resolv_conf).finish_non_exhaustive()
    }
}

impl SystemLookup {
    /// Resolves by `/etc/hosts` and `/etc/resolv.conf`. A missing file is an empty one.
    ///
    /// # Errors
    /// When the resolver can't be set up.
    pub fn new() -> io::Result<Self> {
        Self::from_files("/etc/hosts", "/etc/resolv.conf")
    }

    /// Resolves by these files, which have the same two formats.
    ///
    /// # Errors
    /// When the resolver can't be set up.
    pub fn from_files(hosts_file: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>) -> io::Result<Self> {
        let (hosts_file, resolv_conf) = (hosts_file.into(), resolv_conf.into());
        let snapshot = Snapshot::read(&hosts_file, &resolv_conf)?;
        Ok(Self {
            hosts_file,
            resolv_conf,
            snapshot: ArcSwap::from_pointee(snapshot),
            epoch: Instant::now(),
            checked_at: AtomicU64::new(0),
        })
    }

    /// The files' content, at most [`CHECK_EVERY`] out of date.
    fn current(&self) -> Arc<Snapshot> {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let checked_at = self.checked_at.load(Ordering::Relaxed);
        let due = u128::from(now.saturating_sub(checked_at)) >= CHECK_EVERY.as_millis();
        let snapshot = self.snapshot.load_full();
        let mine = due
            && self
                .checked_at
                .compare_exchange(checked_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !mine || snapshot.stamps == [stamp(&self.hosts_file), stamp(&self.resolv_conf)] {
            return snapshot;
        }
        match Snapshot::read(&self.hosts_file, &self.resolv_conf) {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                self.snapshot.store(fresh.clone());
                fresh
            }
            Err(error) => {
                tracing::warn!(%error, "the resolver's files changed and can't be read; the last ones stay in force");
                snapshot
            }
        }
    }
}

impl Lookup for SystemLookup {
    fn addresses<'a>(&'a self, name: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(async move { self.current().addresses(name).await })
    }
}

impl Snapshot {
    fn read(hosts_file: &Path, resolv_conf: &Path) -> io::Result<Self> {
        let stamps = [stamp(hosts_file), stamp(resolv_conf)];
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(contents(hosts_file)?.as_slice())?;
        let servers = match parse_resolv_conf(contents(resolv_conf)?) {
            Ok((config, _)) => Some(resolver(config)?),
            Err(error) => {
                tracing::warn!(%error, "no name server is configured; only the hosts file answers");
                None
            }
        };
        Ok(Self { hosts, servers, stamps })
    }

    async fn addresses(&self, name: &DomainName) -> Result<Vec<IpAddr>, LookupError> {
        let mut absolute =
            Name::from_ascii(name.as_str()).map_err(|error| LookupError::Failed(error.to_string()))?;
        absolute.set_fqdn(true);
        // As glibc does: a name that the hosts file knows in one family is not asked for in the other.
        let listed: Vec<IpAddr> = [RecordType::AAAA, RecordType::A]
            .into_iter()
            .filter_map(|family| self.hosts.lookup_static_host(&Query::query(absolute.clone(), family)))
            .flat_map(|lookup| lookup.answers().iter().filter_map(|r| r.data.ip_addr()).collect::<Vec<_>>())
            .collect();
        if !listed.is_empty() {
            return Ok(listed);
        }
        match &self.servers {
            Some(servers) => ask(servers, absolute).await,
            None => Err(LookupError::NotFound),
        }
    }
}

/// Asks for both families at once. Once one has answered, the other is waited for, but not for long.
async fn ask(servers: &TokioResolver, name: Name) -> Result<Vec<IpAddr>, LookupError> {
    let v6 = family(servers, name.clone(), RecordType::AAAA);
    let v4 = family(servers, name, RecordType::A);
    tokio::pin!(v6, v4);
    let (first, second) = tokio::select! {
        got = &mut v6 => settle(got, v4).await,
        got = &mut v4 => settle(got, v6).await,
    };
    match (first, second) {
        (Err(why), None | Some(Err(LookupError::NotFound))) => Err(why),
        (Err(_), Some(Err(why))) => Err(why),
        (first, second) => {
            let mut all = first.unwrap_or_default();
            all.extend(second.and_then(Result::ok).unwrap_or_default());
            Ok(all)
        }
    }
}

type Answers = Result<Vec<IpAddr>, LookupError>;

/// Waits for the other family's answer once the `first` is there: to the end if the first has no address,
/// else for [`OTHER_FAMILY_GRACE`].
async fn settle(first: Answers, other: impl Future<Output = Answers>) -> (Answers, Option<Answers>) {
    let second = match &first {
        Ok(found) if !found.is_empty() => tokio::time::timeout(OTHER_FAMILY_GRACE, other).await.ok(),
        _ => Some(other.await),
    };
    (first, second)
}

async fn family(servers: &TokioResolver, name: Name, family: RecordType) -> Answers {
    match servers.lookup(name, family).await {
        Ok(lookup) => Ok(lookup.answers().iter().filter_map(|r| r.data.ip_addr()).collect()),
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => Err(LookupError::NotFound),
        Err(NetError::Timeout) => Err(LookupError::Failed("no name server answered in time".to_owned())),
        Err(error) => Err(LookupError::Failed(error.to_string())),
    }
}

fn resolver(config: ResolverConfig) -> io::Result<TokioResolver> {
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = TRY_TIMEOUT;
    options.attempts = RETRIES;
    options.cache_size = CACHED_NAMES;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options.use_hosts_file = ResolveHosts::Never;
    options.edns0 = true;
    builder.build().map_err(io::Error::other)
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(bytes)
}

fn stamp(path: &Path) -> Stamp {
    let m = std::fs::metadata(path).ok()?;
    Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    #[tokio::test]
    async fn the_hosts_file_answers_in_both_families_and_is_read_anew_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "93.184.216.34 Up.Example # comment\n2606:4700::1 up.example\n").unwrap();
        let lookup = SystemLookup::from_files(&hosts, dir.path().join("none")).unwrap();
        let found = lookup.addresses(&name("up.example")).await.unwrap();
        assert_eq!(found, ["2606:4700::1".parse::<IpAddr>().unwrap(), "93.184.216.34".parse().unwrap()]);
        assert_eq!(lookup.addresses(&name("other.example")).await, Err(LookupError::NotFound));

        std::fs::write(&hosts, "93.184.216.35 up.example other.example\n").unwrap();
        let checked_long_ago = lookup.epoch.checked_sub(CHECK_EVERY * 2).unwrap();
        let lookup = SystemLookup { epoch: checked_long_ago, ..lookup };
        let found = lookup.addresses(&name("other.example")).await.unwrap();
        assert_eq!(found, ["93.184.216.35".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn a_silent_server_fails_and_a_speaking_one_answers() {
        // A server that answers A with one address, AAAA never, and NXDOMAIN for `gone.example`.
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buf = [0u8; 1500];
            loop {
                let (n, peer) = socket.recv_from(&mut buf).await.unwrap();
                if let Some(reply) = answer(&buf[..n]) {
                    socket.send_to(&reply, peer).await.unwrap();
                }
            }
        });
        let mut server =
            hickory_resolver::config::NameServerConfig::udp_and_tcp("127.0.0.1".parse().unwrap());
        for connection in &mut server.connections {
            connection.port = port;
        }
        let servers = resolver(ResolverConfig::from_parts(None, vec![], vec![server])).unwrap();
        let absolute = |text: &str| Name::from_ascii(text).unwrap();
        // The least of some: a busy machine may take its time once, but who waits for the dead family does so
        // always.
        let mut least = Duration::MAX;
        for number in 0..5 {
            let started = Instant::now();
            let found = ask(&servers, absolute(&format!("up{number}.example."))).await.unwrap();
            assert_eq!(found, ["93.184.216.34".parse::<IpAddr>().unwrap()]);
            least = least.min(started.elapsed());
        }
        assert!(least < TRY_TIMEOUT, "a dead family holds nobody up");
        assert_eq!(ask(&servers, absolute("gone.example.")).await, Err(LookupError::NotFound));
    }

    /// A DNS reply made by hand (RFC 1035 section 4.1): the question repeated, with one A record or NXDOMAIN.
    fn answer(query: &[u8]) -> Option<Vec<u8>> {
        let end = 12 + query[12..].iter().position(|b| *b == 0)? + 5;
        let question = &query[12..end];
        let gone = question.windows(4).any(|w| w == b"gone");
        let is_a = question[question.len() - 3] == 1;
        if !is_a && !gone {
            return None;
        }
        let mut reply = query[..2].to_vec();
        reply.extend([0x81, if gone { 0x83 } else { 0x80 }, 0, 1, 0, u8::from(!gone), 0, 0, 0, 0]);
        reply.extend(question);
        if !gone {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 216, 34]);
        }
        Some(reply)
    }
}
