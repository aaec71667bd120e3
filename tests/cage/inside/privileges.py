"""Privileges: none is there, none can be had, whatever program is run."""
import fcntl, resource, stat, subprocess
from probe import *

def libc_call(function, *args):
    ctypes.set_errno(0)
    result = function(*args)
    if result < 0:
        refuse(ctypes.get_errno())
    return result


def refuse(number):
    raise OSError(number, os.strerror(number))


# What is there ------------------------------------------------------------------------------------------------------------
control("be user 1000", "and nobody else", lambda: expect(os.getresuid() == (1000,) * 3 and os.getresgid() == (1000,) * 3, os.getresuid()))
attack("keep a supplementary group", NOTHING, "the operator's groups open files", lambda: nothing([g for g in os.getgroups()], *by_mode((), (1000, 65534))))
for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    attack("find a capability in " + field, NOTHING, "one capability is a way out", lambda: nothing(int(status(field), 16)))
attack("find an unlocked securebit", NOTHING, "capabilities by being root", lambda: nothing(0xEF & ~call("prctl", 27, 0, 0, 0, 0) if call("prctl", 27, 0, 0, 0, 0) & 0xEF != 0xEF else 0))
control("no_new_privs and a filter", "they are the ground of the rest", lambda: expect(status("NoNewPrivs") == "1" and status("Seccomp") == "2"))
control("limits", "as documented", lambda: expect(resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 65536
        and resource.getrlimit(resource.RLIMIT_NICE) == resource.getrlimit(resource.RLIMIT_RTPRIO) == (0, 0)
        and resource.getrlimit(resource.RLIMIT_NPROC)[1] <= 512, resource.getrlimit(resource.RLIMIT_NPROC)))

# Taking some -----------------------------------------------------------------------------------------------------------------
NO = by_mode(EPERM, EINVAL)
WHO = "rooted the id exists and is init's; rootless it has no name here"
for name, act in [("setuid 0", lambda: os.setuid(0)), ("setgid 0", lambda: os.setgid(0)), ("setreuid 0", lambda: os.setreuid(0, 0)), ("setresuid 0", lambda: os.setresuid(0, 0, 0)), ("setresgid 0", lambda: os.setresgid(0, 0, 0))]:
    attack(name, NO, WHO, lambda: in_child(act))
attack("setuid to nobody", EINVAL, "no other id is mapped", lambda: in_child(lambda: os.setuid(65534)))
attack("setfsuid 0", NOTHING, "files go by that id", lambda: (libc.setfsuid(0), nothing(0 if libc.setfsuid(0) == 1000 else 1)))
attack("setgroups", EPERM, "the operator's groups open files", lambda: os.setgroups([0]))
attack("give up one's groups", EPERM, "a group may also be denied", lambda: call("setgroups", 0, 0))
HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)
attack("raise every capability", EPERM, "permitted is empty, for good", lambda: call("capset", ctypes.byref(HEADER), ctypes.byref((ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6))))
attack("raise one inheritable capability", EPERM, "file capabilities would meet it", lambda: call("capset", ctypes.byref(HEADER), ctypes.byref((ctypes.c_uint32 * 6)(0, 0, 1 << 21, 0, 0, 0))))
attack("more processes", (EPERM, "ValueError"), "a hard limit is hard", lambda: resource.setrlimit(resource.RLIMIT_NPROC, (100000, 100000)))
attack("more descriptors", (EPERM, "ValueError"), "a hard limit is hard", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))
for name, limit in (("RLIMIT_LOCKS", 10), ("RLIMIT_RTTIME", 15)):
    attack("another agent's " + name, (EPERM, "ValueError"), "it says whose a process is", lambda: in_child(lambda: resource.setrlimit(limit, (1, resource.getrlimit(limit)[1] + 1))))
    control("a " + name + " of its own", "it says whose a process is", lambda: expect(resource.getrlimit(limit)[1] not in (0, resource.RLIM_INFINITY)))
attack("core files", (EPERM, "ValueError"), "a crash would write memory down", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)))
attack("be nicer to oneself", (EPERM, EACCES), "priority starves the machine", lambda: os.nice(-5))
attack("a timer that wakes the machine", EPERM, "CLOCK_REALTIME_ALARM needs a capability", lambda: libc_call(libc.timerfd_create, 8, 0))
attack("more locked memory", (EPERM, "ValueError"), "a hard limit is hard", lambda: in_child(lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 40, 1 << 40))))
control("lower a limit", "one's own affair", lambda: in_child(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))))


def said(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def gains(*command):
    """A program that would print 0 if it ran as root."""
    code, text = said(*command)
    return nothing(text if text == "0" else "")


# Set-id and file-capability programs of the host ------------------------------------------------------------------------------------
SET_ID = []
for directory in ("/usr/bin", "/usr/sbin", "/bin", "/usr/lib/openssh", "/usr/lib/dbus-1.0", "/usr/libexec"):
    if os.path.isdir(directory):
        SET_ID += [p for p in (os.path.join(directory, n) for n in os.listdir(directory)) if os.path.isfile(p) and os.stat(p).st_mode & 0o6000]
control("set-id programs are within reach", "that is what must be inert", lambda: expect(SET_ID, "none on this machine"))
attack("become root by su", NOTHING, "set-id programs gain nothing", lambda: gains("/usr/bin/su", "-c", "id -u"))
attack("become root by sudo", (NOTHING, ENOENT), "set-id programs gain nothing", lambda: gains("/usr/bin/sudo", "-n", "id", "-u"))
attack("become root by pkexec", (NOTHING, ENOENT), "set-id programs gain nothing", lambda: gains("/usr/bin/pkexec", "id", "-u"))
attack("another group by newgrp", (NOTHING, ENOENT), "set-id programs gain nothing", lambda: nothing([t for c, t in [said("/usr/bin/newgrp", "root")] if t == "0"]))
attack("change a password", (NOTHING, ENOENT), "set-id programs gain nothing", lambda: nothing([c for c, _ in [said("/usr/bin/passwd", "-d", "root")] if c == 0]))
attack("mount by the program", (NOTHING, ENOENT), "set-id programs gain nothing", lambda: nothing([c for c, _ in [said("/usr/bin/mount", "-t", "tmpfs", "x", "/tmp")] if c == 0]))
attack("unmount by the program", (NOTHING, ENOENT), "set-id programs gain nothing", lambda: nothing([c for c, _ in [said("/usr/bin/umount", "/tmp")] if c == 0]))
attack("a namespace by the program", (NOTHING, ENOENT), "programs have no other calls than we", lambda: gains("/usr/bin/unshare", "-r", "id", "-u"))
attack("a sandbox in the sandbox", (NOTHING, ENOENT), "programs have no other calls than we", lambda: gains("/usr/bin/bwrap", "--ro-bind", "/", "/", "--unshare-user", "--uid", "0", "id", "-u"))

# Made by the operator, in the workspace -----------------------------------------------------------------------------------------------
for name, why in [("suid-id", "set-user-id root"), ("sgid-id", "set-group-id root")]:
    if name in ARGS:
        program = "/sandbox/" + name
        control("%s is there and runs" % name, "the file has its bit, and is no dead attempt", lambda: expect(os.stat(program).st_mode & 0o6000 and said(program)[0] == 0))
        attack("run the operator's %s" % name, NOTHING, why + ": nosuid and no_new_privs", lambda: gains(program, "-u" if name == "suid-id" else "-g"))
if "caps-cat" in ARGS:
    control("caps-cat runs", "the file has capabilities, and is no dead attempt", lambda: expect(b"\x01" in os.getxattr("/sandbox/caps-cat", "security.capability") and said("/sandbox/caps-cat", "/etc/passwd")[0] == 0))
    attack("read root's file by a file capability", NOTHING, "cap_dac_override on a file: nosuid and no_new_privs", lambda: nothing(said("/sandbox/caps-cat", ARGS["caps-cat"])[1]))
    attack("read root's file", EACCES, "the same without", lambda: read(ARGS["caps-cat"]))

# Descriptors -----------------------------------------------------------------------------------------------------------------------------
def streams():
    return [(fd, os.readlink("/proc/self/fd/%d" % fd)) for fd in (0, 1, 2)]


attack("a stream that is a file or terminal of the host's", NOTHING, "an open file is a road out, whatever its path",
       lambda: nothing([s for s in streams() if not (s[1].startswith("pipe:") or s[1] in ("/dev/null", "/dev/pts/0", "/dev/pts/1", "/dev/pts/2"))]))
attack("a stream that can be executed or walked", NOTHING, "a directory would lead everywhere", lambda: nothing([fd for fd in (0, 1, 2) if stat.S_ISDIR(os.fstat(fd).st_mode) or stat.S_ISSOCK(os.fstat(fd).st_mode)]))
attack("read the input's other end", (EACCES, ENXIO, NOTHING), "writing into one's own input is no more than reading it", lambda: nothing([] if os.close(os.open("/proc/self/fd/0", os.O_WRONLY | os.O_NONBLOCK)) is None else [1]))
