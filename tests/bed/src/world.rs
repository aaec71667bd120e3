//! Entering the world: namespaces first, then servers.
//!
//! ```text
//! unshare (user,) net, mount ─▶ lo up, ranges local ─▶ /etc/hosts, resolv.conf covered ─▶ CA written ─▶ servers
//! ```
//! A real root makes no user namespace, so that rooted sandboxes in it can have users of their own. An
//! ordinary user maps its own id alone: programs it starts are as unprivileged inside as outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::authority::Authority;
use crate::names;
use crate::netlink;
use crate::provider::Provider;
use crate::recorder::Recorder;
use crate::server;

/// The world that this process and its children live in. Its servers end with it.
#[derive(Debug)]
pub struct World {
    dir: PathBuf,
    recorder: Recorder,
    provider: Arc<Provider>,
    ipv6: bool,
    /// Keeps the servers running; dropped last.
    _servers: tokio::runtime::Runtime,
}

impl World {
    /// Moves this process into a new world whose files lie in `dir` (made if missing), and starts its
    /// servers.
    ///
    /// The process must have one thread. There is no way back: everything started later lives there too.
    pub fn enter(dir: &Path) -> Result<Self> {
        if threads()? != 1 {
            bail!("a world can be entered only while the process has one thread");
        }
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        // Sandboxed programs of other users read the CA: the files in here are public.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let dir = dir.canonicalize()?;

        own_namespaces()?;
        netlink::loopback_up()?;
        let ipv6 = own_ranges()?;
        cover(&dir, "hosts", &names::hosts_file())?;
        cover(&dir, "resolv.conf", names::RESOLV_CONF)?;
        let authority = Authority::new()?;
        let ca_file = dir.join("ca.pem");
        fs::write(&ca_file, authority.pem())?;
        fs::set_permissions(&ca_file, fs::Permissions::from_mode(0o644))?;

        for (name, text) in
            [("client.pem", &authority.client().cert), ("client.key", &authority.client().key)]
        {
            fs::write(dir.join(name), text)?;
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644))?;
        }

        let recorder = Recorder::default();
        let provider = Arc::new(Provider::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("bed")
            .enable_all()
            .build()?;
        runtime.block_on(server::start(server::Shared {
            authority: Arc::new(authority),
            recorder: recorder.clone(),
            provider: Arc::clone(&provider),
            git_dir: dir.join("git"),
        }))?;
        Ok(Self { dir, recorder, provider, ipv6, _servers: runtime })
    }

    /// The world's root certificate, a PEM file that everyone may read.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The directory of the world's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The certificate (PEM) that `mtls.bed.test` and `asks.bed.test` take, and its private key.
    pub fn client_pair(&self) -> Result<(String, String)> {
        let read =
            |name: &str| fs::read_to_string(self.dir.join(name)).with_context(|| format!("reading {name}"));
        Ok((read("client.pem")?, read("client.key")?))
    }

    /// What arrived at the servers.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The model provider.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Whether the machine has IPv6, and so the world.
    pub fn ipv6(&self) -> bool {
        self.ipv6
    }
}

fn threads() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/task").context("reading /proc/self/task")?.count())
}

fn own_namespaces() -> Result<()> {
    let plain = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let (uid, gid) = (geteuid(), getegid());
    // Try it rather than trust the uid: a container's root may not have the privilege.
    if !(uid.is_root() && unshare(plain).is_ok()) {
        unshare(plain | CloneFlags::CLONE_NEWUSER).context(
            "no user namespace to be had: is user.max_user_namespaces 0, or a security module in the way?",
        )?;
        fs::write("/proc/self/setgroups", "deny").context("writing setgroups")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).context("writing uid_map")?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).context("writing gid_map")?;
    }
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("making / private")
}

/// Makes the ranges local. A machine without IPv6 has a world without it.
fn own_ranges() -> Result<bool> {
    let mut ipv6 = true;
    for (network, prefix) in names::RANGES {
        match netlink::own_range(*network, *prefix) {
            Err(_) if network.is_ipv6() => ipv6 = false,
            other => other?,
        }
    }
    Ok(ipv6)
}

/// Shows a file of the world in place of the machine's `/etc/NAME`, where that exists.
fn cover(dir: &Path, name: &str, text: &str) -> Result<()> {
    let ours = dir.join(name);
    fs::write(&ours, text)?;
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o644))?;
    let theirs = Path::new("/etc").join(name);
    // A link into a directory that isn't there (systemd-resolved's) can't be covered; names then come from
    // hosts.
    let Ok(theirs) = theirs.canonicalize() else { return Ok(()) };
    let nothing: Option<&str> = None;
    mount(Some(&ours), &theirs, nothing, MsFlags::MS_BIND, nothing)
        .with_context(|| format!("covering {}", theirs.display()))
}
