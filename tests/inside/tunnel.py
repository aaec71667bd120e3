"""A TLS connection through the proxy, with nothing but the standard library, for scripts beside it."""
import os, socket, ssl, sys


def tls(authority, patience):
    host = authority.split(":")[0]
    raw = socket.create_connection(("127.0.0.1", 3128), patience)
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
    return context.wrap_socket(raw, server_hostname=host)
