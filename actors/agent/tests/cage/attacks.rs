//! Attacks from inside. Each refusal has a living positive control beside it.

use crate::bed::{Cage, Mode, plan, workspace};
use agent::protocol::{CageFailure, Refusal};

pub const CASES: &[crate::Case] = &[
    ("the_cage_is_proven", the_cage_is_proven),
    ("the_host_is_not_there", the_host_is_not_there),
    ("only_the_policys_paths_are_writable", only_the_policys_paths_are_writable),
    ("a_missing_path_is_an_error_unless_optional", a_missing_path_is_an_error_unless_optional),
    ("foreign_system_call_tables_are_deadly", foreign_system_call_tables_are_deadly),
    ("calls_are_judged_by_32_bits", calls_are_judged_by_32_bits),
    ("other_agents_are_out_of_reach", other_agents_are_out_of_reach),
    ("set_id_files_cannot_be_made", set_id_files_cannot_be_made),
    ("nothing_is_inherited", nothing_is_inherited),
];

fn the_cage_is_proven(mode: Mode) {
    let report = Cage::start(mode).report().expect("a proven cage");
    assert!(report.missing.is_empty(), "{report:?}");
    assert!(report.proof.len() > 90, "{}", report.proof.len());
    for check in &report.proof {
        assert!(check.right, "{}", agent::probe::sentence(check));
    }
}

fn the_host_is_not_there(mode: Mode) {
    let dir = workspace(mode);
    let secret = tempfile::Builder::new().prefix("cofferdam-secret").tempfile().expect("a file outside");
    let cage = Cage::with(&plan(mode, dir.path()));
    for path in
        ["/root", "/home", "/work", "/boot", "/mnt", "/old_root", "/etc/shadow", "/etc/ssh", "/run/systemd"]
    {
        cage.sh_fails(&format!("stat {path}"));
    }
    cage.sh_fails(&format!("cat {}", secret.path().display()));
    cage.sh_fails(&format!("stat {}", dir.path().display()));
    assert_eq!(
        cage.sh("cat /etc/hostname; id -un; id -u; pwd; echo $HOME"),
        "testbed\nsandbox\n1000\n/sandbox\n/sandbox"
    );
    assert!(cage.sh("cat /etc/hosts").contains("127.0.0.77 inference.local"));
    // Our own view proves that the paths exist at all.
    assert!(secret.path().exists() && std::path::Path::new("/etc/shadow").exists());
    // pid 1 is ours and tells nothing.
    cage.sh_fails("cat /proc/1/environ");
    cage.sh_fails("ls /proc/1/fd");
    cage.sh_fails("readlink /proc/1/exe");
    assert_eq!(cage.sh("cat /proc/1/comm"), "cofferdam: init");
}

fn only_the_policys_paths_are_writable(mode: Mode) {
    let dir = workspace(mode);
    let cage = Cage::with(&plan(mode, dir.path()));
    for path in
        ["/usr/x", "/etc/x", "/x", "/run/cofferdam/x", "/proc/x", "/dev/x", "/var/x", "/sys/x", "/usr/bin/sh"]
    {
        cage.sh_fails(&format!("echo x > {path}"));
    }
    cage.sh_fails("chmod 777 /usr/bin");
    cage.sh_fails("touch /usr");
    cage.sh_fails("ln -s /x /etc/y");
    cage.sh_fails("mount -t tmpfs none /tmp");
    cage.sh("echo inside > /sandbox/file; echo x > /tmp/file; echo x > /var/tmp/other; cat /tmp/other");
    assert_eq!(std::fs::read_to_string(dir.path().join("file")).expect("the workspace"), "inside\n");
    assert!(!std::path::Path::new("/tmp/file").exists(), "/tmp is private");
    // A link out of the workspace leads nowhere.
    cage.sh_fails("ln -s /root /sandbox/link; ls /sandbox/link/");
}

fn a_missing_path_is_an_error_unless_optional(mode: Mode) {
    let dir = workspace(mode);
    let mut plan = plan(mode, dir.path());
    plan.paths.read_only.extend(crate::bed::rules(&["/nowhere/at/all"]));
    assert!(Cage::with(&plan).report().is_ok(), "optional");
    plan.paths.read_only.last_mut().expect("just added").optional = false;
    match Cage::with(&plan).report() {
        Err(Refusal::Cage(CageFailure::MissingPath(path))) => assert_eq!(path, "/nowhere/at/all"),
        other => panic!("{other:?}"),
    }
}

#[cfg(target_arch = "x86_64")]
fn foreign_system_call_tables_are_deadly(mode: Mode) {
    let cage = Cage::start(mode);
    // getpid of x32, from Python's ctypes: SIGSYS; the ordinary one beside it works.
    let script = "import ctypes,sys; c=ctypes.CDLL(None); print(c.syscall(39)>0, flush=True); c.syscall(0x40000000|39)";
    if !std::path::Path::new("/usr/bin/python3").exists() {
        return eprintln!("SKIPPED: no /usr/bin/python3");
    }
    let output = cage.run(&["/usr/bin/python3", "-I", "-c", script]);
    assert_eq!(output.stdout, "True\n");
    assert_eq!(output.status, agent::protocol::ExitStatus::Signal(nix::libc::SIGSYS), "{output:?}");
    // int 0x80: `mov eax,20; int 0x80; ret` (getpid of i386).
    let script = "import ctypes,mmap; m=mmap.mmap(-1,4096,prot=7); m.write(bytes.fromhex('b814000000cd80c3')); \
                  f=ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m))); print('go',flush=True); print(f())";
    let output = cage.run(&["/usr/bin/python3", "-I", "-c", script]);
    assert_eq!(output.stdout, "go\n", "{output:?}");
    assert_eq!(output.status, agent::protocol::ExitStatus::Signal(nix::libc::SIGSYS), "{output:?}");
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign_system_call_tables_are_deadly(_: Mode) {
    eprintln!("SKIPPED: no second table known on this processor");
}

fn calls_are_judged_by_32_bits(mode: Mode) {
    let cage = Cage::start(mode);
    let script = "
import ctypes,os,errno
c=ctypes.CDLL(None,use_errno=True)
def call(*a):
    ctypes.set_errno(0)
    r=c.syscall(*[ctypes.c_long(x) for x in a])
    return 'ok' if r>=0 else errno.errorcode[ctypes.get_errno()]
high=1<<32
m,s=os.openpty()
print('tiocsti', call(16,s,high|0x5412,0))
print('tiocgwinsz', call(16,s,0x5413,ctypes.addressof(ctypes.create_string_buffer(8))))
print('clone newuser', call(56,0x10000000|17,0,0,0,0))
print('thread with its own descriptors', call(56,0x10000|0x800|0x100,0,0,0,0))
print('socket packet', call(41,high|17,3,0))
print('socket unix', call(41,high|1,1,0))
print('clone3', call(435,0,0))
print('io_uring', call(425,1,0))
print('unshare files', call(272,0x400))
print('close_range unshare', call(436,1000,1001,2))
d=os.open('/tmp',os.O_RDONLY)
print('btrfs snapshots', call(16,d,0x50009401,0), call(16,d,high|0x50009417,0))
print('btrfs subvolumes', call(16,d,0x5000940e,0), call(16,d,high|0x50009418,0), call(16,d,0x4008941a,0))
print('btrfs subvolume flags', call(16,d,0x80089419,0))
";
    let Some(lines) = cage.python(script) else { return };
    assert_eq!(
        lines,
        [
            "tiocsti EPERM",
            "tiocgwinsz ok",
            "clone newuser EPERM",
            "thread with its own descriptors EPERM",
            "socket packet EPERM",
            "socket unix ok",
            "clone3 ENOSYS",
            "io_uring EPERM",
            "unshare files EPERM",
            "close_range unshare EPERM",
            "btrfs snapshots EPERM EPERM",
            "btrfs subvolumes EPERM EPERM EPERM",
            "btrfs subvolume flags ENOTTY",
        ]
    );
}

fn other_agents_are_out_of_reach(mode: Mode) {
    let cage = Cage::start(mode);
    let record = cage.spawn_silent("victim", &["/bin/sleep", "1000"]).expect("victim");
    let pid = record.pid;
    // Its existence shows; nothing else does.
    assert_eq!(cage.sh(&format!("cat /proc/{pid}/comm")), "sleep");
    if agent::isolation::landlock::abi_version() >= 6 {
        cage.sh_fails(&format!("kill -9 {pid}"));
        cage.sh("kill -0 $$");
    } else {
        eprintln!("SKIPPED: signals between agents need Landlock ABI 6");
    }
    cage.sh_fails(&format!("cat /proc/{pid}/environ"));
    cage.sh_fails(&format!("readlink /proc/{pid}/fd/0"));
    cage.sh("readlink /proc/self/fd/0");
    cage.sh_fails(&format!("dd if=/proc/{pid}/mem bs=1 count=1"));
    cage.sh_fails("kill -9 1");
    assert_eq!(cage.sh("echo alive"), "alive");
}

fn set_id_files_cannot_be_made(mode: Mode) {
    let dir = workspace(mode);
    let cage = Cage::with(&plan(mode, dir.path()));
    cage.sh("echo x > /sandbox/f; chmod 755 /sandbox/f");
    cage.sh_fails("chmod 4755 /sandbox/f");
    cage.sh_fails("chmod g+s /sandbox/f");
    cage.sh_fails("mknod /sandbox/null c 1 3");
    cage.sh("mkfifo /sandbox/fifo");
    let Some(lines) = cage.python(
        "import os\ntry:\n os.open('/sandbox/g',os.O_CREAT|os.O_WRONLY,0o6755); print('made')\nexcept PermissionError: print('refused')",
    ) else {
        return;
    };
    assert_eq!(lines, ["refused"]);
}

fn nothing_is_inherited(mode: Mode) {
    let cage = Cage::start(mode);
    // ls itself opens number 3.
    assert_eq!(cage.sh("ls /proc/self/fd"), "0\n1\n2\n3");
    let environment = cage.sh("env | cut -d= -f1 | sort");
    // Of the test's own only what is set for everyone.
    let cargo: Vec<&str> = environment.lines().filter(|name| name.starts_with("CARGO")).collect();
    assert_eq!(cargo, ["CARGO_HTTP_CAINFO"], "{environment}");
    assert_eq!(cage.sh("echo $PATH"), agent::environment::PATH);
    cage.sh_fails("exec 3</dev/tty");
    // Its own session, no capability, a filter.
    let status = cage.sh("cat /proc/self/status");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(cage.run(&["bash", "-c", "ulimit -c; ulimit -u"]).stdout, "0\n512\n");
}
