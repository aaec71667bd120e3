//! Every kind of path that a policy can name, and what comes of it: the table in `isolation/paths.rs`, row by
//! row.

use crate::bed::{Cage, Mode, SANDBOX, plan, rules, workspace};
use agent::plan::{CagePlan, Hidden, PathRule};
use agent::protocol::{CageFailure, Refusal};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub const CASES: &[crate::Case] = &[
    ("files_and_directories_are_shown_where_they_are", files_and_directories_are_shown_where_they_are),
    (
        "what_the_sandbox_has_of_its_own_may_lie_in_what_is_shown",
        what_the_sandbox_has_of_its_own_may_lie_in_what_is_shown,
    ),
    ("a_path_in_another_has_its_own_mode", a_path_in_another_has_its_own_mode),
    ("a_path_twice_is_shown_once_and_writable_wins", a_path_twice_is_shown_once_and_writable_wins),
    ("a_path_in_the_workspace_has_its_own_mode", a_path_in_the_workspace_has_its_own_mode),
    ("a_workspace_that_is_only_readable_stays_so", a_workspace_that_is_only_readable_stays_so),
    ("links_lead_where_they_lead_and_no_further", links_lead_where_they_lead_and_no_further),
    ("a_link_that_the_agent_could_make_is_refused", a_link_that_the_agent_could_make_is_refused),
    ("what_is_hidden_is_never_shown", what_is_hidden_is_never_shown),
    ("sockets_pipes_and_devices", sockets_pipes_and_devices),
    ("a_slash_at_the_end_means_nothing", a_slash_at_the_end_means_nothing),
    ("nothing_of_etc_but_what_is_listed", nothing_of_etc_but_what_is_listed),
    ("what_tells_of_the_machine_is_covered", what_tells_of_the_machine_is_covered),
];

/// A directory of the host that both users can walk to, with what the cases need. Below `/tmp`, of which the
/// sandbox has its own: what the policy names there is shown in it all the same.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new(mode: Mode) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let this = Self { dir };
        for path in ["a/b/c/file", "a/file", "other/file"] {
            let file = this.path(path);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("mkdir");
            std::fs::write(&file, "text").expect("write");
        }
        if mode == Mode::Rooted {
            this.give(this.dir.path());
        }
        this
    }

    /// To the agent's user, so that mode bits never are what refuses.
    fn give(&self, path: &Path) {
        std::os::unix::fs::lchown(path, Some(SANDBOX.uid), Some(SANDBOX.gid)).expect("chown");
        if !path.is_symlink() && path.is_dir() {
            for entry in std::fs::read_dir(path).expect("list") {
                self.give(&entry.expect("entry").path());
            }
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn text(&self, below: &str) -> String {
        self.path(below).display().to_string()
    }
}

fn with(plan: &CagePlan, read_only: &[&str], read_write: &[&str]) -> CagePlan {
    let strict = |list: &[&str]| -> Vec<PathRule> {
        rules(list).into_iter().map(|rule| PathRule { optional: false, ..rule }).collect()
    };
    let mut plan = plan.clone();
    plan.paths.read_only.extend(strict(read_only));
    plan.paths.read_write.extend(strict(read_write));
    plan
}

fn refused(plan: &CagePlan) -> String {
    match Cage::with(plan).report() {
        Err(Refusal::Cage(failure)) => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

fn files_and_directories_are_shown_where_they_are(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let cage = Cage::with(&with(&plan(mode, dir.path()), &[&host.text("a/file")], &[&host.text("other")]));
    assert_eq!(cage.sh(&format!("cat {}", host.text("a/file"))), "text");
    cage.sh_fails(&format!("echo x > {}", host.text("a/file")));
    cage.sh_fails(&format!("ls {}", host.text("a/b")));
    cage.sh(&format!("echo changed > {}", host.text("other/file")));
    assert_eq!(std::fs::read_to_string(host.path("other/file")).expect("read"), "changed\n");
    // One's neighbours aren't there.
    assert_eq!(cage.sh(&format!("ls {}", host.dir.path().display())), "a\nother");
}

fn what_the_sandbox_has_of_its_own_may_lie_in_what_is_shown(mode: Mode) {
    let dir = workspace(mode);
    let cage = Cage::with(&with(&plan(mode, dir.path()), &["/var"], &[]));
    assert_eq!(cage.sh("ls -d /var/log /var/lib; echo x > /tmp/x; cat /tmp/x"), "/var/lib\n/var/log\nx");
    cage.sh_fails("echo x > /var/tmp/x");
}

fn a_path_in_another_has_its_own_mode(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let cage = Cage::with(&with(&plan(mode, dir.path()), &[&host.text("a")], &[&host.text("a/b")]));
    cage.sh_fails(&format!("echo x > {}", host.text("a/file")));
    cage.sh(&format!("echo x > {}", host.text("a/b/c/file")));
    let cage = Cage::with(&with(
        &plan(mode, dir.path()),
        &[&host.text("a/b")],
        &[&host.text("a"), &host.text("a/b/c")],
    ));
    cage.sh(&format!("echo x > {}", host.text("a/file")));
    cage.sh_fails(&format!("echo x > {}", host.text("a/b/new")));
    cage.sh_fails(&format!("rm -r {}", host.text("a/b")));
    cage.sh(&format!("echo x > {}", host.text("a/b/c/file")));
}

fn a_path_twice_is_shown_once_and_writable_wins(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let a = host.text("a");
    let cage = Cage::with(&with(&plan(mode, dir.path()), &[&a, &a], &[&a, &a]));
    cage.sh(&format!("echo x > {a}/file"));
    assert_eq!(cage.sh(&format!("grep -c ' {a} ' /proc/self/mountinfo")), "1");
    // Nor is the workspace, or a path in it, judged by one of its two entries alone.
    std::fs::create_dir(dir.path().join("sub")).expect("mkdir");
    if mode == Mode::Rooted {
        host.give(dir.path());
    }
    for place in ["/sandbox", "/sandbox/sub"] {
        let cage = Cage::with(&with(&plan(mode, dir.path()), &[place], &[place]));
        cage.sh(&format!("echo x > {place}/file"));
    }
}

fn a_path_in_the_workspace_has_its_own_mode(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    for path in ["kept/file", "kept/inner/file", "free"] {
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("mkdir");
        std::fs::write(&file, "text").expect("write");
    }
    if mode == Mode::Rooted {
        host.give(dir.path());
    }
    let plan = plan(mode, dir.path());
    let cage = Cage::with(&with(&plan, &["/sandbox/kept"], &["/sandbox/kept/inner"]));
    cage.sh("echo x > free; echo x > kept/inner/file");
    cage.sh_fails("echo x > kept/file");
    cage.sh_fails("rm kept/file");
    cage.sh_fails("mv kept elsewhere");
    assert_eq!(cage.sh("cat kept/file"), "text");
    // Not through a link, which the agent may have made in an earlier run.
    symlink("/etc", dir.path().join("link")).expect("link");
    for (read_only, read_write) in [(&["/sandbox/link"][..], &[][..]), (&[], &["/sandbox/link"])] {
        let told = refused(&with(&plan, read_only, read_write));
        assert!(told.contains("/sandbox/link") && told.contains("no link"), "{told}");
    }
    assert!(matches!(
        Cage::with(&with(&plan, &["/sandbox/absent"], &[])).report(),
        Err(Refusal::Cage(CageFailure::MissingPath(path))) if path == "/sandbox/absent"
    ));
}

fn a_workspace_that_is_only_readable_stays_so(mode: Mode) {
    let dir = workspace(mode);
    std::fs::write(dir.path().join("file"), "text").expect("write");
    let mut plan = plan(mode, dir.path());
    plan.paths.read_write = rules(&["/tmp"]);
    plan.paths.read_only.extend(rules(&["/sandbox"]));
    let cage = Cage::with(&plan);
    assert_eq!(cage.sh("cat /sandbox/file; echo x > /tmp/x; cat /tmp/x"), "textx");
    cage.sh_fails("echo x > /sandbox/new");
    assert!(cage.sh("grep ' /sandbox ' /proc/self/mountinfo").contains(" ro,"));
}

fn links_lead_where_they_lead_and_no_further(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let link = |name: &str, to: &str| {
        symlink(to, host.path(name)).expect("link");
        host.text(name)
    };
    let good = link("link", "a/b");
    let plan = plan(mode, dir.path());
    let cage = Cage::with(&with(&plan, &[&good], &[]));
    assert_eq!(cage.sh(&format!("cat {good}/c/file")), "text");
    assert_eq!(cage.sh(&format!("readlink {good}")), host.text("a/b"));
    cage.sh_fails(&format!("cat {}", host.text("a/file")));
    for (name, to) in [("shadow", "/etc/shadow"), ("run", "/run"), ("boot", "/boot")] {
        if !Path::new(to).exists() {
            continue;
        }
        let told = refused(&with(&plan, &[&link(name, to)], &[]));
        assert!(told.contains("never shown") || told.contains("doesn't exist"), "{to}: {told}");
    }
    let nowhere = link("nowhere", "absent");
    assert!(refused(&with(&plan, &[&nowhere], &[])).contains("doesn't exist"));
    let ring = link("ring", "ring");
    assert!(refused(&with(&plan, &[&ring], &[])).contains("doesn't exist"));
}

fn a_link_that_the_agent_could_make_is_refused(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let plan = plan(mode, dir.path());
    // In the workspace by its host path, and in a writable place; one step on the way, and the last one.
    symlink(host.path("a"), dir.path().join("link")).expect("link");
    let inside = dir.path().join("link/b").display().to_string();
    let told = refused(&with(&plan, &[&inside], &[]));
    assert!(told.contains("which an agent can change"), "{told}");
    symlink(host.path("a"), host.path("other/link")).expect("link");
    let told = refused(&with(&plan, &[&host.text("other/link")], &[&host.text("other")]));
    assert!(told.contains("which an agent can change"), "{told}");
    // As the second of two, where the first is none of the agent's.
    symlink(dir.path().join("link"), host.path("first")).expect("link");
    let told = refused(&with(&plan, &[&host.text("first")], &[]));
    assert!(told.contains("which an agent can change"), "{told}");
    // The same link where the agent can't write is good.
    assert!(Cage::with(&with(&plan, &[&host.text("other/link")], &[])).report().is_ok());
}

fn what_is_hidden_is_never_shown(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let mut plan = plan(mode, dir.path());
    plan.hidden = Hidden::new([host.path("a/b"), "/etc/ssl/certs/state".into()]);
    for path in [&host.text("a"), &host.text("a/b/c"), "/etc/ssl/certs"] {
        let told = refused(&with(&plan, &[path], &[]));
        assert!(told.contains("cofferdam keeps its own state in"), "{path}: {told}");
    }
    assert!(Cage::with(&with(&plan, &[&host.text("other")], &[])).report().is_ok());
}

fn sockets_pipes_and_devices(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let plan = plan(mode, dir.path());
    let socket = host.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let told = refused(&with(&plan, &[&host.text("socket")], &[]));
    assert!(told.contains("it is a socket"), "{told}");
    let fifo = host.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("mkfifo");
    if mode == Mode::Rooted {
        host.give(&fifo);
    }
    let cage = Cage::with(&with(&plan, &[], &[&host.text("fifo")]));
    assert_eq!(
        cage.sh(&format!("test -p {0} && exec 3<>{0} && echo through >&3 && head -1 <&3", host.text("fifo"))),
        "through"
    );
    // Devices of the host aren't in our /dev, whatever the policy says.
    let told = refused(&with(&plan, &["/dev/ptmx", "/dev/null", "/dev/mem"], &[]));
    assert!(told.contains("/dev/mem"), "{told}");
    if mode == Mode::Rooted {
        let device = host.path("device");
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let bits = nix::sys::stat::Mode::from_bits_truncate(0o666);
        if let Err(error) = nix::sys::stat::mknod(&device, kind, bits, nix::sys::stat::makedev(1, 3)) {
            return eprintln!("SKIPPED: no device can be made here: {error}");
        }
        let cage = Cage::with(&with(&plan, &[], &[&host.text("device")]));
        cage.sh_fails(&format!("cat {}", host.text("device")));
        cage.sh("cat /dev/null");
    }
}

fn a_slash_at_the_end_means_nothing(mode: Mode) {
    let (host, dir) = (Host::new(mode), workspace(mode));
    let plan = plan(mode, dir.path());
    let cage = Cage::with(&with(
        &plan,
        &[&format!("{}/", host.text("a/b")), &format!("{}//c/", host.text("a/b"))],
        &[],
    ));
    assert_eq!(cage.sh(&format!("cat {}", host.text("a/b/c/file"))), "text");
    for dots in [host.text("a/../other"), format!("{}/..", host.text("a"))] {
        let plan = with(&plan, &[&dots], &[]);
        assert!(matches!(plan.check(), Err(agent::plan::PlanError::Path(_))), "{dots}");
    }
}

fn nothing_of_etc_but_what_is_listed(mode: Mode) {
    let dir = workspace(mode);
    let cage = Cage::with(&plan(mode, dir.path()));
    let allowed: Vec<&str> = agent::isolation::etc::BOUND
        .iter()
        .map(|(name, reason)| {
            assert!(reason.len() > 3, "{name} has no reason");
            name.split('/').next().unwrap_or(name)
        })
        .chain([
            "passwd",
            "group",
            "hosts",
            "hostname",
            "resolv.conf",
            "nsswitch.conf",
            "machine-id",
            "mtab",
            "ssl",
        ])
        .collect();
    for name in cage.sh("ls -A /etc").lines() {
        let versioned = agent::isolation::etc::BOUND_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        assert!(versioned || allowed.contains(&name), "/etc/{name} is shown");
    }
    cage.sh_fails("cat /etc/profile");
    assert_eq!(cage.sh("head -1 /etc/hosts"), "127.0.0.1 localhost");
}

fn what_tells_of_the_machine_is_covered(mode: Mode) {
    let dir = workspace(mode);
    let cage = Cage::with(&plan(mode, dir.path()));
    for path in agent::isolation::masks::FILES.iter().filter(|path| Path::new(path).exists()) {
        assert_eq!(cage.sh(&format!("cat {path} | wc -c")), "0", "{path}");
    }
    for path in agent::isolation::masks::DIRECTORIES.iter().filter(|path| Path::new(path).is_dir()) {
        assert_eq!(cage.sh(&format!("ls -A {path}")), "", "{path}");
    }
    // The host has something to tell, and runtimes get what they need.
    assert!(std::fs::read("/proc/cmdline").is_ok_and(|bytes| !bytes.is_empty()));
    cage.sh("cat /proc/meminfo /proc/cpuinfo /proc/stat /proc/uptime /proc/loadavg /proc/sys/vm/overcommit_memory");
    let root = cage.sh("ls /");
    for name in ["usr", "etc", "proc", "sandbox", "tmp", "dev", "run"] {
        assert!(root.lines().any(|line| line == name), "{name} in {root:?}");
    }
    cage.sh_fails(&format!("cat {}", "/run/landlock-witness"));
    cage.sh("test -e /run/landlock-witness");
}
