"""An agent of another sandbox of the same operator: nothing of the first one reaches it, nothing of it reaches that."""
import socket
from probe import *

V = json.load(open("/sandbox/victim.json"))
control("an abstract socket of one's own by that name", "names are free here", lambda: socket.socket(socket.AF_UNIX).bind("\0" + ARGS["abstract"] + "-mine"))
control("a file of one's own by that name", "places are free here", lambda: own_file("/tmp/victim.txt.mine"))
attack("find its file in /tmp", ENOENT, "/tmp is each sandbox's own", lambda: os.stat("/tmp/victim.txt"))
attack("find its socket in /tmp", ENOENT, "/tmp is each sandbox's own", lambda: socket.socket(socket.AF_UNIX).connect("/tmp/victim.sock"))
attack("find anything in /dev/shm", NOTHING, "shared memory is each sandbox's own", lambda: nothing(os.listdir("/dev/shm")))
attack("find its terminal", NOTHING, "terminals are each sandbox's own", lambda: nothing(os.listdir("/dev/pts"), "ptmx"))
attack("connect to its abstract socket", ECONNREFUSED, "abstract names go by network namespace", lambda: socket.socket(socket.AF_UNIX).connect("\0" + ARGS["abstract"]))
attack("connect to its server", ECONNREFUSED, "the loopback is each sandbox's own", lambda: socket.create_connection(("127.0.0.1", V["port"]), 5))
attack("attach its shared memory", (ENOENT, EINVAL), "System V objects go by ipc namespace", lambda: call("shmget", 0x5EC2E7, 0, 0))
attack("its shared memory by number", EINVAL, "System V objects go by ipc namespace", lambda: nothing([] if V["shm"] < 0 else [call("shmctl", V["shm"], 2, ctypes.create_string_buffer(256))]))
attack("find its processes by name", NOTHING, "processes go by pid namespace", lambda: nothing([p for p in os.listdir("/proc") if p.isdigit() and b"neighbour.py" in read("/proc/%s/cmdline" % p, 4096)]))
for name in ("outer", "heart", "supervisor"):
    if name in ARGS:
        attack("find its %s by its number outside" % name, ENOENT, "processes go by pid namespace", lambda: os.stat("/proc/" + ARGS[name]))
        attack("kill its %s by its number outside" % name, ESRCH, "processes go by pid namespace", lambda: os.kill(int(ARGS[name]), 9))
for key in ("workspace", "state"):
    attack("find its %s" % key, ENOENT, "the operator's paths don't exist inside", lambda: os.stat(ARGS[key]))
for kind, number in (a.split(":") for a in ARGS["namespaces"].split(",")):
    attack("be in its %s namespace" % kind, NOTHING, "two sandboxes share none", lambda: nothing([n for n in [os.readlink("/proc/self/ns/" + kind)] if number in n]))
