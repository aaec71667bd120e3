"""Files: what isn't there, what can't be written, and every way across the boundary between the two."""
import fcntl, mmap, stat, struct
from probe import *


def renameat2(a, b, flags):
    ctypes.set_errno(0)
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def linkat_empty(fd, name):
    ctypes.set_errno(0)
    if libc.linkat(fd, b"", -100, name.encode(), 0x1000) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def ioctl(path, request, argument=0):
    fd = os.open(path, os.O_RDONLY)
    try:
        return call("ioctl", fd, request, argument)
    finally:
        os.close(fd)


def set_flags(path, flags):
    fd = os.open(path, os.O_RDONLY)
    try:
        return call("ioctl", fd, 0x40086602, ctypes.byref(ctypes.c_long(flags)))
    finally:
        os.close(fd)


def set_project(path, project):
    fd = os.open(path, os.O_RDONLY)
    try:
        call("ioctl", fd, 0x401C5820, ctypes.byref((ctypes.c_uint32 * 7)(0, 0, 0, project)))
    finally:
        os.close(fd)


# An ordinary user's own directories lie below /home, and one of them is lent: then its parents are there.
HOMES = "/srv" if ARGS["lent"].startswith("/home/") else "/home"

# Not there -----------------------------------------------------------------------------------------------------------
control("read /etc/passwd", "the reduced /etc has what programs need", lambda: read("/etc/passwd"))
control("read a program", "what the policy shows is there", lambda: read("/usr/bin/env"))
for path, why in [
    ("/etc/shadow", "password hashes"), ("/etc/gshadow", "group passwords"), ("/etc/ssh", "host keys"),
    ("/etc/sudoers", "who may become root"),
    ("/etc/cron.d", "programs that root runs"), ("/etc/ssl/private", "private keys"),
    ("/root", "root's home"), (HOMES, "everybody's homes"), ("/boot", "the kernel's image and initrd"),
    ("/mnt", "other disks"), ("/media", "other disks"), ("/run/user", "session sockets: D-Bus, Wayland, keyring"),
    ("/run/dbus/system_bus_socket", "systemd at the other end"), ("/run/docker.sock", "root on the host"),
    ("/run/containerd", "root on the host"), ("/run/systemd", "systemd's private socket"), ("/var/lib/docker", "other containers"),
    ("/var/run/docker.sock", "root on the host, by the older name"), ("/old_root", "what pivot_root left"),
    ("/var/spool/cron", "programs that root runs"), ("/.oldroot", "what pivot_root left"), ("/lost+found", "the host's root directory"),
]:
    attack("find " + path, ENOENT, "it would hand over " + why, lambda: os.stat(path))
for key in ("home", "state", "stage", "workspace"):
    if key in ARGS:
        attack("see the operator's " + key, ENOENT, "the operator's files by their own path", lambda: os.stat(ARGS[key]))
        attack("list the operator's " + key, ENOENT, "the operator's files by their own path", lambda: os.listdir(ARGS[key]))
attack("read what no rule names", EACCES, "mode and mounts let it pass: only Landlock stands here", lambda: open("/run/landlock-witness").close())
control("list the root directory", "what the policy shows may be seen", lambda: os.listdir("/"))
attack("go above the root", ENOENT, "`..` of the root is the root", lambda: os.stat("/../../.." + HOMES))
attack("the root by /proc/self/root", ENOENT, "it must be the sandbox's own root", lambda: os.stat("/proc/self/root" + HOMES))
attack("the root by init's", EACCES, "init's root and mounts would be a second view", lambda: os.listdir("/proc/1/root"))
attack("the directory by init's", EACCES, "init's working directory may lie elsewhere", lambda: os.listdir("/proc/1/cwd"))


def through_a_link(target):
    link = "/sandbox/.link"
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(target, link)
    return read(link)


control("follow a link of one's own", "links work where they lead inside", lambda: (own_file("/tmp/target"), through_a_link("/tmp/target")))
attack("a link out of the workspace", ENOENT, "links are resolved inside", lambda: through_a_link("/etc/shadow"))
attack("a link through init's root", EACCES, "a magic link must not be walked either", lambda: through_a_link("/proc/1/root/etc/shadow"))
attack("a link through the host's workspace path", ENOENT, "links are resolved inside", lambda: through_a_link(ARGS.get("home", "/home") + "/secret"))

# Not writable --------------------------------------------------------------------------------------------------------
control("write the workspace", "it is the agent's", lambda: own_file("/sandbox/.mine"))
control("write /tmp, /var/tmp and /dev/shm", "they are the sandbox's own", lambda: [own_file(d + "/mine") for d in ("/tmp", "/var/tmp", "/dev/shm")])
control("rename, link, truncate and chmod one's own", "the calls themselves are allowed", lambda: (
    own_file("/sandbox/a"), os.rename("/sandbox/a", "/sandbox/b"), os.path.exists("/sandbox/c") or os.link("/sandbox/b", "/sandbox/c"),
    os.truncate("/sandbox/c", 1), os.chmod("/sandbox/b", 0o600), os.utime("/sandbox/b", (1, 1)), os.unlink("/sandbox/c")))
WAITS = "whoever opens it waits for its holder, up to 45 seconds: the operator's editor, or the start of a program"
for name, command, argument in [
    ("lease", 1024, fcntl.F_WRLCK), ("lease for reading", 1024, fcntl.F_RDLCK), ("delegation", 1040, 0),
    ("lease in a wider number", (1 << 32) + 1024, fcntl.F_WRLCK),
]:
    attack("a " + name + " of one's own file", EPERM, WAITS, lambda: call("fcntl", os.open(own_file("/sandbox/leased"), os.O_WRONLY if argument == fcntl.F_WRLCK else os.O_RDONLY), command, argument))
control("locks, owners, seals and sizes of pipes", "the other commands of fcntl(2) are there", lambda: (
    fcntl.lockf(os.open("/sandbox/leased", os.O_RDWR), fcntl.LOCK_EX), fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 9), fcntl.fcntl(0, fcntl.F_GETLEASE),
    fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 8192), fcntl.fcntl(os.memfd_create("m", os.MFD_ALLOW_SEALING), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    fcntl.fcntl(os.open(own_file("/sandbox/locked"), os.O_RDWR), 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))))
for directory, why in [
    ("/", "a file at the root would shadow what programs look for"), ("/usr/bin", "every later program would be the agent's"),
    ("/usr/lib", "a library is code in every program"), ("/etc", "resolver, users, loader settings"), ("/bin", "every shell"),
    ("/run", "sockets that programs trust by place"), ("/run/cofferdam", "the certificates that clients trust"), ("/dev", "a device that isn't one"),
    ("/var", "places that programs trust"),
]:
    attack("make a file in " + directory, (EROFS,), why, lambda: create(directory + "/attack"))
for directory, why in [("/usr/bin", "programs"), ("/run/cofferdam", "trust"), ("/", "the root")]:
    attack("make a directory in " + directory, EROFS, "it would change " + why, lambda: os.mkdir(directory + "/attack"))
attack("make a file in /proc", (ENOENT, EACCES, EROFS), "the kernel's own tree", lambda: create("/proc/attack"))
attack("make a file in /sys/fs/cgroup", (EROFS, EACCES, EPERM, ENOENT), "groups and limits", lambda: create("/sys/fs/cgroup/attack"))
# Rootless, these belong to init, and so to the agent's own user: the mount alone stands.
for path, why in [("/etc/passwd", "users"), ("/etc/hosts", "where names lead"), ("/etc/resolv.conf", "who resolves"),
                  ("/etc/nsswitch.conf", "who is asked"), ("/run/cofferdam/ca-bundle.pem", "who is trusted")]:
    attack("write " + path, by_mode(EACCES, EROFS), why, lambda: open_to_write(path))
attack("write a program", EACCES, "a changed program runs for everybody", lambda: open_to_write("/usr/bin/env"))
attack("remove the CA bundle", EROFS, "clients would trust nothing, or another", lambda: os.unlink("/run/cofferdam/ca-bundle.pem"))
attack("rename the CA bundle", EROFS, "clients would trust another", lambda: os.rename("/run/cofferdam/ca-bundle.pem", "/run/cofferdam/x"))
attack("rename the workspace away", (EROFS, EBUSY), "another directory could stand in its place", lambda: os.rename("/sandbox", "/elsewhere"))
attack("remove /tmp", (EROFS, EBUSY), "another directory could stand in its place", lambda: os.rmdir("/tmp"))
attack("exchange two system files", EROFS, "RENAME_EXCHANGE is a write in two places", lambda: renameat2("/usr/bin/env", "/usr/bin/id", 2))
attack("chmod a system file", EROFS, "modes are writes too, and Landlock doesn't cover them", lambda: os.chmod("/usr/bin/env", 0o777))
attack("chown a system file", EROFS, "owners are writes too, and Landlock doesn't cover them", lambda: os.chown("/usr/bin/env", 1000, 1000))
attack("touch a system file", EROFS, "times are writes too, and Landlock doesn't cover them", lambda: os.utime("/usr/bin/env", (1, 1)))
attack("set an attribute of a system file", EROFS, "attributes are writes too", lambda: os.setxattr("/usr/bin/env", "user.x", b"y"))
attack("truncate a system file", (EACCES, EROFS), "truncate(2) needs no descriptor; which wall is met first is the kernel's affair", lambda: os.truncate("/usr/bin/env", 0))


# Across the boundary: a directory that the operator lends for reading, its files writable for everybody outside -------
if "lent" in ARGS:
    LENT = ARGS["lent"]
    FILE, SUB = LENT + "/file", LENT + "/sub"

    def reopened():
        fd = os.open(FILE, os.O_RDONLY)
        try:
            open_to_write("/proc/self/fd/%d" % fd)
        finally:
            os.close(fd)

    def by_descriptor(change):
        fd = os.open(FILE, os.O_RDONLY)
        try:
            return change(fd)
        finally:
            os.close(fd)

    def by_path_descriptor(change):
        fd = os.open(FILE, os.O_PATH)
        try:
            return change(fd)
        finally:
            os.close(fd)

    control("read what is lent", "the file is there, and open to everybody's writing outside", lambda: expect(read(FILE) == b"lent" and os.stat(FILE).st_mode & 0o777 == 0o666))
    LAW = "the operator said: for reading"
    attack("write what is lent", EROFS, LAW, lambda: open_to_write(FILE))
    attack("append to what is lent", EROFS, LAW, lambda: open_to_write(FILE, os.O_APPEND))
    attack("open and truncate what is lent", EROFS, LAW, lambda: open_to_write(FILE, os.O_TRUNC))
    attack("truncate what is lent", EROFS, LAW, lambda: os.truncate(FILE, 0))
    attack("truncate by a reading descriptor", EINVAL, LAW, lambda: by_descriptor(lambda fd: os.ftruncate(fd, 0)))
    attack("reopen a reading descriptor for writing", EROFS, "/proc/self/fd is a second open(2)", reopened)
    attack("reopen a path descriptor for writing", EROFS, "O_PATH checks nothing, its reopening must", lambda: by_path_descriptor(lambda fd: open_to_write("/proc/self/fd/%d" % fd)))
    attack("map what is lent for shared writing", EACCES, "a mapping is a write without write(2)", lambda: by_descriptor(lambda fd: mmap.mmap(fd, 4, mmap.MAP_SHARED, mmap.PROT_WRITE)))
    attack("chmod what is lent", (EROFS, EPERM), LAW, lambda: os.chmod(FILE, 0o600))
    attack("chmod by descriptor", (EROFS, EPERM), LAW, lambda: by_descriptor(lambda fd: os.fchmod(fd, 0o600)))
    attack("touch what is lent", EROFS, LAW, lambda: os.utime(FILE, None))
    attack("remove what is lent", EROFS, LAW, lambda: os.unlink(FILE))
    attack("make a file in a lent directory", EROFS, LAW, lambda: create(SUB + "/new"))
    attack("make an unnamed file in a lent directory", EROFS, "O_TMPFILE can be linked later", lambda: os.close(os.open(SUB, os.O_TMPFILE | os.O_RDWR, 0o600)))
    attack("make a link in a lent directory", EROFS, "the operator would follow it", lambda: os.symlink("/etc/shadow", SUB + "/link"))
    attack("rename within a lent directory", EROFS, LAW, lambda: os.rename(FILE, SUB + "/moved"))
    attack("move a file out", EXDEV, "moving is removing", lambda: os.rename(FILE, "/sandbox/moved"))
    attack("move a file in", EXDEV, "moving is making", lambda: (own_file("/sandbox/evil"), os.rename("/sandbox/evil", SUB + "/evil")))
    attack("hard-link a lent file into the workspace", EXDEV, "the workspace's name of it would be writable", lambda: os.link(FILE, "/sandbox/linked"))
    attack("hard-link by descriptor", (ENOENT, EXDEV, EPERM), "AT_EMPTY_PATH needs no name", lambda: by_descriptor(lambda fd: linkat_empty(fd, "/sandbox/linked")))
    attack("hard-link through /proc/self/fd", EXDEV, "AT_SYMLINK_FOLLOW needs no name", lambda: by_descriptor(lambda fd: os.link("/proc/self/fd/%d" % fd, "/sandbox/linked", follow_symlinks=True)))
    attack("see beside what is lent", ENOENT, "the directory above it is not lent", lambda: os.stat(LENT + "/../hidden/file"))

attack("hard-link a set-id program", EXDEV, "an old, vulnerable one could be kept past its upgrade", lambda: os.link("/usr/bin/passwd", "/sandbox/passwd"))
attack("hard-link /etc/passwd", EXDEV, "the workspace's name of it would be writable", lambda: os.link("/etc/passwd", "/sandbox/users"))
attack("overwrite through the workspace's own path on another mount", (EROFS, EACCES, ENOENT), "bind mounts share inodes", lambda: open_to_write("/proc/self/root/usr/bin/env"))
attack("the kernel's file handles", EPERM, "a handle opens any file of its filesystem (the Shocker escape)", lambda: call("open_by_handle_at", -100, ctypes.create_string_buffer(32), 0))
attack("make a file handle", EPERM, "half of the same escape", lambda: call("name_to_handle_at", -100, b"/sandbox", ctypes.create_string_buffer(160), ctypes.create_string_buffer(8), 0))
attack("openat2", ENOSYS, "its mode and flags lie in memory, where no filter can judge them", lambda: call("openat2", -100, b"/sandbox", ctypes.create_string_buffer(24), 24))

# Set-id bits and devices ----------------------------------------------------------------------------------------------
SET_ID = "inside it is inert, but the workspace exists outside too, where somebody could run it"
attack("chmod u+s", EPERM, SET_ID, lambda: os.chmod(own_file("/sandbox/suid"), 0o4755))
attack("chmod g+s", EPERM, SET_ID, lambda: os.chmod(own_file("/sandbox/suid"), 0o2755))
attack("chmod u+s of a directory", EPERM, SET_ID, lambda: (os.path.isdir("/sandbox/d") or os.mkdir("/sandbox/d"), os.chmod("/sandbox/d", 0o6755)))
attack("fchmod u+s", EPERM, SET_ID, lambda: os.fchmod(os.open(own_file("/sandbox/suid"), os.O_RDONLY), 0o4755))
attack("fchmodat2 u+s", EPERM, SET_ID, lambda: call("fchmodat2", -100, own_file("/sandbox/suid").encode(), 0o4755, 0))
attack("create with u+s", EPERM, SET_ID, lambda: create("/sandbox/born-suid", 0o4755))
attack("create unnamed with u+s", EPERM, SET_ID, lambda: os.close(os.open("/sandbox", os.O_TMPFILE | os.O_RDWR, 0o4755)))
attack("chmod u+s with high bits", EPERM, "as an int the mode is the same: 64-bit comparing filters let it pass", lambda: call("fchmodat", -100, own_file("/sandbox/suid").encode(), 0o4755 | 1 << 32))
attack("mknod u+s", EPERM, SET_ID, lambda: os.mknod("/sandbox/born-suid", stat.S_IFREG | 0o4755))
attack("file capabilities", EPERM, SET_ID, lambda: os.setxattr(own_file("/sandbox/suid"), "security.capability", bytes([1, 0, 0, 2]) + b"\xff" * 16))
attack("file capabilities of one's own namespace", EPERM, "version 3 of them needs CAP_SETFCAP there", lambda: os.setxattr(own_file("/sandbox/suid"), "security.capability", bytes([1, 0, 0, 3]) + b"\xff" * 16 + bytes(4)))
attack("a trusted attribute", EPERM, "overlay and others believe them", lambda: os.setxattr(own_file("/sandbox/suid"), "trusted.overlay.opaque", b"y"))
attack("give a file to another user", by_mode((EPERM, "EOVERFLOW"), EINVAL), "quota and trust follow the owner; rootless no other user has a name", lambda: os.chown(own_file("/sandbox/mine"), 0, -1))
for kind, name in ((stat.S_IFCHR, "character"), (stat.S_IFBLK, "block")):
    attack("make a %s device" % name, EPERM, "a device node is the device", lambda: os.mknod("/tmp/device", kind | 0o600, os.makedev(1, 1)))
control("make a pipe and a socket file", "nodes that are no devices are ordinary work", lambda: (os.mkfifo("/tmp/fifo"), os.mknod("/tmp/socket", stat.S_IFSOCK | 0o600)))
attack("freeze the workspace's filesystem", (EPERM, ENOTTY, "EOPNOTSUPP"), "FIFREEZE stops every writer of that disk", lambda: ioctl("/sandbox", 0xC0045877))
attack("make a file immutable", (EPERM, ENOTTY, "EOPNOTSUPP", EINVAL), "the operator could no longer remove it", lambda: set_flags(own_file("/sandbox/mine"), 0x10))
attack("put a file into another project's quota", (EPERM, EINVAL, ENOTTY, "EOPNOTSUPP"), "disk limits are counted by project", lambda: set_project(own_file("/sandbox/mine"), 4242))


# Mounts as they are ---------------------------------------------------------------------------------------------------
def mounts():
    for line in open("/proc/self/mountinfo"):
        fields = line.split()
        yield fields[4], set(fields[5].split(",")), fields[fields.index("-") + 1]


OPEN_PLACES = {"/sandbox", "/tmp", "/dev/shm", "/dev/pts"} | {p for p in ARGS.get("given", "").split(",") if p}
DEVICES = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts"}
attack("a mount without nosuid", NOTHING, "set-id programs would gain what they say", lambda: nothing([p for p, o, _ in mounts() if "nosuid" not in o]))
attack("a mount without nodev", NOTHING, "a device node would be a device", lambda: nothing([p for p, o, _ in mounts() if "nodev" not in o and p not in DEVICES]))
attack("a writable mount that isn't ours", NOTHING, "the policy names what may be written", lambda: nothing([p for p, o, _ in mounts() if "ro" not in o and p not in OPEN_PLACES | DEVICES]))
attack("a mount that is shared with the host", NOTHING, "mounts made here would appear there", lambda: nothing([l for l in open("/proc/self/mountinfo") if " shared:" in l or " master:" in l]))
control("the workspace and /tmp are mounted", "the list above is not empty", lambda: expect({"/sandbox", "/tmp"} <= {p for p, _, _ in mounts()}))
attack("run a program in /dev/shm", EACCES, "nothing is ever run there: noexec", lambda: in_child(lambda: os.execv(own_file("/dev/shm/p", b"#!/bin/sh\necho ran\n", 0o755), ["p"])))
control("run a program in /tmp and in the workspace", "builds do that", lambda: [in_child(lambda: os.spawnv(os.P_WAIT, own_file(p, b"#!/bin/sh\nexit 0\n", 0o755), ["p"]) == 0 or 1 / 0) for p in ("/tmp/p", "/sandbox/p")])

# Devices --------------------------------------------------------------------------------------------------------------
control("/dev/null, zero, urandom", "programs need them", lambda: (open_to_write("/dev/null"), read("/dev/zero", 4), read("/dev/urandom", 4)))
attack("any other device", NOTHING, "every device node is a door to the kernel or the machine", lambda: nothing(
    ["/dev/" + d for d in os.listdir("/dev")], *DEVICES, "/dev/shm", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx", "/dev/.empty", "/dev/.empty.d"))
for name, why in [("mem", "physical memory"), ("kmem", "kernel memory"), ("kmsg", "the kernel's log"), ("port", "hardware"), ("fuse", "file systems of one's own"),
                  ("kvm", "machines of one's own"), ("net/tun", "packets past the proxy"), ("vhost-vsock", "other machines"), ("userfaultfd", "stops the kernel in the middle of a copy"),
                  ("uinput", "types for the operator"), ("snapshot", "the machine's memory"), ("loop-control", "mounts"), ("mapper/control", "disks"), ("console", "the machine's console"),
                  ("cpu/0/msr", "the processor's registers"), ("vda", "the disk"), ("sda", "the disk"), ("rtc0", "the clock"), ("hpet", "the clock"), ("dri", "graphics memory")]:
    attack("find /dev/" + name, ENOENT, why, lambda: os.stat("/dev/" + name))
attack("stir the kernel's random pool", (EPERM, EACCES), "RNDADDENTROPY makes random numbers foreseeable", lambda: ioctl("/dev/urandom", 0x40085203))
attack("another's pseudo-terminal", NOTHING, "the host's terminals would be listed here", lambda: nothing(os.listdir("/dev/pts"), "ptmx", *[str(n) for n in range(8)] if "tty" in ARGS else []))
