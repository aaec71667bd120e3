//! `/etc`: the sandbox's own users, hosts and resolver, and of the host's only what programs read to run.
//!
//! Nothing that holds a secret (shadow, ssh, private keys) or tells of other users is ever here, and what the
//! policy names below `/etc` in addition is bound by name.

use super::links::follow;
use super::paths::Modes;
use super::root::{Failed, at, attach, make_dir, make_file, make_parent, place};
use crate::plan::{
    AGENT_ID, CA_BUNDLE, CagePlan, Control, INFERENCE_ADDRESS, JAVA_STORE, RUN_DIR, WORKSPACE,
};
use crate::sys;
use crate::sys::mount::Attributes;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Bound from the host where it has them, each with the reason: caches, tables and settings that programs
/// read to run. What a shell runs at its start (`profile`, `bash.bashrc`) is the operator's, and isn't here.
pub const BOUND: &[(&str, &str)] = &[
    ("alternatives", "links from /usr to the version of a program in use (Debian, Fedora)"),
    ("ca-certificates", "where Arch keeps trusted roots"),
    ("ca-certificates.conf", "which roots Debian trusts, read by update tools"),
    ("crypto-policies", "OpenSSL's and GnuTLS's settings on Fedora: they don't start without"),
    ("debian_version", "how programs tell the distribution"),
    ("fonts", "fontconfig: browsers and document tools"),
    ("gai.conf", "getaddrinfo's order of addresses"),
    ("inputrc", "readline's keys"),
    ("ld.so.cache", "the loader: without it every start searches directories"),
    ("ld.so.conf", "the loader, where the cache is older"),
    ("ld.so.conf.d", "the same"),
    ("locale.conf", "the system's locale"),
    ("localtime", "the time zone"),
    ("lsb-release", "how programs tell the distribution"),
    ("magic", "file(1)"),
    ("mime.types", "names of content types: Python, web servers"),
    ("networks", "getnetent(3)"),
    ("nodejs", "Debian's Node reads its paths there"),
    ("os-release", "how programs tell the distribution"),
    ("pki/ca-trust", "where Fedora keeps trusted roots"),
    ("pki/tls/certs", "the same"),
    ("pki/tls/openssl.cnf", "OpenSSL's settings on Fedora"),
    ("protocols", "getprotobyname(3)"),
    ("rpc", "getrpcbyname(3)"),
    ("services", "getservbyname(3)"),
    ("shells", "which shells there are: tmux, chsh"),
    ("ssl/certs", "where Debian keeps trusted roots"),
    ("ssl/openssl.cnf", "OpenSSL's settings"),
    ("terminfo", "terminals: curses"),
    ("timezone", "the time zone's name"),
];
/// Prefixes of further names to bind, since versions differ: settings without which runtimes don't start.
pub const BOUND_PREFIXES: &[&str] = &["java", "python", "perl"];

/// Where distributions keep the bundle of trusted roots: each that exists is covered by ours.
pub const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Alpine, Arch
    "/etc/ssl/cert.pem",                  // Alpine, OpenSSL's default
    "/etc/ssl/certs/ca-bundle.crt",       // SUSE
    "/etc/ssl/ca-bundle.pem",             // SUSE
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem", // Arch
];
/// Where Java keeps the roots that it trusts: covered in the same way. Java's own directory links there.
const JAVA_STORES: &[&str] = &[
    "/etc/ssl/certs/java/cacerts",              // Debian, Ubuntu, Alpine, Arch
    "/etc/pki/java/cacerts",                    // Fedora, RHEL
    "/etc/pki/ca-trust/extracted/java/cacerts", // Fedora, RHEL
];
/// Made when the host has none of [`SYSTEM_BUNDLES`], since GnuTLS and wget read nothing else.
const DEFAULT_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// A larger file (in bytes) isn't taken for a bundle.
const MAX_BUNDLE: u64 = 8 << 20;

/// Returns the paths in `/etc` to bind if they exist, each with whether it is writable: those that programs
/// need, and those that the policy names.
pub(super) fn names(plan: &CagePlan) -> BTreeMap<PathBuf, bool> {
    let mut names: BTreeMap<PathBuf, bool> =
        BOUND.iter().map(|(name, _)| (Path::new("/etc").join(name), false)).collect();
    if let Ok(entries) = std::fs::read_dir("/etc") {
        names.extend(entries.flatten().map(|entry| (entry.path(), false)).filter(|(path, _)| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            BOUND_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
        }));
    }
    let named = super::paths::policy_paths(plan).into_iter();
    for (path, writable) in named.filter(|(path, _)| path.starts_with("/etc") && path != Path::new("/etc")) {
        *names.entry(path).or_insert(false) |= writable;
    }
    names
}

#[derive(Debug)]
struct Bound {
    path: PathBuf,
    directory: bool,
    writable: bool,
    mount: OwnedFd,
}

#[derive(Debug)]
pub(super) struct Collected {
    bound: Vec<Bound>,
    links: Vec<(PathBuf, PathBuf)>,
    /// Whether the tree has a bundle of trusted roots, which ours will cover.
    has_bundle: bool,
}

impl Collected {
    /// Opens the paths that exist. One that can't be opened isn't shown: no security control depends on it.
    pub(super) fn collect(plan: &CagePlan, modes: Modes, agents: &[PathBuf]) -> Self {
        let mut collected = Self { bound: Vec::new(), links: Vec::new(), has_bundle: has_bundle() };
        for (path, writable) in names(plan) {
            collected.add(path, writable, modes, agents);
        }
        collected
    }

    fn add(&mut self, path: PathBuf, writable: bool, modes: Modes, agents: &[PathBuf]) {
        let above = self.bound.iter().rev().find(|above| path.starts_with(&above.path));
        if above.is_some_and(|above| above.writable == writable)
            || OWN.iter().any(|own| path == Path::new("/etc").join(own))
        {
            return;
        }
        // If the tree has no bundle, the cage makes this directory itself, so that the bundle can be where
        // programs look.
        if !self.has_bundle && Path::new(DEFAULT_BUNDLE).parent() == Some(path.as_path()) {
            return;
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return };
        // Agents' links aren't followed. A path of the policy that leads through one was refused before.
        let Ok(real) = follow(above, agents).map(|above| above.join(name)) else { return };
        // Links stay links: their targets in /usr and /etc are shown anyway.
        if let Ok(target) = std::fs::read_link(&real) {
            self.links.push((path, target));
            return;
        }
        let attributes = if writable { modes.writable } else { modes.read_only };
        if let Ok((mount, meta)) = sys::beneath::clone_real(&real, attributes.and(Attributes::NO_EXEC)) {
            self.bound.push(Bound { path, directory: meta.is_dir(), writable, mount });
        }
    }

    /// Makes `/etc`, and returns the writable paths in it. The run directory must be attached.
    pub(super) fn build(&self, plan: &CagePlan, root: BorrowedFd<'_>) -> Result<Vec<PathBuf>, Failed> {
        make_dir(Path::new("/etc"), 0o755)?;
        for (path, text) in own_files(plan)? {
            make_file(&Path::new("/etc").join(path), text.as_bytes())?;
        }
        if plan.sabotaged(Control::Etc) {
            make_file(Path::new("/etc/shadow"), &[])?;
        }
        for Bound { path, directory, mount, .. } in &self.bound {
            place(root, mount.as_fd(), path, *directory)?;
        }
        for (path, target) in &self.links {
            make_parent(path)?;
            std::os::unix::fs::symlink(target, path).map_err(at(format!("linking {}", path.display())))?;
        }
        std::os::unix::fs::symlink("/proc/self/mounts", "/etc/mtab").map_err(at("linking /etc/mtab"))?;
        show_bundle(root)?;
        Ok(self.bound.iter().filter(|bound| bound.writable).map(|bound| bound.path.clone()).collect())
    }
}

/// What must not be there unless the policy names it: secrets and other users.
const NEVER: &[&str] =
    &["shadow", "gshadow", "sudoers", "sudoers.d", "ssh", "subuid", "subgid", "crypttab", "krb5.keytab"];

/// Whether nothing of [`NEVER`] is there unless the policy names it, and the users are the cage's own.
///
/// # Errors
/// When it can't be read.
pub(crate) fn is_reduced(plan: &CagePlan) -> std::io::Result<bool> {
    let named = |path: &Path| {
        super::paths::policy_paths(plan)
            .iter()
            .any(|(shown, _)| path.starts_with(shown) && shown != Path::new("/etc"))
    };
    let absent = NEVER.iter().all(|name| {
        let path = Path::new("/etc").join(name);
        named(&path) || std::fs::symlink_metadata(path).is_err()
    });
    match std::fs::read_to_string("/etc/passwd") {
        // The agent, nobody, and pid 1's user where that is mapped.
        Ok(users) => Ok(absent && users.lines().count() <= 3),
        // The policy doesn't show /etc, so it tells agents nothing.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(absent),
        Err(error) => Err(error),
    }
}

/// Files of `/etc` that are the sandbox's own, never the host's.
const OWN: &[&str] =
    &["passwd", "group", "hosts", "hostname", "resolv.conf", "nsswitch.conf", "machine-id", "mtab"];

fn own_files(plan: &CagePlan) -> Result<Vec<(&'static str, String)>, Failed> {
    let name = &plan.name;
    let id = AGENT_ID;
    let root_line = match plan.ids {
        crate::plan::Ids::Rooted { .. } => "root:x:0:0:cofferdam:/nonexistent:/usr/sbin/nologin\n",
        crate::plan::Ids::Rootless { .. } => "",
    };
    Ok(vec![
        (
            "passwd",
            format!(
                "{root_line}sandbox:x:{id}:{id}:sandbox:{WORKSPACE}:/bin/bash\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("group", format!("root:x:0:\ntty:x:5:\nsandbox:x:{id}:\nnogroup:x:65534:\n")),
        (
            "hosts",
            format!(
                "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.0.1 {name}\n{INFERENCE_ADDRESS} inference.local\n"
            ),
        ),
        ("hostname", format!("{name}\n")),
        // Nothing but the sandbox's own resolver is reachable; where it isn't running the answer is
        // immediate.
        ("resolv.conf", "nameserver 127.0.0.53\noptions timeout:5 attempts:1\n".to_owned()),
        ("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned()),
        ("machine-id", format!("{}\n", random_id().map_err(at("drawing a machine id"))?)),
    ])
}

/// A fresh 128-bit id: the host's would tell which sandboxes are on the same machine.
fn random_id() -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn has_bundle() -> bool {
    SYSTEM_BUNDLES.iter().any(|path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && (1..=MAX_BUNDLE).contains(&meta.len()))
    })
}

/// Mounts the cage's bundle over every system bundle: the same inode, so that what the supervisor writes
/// later shows everywhere. Likewise the Java store.
fn show_bundle(root: BorrowedFd<'_>) -> Result<(), Failed> {
    cover_each(root, &Path::new(RUN_DIR).join(JAVA_STORE), JAVA_STORES)?;
    let ours = Path::new(RUN_DIR).join(CA_BUNDLE);
    let covered = cover_each(root, &ours, SYSTEM_BUNDLES)?;
    let default = Path::new(DEFAULT_BUNDLE);
    if !covered && !default.exists() {
        make_parent(default)?;
        // Fails only where a read-only directory of the host's is in the way; environment variables name the
        // bundle anyway.
        let _ = std::os::unix::fs::symlink(&ours, default);
    }
    Ok(())
}

/// Mounts `ours` over each of these places that exists; returns whether any does.
fn cover_each(root: BorrowedFd<'_>, ours: &Path, places: &[&str]) -> Result<bool, Failed> {
    let mut covered: Vec<PathBuf> = Vec::new();
    for path in places {
        // Links among them lead to one file, which needs one cover.
        let Ok(real) = std::fs::canonicalize(path) else { continue };
        if real.starts_with("/etc") && !covered.contains(&real) {
            cover(root, ours, &real)?;
            covered.push(real);
        }
    }
    Ok(!covered.is_empty())
}

fn cover(root: BorrowedFd<'_>, ours: &Path, place: &Path) -> Result<(), Failed> {
    let mount = sys::mount::clone_tree(ours, Attributes::NONE).map_err(at("certificate bundle"))?;
    attach(root, mount.as_fd(), place)
}
