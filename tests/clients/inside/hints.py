import urllib.error, urllib.request

for url in ("https://h1.bed.test:8490", "http://h1.bed.test:8090"):
    for path in ("/hints", "/plain"):
        with urllib.request.urlopen(url + path, timeout=60) as answer:
            print(answer.status, answer.read().decode().strip())
try:
    urllib.request.urlopen("https://api.bed.test/secret/hints", timeout=60)
except urllib.error.HTTPError as error:
    print("secret", error.code, error.read().decode())
