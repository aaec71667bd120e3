import sys, requests

mark = sys.argv[1]
with requests.Session() as session:
    for scheme in ("https", "http"):
        print("allowed", session.get(f"{scheme}://api.bed.test/echo?m={mark}", timeout=60).status_code)
    for name, scheme in (("secret", "https"), ("plain secret", "http")):
        answer = session.get(f"{scheme}://api.bed.test/secret/x", timeout=60)
        print(name, answer.status_code, answer.text)
    # A connection that was refused is no reason for the next to fail.
    assert session.get(f"https://api.bed.test/echo?m={mark}", timeout=60).ok
    # An upload of unknown length.
    assert session.post(f"https://api.bed.test/echo?m={mark}", data=iter([b"in ", b"pieces"]), timeout=60).json()["body"] == "in pieces"
    try:
        print("reached", session.get("https://evil.bed.test/", timeout=60))
    except requests.ConnectionError as error:
        print("evil", error)
