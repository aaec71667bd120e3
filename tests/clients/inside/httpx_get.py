import asyncio, sys, httpx

mark = sys.argv[1]
with httpx.Client(timeout=60) as client:
    for scheme in ("https", "http"):
        print("allowed", client.get(f"{scheme}://api.bed.test/echo?m={mark}").status_code)
    for name, scheme in (("secret", "https"), ("plain secret", "http")):
        answer = client.get(f"{scheme}://api.bed.test/secret/x")
        print(name, answer.status_code, answer.text)
    try:
        print("reached", client.get("https://evil.bed.test/"))
    except httpx.TransportError as error:
        print("evil", repr(error))


async def many():
    async with httpx.AsyncClient(timeout=60, http2=True) as client:
        answer = await client.get(f"https://h2.bed.test/echo?m={mark}")
        assert answer.http_version == "HTTP/2", answer.http_version
        # One first: httpx opens a connection for each of many that begin together, and some of those it closes too early.
        await client.get("https://api.bed.test/echo")
        answers = await asyncio.gather(*(client.get(f"https://api.bed.test/echo?n={n}") for n in range(40)))
        assert all(answer.status_code == 200 for answer in answers)
        # A denial on one stream leaves the others alone.
        answers = await asyncio.gather(
            *(client.get(f"https://api.bed.test/{'secret' if n % 4 == 0 else 'slow'}/x?ms=50") for n in range(20))
        )
        assert [answer.status_code for answer in answers] == [403 if n % 4 == 0 else 200 for n in range(20)]


asyncio.run(many())
