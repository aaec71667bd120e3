//! The proof: before the agent's first instruction a child runs in its place, under exactly its confinement, tries what
//! must fail and what must work, and reports each answer.
//!
//! The checks are a list of names and closures; each stands for one control and says what answer is right. No sleeps,
//! no files left behind, nothing outside touched: what is tried would be harmless if it worked. It runs in about a
//! millisecond. Calls that end the process (other architectures, x32) are left to the tests.

use crate::init::{Confinement, enter_session};
use crate::isolation::{capabilities, landlock, limits, masks, seccomp};
use crate::plan::{AGENT_ID, CagePlan, Control, RUN_DIR};
use crate::protocol::Check;
use crate::sys;
use crate::sys::process::Cloned;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// A probe that takes longer hangs, and the cage isn't proven.
const DEADLINE: Duration = Duration::from_secs(5);

/// What answer is right.
#[derive(Clone, Copy)]
enum Expect {
    /// Any error.
    Fails,
    /// This very error, where another one would mean that something else said no.
    FailsWith(i32),
    /// No error.
    Works,
}

/// Collects answers.
struct Probe {
    checks: Vec<Check>,
}

impl Probe {
    fn try_it<T>(
        &mut self,
        name: &str,
        control: Control,
        expect: Expect,
        attempt: impl FnOnce() -> io::Result<T>,
    ) {
        let errno = match attempt() {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        let right = match expect {
            Expect::Fails => errno != 0,
            Expect::FailsWith(wanted) => errno == wanted,
            Expect::Works => errno == 0,
        };
        let must_fail = !matches!(expect, Expect::Works);
        self.checks.push(Check { name: name.to_owned(), control, must_fail, errno, right });
    }

    fn holds(&mut self, name: &str, control: Control, fact: impl FnOnce() -> io::Result<bool>) {
        self.try_it(name, control, Expect::Works, || match fact() {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::from_raw_os_error(libc::EPERM)),
            Err(error) => Err(error),
        });
    }
}

/// One wrong answer as a sentence.
#[must_use]
pub fn sentence(check: &Check) -> String {
    let errno = nix::errno::Errno::from_raw(check.errno);
    match (check.must_fail, check.errno) {
        (true, 0) => format!("{}: `{}` works, and must not", check.control, check.name),
        (true, _) => format!("{}: `{}` is refused for the wrong reason ({errno})", check.control, check.name),
        (false, _) => format!("{}: `{}` must work, and fails ({errno})", check.control, check.name),
    }
}

/// Forks the probe, waits for it, and gives its answers. Called by init only.
pub(crate) fn run(plan: &CagePlan, confinement: &Confinement) -> io::Result<Vec<Check>> {
    let (read, write) = sys::fd::pipe()?;
    match sys::process::clone(0)? {
        Cloned::Child => {
            drop(read);
            let answer = probe(plan, confinement, write.as_raw_fd());
            let bytes = postcard::to_allocvec(&answer).unwrap_or_default();
            let _ = sys::fd::write_all(write.as_fd(), &bytes);
            sys::process::exit_now(0)
        }
        Cloned::Parent { pid, .. } => {
            drop(write);
            let answer = collect(&read);
            let _ = sys::process::kill(pid, false, libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            answer
        }
    }
}

fn collect(pipe: &std::os::fd::OwnedFd) -> io::Result<Vec<Check>> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        if !sys::fd::wait(pipe.as_fd(), sys::fd::Ready::Readable, Some(DEADLINE))? {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        match sys::fd::read(pipe.as_fd(), &mut chunk)? {
            0 => break,
            length => bytes.extend(chunk.get(..length).unwrap_or_default()),
        }
    }
    postcard::from_bytes::<Result<Vec<Check>, String>>(&bytes)
        .map_err(|_| io::Error::other("the probe died over its work"))?
        .map_err(io::Error::other)
}

fn probe(plan: &CagePlan, confinement: &Confinement, report: i32) -> Result<Vec<Check>, String> {
    let failed = |(step, error): (&str, io::Error)| format!("{step}: {error}");
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| failed(("opening /dev/null", error)))?;
    let keep: Vec<i32> = confinement.descriptors().into_iter().chain([report]).collect();
    enter_session(&keep, |_| null.as_fd()).map_err(failed)?;
    // Its number is closed already.
    std::mem::forget(null);
    confinement.apply().map_err(failed)?;
    let mut probe = Probe { checks: Vec::with_capacity(80) };
    identity(&mut probe, plan);
    files(&mut probe, plan, confinement);
    mounts(&mut probe);
    calls(&mut probe, confinement);
    network(&mut probe);
    neighbours(&mut probe);
    ordinary_work(&mut probe);
    Ok(probe.checks)
}

fn identity(probe: &mut Probe, plan: &CagePlan) {
    use Control::{Capabilities, NoNewPrivileges, Rlimits, User};
    probe.holds("no capability left", Capabilities, || Ok(capabilities::remaining()?.is_empty()));
    probe.holds("ids are the agent's", User, || {
        let (u, g) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
        let all =
            [u.real.as_raw(), u.effective.as_raw(), u.saved.as_raw(), g.real.as_raw(), g.effective.as_raw()];
        Ok(all.iter().all(|id| *id == AGENT_ID))
    });
    probe.try_it("setuid 0", User, Expect::Fails, || sys::process::set_uids(Some(0), Some(0), Some(0)));
    probe.try_it("setgid 0", User, Expect::Fails, || sys::process::set_gids(Some(0), Some(0), Some(0)));
    probe.try_it("setgroups", User, Expect::Fails, sys::process::clear_groups);
    probe.holds("no_new_privs", NoNewPrivileges, || {
        Ok(sys::process::prctl(libc::PR_GET_NO_NEW_PRIVS, 0)? == 1)
    });
    probe.holds("resource limits", Rlimits, || limits::are_applied(&plan.limits));
    probe.holds("only standard streams are open", User, || {
        // 0, 1, 2, the report and the Landlock rules, which exec closes, and the directory being read.
        Ok(std::fs::read_dir("/proc/self/fd")?.count() <= 6)
    });
    probe.try_it("open the controlling terminal", Control::ControllingTerminal, Expect::Fails, || {
        std::fs::File::open("/dev/tty")
    });
}

/// Of the host, and not there unless the policy shows something below.
const ABSENT: &[&str] = &[
    "/etc/shadow",
    "/root",
    "/home",
    "/boot",
    "/proc/1/root",
    "/proc/1/environ",
    "/proc/1/mem",
    "/dev/mem",
    "/dev/kmsg",
];

fn files(probe: &mut Probe, plan: &CagePlan, confinement: &Confinement) {
    use Control::{Landlock, MaskedProc, ReadOnlyMounts, Seccomp};
    let open = |path: &str| std::fs::File::open(path);
    let write = |path: &str| std::fs::OpenOptions::new().write(true).open(path);
    let shown: Vec<_> =
        plan.paths.read_only.iter().chain(&plan.paths.read_write).map(|rule| &rule.path).collect();
    for path in ABSENT.iter().filter(|absent| !shown.iter().any(|path| path.starts_with(absent))) {
        probe.try_it(&format!("open {path}"), ReadOnlyMounts, Expect::Fails, || open(path));
    }
    probe.try_it("open the workspace's host path", ReadOnlyMounts, Expect::Fails, || {
        // Where the policy shows that very place, there is nothing to tell.
        let visible = shown.iter().any(|path| plan.workspace.starts_with(path));
        if visible { Err(io::ErrorKind::NotFound.into()) } else { std::fs::File::open(&plan.workspace) }
    });
    for path in ["/etc/passwd", "/etc/hosts", RUN_DIR, "/proc/self/mem", "/proc/sys/kernel/hostname"] {
        probe.try_it(&format!("write {path}"), ReadOnlyMounts, Expect::Fails, || write(path));
    }
    for path in ["/usr", "/etc", "/", RUN_DIR] {
        probe.try_it(&format!("make a file in {path}"), ReadOnlyMounts, Expect::Fails, || {
            std::fs::File::create_new(format!("{path}/.cofferdam-probe"))
        });
    }
    if confinement.rules.is_some() || plan.sabotaged(Landlock) {
        // The root exists, and no rule names it: only Landlock says no.
        probe.try_it("list /", Landlock, Expect::FailsWith(libc::EACCES), || open("/"));
    }
    probe.try_it("read the kernel's memory", MaskedProc, Expect::Fails, || {
        use io::Read;
        match open("/proc/kcore")?.read(&mut [0; 1]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        }
    });
    probe.holds("/proc tells nothing of the machine", MaskedProc, masks::are_applied);
    probe.try_it("make a set-user-id file", Seccomp, Expect::FailsWith(libc::EPERM), || {
        let path = "/tmp/.cofferdam-setid";
        let made =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o4755).open(path);
        if made.is_ok() {
            let _ = std::fs::remove_file(path);
        }
        made
    });
}

/// Independent of what Landlock says: the mounts themselves.
fn mounts(probe: &mut Probe) {
    use Control::ReadOnlyMounts;
    for path in ["/", "/usr", "/proc", RUN_DIR] {
        let Ok(found) = statvfs(path) else { continue };
        probe.holds(&format!("{path} is mounted read-only, nosuid"), ReadOnlyMounts, || {
            Ok(found.flags().contains(FsFlags::ST_RDONLY | FsFlags::ST_NOSUID))
        });
    }
    for path in [crate::plan::WORKSPACE, "/tmp", "/dev/shm"] {
        probe.holds(&format!("{path} is mounted nosuid, nodev"), ReadOnlyMounts, || {
            // Landlock doesn't cover statfs, but the path may lie outside the policy: then nobody gets there.
            Ok(statvfs(path)
                .map_or(true, |found| found.flags().contains(FsFlags::ST_NOSUID | FsFlags::ST_NODEV)))
        });
    }
}

fn calls(probe: &mut Probe, confinement: &Confinement) {
    use Control::{ControllingTerminal, Seccomp};
    let refused: &[(&str, libc::c_long, [libc::c_long; 5])] = &[
        ("mount", libc::SYS_mount, [0; 5]),
        ("umount2", libc::SYS_umount2, [0; 5]),
        ("pivot_root", libc::SYS_pivot_root, [0; 5]),
        ("chroot", libc::SYS_chroot, [0; 5]),
        ("fsopen", libc::SYS_fsopen, [0; 5]),
        ("open_tree", libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
        ("unshare a user namespace", libc::SYS_unshare, [libc::CLONE_NEWUSER as libc::c_long, 0, 0, 0, 0]),
        ("unshare descriptors", libc::SYS_unshare, [libc::CLONE_FILES as libc::c_long, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_PEEKUSER as libc::c_long, 1, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
        ("kcmp", libc::SYS_kcmp, [1, 1, 2, 0, 0]),
        ("bpf", libc::SYS_bpf, [-1, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 5]),
        ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0; 5]),
        ("kexec_load", libc::SYS_kexec_load, [0; 5]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
        ("memfd_secret", libc::SYS_memfd_secret, [-1, 0, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [3, 0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [0, -1, 0, 0, 0]),
        ("settimeofday", libc::SYS_settimeofday, [0; 5]),
        ("personality", libc::SYS_personality, [0x0400_0000, 0, 0, 0, 0]),
        (
            "a raw socket",
            libc::SYS_socket,
            [libc::AF_INET as _, libc::SOCK_RAW as _, libc::IPPROTO_ICMP as _, 0, 0],
        ),
        ("a packet socket", libc::SYS_socket, [libc::AF_PACKET as _, libc::SOCK_RAW as _, 0, 0, 0]),
        ("a vsock", libc::SYS_socket, [libc::AF_VSOCK as _, libc::SOCK_STREAM as _, 0, 0, 0]),
        ("a crypto socket", libc::SYS_socket, [libc::AF_ALG as _, libc::SOCK_SEQPACKET as _, 0, 0, 0]),
        (
            "a sock_diag socket",
            libc::SYS_socket,
            [libc::AF_NETLINK as _, libc::SOCK_RAW as _, libc::NETLINK_SOCK_DIAG as _, 0, 0],
        ),
        ("renice init", libc::SYS_setpriority, [libc::PRIO_PROCESS as _, 1, 19, 0, 0]),
        ("limit init", libc::SYS_prlimit64, [1, libc::RLIMIT_NOFILE as _, 0, 0, 0]),
        // As an int the request is TIOCSTI: a filter that compares 64 bits lets it pass.
        ("TIOCSTI with high bits", libc::SYS_ioctl, [0, (1 << 32) | libc::TIOCSTI as libc::c_long, 0, 0, 0]),
    ];
    for (name, number, arguments) in refused {
        probe.try_it(name, Seccomp, Expect::FailsWith(libc::EPERM), || {
            sys::process::attempt(*number, *arguments)
        });
    }
    for (name, number) in
        [("clone3", libc::SYS_clone3), ("openat2", libc::SYS_openat2), ("a call of the future", 1000)]
    {
        let size = if number == 1000 { 0 } else { 1 };
        probe.try_it(name, Seccomp, Expect::FailsWith(libc::ENOSYS), || {
            sys::process::attempt(number, [0, size, 0, 0, 0])
        });
    }
    probe.try_it("TIOCSTI", ControllingTerminal, Expect::FailsWith(libc::EPERM), || {
        sys::terminal::type_into(io::stdin().as_fd())
    });
    if confinement.filter.is_some() {
        probe.holds("a seccomp filter is loaded", Seccomp, seccomp::is_loaded);
    }
}

fn network(probe: &mut Probe) {
    use Control::Network;
    // TEST-NET-1 and the documentation prefix: nobody is there, and a way out would give a time-out, not an error.
    for (name, address) in [
        ("connect to an IPv4 address", SocketAddr::from(([192, 0, 2, 1], 80))),
        ("connect to an IPv6 address", SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 80))),
        ("connect to the metadata service", SocketAddr::from(([169, 254, 169, 254], 80))),
    ] {
        probe.try_it(name, Network, Expect::Fails, || {
            TcpStream::connect_timeout(&address, Duration::from_millis(50))
        });
    }
    probe.try_it("send a datagram outside", Network, Expect::Fails, || {
        UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "192.0.2.1:53")
    });
    probe.holds("the loopback is the only interface", Network, || {
        Ok(crate::isolation::network::interfaces()?.iter().all(|name| name == "lo" || is_inert(name)))
    });
    probe.try_it("use the loopback", Network, Expect::Works, || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(1))
    });
}

/// Tunnel devices that some kernels put, down and without address, into every new namespace.
fn is_inert(name: &str) -> bool {
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"]
        .contains(&name)
}

fn neighbours(probe: &mut Probe) {
    if landlock::abi_version() >= 6 {
        probe.try_it("signal init", Control::Landlock, Expect::FailsWith(libc::EPERM), || {
            sys::process::attempt(libc::SYS_kill, [1, 0, 0, 0, 0])
        });
    }
    probe.try_it("bind a privileged port", Control::Capabilities, Expect::Fails, || {
        TcpListener::bind("127.0.0.1:81")
    });
}

fn ordinary_work(probe: &mut Probe) {
    use Control::{Landlock, Seccomp};
    use io::{Read, Write};
    probe.try_it("use /dev/null and /dev/urandom", Landlock, Expect::Works, || {
        std::fs::OpenOptions::new().write(true).open("/dev/null")?.write_all(b"x")?;
        std::fs::File::open("/dev/urandom")?.read_exact(&mut [0; 8])
    });
    probe.try_it("read /proc", Landlock, Expect::Works, || {
        std::fs::read("/proc/self/stat")?;
        std::fs::read("/proc/meminfo")
    });
    probe.try_it("start a thread", Seccomp, Expect::Works, || {
        std::thread::Builder::new().spawn(|| ())?.join().map_err(|_| io::Error::other("it panicked"))
    });
    probe.try_it("a pair of unix sockets", Seccomp, Expect::Works, std::os::unix::net::UnixStream::pair);
    probe.try_it("executable memory", Seccomp, Expect::Works, sys::process::map_executable);
}
