const mark = process.argv[2];

for (const scheme of ["https", "http"]) console.log("allowed", (await fetch(`${scheme}://api.bed.test/echo?m=${mark}`)).status);
for (const [name, scheme] of [["secret", "https"], ["plain secret", "http"]]) {
  const answer = await fetch(`${scheme}://api.bed.test/secret/x`);
  console.log(name, answer.status, await answer.text());
}
// An upload as a stream, which has no length.
const body = new ReadableStream({
  start(controller) {
    controller.enqueue(new TextEncoder().encode("in pieces"));
    controller.close();
  },
});
const sent = await (await fetch(`https://h1.bed.test/echo?m=${mark}`, { method: "POST", body, duplex: "half" })).json();
if (sent.body !== "in pieces") throw new Error(JSON.stringify(sent));
await fetch("https://evil.bed.test/").then((answer) => console.log("reached", answer.status), (error) => console.log("evil", error.cause?.code, error.cause?.message));
