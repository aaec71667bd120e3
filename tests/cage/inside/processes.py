"""Other processes: init, which is cofferdam's own, every process of the machine, and those beside the agent."""
import ctypes, fcntl, subprocess, time
from probe import *


def with_child(action):
    """With a child that waits until it is killed: it is really there."""
    child = subprocess.Popen(["/bin/sleep", "60"])
    try:
        return action(child.pid)
    finally:
        child.kill()
        child.wait()


def signal_child():
    child = subprocess.Popen(["/bin/sleep", "60"])
    child.send_signal(signal.SIGTERM)
    return expect(child.wait() == -signal.SIGTERM)


def crash():
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    _, ended = os.waitpid(pid, 0)
    expect(os.WIFSIGNALED(ended))
    return ended


MEMORY = ctypes.create_string_buffer(b"ours", 8)
VECTOR = (ctypes.c_ulong * 2)(ctypes.addressof(MEMORY), 8)
INIT = "/proc/1"
OURS = "/proc/self"

# Init -------------------------------------------------------------------------------------------------------------------
control("see init's name", "pid 1 is there, so that these refusals mean something", lambda: expect(read("/proc/1/comm")))
for name, why in [("mem", "its memory is the cage's"), ("environ", "its environment"), ("auxv", "where its code lies"), ("maps", "where its code lies"), ("smaps", "where its code lies"),
                  ("numa_maps", "where its code lies"), ("pagemap", "its physical pages"), ("stack", "the kernel's addresses"), ("syscall", "its registers"), ("io", "what it reads and writes"),
                  ("personality", "its layout")]:
    if name != "stack":  # the kernel's own stack is for root alone
        control("read one's own " + name, "the file exists and can be read", lambda: os.close(os.open(OURS + "/" + name, os.O_RDONLY)))
    attack("read init's " + name, (EACCES, EPERM), why, lambda: nothing(read(INIT + "/" + name, 4096)))
attack("find a mount that init alone has", NOTHING, "its writable view of the run directory has no path", lambda: nothing(set(open("/proc/1/mountinfo")) - set(open("/proc/self/mountinfo"))))
for name in ("exe", "root", "cwd", "ns/user", "ns/mnt", "ns/net", "ns/pid"):
    control("follow one's own " + name, "the link exists and can be followed", lambda: os.stat(OURS + "/" + name))
    attack("read where init's %s leads" % name, EACCES, "it tells of the host, and following it leads there", lambda: os.readlink(INIT + "/" + name))
    attack("follow init's " + name, EACCES, "it leads out of the cage, or to our own binary, to be overwritten", lambda: os.close(os.open(INIT + "/" + name, os.O_RDONLY)))
for name in ("fd", "map_files", "task/1/fd"):
    control("list one's own " + name, "the directory exists", lambda: expect(os.listdir(OURS + "/" + name.replace("task/1", "task/%d" % os.getpid()))))
    attack("list init's " + name, EACCES, "its descriptors are the sandbox's sockets, its writable run directory, its channel to the supervisor", lambda: os.listdir(INIT + "/" + name))
for number in range(12):
    attack("open init's descriptor %d" % number, EACCES, "each is a road out", lambda: os.open(INIT + "/fd/%d" % number, os.O_RDONLY))
for name in ("mem", "oom_score_adj", "comm", "coredump_filter", "setgroups", "uid_map", "timerslack_ns", "autogroup", "loginuid", "attr/current", "clear_refs"):
    attack("write init's " + name, (EACCES, EROFS, EPERM, ENOENT), "it changes pid 1", lambda: open_to_write(INIT + "/" + name))
SIGNALS = dict(SIGKILL=9, SIGTERM=15, SIGSTOP=19, SIGUSR1=10, SIGCHLD=17, SIGHUP=1)
for name, number in SIGNALS.items():
    attack("send init %s" % name, scoped(EPERM, by_mode(EPERM, WORKS)), "pid 1's end is the sandbox's end (rootless below ABI 6 the kernel drops what pid 1 doesn't handle)", lambda: os.kill(1, number))
attack("send a thread of init's a signal", scoped(EPERM, by_mode(EPERM, WORKS)), "tgkill is kill", lambda: call("tgkill", 1, 1, 9))
attack("queue a signal to init", scoped(EPERM, by_mode(EPERM, WORKS)), "rt_sigqueueinfo is kill, and may pretend to be the kernel's", lambda: call("rt_sigqueueinfo", 1, 9, ctypes.byref((ctypes.c_int * 32)(9, 0, -1))))
attack("signal init by descriptor", scoped(EPERM, by_mode(EPERM, WORKS)), "pidfd_send_signal is kill", lambda: call("pidfd_send_signal", os.pidfd_open(1), 9, 0, 0))


def own_signals_of(owner, number=signal.SIGKILL):
    """Lets the kernel itself send a signal to whomever a socket is said to belong to."""
    here, there = __import__("socket").socketpair()
    fcntl.fcntl(here, 8, owner)  # F_SETOWN
    fcntl.fcntl(here, 10, number)  # F_SETSIG
    fcntl.fcntl(here, fcntl.F_SETFL, fcntl.fcntl(here, fcntl.F_GETFL) | 0o20000)  # O_ASYNC
    there.send(b"x")
    time.sleep(0.05)
    return here


def by_the_kernel():
    got = []
    signal.signal(signal.SIGUSR2, lambda *_: got.append(1))
    own_signals_of(os.getpid(), signal.SIGUSR2)
    return expect(got, "no signal came")


control("be signalled through a socket's owner", "F_SETOWN, F_SETSIG and O_ASYNC work", by_the_kernel)
attack("signal init through a socket's owner", NOTHING, "the kernel sends that signal itself: is init still there?", lambda: (own_signals_of(1), nothing([] if read("/proc/1/comm") else ["gone"])))
attack("trace init", EPERM, "ptrace is everything", lambda: call("ptrace", 0x4206, 1, 0, 0))
attack("read init's memory by process_vm_readv", EPERM, "ptrace by another name", lambda: call("process_vm_readv", 1, ctypes.byref(VECTOR), 1, ctypes.byref(VECTOR), 1, 0))
attack("take a descriptor of init's", EPERM, "pidfd_getfd takes what /proc/1/fd refuses", lambda: call("pidfd_getfd", os.pidfd_open(1), 3, 0))
attack("compare with init", EPERM, "kcmp tells which descriptors are the same", lambda: call("kcmp", os.getpid(), 1, 0, 0, 0))
for number, kind in [(3, "mnt"), (4, "net"), (5, "pid"), (9, "user")]:
    attack("init's %s namespace by its pidfd" % kind, (EACCES, EPERM, ENOTTY), "PIDFD_GET_*_NAMESPACE hands out a descriptor", lambda: call("ioctl", os.pidfd_open(1), 0xFF00 | number, 0))
attack("renice init", EPERM, "pid 1 must not be starved by its own child", lambda: call("setpriority", 0, 1, 19))
attack("renice everybody of this user", EPERM, "rootless init is one of them", lambda: call("setpriority", 2, 0, 19))
attack("limit init", EPERM, "with no descriptors pid 1 can serve nobody", lambda: call("prlimit64", 1, 7, ctypes.byref((ctypes.c_uint64 * 2)(0, 0)), 0))
attack("limit init with high bits", EPERM, "a pid is an int", lambda: call("prlimit64", 1 | 1 << 32, 7, 0, 0))
attack("pin init to a processor", EPERM, "pid 1 must not be starved by its own child", lambda: call("sched_setaffinity", 1, 8, ctypes.byref(ctypes.c_uint64(1))))
attack("give init idle disk priority", EPERM, "pid 1 must not be starved by its own child", lambda: call("ioprio_set", 1, 1, 3 << 13))
attack("make pid 1 one's own group", (EPERM, ESRCH, EACCES), "signals and terminals go by group", lambda: os.setpgid(1, 0))
attack("see how long the operator's command line was", NOTHING, "init's title is all of it that there is", lambda: nothing(read("/proc/1/cmdline", 65536).removeprefix(b"cofferdam: init\0")))
control("init lives", "after all of that", lambda: expect(read("/proc/1/comm")))

# The machine's processes --------------------------------------------------------------------------------------------------
pids = lambda: [int(p) for p in os.listdir("/proc") if p.isdigit()]
control("list one's own processes", "the list is alive", lambda: expect({1, os.getpid()} <= set(pids())))
attack("find a process of cofferdam's beside init", NOTHING, "supervisor and heart must not exist in here", lambda: nothing(
    [p for p in pids() if p not in (1, os.getpid()) and any(w in read("/proc/%d/cmdline" % p, 512) for w in (b"supervisor", b"heart"))]))
for key in ("heart", "supervisor", "init"):
    if key in ARGS:
        number = int(ARGS[key])
        # A namespace this young has no such number of its own.
        attack("find the %s by its number outside" % key, ENOENT, "pids are those of the namespace", lambda: os.stat("/proc/%d" % number))
        attack("signal the %s by its number outside" % key, ESRCH, "pids are those of the namespace", lambda: os.kill(number, 0))
        attack("hold the %s by its number outside" % key, (ESRCH, EINVAL), "pids are those of the namespace", lambda: os.pidfd_open(number))
attack("foresee process numbers", (EROFS, EACCES, ENOENT), "ns_last_pid makes the next pid any", lambda: open_to_write("/proc/sys/kernel/ns_last_pid"))

# Processes beside us -------------------------------------------------------------------------------------------------------
control("signal a child", "signals work among one's own", signal_child)
control("wait for a child by descriptor", "pidfds work among one's own", lambda: with_child(lambda pid: call("pidfd_send_signal", os.pidfd_open(pid), 0, 0, 0)))
attack("write one's own memory by /proc/self/mem", EROFS, "that file is ptrace without ptrace(2): /proc is read-only", lambda: os.open("/proc/self/mem", os.O_RDWR))
attack("write a child's memory by /proc/PID/mem", EROFS, "an allowed program could be rewritten while it runs", lambda: with_child(lambda pid: os.open("/proc/%d/mem" % pid, os.O_RDWR)))
attack("write a thread's memory by /proc/self/task", EROFS, "the same file by another path", lambda: os.open("/proc/self/task/%d/mem" % os.getpid(), os.O_RDWR))
attack("trace a child", EPERM, "an allowed program could be rewritten while it runs", lambda: with_child(lambda pid: call("ptrace", 16, pid, 0, 0)))
attack("seize a child", EPERM, "an allowed program could be rewritten while it runs", lambda: with_child(lambda pid: call("ptrace", 0x4206, pid, 0, 0)))
attack("be traced by one's parent", EPERM, "an allowed program could be rewritten as it starts", lambda: in_child(lambda: call("ptrace", 0, 0, 0, 0)))
attack("read a child's memory", EPERM, "what an allowed program keeps", lambda: with_child(lambda pid: call("process_vm_readv", pid, ctypes.byref(VECTOR), 1, ctypes.byref(VECTOR), 1, 0)))
attack("write a child's memory", EPERM, "an allowed program could be rewritten while it runs", lambda: with_child(lambda pid: call("process_vm_writev", pid, ctypes.byref(VECTOR), 1, ctypes.byref(VECTOR), 1, 0)))
attack("take a child's descriptor", EPERM, "an allowed program's connection could be taken over", lambda: with_child(lambda pid: call("pidfd_getfd", os.pidfd_open(pid), 0, 0)))

# What /proc lets one say about oneself --------------------------------------------------------------------------------------
for name, why in [("uid_map", "another id"), ("setgroups", "another group"), ("oom_score_adj", "the last to be killed"), ("loginuid", "who the audit log says it was"), ("coredump_filter", "what a crash writes"),
                  ("comm", "nothing; but it shows that /proc is read-only"), ("clear_refs", "memory accounting"), ("timens_offsets", "another clock"), ("attr/exec", "another security label"), ("sched", "statistics")]:
    attack("write one's own " + name, (EROFS, ENOENT) if name != "loginuid" else (EROFS, ENOENT, EACCES), why, lambda: open_to_write("/proc/self/" + name))
for name, why in [("kernel/core_pattern", "a crash runs a program as root on the host"), ("kernel/modprobe", "an unknown format runs a program as root on the host"), ("kernel/hostname", "the name"), ("vm/overcommit_memory", "the machine's memory"),
                  ("fs/suid_dumpable", "crashes of set-id programs"), ("kernel/randomize_va_space", "address randomisation"), ("net/ipv4/ip_forward", "the network"), ("net/ipv4/ip_unprivileged_port_start", "ports 53 and 443 inside"),
                  ("kernel/perf_event_paranoid", "counters"), ("kernel/unprivileged_bpf_disabled", "code in the kernel"), ("user/max_user_namespaces", "everybody's namespaces"), ("kernel/yama/ptrace_scope", "who may trace"), ("dev/tty/legacy_tiocsti", "typing for others")]:
    attack("write /proc/sys/" + name, (EACCES, EROFS, ENOENT), why, lambda: open_to_write("/proc/sys/" + name))
control("read meminfo, cpuinfo, stat, sys/vm", "runtimes do", lambda: [read("/proc/meminfo"), read("/proc/cpuinfo"), read("/proc/stat"), expect(os.listdir("/proc/sys/vm"))])
for name, why in [("kcore", "the kernel's memory"), ("kmsg", "the kernel's log"), ("kallsyms", "the kernel's addresses"), ("keys", "key rings"), ("key-users", "key rings"), ("timer_list", "others' timers"), ("interrupts", "keystrokes' times"), ("slabinfo", "the kernel's heap"),
                  ("vmallocinfo", "the kernel's addresses"), ("iomem", "the machine's addresses"), ("kpagecount", "physical memory"), ("kpageflags", "physical memory"), ("sched_debug", "others' processes")]:
    attack("read /proc/" + name, (NOTHING, ENOENT, EACCES, EPERM), why, lambda: nothing(read("/proc/" + name)))
for name, why in [("bus", "hardware"), ("acpi", "hardware"), ("irq", "hardware"), ("fs", "the host's disks"), ("driver", "hardware"), ("scsi", "the host's disks"), ("sys/fs/binfmt_misc", "programs that run for others' files")]:
    attack("list /proc/" + name, (NOTHING, ENOENT, EACCES), why, lambda: nothing(os.listdir("/proc/" + name)))
attack("sysrq", (EROFS, EACCES, ENOENT), "reboots the machine", lambda: open_to_write("/proc/sysrq-trigger"))

# /sys and control groups ------------------------------------------------------------------------------------------------------
control("count processors in /sys", "runtimes do", lambda: read("/sys/devices/system/cpu/online"))
for name, why in [("/sys/kernel", "the kernel's switches"), ("/sys/class", "devices"), ("/sys/bus", "devices"), ("/sys/firmware", "the machine's firmware"), ("/sys/module", "the kernel's parts"), ("/sys/power", "the machine's power"), ("/sys/block", "disks"), ("/sys/kernel/debug", "everything"), ("/sys/kernel/tracing", "everything"), ("/sys/fs/bpf", "code in the kernel"), ("/sys/fs/selinux", "the security module")]:
    attack("list " + name, (ENOENT, NOTHING, EACCES), why, lambda: nothing(os.listdir(name), "mm"))
for name in ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/devices/system/cpu/cpu0/online", "/sys/kernel/uevent_helper", "/sys/kernel/profiling"):
    attack("write " + name, (EACCES, EROFS, ENOENT), "a switch of the machine's", lambda: open_to_write(name))
for name in ("cgroup.procs", "cgroup.subtree_control", "memory.max", "pids.max", "cgroup.kill", "cgroup.freeze", "release_agent"):
    attack("write the control group's " + name, (EACCES, EROFS, ENOENT, EPERM), "limits are the operator's; release_agent runs a program on the host", lambda: open_to_write("/sys/fs/cgroup/" + name))
attack("make a control group", (EROFS, EACCES, EPERM, ENOENT), "limits could be left", lambda: os.mkdir("/sys/fs/cgroup/x"))
attack("see where one's control group lies on the host", NOTHING, "the group's namespace begins here", lambda: nothing([l for l in open("/proc/self/cgroup").read().split() if ".." in l]))

# Crashes ----------------------------------------------------------------------------------------------------------------------
attack("leave a core file", NOTHING, "it would hold whatever memory held", lambda: nothing([1] if os.WCOREDUMP(crash()) else []))
