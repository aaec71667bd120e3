"""An agent beside another one of the same sandbox: same user, same /tmp, another Landlock domain."""
import fcntl, socket, struct, time
from probe import *

deadline = time.monotonic() + 60
while not os.path.exists(ARGS["victim"]) and time.monotonic() < deadline:
    time.sleep(0.02)
V = json.load(open(ARGS["victim"]))
PID, HERE = V["pid"], "/proc/%d/" % V["pid"]
MEMORY = ctypes.create_string_buffer(64)
VECTOR = (ctypes.c_ulong * 2)(ctypes.addressof(MEMORY), 14)
THERE = (ctypes.c_ulong * 2)(V["address"], 14)

# Enough to prove the hole, not enough to kill: the victim compares at its end.
HARMLESS = {0: (1000, 1000), 7: (2000, 2000), 6: (400, 400), 1: (1 << 40, 1 << 40)}


def environments():
    """Of the processes that neither are nor descend from this one."""
    found = []
    for pid in (p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()):
        try:
            found += [pid] if read("/proc/%s/environ" % pid, 4096) else []
        except OSError:
            pass
    return found


# What is shared, and said to be: SECURITY.md, "Agents of one sandbox share a user" ----------------------------------------
control("see the other agent", "agents of one sandbox share processes, so that these refusals mean something", lambda: expect(b"neighbour.py" in read(HERE + "cmdline", 4096)))
control("read its file in /tmp", "they share files", lambda: expect(read("/tmp/victim.txt") == V["secret"].encode()))
control("connect to its loopback server", "they share the loopback", lambda: socket.create_connection(("127.0.0.1", V["port"]), 5))
control("connect to its socket in /tmp", "they share files, sockets among them", lambda: socket.socket(socket.AF_UNIX).connect("/tmp/victim.sock"))

# What isn't -----------------------------------------------------------------------------------------------------------------
for name, why in [("mem", "its memory is its keys"), ("environ", "its environment is its keys"), ("maps", "where its code lies"), ("auxv", "where its code lies"), ("smaps", "where its code lies"), ("pagemap", "its pages"), ("syscall", "its registers"), ("personality", "its layout"), ("io", "what it does")]:
    attack("read its " + name, (EACCES, EPERM), why, lambda: nothing(read(HERE + name, 4096)))
for name in ("exe", "cwd", "root", "ns/net", "fd/1", "fd/%d" % V["memfd"]):
    attack("follow its " + name, EACCES, "what it has open, by a magic link", lambda: os.close(os.open(HERE + name, os.O_RDONLY)))
control("count its descriptors", "their numbers are shared, as everything that file permissions alone guard; what they are is not", lambda: os.listdir(HERE + "fd"))
for name in ("map_files", "fdinfo"):
    attack("list its " + name, EACCES, "what it has open", lambda: os.listdir(HERE + name))
for name in ("mem", "oom_score_adj", "coredump_filter", "timerslack_ns", "clear_refs"):
    attack("write its " + name, (EACCES, EROFS, EPERM, ENOENT), "what it does", lambda: open_to_write(HERE + name))
attack("read its memory by process_vm_readv", EPERM, "ptrace by another name", lambda: call("process_vm_readv", PID, ctypes.byref(VECTOR), 1, ctypes.byref(THERE), 1, 0))
attack("write its memory by process_vm_writev", EPERM, "ptrace by another name", lambda: call("process_vm_writev", PID, ctypes.byref(VECTOR), 1, ctypes.byref(THERE), 1, 0))
attack("trace it", EPERM, "ptrace is everything", lambda: call("ptrace", 0x4206, PID, 0, 0))
attack("take its descriptor", EPERM, "its connections are its rights", lambda: call("pidfd_getfd", os.pidfd_open(PID), V["memfd"], 0))
attack("its namespaces by a pidfd", (EACCES, EPERM, ENOTTY), "PIDFD_GET_*_NAMESPACE hands out a descriptor", lambda: call("ioctl", os.pidfd_open(PID), 0xFF04, 0))
attack("compare with it", EPERM, "kcmp tells which descriptors are the same", lambda: call("kcmp", os.getpid(), PID, 0, 0, 0))
if landlock_abi() >= 6:
    # Below ABI 6 nothing stands between two processes of one user but their goodwill: SECURITY.md says so.
    SCOPE = "Landlock's scope: another agent's end is not ours to bring"
    for number in (0, signal.SIGTERM, signal.SIGUSR1, signal.SIGSTOP, signal.SIGKILL):
        attack("send it signal %d" % number, EPERM, SCOPE, lambda: os.kill(PID, number))
        attack("send its child signal %d" % number, EPERM, SCOPE, lambda: os.kill(V["child"], number))
    attack("signal its group", EPERM, SCOPE, lambda: os.killpg(PID, signal.SIGKILL))
    attack("signal its thread", EPERM, SCOPE, lambda: call("tgkill", PID, PID, 9))
    attack("signal it by descriptor", EPERM, SCOPE, lambda: call("pidfd_send_signal", os.pidfd_open(PID), 9, 0, 0))
    attack("queue it a signal", EPERM, SCOPE, lambda: call("rt_sigqueueinfo", PID, 9, ctypes.byref((ctypes.c_int * 32)(9, 0, -1))))
    attack("connect to its abstract socket", EPERM, "Landlock's scope", lambda: socket.socket(socket.AF_UNIX).connect("\0" + ARGS["abstract"]))
    attack("send to its abstract socket", EPERM, "Landlock's scope, without connecting", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\0" + ARGS["abstract"] + "-d"))


def through_owner(owner, number):
    """Lets the kernel send a signal to whomever a socket is said to belong to; the victim tells whether it came."""
    here, there = socket.socketpair()
    fcntl.fcntl(here, 8, owner)
    fcntl.fcntl(here, 10, number)
    fcntl.fcntl(here, fcntl.F_SETFL, fcntl.fcntl(here, fcntl.F_GETFL) | 0o20000)
    there.send(b"x")
    time.sleep(0.05)
    raise Nothing()


for owner, name in ((PID, "it"), (-PID, "its group"), (V["child"], "its child")):
    attack("signal %s through a socket's owner" % name, NOTHING, "F_SETOWN: the kernel itself sends it; the victim says at its end whether it came", lambda: through_owner(owner, signal.SIGUSR2))


def terminal_group():
    """A terminal's foreground group gets its Ctrl-C."""
    import pty, termios
    outer, inner = pty.openpty()
    os.setsid()
    fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
    fcntl.ioctl(inner, termios.TIOCSPGRP, struct.pack("i", PID))
    os.write(outer, b"\x03")


attack("make it our terminal's foreground", EPERM, "its group would get our Ctrl-C", lambda: in_child(terminal_group))
attack("move it into our group", (EPERM, ESRCH, EACCES), "a group is signalled as one", lambda: os.setpgid(PID, os.getpgrp()))
for limit, name in ((0, "CPU"), (7, "NOFILE"), (6, "NPROC"), (1, "FSIZE")):
    attack("lower its RLIMIT_" + name, EPERM, "prlimit on another process: RLIMIT_CPU 0 is SIGKILL by another road", lambda: call("prlimit64", PID, limit, ctypes.byref((ctypes.c_uint64 * 2)(*HARMLESS[limit])), 0))
attack("read its limits", EPERM, "the same call", lambda: call("prlimit64", PID, 7, 0, ctypes.byref((ctypes.c_uint64 * 2)())))
attack("read the environment of any process that isn't ours", NOTHING, "every agent's environment is its own", lambda: nothing(environments()))
REPORT.close()
os.rename(ARGS["report"], ARGS["report"] + ".done")
