import asyncio, json, sys, websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

mark = sys.argv[1]


async def chat(scheme):
    async with websockets.connect(f"{scheme}://chat.bed.test/gateway?m={mark}", open_timeout=60) as socket:
        said = json.loads(await socket.recv())
        print(scheme, "hello", said["d"]["heartbeat_interval"])
        await socket.send(json.dumps({"op": 2, "d": {"token": "t", "intents": 513}}))
        assert json.loads(await socket.recv())["t"] == "READY"
        print("ready")
        beats = 0
        for _ in range(3):
            await asyncio.sleep(said["d"]["heartbeat_interval"] / 1000)
            await socket.send(json.dumps({"op": 1, "d": None}))
            beats += json.loads(await socket.recv())["op"] == 11
        print("heartbeats", beats)
        await socket.send(json.dumps({"op": 3, "d": "hi there"}))
        print("said", json.loads(await socket.recv())["d"])
        assert await asyncio.wait_for(await socket.ping(), 60) is not None
        await socket.send(json.dumps({"op": 3, "d": "this is forbidden"}))
        try:
            print("answered", await socket.recv())
        except ConnectionClosed as closed:
            print("closed", closed.rcvd.code, closed.rcvd.reason)


async def main():
    for scheme in ("wss", "ws"):
        await chat(scheme)
    try:
        async with websockets.connect("wss://chat.bed.test/secret", open_timeout=60):
            print("reached")
    except InvalidStatus as refused:
        print("handshake", refused.response.status_code, refused.response.body.decode())
    try:
        async with websockets.connect("wss://evil.bed.test/gateway", open_timeout=60):
            print("reached")
    except Exception as error:
        print("evil", repr(error))


asyncio.run(main())
