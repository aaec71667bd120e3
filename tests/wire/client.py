"""Runs inside a sandbox: speaks raw bytes as /sandbox/cases.jsonl says, a case a line, and prints what came back.

A case: {"id", "dial": [host, port], "steps": [...], "answers": n}. Steps, in order:
  {"send": base64}                 these bytes
  {"await": text}                  read until the text has come; the case ends when the connection does
  {"tls": name or "", "alpn": []}  TLS from here, with this SNI
  {"many": base64, "times": n}     the same bytes again and again, until the peer closes
  {"frames": true}                 read HTTP/2 frames until stream 1 or the connection has ended
After the steps it reads until `answers` status lines have come (0: until the peer closes), at most PATIENCE seconds.
Prints {"id", "got": base64, "end": "closed" | "answers" | "patience" | "error: …"}.
"""
import base64, json, socket, ssl, sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 60.0
KEEP = 64 * 1024


def read(connection, got, enough):
    """Reads until `enough(got)`, or raises EOFError at the end."""
    while not enough(bytes(got)):
        more = connection.recv(16384)
        if not more:
            raise EOFError
        got += more[: max(0, KEEP - len(got))]


def stream_ended(bytes):
    """Whether these frames end stream 1 (END_STREAM on DATA or HEADERS, RST_STREAM) or the connection (GOAWAY)."""
    at = 0
    while at + 9 <= len(bytes):
        length = int.from_bytes(bytes[at : at + 3], "big")
        kind, flags = bytes[at + 3], bytes[at + 4]
        stream = int.from_bytes(bytes[at + 5 : at + 9], "big") & 0x7FFFFFFF
        at += 9 + length
        if at <= len(bytes) and (kind == 7 or stream == 1 and (kind == 3 or kind in (0, 1) and flags & 1)):
            return True
    return False


def speak(case):
    got = bytearray()
    connection = socket.create_connection(tuple(case["dial"]), PATIENCE)
    connection.settimeout(PATIENCE)
    try:
        for step in case["steps"]:
            if "send" in step:
                connection.sendall(base64.b64decode(step["send"]))
            elif "await" in step:
                read(connection, got, lambda bytes: step["await"].encode() in bytes)
                got.clear()
            elif "frames" in step:
                read(connection, got, stream_ended)
                return dict(id=case["id"], got=base64.b64encode(bytes(got)).decode(), end="answers")
            elif "many" in step:
                piece = base64.b64decode(step["many"])
                for _ in range(step["times"]):
                    connection.sendall(piece)
            else:
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                if step["alpn"]:
                    context.set_alpn_protocols(step["alpn"])
                connection = context.wrap_socket(connection, server_hostname=step["tls"] or None)
        answers = case["answers"]
        read(connection, got, lambda bytes: answers and bytes.count(b"HTTP/1.1 ") >= answers)
        end = "answers"
    except EOFError:
        end = "closed"
    except socket.timeout:
        end = "patience"
    except OSError as e:
        # A reset after an error answer: what came before it still counts.
        try:
            read(connection, got, lambda bytes: False)
        except Exception:
            pass
        end = "error: %r" % (e,)
    finally:
        connection.close()
    return dict(id=case["id"], got=base64.b64encode(bytes(got)).decode(), end=end)


def attempt(case):
    try:
        return speak(case)
    except Exception as e:
        return dict(id=case["id"], got="", end="error: %r" % (e,))


with open("/sandbox/cases.jsonl") as lines:
    cases = [json.loads(line) for line in lines]
# Abreast, since some wait for a deadline; few enough that none waits for a processor.
with ThreadPoolExecutor(12) as pool:
    for told in pool.map(attempt, cases):
        print(json.dumps(told), flush=True)
