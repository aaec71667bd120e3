"""Sends one request through the proxy, byte by byte as it is told: python3 sends.py HOST:PORT < pieces
Each line of standard input is a piece of the request, with escapes, sent as a TLS record. Prints the answer."""
import os, socket, ssl, sys

authority = sys.argv[1]
host = authority.split(":")[0]
raw = socket.create_connection(("127.0.0.1", 3128), 10)
raw.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
head = b""
while not head.endswith(b"\r\n\r\n"):
    byte = raw.recv(1)
    if not byte:
        break
    head += byte
if b" 200" not in head.split(b"\r\n")[0]:
    sys.exit(head.decode())
context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
tls = context.wrap_socket(raw, server_hostname=host)
tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for line in sys.stdin.read().splitlines():
    try:
        tls.sendall(line.encode().decode("unicode_escape").encode("latin-1"))
    except OSError:
        break
tls.settimeout(10)
while True:
    try:
        data = tls.recv(65536)
    except OSError:
        break
    if not data:
        break
    sys.stdout.write(data.decode("latin-1"))
