import sys
import time

import grpc


def path(name):
    return f"/bed.Echo/{name}"


def calls(open_channel, port):
    channel = open_channel(f"grpc.bed.test:{port}")
    answer, call = channel.unary_unary(path("Unary")).with_call(b"hello", timeout=60, metadata=[("x-token", "t")])
    print("unary", answer.decode())
    print("trailer", dict(call.trailing_metadata())["x-bed-trailer"])
    print("count", len(list(channel.unary_stream(path("Count"))(b"12345", timeout=60))))
    answers = []

    def asked():
        # Each question waits for the answer before it: both directions are open at the same time.
        for word in (b"one", b"two", b"three"):
            yield word
            while len(answers) == 0 or answers[-1] != word:
                time.sleep(0.002)

    for answer in channel.stream_stream(path("Chat"))(asked(), timeout=60):
        answers.append(answer)
    print("chat", b" ".join(answers).decode())
    for name, method in (("fail", "Fail"), ("late", "FailLate"), ("secret", "Secret")):
        try:
            print("answered", list(channel.unary_stream(path(method))(b"x", timeout=60)))
        except grpc.RpcError as error:
            print(name, error.code().name, error.details())
    # A host that others may reach: the proxy's 403 to a CONNECT, or an answer in gRPC's own terms.
    told = {"given": grpc.StatusCode.UNAVAILABLE, "unset": grpc.StatusCode.PERMISSION_DENIED}[sys.argv[2]]
    try:
        nobody = open_channel(f"llm.bed.test:{port}")
        print("answered", nobody.unary_unary(path("Unary"))(b"x", timeout=60))
    except grpc.RpcError as error:
        print("nobody", error.code() == told, error.code(), error.details())
    try:
        evil = open_channel(f"evil.bed.test:{port}")
        print("answered", evil.unary_unary(path("Unary"))(b"x", timeout=60))
    except grpc.RpcError as error:
        print("evil", error.code().name, error.details())


calls(lambda target: grpc.secure_channel(target, grpc.ssl_channel_credentials()), 443)
# HTTP/2 in the clear, by prior knowledge.
calls(grpc.insecure_channel, 8080)
