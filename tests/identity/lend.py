# Ways in which a program that may not speak (or may not with code of unknown origin) makes a connection and lets
# another hold it while it is looked at. Each prints the proxy's answers, or how the attempt failed.
import array, ctypes, errno, mmap, os, socket, sys, threading, time

PROXY = ('127.0.0.1', 3128)
ASK = b'CONNECT api.bed.test:443 HTTP/1.1\r\nHost: api.bed.test:443\r\n\r\n'
CLIENT = '/sandbox/client'  # allowed, and does nothing but hold what it inherits


def code(s):
    s.settimeout(60)
    try:
        got = s.recv(100)
    except OSError as e:
        return errno.errorcode.get(e.errno, 'timeout')
    return got.split(b' ')[1].decode() if b' ' in got else 'closed'


def tcp():
    s = socket.socket()
    s.set_inheritable(True)
    return s


def wait_for_client(pid):
    while os.readlink('/proc/%d/exe' % pid) != CLIENT:
        time.sleep(0.005)


def holder(s, go=None):
    """A child that holds the socket and executes the allowed program, at once or when told."""
    pid = os.fork()
    if pid == 0:
        if go is not None:
            os.close(go[1])
            os.read(go[0], 1)
        os.execv(CLIENT, [CLIENT, '30'])
    return pid


def in_flight(s):
    """Where no process holds it, and where it can be taken from again."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    socket.send_fds(a, [b'x'], [s.fileno()])
    s.close()
    return a, b


def take_back(pair):
    return socket.socket(fileno=socket.recv_fds(pair[1], 1, 1)[1][0])


def done(pid):
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def own():
    s = socket.create_connection(PROXY, 60)
    s.sendall(ASK)
    return code(s)


def waiting():
    """The allowed program has inherited the socket long before it is connected."""
    s = tcp()
    pid = holder(s)
    wait_for_client(pid)
    s.connect(PROXY)
    s.sendall(ASK)
    pair = in_flight(s)
    time.sleep(0.5)
    answer = code(take_back(pair))
    done(pid)
    return answer


def execed():
    """A child executes the allowed program as soon as the connection is made."""
    s, go = tcp(), os.pipe()
    pid = holder(s, go)
    s.connect(PROXY)
    os.write(go[1], b'x')
    s.sendall(ASK)
    pair = in_flight(s)
    time.sleep(0.5)
    answer = code(take_back(pair))
    done(pid)
    return answer


def became(threaded=False, argv=(CLIENT, '30'), foreign=False):
    """The very process that connects executes the allowed program; a helper takes the connection back."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        if foreign:
            page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                             prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        s = tcp()
        if threaded:
            # The copy is sent before: it is the same socket.
            socket.send_fds(a, [b'x'], [s.fileno()])
            threading.Thread(target=s.connect, args=(PROXY,)).start()
        else:
            s.connect(PROXY)
            s.sendall(ASK)
            socket.send_fds(a, [b'x'], [s.fileno()])
        os.execv(argv[0], list(argv))
    a.close()
    time.sleep(0.5)
    s = socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0])
    if threaded:
        try:
            s.send(ASK)
        except OSError as e:
            done(pid)
            return errno.errorcode[e.errno]
    answer = code(s)
    done(pid)
    return answer


def swapped():
    """Another thread puts the socket at the number that was noted, while connect waits."""
    s, dummy = tcp(), tcp()
    pid = holder(s)
    wait_for_client(pid)
    number = os.dup(dummy.fileno())
    libc = ctypes.CDLL(None)
    raw = (socket.AF_INET).to_bytes(2, 'little') + PROXY[1].to_bytes(2, 'big') + socket.inet_aton(PROXY[0]) + bytes(8)
    over = threading.Event()

    def swap():
        while not over.is_set():
            libc.dup2(s.fileno(), number)
            libc.dup2(dummy.fileno(), number)

    thread = threading.Thread(target=swap)
    thread.start()
    libc.connect(number, raw, len(raw))
    over.set()
    thread.join()
    os.close(number)
    dummy.close()
    try:
        s.getpeername()
        s.sendall(ASK)
    except OSError as e:
        done(pid)
        return errno.errorcode[e.errno]
    pair = in_flight(s)
    time.sleep(0.2)
    answer = code(take_back(pair))
    done(pid)
    return answer


def fast_open():
    s = tcp()
    try:
        s.sendto(ASK, 0x20000000, PROXY)
    except OSError as e:
        return errno.errorcode[e.errno]
    return code(s)


def fast_open_connect():
    """The other spelling goes through connect, and is as good as any."""
    s = tcp()
    s.setsockopt(socket.IPPROTO_TCP, 30, 1)
    s.connect(PROXY)
    s.sendall(ASK)
    return code(s)


def many(count):
    """As many connections as that at once; how many were let through."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(own())) for _ in range(count)]
    for t in threads: t.start()
    for t in threads: t.join()
    return answers.count('200')


def main():
    for word in sys.argv[1:]:
        what, _, argument = word.partition(':')
        if what == 'many':
            print(many(int(argument)), flush=True)
        elif what == 'clean':
            print(became(argv=(sys.executable, '-c', 'import time; time.sleep(30)'), foreign=True), flush=True)
        elif what == 'threaded':
            print(*{became(threaded=True) for _ in range(int(argument or 1))}, flush=True)
        else:
            tries = int(argument or 1)
            print(*sorted({globals()[what]() for _ in range(tries)}), flush=True)


main()
