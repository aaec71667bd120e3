"""Has a server say words in pieces, with nothing but the standard library: python3 pieces.py HOST WORD...
Prints of each how long the pieces were in which it came, and the whole."""
import sys
import tunnel

host, words = sys.argv[1], sys.argv[2:]


def line(stream):
    return stream.readline().strip()


def said(word):
    tls = tunnel.tls(f"{host}:443", 60)
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
