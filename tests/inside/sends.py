"""Sends one request through the proxy, byte by byte as it is told: python3 sends.py HOST:PORT < pieces
Each line of standard input is a piece of the request, with escapes, sent as a TLS record. Prints the answer."""
import socket, sys
import tunnel

tls = tunnel.tls(sys.argv[1], 10)
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
