import sys, urllib.error, urllib.request

mark = sys.argv[1]


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode()


for scheme in ("https", "http"):
    print("allowed", get(f"{scheme}://api.bed.test/echo?m={mark}")[0])
print("secret", *get("https://api.bed.test/secret/x"))
print("plain secret", *get("http://api.bed.test/secret/x"))
try:
    print("reached", get("https://evil.bed.test/"))
except urllib.error.URLError as error:
    print("evil", error)
