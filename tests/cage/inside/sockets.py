"""Sockets: which can be made, whom they reach, and whom one can pretend to be."""
import socket, struct
from probe import *

MARK = ARGS.get("mark", "nobody")


def made(family, kind, protocol=0):
    fd = call("socket", family, kind, protocol)
    os.close(fd)
    return "made"


def libc_raises(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# Which can be made ---------------------------------------------------------------------------------------------------------
STREAM, DATAGRAM, RAW, SEQPACKET = 1, 2, 3, 5
for family, kind, protocol, name in [(1, STREAM, 0, "unix stream"), (1, SEQPACKET, 0, "unix seqpacket"), (2, STREAM, 0, "TCP"), (2, DATAGRAM, 17, "UDP"), (10, STREAM, 6, "TCP over IPv6"), (10, DATAGRAM, 0, "UDP over IPv6"), (16, RAW, 0, "route netlink")]:
    control("a %s socket" % name, "ordinary work", lambda: made(family, kind, protocol))
FAMILIES = dict(ax25=3, ipx=4, appletalk=5, netrom=6, bridge=7, atmpvc=8, x25=9, rose=11, decnet=12, netbeui=13, security=14, key=15, packet=17, ash=18, econet=19, atmsvc=20, rds=21, irda=23, pppox=24,
                wanpipe=25, llc=26, infiniband=27, mpls=28, can=29, tipc=30, bluetooth=31, iucv=32, rxrpc=33, isdn=34, phonet=35, ieee802154=36, caif=37, alg=38, nfc=39, vsock=40, kcm=41, qipcrtr=42, smc=43, xdp=44, mctp=45)
for name, family in FAMILIES.items():
    attack("a socket of the family " + name, EPERM, "rarely looked at code in the kernel, and no wall of ours knows it", lambda: [made(family, kind) for kind in (RAW, DATAGRAM, STREAM, SEQPACKET)])
for family, kind, protocol, name, why in [
    (2, RAW, 1, "raw ICMP", "packets of any kind"), (2, RAW, 255, "raw IP", "packets of any kind"), (10, RAW, 58, "raw ICMPv6", "packets of any kind"), (2, DATAGRAM, 1, "ping", "a protocol that the proxy doesn't speak"),
    (2, STREAM, 262, "multipath TCP", "Landlock's rules for TCP don't cover it"), (2, STREAM, 132, "SCTP", "Landlock's rules for TCP don't cover it"), (2, SEQPACKET, 132, "SCTP packet", "Landlock's rules for TCP don't cover it"),
    (2, 6, 33, "DCCP", "long a source of kernel holes"), (2, DATAGRAM, 136, "UDP-Lite", "no wall of ours knows it"), (2, DATAGRAM, 115, "L2TP", "no wall of ours knows it"), (2, 10, 0, "SOCK_PACKET", "packets of any kind"),
    (2, STREAM, 256, "SMC", "no wall of ours knows it"), (17, RAW, 0x0300, "packet for everything", "sees every packet"),
]:
    attack("a %s socket" % name, EPERM, why, lambda: made(family, kind, protocol))
for protocol, name in enumerate("unused usersock firewall sock_diag nflog xfrm selinux iscsi audit fib_lookup connector netfilter ip6_fw dnrtmsg uevent generic".split(), 1):
    attack("a netlink socket for " + name, EPERM, "of netlink only the list of interfaces and routes is harmless", lambda: made(16, RAW, protocol))
def option(name, bytes):
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, name, bytes)
    return "set"


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


# One instruction that lets everything pass: `ret 0xffff`.
CODE = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0xFFFF))
PROGRAM = bytes(Program(1, ctypes.cast(CODE, ctypes.c_void_p)))
control("an option of a socket", "ordinary work", lambda: option(socket.SO_KEEPALIVE, 1))
for name, number, value in [("SO_ATTACH_FILTER", 26, PROGRAM), ("SO_ATTACH_REUSEPORT_CBPF", 51, PROGRAM), ("SO_ATTACH_BPF", 50, b"\0\0\0\0"), ("SO_ATTACH_REUSEPORT_EBPF", 52, b"\0\0\0\0")]:
    attack(name, EPERM, "code that the kernel runs, in memory that the whole machine shares: where it is full nobody gets a filter", lambda: option(number, value))
attack("a raw socket with high bits in its family", EPERM, "ints: comparing 64 bits lets them pass", lambda: made(2 | 1 << 32, RAW | 1 << 32, 1))
attack("a TCP socket whose type has unknown bits", EPERM, "flags of a later kernel", lambda: made(2, STREAM | 0x100000, 0))
attack("a socket pair of another family", EPERM, "TIPC has them, and had holes", lambda: libc_raises(libc.socketpair(30, STREAM, 0, (ctypes.c_int * 2)())))


# Whom they reach ---------------------------------------------------------------------------------------------------------------
def exchange(address, request, family=socket.AF_INET):
    """What a server answers; an error when there is none that does."""
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(20)
        s.connect(address)
        s.sendall(request)
        return s.recv(4096)


def reaches(address, host, family=socket.AF_INET):
    """Arrives at a server outside, unasked: a refusal of the proxy's is no arrival."""
    answer = exchange(address, b"GET /echo?m=%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (MARK.encode(), host.encode()), family)
    return nothing(answer if answer.startswith(b"HTTP/1.1 200") else b"")


def datagram(address):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect(address)
    s.send(b"x")
    s.send(b"x")
    # Somebody of the sandbox's own may take it, to refuse it; an answer would be a way out.
    return nothing(s.recv(512))


def abstract_pair():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0own-%d" % os.getpid())
    listener.listen()
    socket.socket(socket.AF_UNIX).connect("\0own-%d" % os.getpid())


NOWHERE = ("ENETUNREACH", ECONNREFUSED, EACCES, EPERM, "EHOSTUNREACH", "ETIMEDOUT", "TimeoutError", "ECONNRESET", "EADDRNOTAVAIL", NOTHING)
control("the proxy answers", "the namespace isn't dead", lambda: expect(exchange(("127.0.0.1", 3128), b"GET http://evil.bed.test/ HTTP/1.1\r\nHost: evil.bed.test\r\n\r\n").startswith(b"HTTP/1.1 403")))
for address, host, why in [
    (("93.184.215.14", 443), "evil.bed.test", "a server of the world"), (("93.184.215.14", 80), "evil.bed.test", "a server of the world"), (("169.254.169.254", 80), "169.254.169.254", "the machine's own credentials"), (("10.0.0.7", 80), "10.0.0.7", "the operator's network"),
    (("192.168.1.1", 80), "192.168.1.1", "the operator's router"), (("127.0.0.1", 8000), "localhost", "a server on the machine's loopback"), (("0.0.0.0", 8000), "localhost", "the same by another spelling"), (("127.1.2.3", 8000), "localhost", "the same by another spelling"),
]:
    attack("reach %s:%d past the proxy" % address, NOWHERE, why, lambda: reaches(address, host))
attack("reach the loopback by a mapped address", NOWHERE, "::ffff:127.0.0.1", lambda: reaches(("::ffff:127.0.0.1", 8000), "localhost", socket.AF_INET6))
for address, why in [(("93.184.215.14", 53), "a tunnel through names"), (("8.8.8.8", 53), "a resolver outside"), (("224.0.0.251", 5353), "the operator's network"), (("255.255.255.255", 67), "the operator's network")]:
    attack("send a datagram to %s:%d" % address, ("ENETUNREACH", EPERM, EACCES, ECONNREFUSED, "EHOSTUNREACH"), why, lambda: datagram(address))


attack("TCP fast open past connect", "ENOTSUP", "MSG_FASTOPEN connects without connect(2)", lambda: nothing(0 * socket.socket().sendto(b"x", 0x20000000, ("93.184.215.14", 80))))
attack("connect to the machine's abstract socket", (ECONNREFUSED, EPERM), "abstract names go by network namespace", lambda: socket.socket(socket.AF_UNIX).connect("\0" + ARGS.get("abstract", "nobody")))
for path in ("/run/dbus/system_bus_socket", "/run/docker.sock", "/run/systemd/private", "/tmp/.X11-unix/X0") + ((ARGS["control"],) if "control" in ARGS else ()):
    attack("connect to " + (path if path != ARGS.get("control") else "cofferdam's control socket"), ENOENT, "whoever answers there does things for us", lambda: socket.socket(socket.AF_UNIX).connect(path))
control("an abstract socket of one's own", "unix sockets are ordinary work", lambda: abstract_pair())


# Whom one can pretend to be -------------------------------------------------------------------------------------------------------
def bound(address, kind=socket.SOCK_STREAM, family=socket.AF_INET):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(address)
    if kind == socket.SOCK_STREAM:
        s.listen()
    return s


control("listen on a port of one's own", "loopback servers are ordinary work", lambda: bound(("127.0.0.1", 0)))
IMPOSTOR = "other programs would take us for cofferdam, and give us what they mean for the world"
for address, family in [(("127.0.0.1", 3128), socket.AF_INET), (("0.0.0.0", 3128), socket.AF_INET), (("::", 3128), socket.AF_INET6), (("::ffff:127.0.0.1", 3128), socket.AF_INET6)]:
    attack("listen as the proxy on %s:%d" % address, EADDRINUSE, IMPOSTOR, lambda: bound(address, family=family))
for port in (53, 80, 443):
    attack("listen as a service of cofferdam's on port %d" % port, (EACCES, EADDRINUSE), IMPOSTOR, lambda: bound(("127.0.0.1", port)))
    attack("listen on every address on port %d" % port, (EACCES, EADDRINUSE), IMPOSTOR, lambda: bound(("0.0.0.0", port)))
for address in ("127.0.0.53", "127.0.0.1", "0.0.0.0"):
    attack("answer DNS on " + address, (EACCES, EADDRINUSE), "a shared UDP port goes to whoever bound it last", lambda: bound((address, 53), socket.SOCK_DGRAM))


def credentials(pid, uid):
    a, b = socket.socketpair()
    return a.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, struct.pack("iII", pid, uid, 1000))])


control("send one's credentials", "the kernel checks them", lambda: credentials(os.getpid(), 1000))
attack("send init's credentials", EPERM, "whoever asks the kernel would be told that it was pid 1", lambda: credentials(1, 1000))
attack("send another user's credentials", (EPERM, EINVAL), "whoever asks the kernel would be told that it was root", lambda: credentials(os.getpid(), 0))

# The network's own switches -------------------------------------------------------------------------------------------------------------
def route_netlink(kind, flags, payload):
    """One request; its answer's errno."""
    s = socket.socket(16, RAW, 0)
    s.bind((0, 0))
    s.send(struct.pack("IHHII", 16 + len(payload), kind, flags | 5, 1, 0) + payload)
    length, kind, _, _, _ = struct.unpack_from("IHHII", answer := s.recv(8192))
    number = -struct.unpack_from("i", answer, 16)[0] if kind == 2 else 0
    if number:
        raise OSError(number, os.strerror(number))


def interface(request, name=b"lo", flags=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return call("ioctl", s.fileno(), request, struct.pack("16sH22x", name, flags))


control("list interfaces by netlink", "runtimes do", lambda: route_netlink(18, 0x300, struct.pack("BxHiII", 0, 0, 0, 0, 0)))
control("ask for an interface by ioctl", "runtimes do", lambda: interface(0x8913))
attack("switch the loopback off", EPERM, "cofferdam's listeners are on it", lambda: interface(0x8914, flags=0))
attack("switch the loopback off by netlink", EPERM, "cofferdam's listeners are on it", lambda: route_netlink(16, 0, struct.pack("BxHiII", 0, 0, 1, 0, 1)))
attack("add an address by netlink", EPERM, "whoever answers there would be us", lambda: route_netlink(20, 0x600, struct.pack("BBBBI", 2, 32, 0, 254, 1) + struct.pack("HH4B", 8, 2, 93, 184, 215, 14)))
attack("add a route by netlink", EPERM, "packets would go elsewhere", lambda: route_netlink(24, 0x600, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 2, 0)))
attack("make a tunnel by netlink", EPERM, "an interface of one's own", lambda: route_netlink(16, 0x600, struct.pack("BxHiII", 0, 0, 0, 0, 0) + struct.pack("HH", 16, 18 | 0x8000) + struct.pack("HH", 10, 1) + b"dummy\0\0\0"))
attack("one's socket's network namespace", (EPERM, ENOTTY), "SIOCGSKNS hands out a descriptor", lambda: (lambda s: call("ioctl", s.fileno(), 0x894C, 0))(socket.socket()))
for level, option, value, name, why in [(1, 36, 1, "SO_MARK", "the mark chooses routes"), (1, 33, 1 << 30, "SO_RCVBUFFORCE", "the kernel's memory"), (1, 32, 1 << 30, "SO_SNDBUFFORCE", "the kernel's memory"), (0, 19, 1, "IP_TRANSPARENT", "others' addresses as one's own"),
                                        (6, 19, 1, "TCP_REPAIR", "connections that never were"), (1, 12, 7, "SO_PRIORITY 7", "the queue's head")]:
    attack("set " + name, EPERM, why, lambda: socket.socket().setsockopt(level, option, value))
