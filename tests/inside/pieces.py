"""Has a server say words in pieces, with nothing but the standard library: python3 pieces.py HOST WORD...
Prints of each how long the pieces were in which it came, and the whole."""
import os, socket, ssl, sys

host, words = sys.argv[1], sys.argv[2:]


def line(stream):
    return stream.readline().strip()


def said(word):
    raw = socket.create_connection(("127.0.0.1", 3128), 60)
    raw.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = raw.recv(1)
        if not byte:
            sys.exit(f"CONNECT: {answer}")
        answer += byte
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    tls = context.wrap_socket(raw, server_hostname=host)
    body = f"you said: {word}|~ and so on".encode()
    tls.sendall(f"POST /pieces HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    stream = tls.makefile("rb")
    status = line(stream)
    if b" 200" not in status:
        sys.exit(status.decode())
    while line(stream):
        pass
    pieces = []
    while length := int(line(stream), 16):
        pieces.append(stream.read(length))
        line(stream)
    tls.close()
    return pieces


for word in words:
    pieces = said(word)
    print(",".join(str(len(piece)) for piece in pieces), b"".join(pieces).decode(), flush=True)
