"""A busy agent: counts aloud, opens new connections all the time, and holds a stream open. On SIGTERM it says how it went:
END {"counted", "requests", "refused", "cut", "streams_lost", "ticks", "worst_ms"}. Until then `/sandbox/alive` has how many
requests were answered and ticks heard. Standard library only."""
import base64, json, os, signal, socket, ssl, sys, threading, time

going = True
stats = dict(counted=0, requests=0, refused=0, cut=0, streams_lost=0, ticks=0, worst_ms=0.0, errors=[])


def end(*_):
    global going
    going = False


signal.signal(signal.SIGTERM, end)


def note(kind, what):
    stats[kind] += 1
    if len(stats["errors"]) < 20:
        stats["errors"].append(f"{kind}: {what}")


def head(stream):
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            raise ConnectionError("ended early after %r" % got[:80])
        got += byte
    return got.split(b"\r\n")[0].decode()


def requests():
    """A new connection each time: refused means that nobody listened; cut, that it broke off half-way."""
    while going:
        begun = time.monotonic()
        try:
            s = socket.create_connection(("127.0.0.1", 3128), 20)
        except OSError as e:
            note("refused", repr(e))
            continue
        try:
            s.settimeout(60)
            s.sendall(b"GET http://api.bed.test:8080/ HTTP/1.1\r\nHost: api.bed.test:8080\r\nConnection: close\r\n\r\n")
            status = head(s)
            if " 200" in status:
                stats["requests"] += 1
            elif " 503" in status:
                note("cut", status)
            else:
                note("refused", status)
        except OSError as e:
            note("cut", repr(e))
        finally:
            s.close()
        stats["worst_ms"] = max(stats["worst_ms"], (time.monotonic() - begun) * 1000)
        time.sleep(0.01)


def stream():
    """Server-sent ticks through a TLS tunnel; a gap or an early end is a loss."""
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    while going:
        try:
            s = socket.create_connection(("127.0.0.1", 3128), 20)
            s.sendall(b"CONNECT h1.bed.test:443 HTTP/1.1\r\nHost: h1.bed.test:443\r\n\r\n")
            if " 200" not in head(s):
                raise ConnectionError("no tunnel")
            tls = context.wrap_socket(s, server_hostname="h1.bed.test")
            tls.sendall(b"GET /sse?n=1000000&every=20 HTTP/1.1\r\nHost: h1.bed.test\r\n\r\n")
            lines, expected = tls.makefile("rb"), 1
            tls.settimeout(60)
            while going:
                line = lines.readline()
                if not line:
                    raise ConnectionError("the stream ended at %d" % expected)
                if line.startswith(b"data: tick "):
                    if int(line[11:]) != expected:
                        raise ConnectionError("tick %s instead of %d" % (line, expected))
                    expected += 1
                    stats["ticks"] += 1
        except (OSError, ValueError) as e:
            if going:
                note("streams_lost", repr(e))
                time.sleep(0.05)


def alive():
    """Whoever kills waits for these two to rise: a row of kills is then as slow as the machine, and proves as much on each."""
    while going:
        with open("/sandbox/alive.new", "w") as f:
            f.write("%d %d" % (stats["requests"], stats["ticks"]))
        os.replace("/sandbox/alive.new", "/sandbox/alive")
        time.sleep(0.01)


threads = [threading.Thread(target=f, daemon=True) for f in (requests, stream, alive)]
for t in threads:
    t.start()
while going:
    stats["counted"] += 1
    sys.stdout.write("%d\n" % stats["counted"])
    sys.stdout.flush()
    time.sleep(0.005)
threads[0].join(5)
print("END " + json.dumps(stats), flush=True)
