"""System calls: what the filter refuses, each by its own error, so that no other wall stands in for it.

Arguments are such that a call that gets through fails or does nothing; EPERM is the filter's word, since none of these
looks at a capability before its arguments without saying so here. Calls that need another process, a terminal or a
socket are in the other scripts; those that Python can't make (x32, int 0x80, threads without shared descriptors) in
native.c.
"""
from probe import *

control("a call by number", "the way all of these are made", lambda: expect(call("getpid") == os.getpid()))
MISSING = ctypes.create_string_buffer(512)


def further_in():
    """Under a rule that forbids writing: no file can be written any more."""
    own_file("/tmp/before")
    call("landlock_restrict_self", call("landlock_create_ruleset", ctypes.byref(ctypes.c_uint64(1 << 1)), 8, 0), 0)
    try:
        open_to_write("/tmp/before")
    except PermissionError:
        return "shut"
    raise AssertionError("its own rules don't hold")


def refused(name, why, *args, wall=EPERM, title=None):
    attack(title or name, wall, why, lambda: in_child(lambda: call(name, *(args or (0, 0, 0, 0, 0)))))


# Namespaces ------------------------------------------------------------------------------------------------------------
NAMESPACES = dict(user=0x10000000, mount=0x00020000, pid=0x20000000, network=0x40000000, ipc=0x08000000, uts=0x04000000, cgroup=0x02000000, time=0x80)
for name, flag in NAMESPACES.items():
    refused("unshare", "in a namespace of its own it would be its root", flag, title="unshare a %s namespace" % name)
for name, flag in NAMESPACES.items():
    if name != "time":  # clone's low byte is the exit signal
        refused("clone", "in a namespace of its own it would be its root", flag | signal.SIGCHLD, 0, 0, 0, 0, title="clone into a %s namespace" % name)
control("fork", "processes are ordinary work", lambda: in_child(lambda: 1))
refused("unshare", "an int: comparing 64 bits lets it pass", 0x10000000 | 1 << 32, title="unshare with high bits")
refused("clone", "an int: comparing 64 bits lets it pass", 0x10000000 | 1 << 32 | signal.SIGCHLD, 0, 0, 0, 0, title="clone with high bits")
refused("unshare", "a thread with descriptors of its own hides who holds a socket", 0x400, title="unshare descriptors")
refused("unshare", "a thread with a root of its own", 0x200, title="unshare the root directory")
refused("clone3", "its flags lie in memory: with ENOSYS programs fall back to clone", MISSING, 88, wall=ENOSYS)
refused("clone3", "flags for a user namespace", ctypes.byref((ctypes.c_uint64 * 11)(0x10000000)), 88, wall=ENOSYS, title="clone3 with a user namespace")
refused("clone3", "CLONE_INTO_CGROUP moves a child to other limits", ctypes.byref((ctypes.c_uint64 * 11)(0x200000000)), 88, wall=ENOSYS, title="clone3 into a control group")
for kind in ("net", "mnt", "user", "pid", "ipc", "uts", "cgroup"):
    attack("enter one's own %s namespace" % kind, EPERM, "setns must not exist for an agent at all", lambda: in_child(lambda: call("setns", os.open("/proc/self/ns/" + kind, os.O_RDONLY), 0)))
attack("ask for the parent of one's user namespace", EPERM, "NS_GET_PARENT hands out a descriptor of the host's", lambda: call("ioctl", os.open("/proc/self/ns/user", os.O_RDONLY), 0xB702, 0))
attack("ask for the parent of one's pid namespace", EPERM, "NS_GET_PARENT hands out a descriptor of the host's", lambda: call("ioctl", os.open("/proc/self/ns/pid", os.O_RDONLY), 0xB702, 0))
attack("ask for the previous mount namespace", (EPERM, ENOTTY, EINVAL), "NS_MNT_GET_PREV walks every mount namespace of the machine", lambda: call("ioctl", os.open("/proc/self/ns/mnt", os.O_RDONLY), 0x8010B70C, MISSING))

# Mounts ----------------------------------------------------------------------------------------------------------------
for name, why, args in [
    ("mount", "a mount changes what every path means", (b"x", b"/tmp", b"tmpfs", 0, 0)),
    ("umount2", "what covers /proc could be taken off", (b"/proc/kcore", 2)),
    ("pivot_root", "another root", (b"/tmp", b"/tmp")), ("chroot", "another root", (b"/tmp",)),
    ("fsopen", "file systems of one's own", (b"tmpfs", 0)), ("fsconfig", "file systems of one's own", (-1, 0, 0, 0, 0)),
    ("fsmount", "file systems of one's own", (-1, 0, 0)), ("fspick", "another's mount, set anew", (-100, b"/", 0)),
    ("open_tree", "a copy of a mount without what covers it", (-100, b"/", 1)), ("move_mount", "mounts moved away", (-1, b"", -1, b"", 0)),
    ("mount_setattr", "read-only taken off", (-100, b"/", 0, MISSING, 32)), ("open_tree_attr", "a copy with other attributes", (-100, b"/", 1, MISSING, 32)),
    ("statmount", "mounts of every namespace by number", (MISSING, MISSING, 512, 0)), ("listmount", "mounts of every namespace by number", (MISSING, MISSING, 8, 0)),
    ("quotactl", "disk limits", (0x80000200, b"/dev/vda", 1000, MISSING)), ("quotactl_fd", "disk limits", (0, 0x80000200, 1000, MISSING)),
    ("swapon", "memory on a file of one's own", (b"/tmp/x", 0)), ("swapoff", "the host's swap", (b"/tmp/x",)),
]:
    refused(name, why, *args)

# The kernel's doors -------------------------------------------------------------------------------------------------------
for name, why, args in [
    ("io_uring_setup", "its operations pass no filter", (1, MISSING)), ("io_uring_enter", "an inherited ring", (-1, 1, 0, 0, 0)),
    ("io_uring_register", "an inherited ring", (-1, 0, 0, 0)),
    ("bpf", "code in the kernel", (5, MISSING, 64)), ("perf_event_open", "hardware counters of others", (MISSING, 0, -1, -1, 0)),
    ("userfaultfd", "stops the kernel in the middle of a copy", (1,)), ("fanotify_init", "sees every file of a mount", (0, 0)),
    ("fanotify_mark", "sees every file of a mount", (-1, 1, 1, -100, b"/")),
    ("keyctl", "key rings aren't in any namespace", (0, -3, 0, 0, 0)), ("add_key", "key rings aren't in any namespace", (b"user", b"x", b"y", 1, -3)),
    ("request_key", "the host's helper program runs", (b"user", b"x", 0, -3)),
    ("init_module", "code in the kernel", (MISSING, 0, b"")), ("finit_module", "code in the kernel", (-1, b"", 0)),
    ("delete_module", "the kernel's parts", (b"none-of-this-name", 0)), ("kexec_load", "another kernel", (0, 0, 0, 0)), ("kexec_file_load", "another kernel", (-1, -1, 0, b"", 0)),
    ("reboot", "the machine", (0, 0, 0, 0)), ("acct", "a log of everybody's processes", (0,)), ("syslog", "the kernel's log", (3, MISSING, 10)),
    ("sethostname", "the sandbox's name", (b"x", -1)), ("setdomainname", "the sandbox's name", (b"x", -1)),
    ("settimeofday", "everybody's clock", (MISSING, 0)), ("clock_settime", "everybody's clock", (-1, MISSING)), ("adjtimex", "everybody's clock", (MISSING,)),
    ("clock_adjtime", "everybody's clock", (0, MISSING)), ("lookup_dcookie", "paths outside", (0, MISSING, 64)), ("vhangup", "the terminal's other users", ()),
    ("memfd_secret", "memory that nobody can look into", (-1,)), ("migrate_pages", "another's memory", (1, 1, MISSING, MISSING)), ("move_pages", "another's memory", (1, 0, 0, 0, 0, 0)),
    ("process_madvise", "another's memory", (-1, 0, 0, 0, 0)), ("process_mrelease", "another's memory", (-1, 0)), ("vmsplice", "pages lent to pipes (copy-on-write races)", (-1, 0, 0, 0)),
    ("sched_setscheduler", "real-time priority starves the machine", (0, 0, MISSING)), ("sched_setparam", "real-time priority starves the machine", (0, MISSING)), ("sched_setattr", "deadlines starve the machine", (0, MISSING, 0)),
    ("mq_open", "kernel memory by another road", (b"x", 0, 0, 0)), ("lsm_set_self_attr", "another security module's opinion of us", (0, 0, 0, 0)), ("file_setattr", "attributes by a struct that no filter reads", (-100, b"/sandbox", MISSING, 24, 0)),
]:
    refused(name, why, *args)
if X86:
    for name, why in [("iopl", "hardware ports"), ("ioperm", "hardware ports"), ("modify_ldt", "segments: long a source of kernel holes"), ("uselib", "dead, and still code"), ("ustat", "dead, and still code"), ("sysfs", "dead, and still code"), ("_sysctl", "dead, and still code"), ("create_module", "dead, and still code"), ("nfsservctl", "dead, and still code")]:
        refused(name, why)
for number in (470, 500, 1000, 0x3FFFFFFF):
    attack("call number %d" % number, ENOSYS, "what is newer than the list was never looked at", lambda: in_child(lambda: call(number, 0, 0, 0, 0, 0)))
attack("a negative call number", (SIGSYS, ENOSYS), "bit 30 is set in it, the mark of x32", lambda: in_child(lambda: call(-2, 0)))

# Personality and attributes of the process ----------------------------------------------------------------------------------
control("ask for the personality", "runtimes do", lambda: call("personality", 0xFFFFFFFF))
attack("switch address randomisation off", EPERM, "by their layout executions of a program are told apart", lambda: in_child(lambda: call("personality", 0x40000)))
for flag, name, why in [(0x0400000, "READ_IMPLIES_EXEC", "every mapping becomes executable"), (0x0008, "PER_LINUX32", "another table of calls"), (0x0100000, "MMAP_PAGE_ZERO", "a page at address zero"),
                        (0x0200000, "ADDR_COMPAT_LAYOUT", "a foreseeable layout"), (0x8000000, "ADDR_LIMIT_3GB", "a foreseeable layout"), (0x0005, "PER_SCOSVR3", "old code of the kernel's")]:
    refused("personality", why, flag, title="personality " + name)
for option, args, name, why, wall in [
    (35, (13, 0, 0, 0), "PR_SET_MM_EXE_FILE", "/proc/self/exe would name another program: identity", EPERM),
    (35, (14, MISSING, 104, 0), "PR_SET_MM_MAP", "the whole of it at once", EPERM),
    (28, (0,), "PR_SET_SECUREBITS", "what setuid programs may gain", EPERM), (24, (0,), "PR_CAPBSET_DROP", "not needed, so not there", EPERM),
    (8, (1,), "PR_SET_KEEPCAPS", "capabilities across a change of user", EPERM), (47, (2, 21, 0, 0), "PR_CAP_AMBIENT_RAISE", "capabilities across exec", EPERM),
    (0x59616D61, (-1,), "PR_SET_PTRACER", "anybody may trace", EPERM), (38, (0, 0, 0, 0), "PR_SET_NO_NEW_PRIVS off", "set-id programs would work again", EINVAL),
    (31, (1,), "PR_TASK_PERF_EVENTS_DISABLE", "not needed, so not there", EPERM), (33, (1, 0), "PR_MCE_KILL", "memory failures of the machine", EPERM),
    (26, (1,), "PR_SET_TSC", "not needed, so not there", EPERM), (57, (1,), "PR_SET_IO_FLUSHER", "memory reserves of the kernel", EPERM), (62, (0, 0, 0, 0), "PR_SCHED_CORE", "who shares a processor core", EPERM),
]:
    refused("prctl", why, option, *args, wall=wall, title="prctl " + name)
control("name oneself", "PR_SET_NAME is no identity", lambda: in_child(lambda: call("prctl", 15, b"cofferdam", 0, 0, 0)))
refused("seccomp", "the kernel's part in front of a program that the policy trusts", 1, 8, MISSING, title="a seccomp listener")
control("a seccomp filter of one's own", "programs may shut themselves in further", lambda: expect(call("seccomp", 2, 0, ctypes.byref(ctypes.c_uint32(0x7FFF0000))) == 0))
control("Landlock rules of one's own", "programs may shut themselves in further", lambda: in_child(lambda: further_in()))

# Memory -------------------------------------------------------------------------------------------------------------------
control("executable memory", "compilers at run time", lambda: call("mmap", 0, 4096, 7, 0x22, -1, 0))
attack("map the page at address zero", EPERM, "the kernel's null pointers would lead to us", lambda: in_child(lambda: call("mmap", 0, 4096, 3, 0x32, -1, 0)))
attack("poison a page of the machine's memory", (EPERM, EINVAL), "MADV_HWPOISON takes memory away for ever", lambda: in_child(lambda: call(28 if X86 else 233, call("mmap", 0, 4096, 3, 0x22, -1, 0), 4096, 100)))

# System V objects of the host -------------------------------------------------------------------------------------------------
control("shared memory of one's own", "the ipc namespace is the sandbox's", lambda: (lambda i: expect(call("shmctl", i, 0, 0) == 0))(call("shmget", 0, 4096, 0o600)))
if "shm" in ARGS:
    attack("the operator's shared memory by number", EINVAL, "ipc is in a namespace of its own", lambda: call("shmctl", int(ARGS["shm"]), 2, MISSING))
attack("any System V object", NOTHING, "the host's would be listed here", lambda: nothing([l for kind in ("shm", "sem", "msg") for l in open("/proc/sysvipc/" + kind).read().splitlines()[1:]]))

# What is counted for a user, or for the whole machine -----------------------------------------------------------------------
COUNTED = "whoever takes all of it takes it from the operator's own programs, and from other sandboxes"


def many(action, bound):
    """Does it until the kernel has had enough, and no more often than this."""
    kept = [action() for _ in range(bound)]
    return len(kept)


def queue_signal():
    return call("rt_sigqueueinfo", os.getpid(), 40, ctypes.byref((ctypes.c_int * 32)(40, 0, -1, 0, os.getpid(), os.getuid())))


def many_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, [40])
    return many(queue_signal, 5000)


attack("take more pseudo-terminals than a sandbox has", "ENOSPC", COUNTED, lambda: in_child(lambda: many(os.openpty, 300)))
attack("take more of inotify than half", "EMFILE", COUNTED, lambda: in_child(lambda: many(lambda: libc.inotify_init1(0) >= 0 or call(294 if X86 else 26, 0), 2000)))
attack("take the machine's queues of asynchronous I/O", EPERM, COUNTED, lambda: call("io_setup", 1, ctypes.byref(ctypes.c_ulong())))
attack("let more signals wait than a sandbox may", "EAGAIN", COUNTED, lambda: in_child(many_signals))
if ROOTED:
    # Without root the kernel lets nobody set the bound, since nobody is root in there.
    attack("take more shared memory than /dev/shm has", "ENOSPC", "it stays when its last user is gone", lambda: in_child(lambda: many(lambda: call("shmget", 0, 64 << 20, 0o600), 64)))
