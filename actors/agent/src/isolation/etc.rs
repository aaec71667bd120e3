//! `/etc`: the sandbox's own users, hosts and resolver, and of the host's only what programs read to run.
//!
//! Nothing that holds a secret (shadow, ssh, private keys) or tells of other users is ever here, and what the policy
//! names below `/etc` in addition is bound by name.

use super::root::{Failed, at, attach, make_dir, make_file, make_parent};
use crate::plan::{AGENT_ID, CA_BUNDLE, CagePlan, INFERENCE_ADDRESS, RUN_DIR, WORKSPACE};
use crate::sys;
use crate::sys::mount::Attributes;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Bound from the host where it has them: caches, tables and runtime settings, no secrets.
pub const BOUND: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "nodejs",
    "os-release",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "profile",
    "protocols",
    "rpc",
    "services",
    "shells",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];
/// Bound by the beginning of their names: versions differ.
const BOUND_PREFIXES: &[&str] = &["java", "python", "perl"];

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
/// Made when the host has none of them, since GnuTLS and wget read nothing else.
const DEFAULT_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// A bundle is at most this large; anything else isn't one.
const MAX_BUNDLE: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Collected {
    bound: Vec<(PathBuf, bool, OwnedFd)>,
    links: Vec<(PathBuf, PathBuf)>,
    bundle: Vec<u8>,
}

impl Collected {
    /// Opens what is there. What can't be opened isn't shown: nothing here is a control.
    pub(super) fn collect(plan: &CagePlan, attributes: Attributes) -> Self {
        let mut collected = Self { bound: Vec::new(), links: Vec::new(), bundle: read_host_bundle() };
        let mut names: Vec<PathBuf> = BOUND.iter().map(|name| Path::new("/etc").join(name)).collect();
        if let Ok(entries) = std::fs::read_dir("/etc") {
            names.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
                let name = path.file_name().unwrap_or_default().as_encoded_bytes();
                BOUND_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
            }));
        }
        let named = super::root::policy_paths(plan).into_iter().map(|(path, _)| path);
        names.extend(named.filter(|path| path.starts_with("/etc") && path != Path::new("/etc")));
        names.sort();
        names.dedup();
        for path in names {
            collected.add(path, attributes);
        }
        collected
    }

    fn add(&mut self, path: PathBuf, attributes: Attributes) {
        let covered = self.bound.iter().any(|(above, _, _)| path.starts_with(above));
        if covered || OWN.iter().any(|own| path == Path::new("/etc").join(own)) {
            return;
        }
        // Links stay links: their targets in /usr and /etc are shown anyway.
        if let Ok(target) = std::fs::read_link(&path) {
            self.links.push((path, target));
            return;
        }
        let Ok(meta) = std::fs::symlink_metadata(&path) else { return };
        let Ok(mount) = sys::mount::clone_tree(&path) else { return };
        let attributes = attributes.and(Attributes::NO_EXEC);
        if sys::mount::set_attributes(mount.as_fd(), attributes, true).is_ok() {
            self.bound.push((path, meta.is_dir(), mount));
        }
    }

    /// The host's trusted roots: what the bundle holds until the supervisor sends its own.
    pub(super) fn host_bundle(&self) -> &[u8] {
        &self.bundle
    }

    /// Makes `/etc`. The run directory must be attached.
    pub(super) fn build(&self, plan: &CagePlan, root: BorrowedFd<'_>) -> Result<(), Failed> {
        make_dir(Path::new("/etc"), 0o755)?;
        for (path, text) in own_files(plan)? {
            make_file(&Path::new("/etc").join(path), text.as_bytes())?;
        }
        for (path, directory, mount) in &self.bound {
            if !path.exists() {
                if *directory {
                    make_dir(path, 0o755)?;
                } else {
                    make_parent(path)?;
                    make_file(path, &[])?;
                }
            }
            attach(root, mount.as_fd(), path)?;
        }
        for (path, target) in &self.links {
            make_parent(path)?;
            std::os::unix::fs::symlink(target, path).map_err(at(format!("linking {}", path.display())))?;
        }
        std::os::unix::fs::symlink("/proc/self/mounts", "/etc/mtab").map_err(at("linking /etc/mtab"))?;
        show_bundle(root)
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
        // Nothing but the sandbox's own resolver is reachable; where it isn't running the answer is immediate.
        ("resolv.conf", "nameserver 127.0.0.53\noptions timeout:5 attempts:1\n".to_owned()),
        ("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned()),
        ("machine-id", format!("{}\n", random_id().map_err(at("drawing a machine id"))?)),
    ])
}

/// A fresh 128-bit id: the host's would tell sandboxes of one machine apart from those of another.
fn random_id() -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_host_bundle() -> Vec<u8> {
    SYSTEM_BUNDLES
        .iter()
        .filter(|path| std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_BUNDLE))
        .find_map(|path| std::fs::read(path).ok())
        .unwrap_or_default()
}

/// Covers every system bundle by ours: the same inode, so that what the supervisor writes later shows everywhere.
fn show_bundle(root: BorrowedFd<'_>) -> Result<(), Failed> {
    let ours = Path::new(RUN_DIR).join(CA_BUNDLE);
    let mut covered: Vec<PathBuf> = Vec::new();
    for path in SYSTEM_BUNDLES {
        // Links among them lead to one file, which needs one cover.
        let Ok(real) = std::fs::canonicalize(path) else { continue };
        if real.starts_with("/etc") && !covered.contains(&real) {
            cover(root, &ours, &real)?;
            covered.push(real);
        }
    }
    let default = Path::new(DEFAULT_BUNDLE);
    if covered.is_empty() && !default.exists() {
        make_parent(default)?;
        // Fails only where a read-only directory of the host's is in the way; the variables name the bundle anyway.
        let _ = std::os::unix::fs::symlink(&ours, default);
    }
    Ok(())
}

fn cover(root: BorrowedFd<'_>, ours: &Path, place: &Path) -> Result<(), Failed> {
    let mount = sys::mount::clone_tree(ours).map_err(at("certificate bundle"))?;
    attach(root, mount.as_fd(), place)
}
