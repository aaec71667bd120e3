"""What a client sees of its connection's end: python3 ends.py ROAD KIND MARK, ROAD being `proxy` (CONNECT) or `plain` (no
proxy). Prints `KIND open` when it is up and `KIND ended: …` when it is over; with the standard library alone."""
import os, socket, ssl, struct, sys

road, kind, mark = sys.argv[1:4]
PROXY = ("127.0.0.1", 3128)


def say(text):
    print(f"{kind} {text}", flush=True)


def connect(host, port):
    if road == "plain":
        raw = socket.create_connection((host, port), 20)
    else:
        raw = socket.create_connection(PROXY, 20)
        raw.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        if " 200" not in head(raw).split("\r\n")[0]:
            sys.exit("no tunnel")
    raw.settimeout(60)
    return raw


def tls(host, port, protocol):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    context.set_alpn_protocols([protocol])
    stream = context.wrap_socket(connect(host, port), server_hostname=host, suppress_ragged_eofs=False)
    if stream.selected_alpn_protocol() != protocol:
        sys.exit("another protocol")
    return stream


def head(stream):
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            sys.exit("closed within a head: " + repr(got))
        got += byte
    return got.decode()


def exactly(stream, count):
    got = b""
    while len(got) < count:
        more = stream.recv(count - len(got))
        if not more:
            raise EOFError
        got += more
    return got


def to_end(stream):
    """All that comes, and how it ended."""
    got = b""
    while True:
        try:
            more = stream.recv(65536)
        except ssl.SSLEOFError:
            return got, "cut off"
        except ConnectionResetError:
            return got, "reset"
        if not more:
            return got, "closed"
        got += more


def get(path, host):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def h1_idle():
    stream = tls("api.bed.test", 443, "http/1.1")
    stream.sendall(get(f"/bytes/10?m={mark}", "api.bed.test"))
    head(stream)
    exactly(stream, 10)
    say("open")
    rest, end = to_end(stream)
    say(f"ended: {end}, {len(rest)} bytes")


def h1_silent():
    stream = connect("api.bed.test", 443)
    say("open")
    rest, end = to_end(stream)
    say(f"ended: {end}, {len(rest)} bytes")


def h1_streaming():
    stream = tls("api.bed.test", 443, "http/1.1")
    stream.sendall(get(f"/sse?n=10000&every=20&m={mark}", "api.bed.test"))
    if "chunked" not in head(stream):
        sys.exit("not chunked")
    exactly(stream, 20)
    say("open")
    rest, end = to_end(stream)
    say(f"ended: {end}, {'whole' if rest.endswith(b'0' + bytes((13, 10, 13, 10))) else 'broken'}")


def h1_waiting():
    stream = tls("api.bed.test", 443, "http/1.1")
    stream.sendall(get(f"/hang?m={mark}", "api.bed.test"))
    say("open")
    rest, end = to_end(stream)
    text = rest.decode().lower()
    last = "connection: close" in text
    say(f"ended: {end}, {text.split(' ')[1]} last={last} {'policy changed' in text}")


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def h2(path):
    """A client of HTTP/2 with one request sent."""
    stream = tls("api.bed.test", 443, "h2")
    host = b"api.bed.test"
    block = b"\x82\x87\x04" + bytes([len(path)]) + path.encode() + b"\x01" + bytes([len(host)]) + host
    stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, block))
    return stream


def h2_frames(stream, done):
    """Frames until `done(kind, flags, stream, payload)`; answers SETTINGS and PING."""
    while True:
        top = exactly(stream, 9)
        length, kind, flags = struct.unpack(">I", b"\0" + top[:3])[0], top[3], top[4]
        number = struct.unpack(">I", top[5:])[0]
        payload = exactly(stream, length)
        if kind in (4, 6) and not flags & 1:
            stream.sendall(frame(kind, 1, 0, payload if kind == 6 else b""))
        if done(kind, flags, number, payload):
            return


def h2_idle():
    stream = h2(f"/bytes/10?m={mark}")
    h2_frames(stream, lambda kind, flags, number, payload: kind == 0 and flags & 1)
    say("open")
    goaways = []

    def note(kind, flags, number, payload):
        if kind == 7:
            goaways.append(struct.unpack(">I", payload[4:8])[0])
        return False

    try:
        h2_frames(stream, note)
    except EOFError:
        say(f"ended: closed, goaway={goaways[-1] if goaways else None}")
    except ssl.SSLEOFError:
        say(f"ended: cut off, goaway={goaways[-1] if goaways else None}")


def h2_streaming():
    stream = h2(f"/sse?n=10000&every=20&m={mark}")
    h2_frames(stream, lambda kind, flags, number, payload: kind == 0 and number == 1)
    say("open")
    seen = []

    def note(kind, flags, number, payload):
        if kind == 7:
            seen.append("goaway")
        if kind == 3 and number == 1:
            seen.append("reset")
        if kind == 0 and flags & 1:
            seen.append("whole")
        return False

    try:
        h2_frames(stream, note)
    except (EOFError, ssl.SSLEOFError):
        say("ended: " + " ".join(sorted(set(seen))))


def websocket(stream, host, target):
    stream.sendall((f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode())
    if " 101" not in head(stream).split("\r\n")[0]:
        sys.exit("no WebSocket")
    exactly(stream, 2)
    say("open")
    # In the middle of a message: what was read belongs to the first tick.
    exactly(stream, len("tick 1"))
    while True:
        start, length = exactly(stream, 2)
        payload = exactly(stream, length)
        if start == 0x88:
            code = struct.unpack(">H", payload[:2])[0]
            rest, end = to_end(stream)
            return say(f"ended: close {code} {payload[2:].decode()!r}, then {end}, {len(rest)} bytes")


def ws():
    websocket(tls("h1.bed.test", 8443, "http/1.1"), "h1.bed.test:8443", f"/ws/ticks?every=5&m={mark}judged")


def ws_relayed():
    # Absolute form, to an endpoint whose requests nobody judges.
    raw = socket.create_connection(PROXY, 20)
    raw.settimeout(60)
    websocket(raw, "api.bed.test:8080", f"http://api.bed.test:8080/ws/ticks?every=5&m={mark}relayed")


def tunnel():
    # In the clear: within TLS some versions of Python show a reset as an end.
    stream = connect("api.bed.test", 8080)
    stream.sendall(get(f"/sse?n=10000&every=20&m={mark}", "api.bed.test:8080"))
    head(stream)
    exactly(stream, 20)
    say("open")
    say(f"ended: {to_end(stream)[1]}")


globals()[kind.replace("-", "_")]()
