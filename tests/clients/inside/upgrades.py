import socket, sys

mark, road = sys.argv[1:]
proxy = road == "given"


def connect():
    return socket.create_connection(("127.0.0.1", 3128) if proxy else ("api.bed.test", 80), 60)


def ask(stream, name, path, fields):
    target = f"http://api.bed.test{path}" if proxy else path
    stream.sendall(f"GET {target} HTTP/1.1\r\nHost: api.bed.test\r\n{fields}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += stream.recv(1)
    lines = head.decode().split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
    body = b""
    while len(body) < length:
        body += stream.recv(length - len(body))
    assert len(lines) > 2
    print(name, lines[0], body.decode())


H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
with connect() as stream:
    ask(stream, "h2c", f"/echo?m={mark}", H2C)
    # The same connection goes on.
    ask(stream, "again", f"/echo?m={mark}", "")
with connect() as stream:
    ask(stream, "spdy", f"/echo?m={mark}", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n")
with connect() as stream:
    ask(stream, "secret", "/secret/x", H2C)
