"""Runs inside a sandbox and tries what must fail beside what must work. Prints one JSON line an attempt:
{"name", "must": "fail"|"work", "did": "fail"|"work", "said"}. What works next to each refusal shows that the attempt
itself is alive. Arguments KEY=VALUE name what the operator has outside.
"""
import ctypes, errno, json, mmap, os, resource, signal, socket, stat, struct, subprocess, sys, tempfile

# These attempts are real: on an uncaged machine, as root, many of them succeed and do damage. So refuse to attack
# anything that isn't plainly a sandbox of ours; a cage that is broken from the start is not tried either.
def caged():
    with open("/proc/self/uid_map") as f:
        mapped = f.read().split()
    return os.getuid() == 1000 and mapped[:3] != ["0", "0", "4294967295"] and os.path.exists("/run/cofferdam/ca-bundle.pem") \
        and os.getcwd() == "/sandbox" and not os.access("/usr/bin", os.W_OK)


if not caged():
    sys.exit("attacks.py: not inside a cage: refusing to try anything")

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
ARGS = dict(a.split("=", 1) for a in sys.argv[1:])
SYS = dict(ptrace=101, unshare=272, setns=308, mount=165, umount2=166, pivot_root=155, chroot=161, clone3=435,
           io_uring_setup=425, bpf=321, perf_event_open=298, userfaultfd=323, keyctl=250, add_key=248, init_module=175,
           kexec_load=246, process_vm_readv=310, process_vm_writev=311, pidfd_open=434, pidfd_getfd=438, quotactl=179,
           open_by_handle_at=304, name_to_handle_at=303, swapon=167, reboot=169, settimeofday=164, personality=135,
           fsopen=430, move_mount=429, open_tree=428, mount_setattr=442, landlock_restrict_self=446, seccomp=317,
           getpid=39, clone=56, mknod=133, iopl=172, acct=163, sethostname=170)


def call(name, *args):
    ctypes.set_errno(0)
    number = SYS[name] if isinstance(name, str) else name
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return result


def in_child(action):
    """In a child, since the kernel may kill for it: fails when it raises or dies."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, ("ok " + str(action())).encode())
        except BaseException as e:
            os.write(write, ("no " + repr(e)).encode())
        os._exit(0)
    os.close(write)
    said = os.read(read, 4096).decode()
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise OSError("killed by signal %d" % os.WTERMSIG(status))
    if not said.startswith("ok "):
        raise OSError(said)
    return said


def attempt(name, must, action):
    try:
        said, did = str(action())[:200], "work"
    except BaseException as e:
        said, did = repr(e)[:200], "fail"
    print(json.dumps(dict(name=name, must=must, did=did, said=said)), flush=True)


def fails(name, action):
    attempt(name, "fail", action)


def works(name, action):
    attempt(name, "work", action)


def read(path, n=64):
    with open(path, "rb") as f:
        return f.read(n)


def write(path):
    """Writes a file of our own."""
    with open(path, "wb") as f:
        return f.write(b"x")


def open_to_write(path):
    """Opening is the attempt: nothing is ever written to what isn't ours."""
    os.close(os.open(path, os.O_WRONLY))


def create(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def refused(name, *args):
    """A call that the filter must refuse: an error about its arguments would mean that it got through."""
    try:
        call(name, *args)
    except OSError as e:
        if e.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        return "got through: %s" % e


def expect(truth, said=""):
    if not truth:
        raise AssertionError(said)
    return said


def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return line.split(":", 1)[1].strip()


def enosys(name):
    try:
        call(name, 0, 0)
    except OSError as e:
        return expect(e.errno == errno.ENOSYS, str(e))
    raise AssertionError("it exists")


def with_child(action):
    """With a child that waits until it is killed: controls that the child is really there."""
    child = subprocess.Popen(["/bin/sleep", "30"])
    try:
        return action(child.pid)
    finally:
        child.kill()
        child.wait()


def remote_memory(name):
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 8)
    # The child was forked from here, so this address is its too until it runs another program.
    return with_child(lambda pid: call(name, pid, ctypes.byref(local), 1, ctypes.byref(local), 1, 0))


def signal_child():
    child = subprocess.Popen(["/bin/sleep", "30"])
    child.send_signal(signal.SIGTERM)
    return expect(child.wait() == -signal.SIGTERM)


def foreign_descriptors():
    """Beyond the streams only this script itself and the listing are open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) > 2:
            try:
                links.append(os.readlink("/proc/self/fd/" + fd))
            except OSError:
                pass
    return [link for link in links if link != "/sandbox/attacks.py" and not link.endswith("/fd")]


def abstract(name):
    socket.socket(socket.AF_UNIX).connect("\0" + name)


# Before anything else is opened
works("nothing is inherited but the three streams", lambda: expect(not foreign_descriptors(), foreign_descriptors()))

# Files -------------------------------------------------------------------------------------------------------------
works("write the workspace", lambda: write("/sandbox/.attack"))
works("write /tmp", lambda: write("/tmp/attack"))
works("read /etc/passwd", lambda: read("/etc/passwd"))
works("run a system program", lambda: subprocess.check_output(["/bin/echo", "hi"]))
works("/var/tmp is there", lambda: expect(os.path.isdir("/var/tmp")))
fails("read /etc/shadow", lambda: read("/etc/shadow"))
fails("write /etc/passwd", lambda: open_to_write("/etc/passwd"))
fails("write /usr/bin", lambda: create("/usr/bin/attack"))
fails("write the CA bundle", lambda: open_to_write("/run/cofferdam/ca-bundle.pem"))
fails("remove the CA bundle", lambda: os.unlink("/run/cofferdam/ca-bundle.pem"))
fails("write at the root", lambda: create("/attack"))
fails("chmod a system file", lambda: os.chmod("/usr/bin/env", 0o755))
fails("leave by chroot's parent", lambda: expect(os.path.exists("/proc/1/root/home") or os.listdir("/proc/1/root")))
for key in ("home", "state", "stage"):
    if key in ARGS:
        fails("see the operator's " + key, lambda: os.stat(ARGS[key]))
        fails("list the operator's " + key, lambda: os.listdir(ARGS[key]))
for place in ("/home", "/root", "/srv", "/mnt", "/media", "/boot", "/run/user", "/var/lib", "/opt/secret"):
    fails("find anything in " + place, lambda: expect([e for e in os.listdir(place) if e != "dpkg"]))
fails("follow a link out of the workspace", lambda: (os.path.lexists("/sandbox/l") or os.symlink("/proc/1/root/etc/shadow", "/sandbox/l"), read("/sandbox/l")))
fails("a device node", lambda: os.mknod("/tmp/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1)))
fails("a disk", lambda: expect([d for d in os.listdir("/dev") if d.startswith(("sd", "vd", "nvme", "loop", "kvm", "kmsg", "mem"))]))
works("/dev/null, zero, urandom", lambda: (open_to_write("/dev/null"), read("/dev/zero", 4), read("/dev/urandom", 4)))
works("a program in /tmp runs", lambda: (open("/tmp/p", "w").write("#!/bin/sh\necho ran\n"), os.chmod("/tmp/p", 0o755), subprocess.check_output(["/tmp/p"])))
works("executable memory from /tmp", lambda: (open("/tmp/m", "wb").write(b"\xc3" * 4096), mmap.mmap(os.open("/tmp/m", os.O_RDONLY), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)))
works("a set-uid program gives nothing", lambda: expect(int(status("NoNewPrivs")) == 1))

# /proc and /sys ----------------------------------------------------------------------------------------------------
works("read /proc/self/status", lambda: read("/proc/self/status"))
works("read /proc/meminfo, cpuinfo, sys/vm", lambda: (read("/proc/meminfo"), read("/proc/cpuinfo"), os.listdir("/proc/sys/vm")))
fails("write /proc/self/mem", lambda: open("/proc/self/mem", "r+b"))
fails("write another's /proc/PID/mem", lambda: open("/proc/%d/mem" % os.getppid(), "r+b"))
fails("write a sysctl", lambda: open_to_write("/proc/sys/kernel/core_pattern"))
fails("write oom_score_adj of init", lambda: open_to_write("/proc/1/oom_score_adj"))
fails("read init's environment", lambda: expect(read("/proc/1/environ") or None, ""))
fails("read init's memory", lambda: open("/proc/1/mem", "rb"))
fails("read the kernel's log", lambda: expect(read("/proc/kmsg")))
fails("read /proc/kcore", lambda: expect(read("/proc/kcore")))
fails("sysrq", lambda: open_to_write("/proc/sysrq-trigger"))
works("only our own processes are listed", lambda: expect(not [p for p in os.listdir("/proc") if p.isdigit() and b"supervisor" in read("/proc/%s/cmdline" % p, 512)]))
fails("write /sys", lambda: open_to_write("/sys/kernel/profiling"))
fails("write a control group", lambda: open_to_write("/sys/fs/cgroup/cgroup.procs"))

# Identity ----------------------------------------------------------------------------------------------------------
works("be user 1000", lambda: expect(os.getuid() == 1000 and os.geteuid() == 1000, os.getuid()))
works("no supplementary groups", lambda: expect(not [g for g in os.getgroups() if g not in (os.getgid(), 65534)], os.getgroups()))
for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    works(field + " is empty", lambda: expect(int(status(field), 16) == 0, status(field)))
works("seccomp filters", lambda: expect(status("Seccomp") == "2"))
works("limits", lambda: expect(resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 65536
      and resource.getrlimit(resource.RLIMIT_NPROC)[1] <= 512, resource.getrlimit(resource.RLIMIT_NPROC)))
fails("become root", lambda: os.setuid(0))
fails("become the gateway", lambda: os.setresuid(0, 0, 0))
fails("raise a limit", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)))

# Calls -------------------------------------------------------------------------------------------------------------
works("getpid by number", lambda: call("getpid"))
for flag, name in ((0x10000000, "user"), (0x00020000, "mount"), (0x20000000, "pid"), (0x40000000, "net"), (0x08000000, "ipc"), (0x04000000, "uts"), (0x02000000, "cgroup"), (0x80, "time")):
    fails("unshare a %s namespace" % name, lambda: in_child(lambda: call("unshare", flag)))
fails("clone with a user namespace", lambda: in_child(lambda: call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)))
fails("unshare with high bits set", lambda: in_child(lambda: call("unshare", 0x10000000 | (1 << 32))))
fails("enter init's namespaces", lambda: in_child(lambda: call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)))
fails("mount a tmpfs", lambda: call("mount", b"x", b"/tmp", b"tmpfs", 0, 0))
fails("bind-mount", lambda: call("mount", b"/usr", b"/tmp", 0, 4096, 0))
fails("unmount /proc", lambda: call("umount2", b"/proc", 2))
fails("the new mount calls", lambda: call("fsopen", b"tmpfs", 0))
fails("open_tree", lambda: call("open_tree", -100, b"/", 1))
fails("chroot", lambda: os.chroot("/tmp"))
works("clone3 says ENOSYS", lambda: enosys("clone3"))
for name in ("io_uring_setup", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "init_module", "kexec_load", "swapon", "quotactl", "iopl", "open_by_handle_at"):
    fails(name, lambda: in_child(lambda: refused(name, 0, 0, 0, 0, 0)))
fails("trace a child", lambda: with_child(lambda pid: call("ptrace", 16, pid, 0, 0)))
fails("trace oneself", lambda: in_child(lambda: call("ptrace", 0, 0, 0, 0)))
fails("read another's memory", lambda: remote_memory("process_vm_readv"))
fails("write another's memory", lambda: remote_memory("process_vm_writev"))
fails("take another's descriptor", lambda: with_child(lambda pid: call("pidfd_getfd", call("pidfd_open", pid, 0), 0, 0)))
fails("an x32 call", lambda: in_child(lambda: call(0x40000000 | 39)))
fails("kill init", lambda: (os.kill(1, signal.SIGKILL), expect(False, "it was dropped")))
works("signal a child", signal_child)
works("threads", lambda: __import__("threading").Thread(target=lambda: None).start())

# Sockets -----------------------------------------------------------------------------------------------------------
works("a TCP socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
works("a UNIX socket pair", lambda: socket.socketpair())
works("a UNIX listener in /tmp", lambda: socket.socket(socket.AF_UNIX).bind("/tmp/listener"))
works("the proxy listens", lambda: socket.create_connection(("127.0.0.1", 3128), 5))
for family, kind, proto, name in ((17, socket.SOCK_RAW, 0, "packet"), (socket.AF_INET, socket.SOCK_RAW, 1, "raw"), (40, socket.SOCK_STREAM, 0, "vsock"),
                                  (38, socket.SOCK_SEQPACKET, 0, "alg"), (16, socket.SOCK_RAW, 15, "netlink uevent"), (16, socket.SOCK_RAW, 12, "netlink netfilter"),
                                  (16, socket.SOCK_RAW, 4, "netlink sock_diag"), (31, socket.SOCK_RAW, 1, "bluetooth"), (44, socket.SOCK_RAW, 0, "xdp")):
    fails("a %s socket" % name, lambda: socket.socket(family, kind, proto))
for address in (("93.184.215.14", 443), ("93.184.215.14", 80), ("169.254.169.254", 80), ("10.0.0.7", 80)):
    fails("connect to %s:%d past the proxy" % address, lambda: socket.create_connection(address, 3))
fails("reach a server on the machine's loopback", lambda: socket.create_connection(("127.0.0.1", 8000), 3))
fails("send a datagram out", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("93.184.215.14", 53)))
fails("connect to the machine's abstract socket", lambda: abstract(ARGS.get("abstract", "none")))

