"""Looks for a secret everywhere that an agent can look. The secret comes reversed and in two halves, so that the search
doesn't find itself. Prints one JSON object: where it was found, and how many places were searched."""
import base64, json, os, sys, urllib.parse

half, other = sys.argv[1], sys.argv[2]
key = (other[::-1] + half[::-1]).encode()
needles = [key, base64.b64encode(key)[:-4], urllib.parse.quote(key, safe="").encode()]
# A control that must be found: a word put into this process's environment and into a file by the test.
control = sys.argv[3].encode()
found, controls, searched = [], set(), dict(files=0, environments=0, memory=0)


def look(place, data):
    # This process holds its own needles; only what others hold counts there.
    if any(n in data for n in needles):
        found.append(place)
    if control in data:
        controls.add(place.split(":")[0])


def read(path, most=64 << 20):
    try:
        with open(path, "rb") as f:
            return f.read(most)
    except OSError:
        return None


for top in ("/sandbox", "/tmp", "/run", "/etc", "/var", "/dev/shm"):
    for here, _, names in os.walk(top):
        for name in names:
            path = os.path.join(here, name)
            if os.path.isfile(path) and not os.path.islink(path):
                data = read(path)
                if data is not None:
                    searched["files"] += 1
                    look("file:" + path, data)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        data = read(f"/proc/{pid}/{name}")
        if data and int(pid) != os.getpid():
            searched["environments"] += 1
            look(f"{name}:{pid}", data)
    if int(pid) == os.getpid():
        continue
    try:
        maps = open(f"/proc/{pid}/maps").read().splitlines()
        memory = open(f"/proc/{pid}/mem", "rb", 0)
    except OSError:
        continue
    for line in maps:
        span, permissions = line.split()[:2]
        start, end = (int(x, 16) for x in span.split("-"))
        if "r" not in permissions or end - start > 256 << 20:
            continue
        try:
            memory.seek(start)
            look(f"memory:{pid}", memory.read(end - start))
            searched["memory"] += 1
        except (OSError, ValueError, OverflowError):
            pass
print(json.dumps(dict(found=sorted(set(found)), controls=sorted(controls), searched=searched)))
