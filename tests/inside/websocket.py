"""A WebSocket through CONNECT with nothing but the standard library: python3 websocket.py HOST:PORT PATH N|FILE
Prints each message; exits 0 after N of them or once there is such a file, 1 when the stream breaks off."""
import base64, itertools, os, socket, ssl, struct, sys

authority, path, enough = sys.argv[1:4]
host = authority.split(":")[0]
raw = socket.create_connection(("127.0.0.1", 3128), 60)
raw.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())


def head(stream):
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            break
        got += byte
    return got.decode()


first = head(raw).split("\r\n")[0]
if " 200" not in first:
    sys.exit("CONNECT: " + first)
context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
tls = context.wrap_socket(raw, server_hostname=host)
key = base64.b64encode(os.urandom(16)).decode()
tls.sendall((f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
             f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode())
first = head(tls).split("\r\n")[0]
if " 101" not in first:
    sys.exit("upgrade: " + first)
print("open", flush=True)


def exactly(count):
    got = b""
    while len(got) < count:
        more = tls.recv(count - len(got))
        if not more:
            sys.exit("broke off")
        got += more
    return got


def send(text):
    mask = os.urandom(4)
    data = bytes(b ^ mask[i % 4] for i, b in enumerate(text.encode()))
    tls.sendall(bytes([0x81, 0x80 | len(data)]) + mask + data)


for i in itertools.count():
    if i == int(enough) if enough.isdigit() else os.path.exists(enough):
        break
    if path == "/ws":
        send(f"echo {i + 1}")
    start, length = exactly(2)
    if length == 126:
        length = struct.unpack(">H", exactly(2))[0]
    print(exactly(length).decode(), flush=True)
