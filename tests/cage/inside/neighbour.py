"""A victim: an agent with something to lose, which notices whatever is done to it, and writes down what at its end.

Arguments: where to write down where everything is, for the attacker, who shall want for nothing.
"""
import ctypes, json, os, resource, signal, socket, sys, threading

SECRET = b"victim-secret-" + os.urandom(8).hex().encode()
libc = ctypes.CDLL(None, use_errno=True)
lost = []
limits = {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")}
nice, affinity = os.nice(0), sorted(os.sched_getaffinity(0))
for number in set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCHLD, signal.SIGCONT}:
    signal.signal(number, lambda n, _: lost.append("got signal %d" % n))
ending = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ending.set())

memory = ctypes.create_string_buffer(SECRET, len(SECRET))
abstract, path, tcp = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX), socket.socket()
datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
abstract.bind("\0" + sys.argv[2])
datagrams.bind("\0" + sys.argv[2] + "-d")
path.bind("/tmp/victim.sock")
tcp.bind(("127.0.0.1", 0))
for s in (abstract, path, tcp):
    s.listen()
shm = libc.shmget(0x5EC2E7, 4096, 0o1600)
private = os.memfd_create("victim")
os.write(private, SECRET)
with open("/tmp/victim.txt", "wb") as f:
    f.write(SECRET)
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
    os._exit(0)
with open(sys.argv[1] + ".new", "w") as f:
    json.dump(dict(pid=os.getpid(), child=child, address=ctypes.addressof(memory), port=tcp.getsockname()[1], shm=shm, memfd=private, secret=SECRET.decode()), f)
os.rename(sys.argv[1] + ".new", sys.argv[1])
print("ready", flush=True)
while not ending.wait(0.05):
    pass
if memory.raw[:len(SECRET)] != SECRET:
    lost.append("its memory changed")
if os.lseek(private, 0, 0) or os.read(private, 99) != SECRET:
    lost.append("its file in memory changed")
if os.waitpid(child, os.WNOHANG) != (0, 0):
    lost.append("its child is gone")
for name, before in limits.items():
    if resource.getrlimit(getattr(resource, name)) != before:
        lost.append("its %s became %s" % (name, resource.getrlimit(getattr(resource, name))))
if os.nice(0) != nice or sorted(os.sched_getaffinity(0)) != affinity:
    lost.append("its priority or processors changed")
os.kill(child, signal.SIGKILL)
with open("/sandbox/lost", "w") as f:
    json.dump(lost, f)
