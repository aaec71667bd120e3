import asyncio, sys, aiohttp

mark = sys.argv[1]


async def main(trust_env):
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=trust_env) as session:
        for scheme in ("https", "http"):
            async with session.get(f"{scheme}://api.bed.test/echo?m={mark}") as answer:
                print("allowed", answer.status)
        for name, scheme in (("secret", "https"), ("plain secret", "http")):
            async with session.get(f"{scheme}://api.bed.test/secret/x") as answer:
                print(name, answer.status, await answer.text())
        try:
            async with session.get("https://evil.bed.test/") as answer:
                print("reached", answer)
        except aiohttp.ClientError as error:
            print("evil", repr(error))
        async with session.ws_connect("wss://chat.bed.test/gateway") as socket:
            assert (await socket.receive_json())["op"] == 10
            await socket.send_json({"op": 3, "d": "from aiohttp"})
            print("websocket echoed", (await socket.receive_json())["d"])


for trust_env in (False, True):
    asyncio.run(main(trust_env))
