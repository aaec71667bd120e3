"""Terminals: none of the host's is there, and nothing can be typed for somebody else, not even on one's own.

Run with `tty=1` it stands on a terminal that cofferdam gave it.
"""
import fcntl, pty, struct, termios, time

from probe import *

TYPES = dict(TIOCSTI=0x5412, TIOCLINUX=0x541C, TIOCCONS=0x541D, TIOCSETD=0x5423)
WHY = dict(TIOCSTI="types as if the terminal's user had: an operator's shell would run it", TIOCLINUX="pastes into the console",
           TIOCCONS="takes the console's output", TIOCSETD="loads a line discipline: old code of the kernel's")
BYTE = ctypes.create_string_buffer(b"x")


def size_of(fd):
    return struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))


def own():
    """A terminal of our own, and a session led by us on it."""
    outer, inner = pty.openpty()
    os.setsid()
    fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
    return inner


def steal():
    """Tries to take the terminal that another session leads."""
    _, inner = pty.openpty()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
        os.write(told, b"x")
        time.sleep(30)
        os._exit(0)
    try:
        os.read(ready, 1)
        return in_child(lambda: (os.setsid(), fcntl.ioctl(inner, termios.TIOCSCTTY, 1)))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


control("open a terminal of one's own", "tmux, script and expect do", lambda: [os.close(fd) for fd in pty.openpty()])
control("resize it", "ioctl itself is allowed", lambda: (lambda outer, inner: (fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0)), expect(size_of(inner)[:2] == (33, 99))))(*pty.openpty()))
control("control it", "sessions of one's own are ordinary work", lambda: in_child(lambda: expect(os.tcgetpgrp(own()) == os.getpgrp())))
for name, request in TYPES.items():
    attack(name + " on one's own terminal", EPERM, WHY[name], lambda: in_child(lambda: call("ioctl", own(), request, BYTE)))
    attack(name + " with high bits", EPERM, "the request is an int: comparing 64 bits lets it pass (CVE-2019-10063)", lambda: in_child(lambda: call("ioctl", own(), request | 1 << 32, BYTE)))
    attack(name + " on a stream", EPERM, WHY[name], lambda: call("ioctl", 0, request, BYTE))
attack("take a terminal from another session", EPERM, "TIOCSCTTY with force needs a capability", lambda: steal())

if "tty" in ARGS:
    control("stand on a terminal", "of the sandbox's own", lambda: expect(os.isatty(0) and os.ttyname(0).startswith("/dev/pts/"), os.ttyname(0)))
    control("lead a session", "of one's own", lambda: expect(os.getsid(0) in (os.getpid(), os.getppid()) and os.tcgetpgrp(0) == os.getpgrp()))
    control("open it again by its names", "programs do", lambda: [os.close(os.open(n, os.O_RDWR | os.O_NOCTTY)) for n in ("/dev/tty", os.ttyname(0))])
    attack("type into the terminal that we stand on", EPERM, "what is typed there, the operator's shell would read once we are gone", lambda: call("ioctl", os.open("/dev/tty", os.O_RDWR), TYPES["TIOCSTI"], BYTE))
    attack("a terminal of the host's", NOTHING, "the operator's own terminal is another device, on another mount", lambda: nothing([fd for fd in (0, 1, 2) if os.fstat(fd).st_dev != os.stat("/dev/pts").st_dev]))
else:
    attack("a controlling terminal", ENXIO, "an agent without one must not find the operator's", lambda: os.open("/dev/tty", os.O_RDWR))
    control("lead a session of one's own", "signals of the operator's terminal don't come here", lambda: expect(os.getsid(0) == os.getpid()))
