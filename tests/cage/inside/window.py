"""Looks all the time for processes that are there before they are confined: between init's fork and the program's start
they are cofferdam's own code, under the agent's user."""
from probe import *

def refuse():
    raise OSError(errno.EPERM, "nothing there")


caught, seen, ours = [], set(), os.getpid()
print("looking", flush=True)
while not os.path.exists("/sandbox/stop"):
    with open("/sandbox/seen", "w") as count:
        count.write("%d\n" % len(seen))
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) in (1, ours):
            continue
        seen.add(pid)
        for name, act in (("mem", lambda: os.open("/proc/%s/mem" % pid, os.O_RDONLY)), ("exe", lambda: os.readlink("/proc/%s/exe" % pid)),
                          ("environ", lambda: read("/proc/%s/environ" % pid) or refuse()),
                          ("fd/3", lambda: os.open("/proc/%s/fd/3" % pid, os.O_RDONLY)), ("map_files", lambda: os.listdir("/proc/%s/map_files" % pid) or refuse()),
                          ("SIGKILL", lambda: os.kill(int(pid), 9) if landlock_abi() >= 6 else refuse())):
            try:
                act()
                caught.append((pid, name))
            except OSError:
                pass
control("see processes come and go", "there were some to catch", lambda: expect(len(seen) >= 10, len(seen)))
attack("catch a process before it is confined", NOTHING, "it has init's memory, descriptors and capabilities until it has given them up", lambda: nothing(caught))
