"""What every attack script shares: the guard, the kinds of line, raw system calls.

These attempts are real: on an uncaged machine, as root, many of them succeed and do damage. So importing this refuses
whatever isn't plainly a sandbox of ours, and nothing can be tried without importing it; a cage that is broken from the
start is not tried either.

A line on standard output is one attempt: {"kind": "attack"|"control", "name", "expect": [...], "got", "said", "why"}.
`expect` and `got` are outcomes: "works", an errno's name, a signal's name, "nothing" (it worked and gave nothing away),
or an exception's name. Which errno it is tells which wall said no:

    EPERM   seccomp, or the kernel itself for want of a capability
    ENOSYS  seccomp, for calls whose arguments can't be judged and calls newer than the list
    EROFS   a read-only mount            EXDEV   two mounts, however close they look
    ENOENT  it isn't there at all        EACCES  file permissions, Landlock, or the kernel's rules for looking at others

Arguments KEY=VALUE name what the operator has outside, say how the sandbox was started (`mode=rooted|rootless`), and where
the lines go when that isn't standard output (`report=FILE`).
"""
import ctypes, errno, json, os, platform, signal, sys


def status(field, pid="self"):
    with open("/proc/%s/status" % pid) as f:
        for line in f:
            if line.startswith(field + ":"):
                return line.split(":", 1)[1].strip()
    return ""


def why_not_caged():
    """The first sign that this isn't the inside of a whole cage."""
    with open("/proc/self/uid_map") as f:
        mapped = f.read().split()
    signs = [
        ("another user", (os.getuid(), os.geteuid(), os.getgid()) != (1000, 1000, 1000)),
        ("every user of the machine is here", len(mapped) > 6 or "4294967295" in mapped),
        ("capabilities", any(int(status(f), 16) for f in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))),
        ("privileges may be gained", status("NoNewPrivs") != "1"),
        ("no filter of system calls", status("Seccomp") != "2"),
        ("another directory", os.getcwd() != "/sandbox"),
        ("no run directory of cofferdam's", not os.path.exists("/run/cofferdam/ca-bundle.pem")),
        ("a root that can be written", not os.statvfs("/").f_flag & os.ST_RDONLY),
        ("programs that can be changed", not os.statvfs("/usr").f_flag & os.ST_RDONLY),
        ("the machine's processes", os.path.exists("/proc/2/comm") and b"kthreadd" in open("/proc/2/comm", "rb").read()),
        ("the machine's secrets", os.path.exists("/etc/shadow") or os.path.exists("/root")),
    ]
    return next((sign for sign, seen in signs if seen), None)


if why_not_caged():
    print("not inside a whole cage (%s): refusing to try anything" % why_not_caged(), file=sys.stderr)
    os._exit(99)

ARGS = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
REPORT = open(ARGS["report"], "w") if "report" in ARGS else sys.stdout
ROOTED = ARGS.get("mode") == "rooted"
WORKS, NOTHING = "works", "nothing"
EPERM, EACCES, ENOENT, ENOSYS, EROFS, EXDEV, EINVAL, ESRCH, ENXIO, ENOTTY, EBUSY, EADDRINUSE, ECONNREFUSED, EEXIST, EIO = (
    "EPERM EACCES ENOENT ENOSYS EROFS EXDEV EINVAL ESRCH ENXIO ENOTTY EBUSY EADDRINUSE ECONNREFUSED EEXIST EIO").split()
SIGSYS = "SIGSYS"


def by_mode(rooted, rootless):
    """Where the two modes meet another wall first: rooted, init is another user than the agent; rootless, the same."""
    return rooted if ROOTED else rootless


class Nothing(Exception):
    """It could be asked, and gave nothing away."""


def nothing(found, *but):
    """For attempts that succeed by finding something."""
    found = [x for x in found if x not in but] if isinstance(found, (list, tuple, set)) else found
    if not found:
        raise Nothing()
    return found


def outcome(action):
    try:
        return WORKS, str(action())
    except OSError as e:
        return errno.errorcode.get(e.errno, type(e).__name__), str(e)
    except Nothing:
        return NOTHING, ""
    except Ended as e:
        return e.name, str(e)
    except BaseException as e:
        return type(e).__name__, repr(e)


class Ended(Exception):
    """How a child ended: by a signal, or with an outcome that is no errno."""

    def __init__(self, name, said=""):
        super().__init__(said)
        self.name = name


def told(kind, name, expect, why, action):
    got, said = outcome(action)
    expect = [expect] if isinstance(expect, str) else list(expect)
    print(json.dumps(dict(kind=kind, name=name, expect=expect, got=got, said=said[:300], why=why)), file=REPORT, flush=True)


def attack(name, expect, why, action):
    """What must not work: how it is refused, and what would break if it weren't."""
    told("attack", name, expect, why, action)


def control(name, why, action):
    """What must work beside it: without it, a refusal proves nothing."""
    told("control", name, WORKS, why, action)


def expect(truth, said=""):
    if not truth:
        raise AssertionError(said)
    return said


def in_child(action, patience=20):
    """In a child, because the kernel may kill for it, or because success would change this process."""
    sys.stdout.flush()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(patience)
        try:
            os.write(write_end, json.dumps(outcome(action)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    said = b""
    while chunk := os.read(read_end, 4096):
        said += chunk
    os.close(read_end)
    _, ended = os.waitpid(pid, 0)
    if os.WIFSIGNALED(ended):
        raise Ended(signal.Signals(os.WTERMSIG(ended)).name)
    got, text = json.loads(said)
    if got == WORKS:
        return text
    if got == NOTHING:
        raise Nothing()
    number = next((n for n, name in errno.errorcode.items() if name == got), None)
    raise OSError(number, text) if number else Ended(got, text)


libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# Names and numbers: x86-64, and the table that newer architectures share. From 424 on they are the same.
BOTH = dict(
    ptrace=(101, 117), unshare=(272, 97), setns=(308, 268), mount=(165, 40), umount2=(166, 39), pivot_root=(155, 41),
    chroot=(161, 51), bpf=(321, 280), perf_event_open=(298, 241), userfaultfd=(323, 282), keyctl=(250, 219),
    add_key=(248, 217), request_key=(249, 218), init_module=(175, 105), finit_module=(313, 273), delete_module=(176, 106),
    kexec_load=(246, 104), kexec_file_load=(320, 294), process_vm_readv=(310, 270), process_vm_writev=(311, 271),
    quotactl=(179, 60), open_by_handle_at=(304, 265), name_to_handle_at=(303, 264), swapon=(167, 224), swapoff=(168, 225),
    reboot=(169, 142), settimeofday=(164, 170), clock_settime=(227, 112), adjtimex=(159, 171), clock_adjtime=(305, 266),
    personality=(135, 92), seccomp=(317, 277), getpid=(39, 172), clone=(56, 220), acct=(163, 89), sethostname=(170, 161),
    setdomainname=(171, 162), syslog=(103, 116), fanotify_init=(300, 262), fanotify_mark=(301, 263),
    migrate_pages=(256, 238), move_pages=(279, 239), sched_setscheduler=(144, 119), sched_setparam=(142, 118),
    sched_setattr=(314, 274), mq_open=(240, 180), lookup_dcookie=(212, 18), vmsplice=(278, 75), vhangup=(153, 58),
    kcmp=(312, 272), prlimit64=(302, 261), tgkill=(234, 131), rt_sigqueueinfo=(129, 138), capset=(126, 91),
    capget=(125, 90), setpriority=(141, 140), ioprio_set=(251, 30), sched_setaffinity=(203, 122), fchmodat=(268, 53),
    mknodat=(259, 33), openat=(257, 56), ioctl=(16, 29), socket=(41, 198), prctl=(157, 167), mmap=(9, 222), fcntl=(72, 25), io_setup=(206, 0),
    shmget=(29, 194), shmctl=(31, 195), msgget=(68, 186), semget=(64, 190), setgroups=(116, 159),
)
NEW = dict(
    pidfd_send_signal=424, io_uring_setup=425, io_uring_enter=426, io_uring_register=427, open_tree=428, move_mount=429,
    fsopen=430, fsconfig=431, fsmount=432, fspick=433, pidfd_open=434, clone3=435, close_range=436, openat2=437,
    pidfd_getfd=438, process_madvise=440, mount_setattr=442, quotactl_fd=443, landlock_create_ruleset=444,
    landlock_restrict_self=446, memfd_secret=447, process_mrelease=448, fchmodat2=452, statmount=457, listmount=458,
    lsm_set_self_attr=460, open_tree_attr=467, file_setattr=469,
)
X86_ONLY = dict(iopl=172, ioperm=173, modify_ldt=154, uselib=134, ustat=136, sysfs=139, _sysctl=156, create_module=174,
                nfsservctl=180, arch_prctl=158)
X86 = platform.machine() == "x86_64"
SYS = {name: numbers[0 if X86 else 1] for name, numbers in BOTH.items()} | NEW | (X86_ONLY if X86 else {})


def call(name, *args):
    ctypes.set_errno(0)
    number = SYS[name] if isinstance(name, str) else name
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def landlock_abi():
    try:
        return call("landlock_create_ruleset", 0, 0, 1)
    except OSError:
        return 0


def scoped(with_scopes, without):
    """What Landlock's scopes (ABI 6, Linux 6.12) refuse, and what remains to refuse it before."""
    return with_scopes if landlock_abi() >= 6 else without


def read(path, n=64):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, n)
    finally:
        os.close(fd)


def open_to_write(path, flags=0):
    """Opening is the attempt: nothing is ever written to what isn't ours."""
    os.close(os.open(path, os.O_WRONLY | flags))


def create(path, mode=0o644):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))


def own_file(path, content=b"ours\n", mode=0o644):
    """A file of our own, new."""
    if os.path.lexists(path):
        os.unlink(path)
    with open(path, "wb") as f:
        f.write(content)
    os.chmod(path, mode)
    return path
