// A stream of thirty years: a client that waits for its end gets nothing.
for (const scheme of ["https", "http"]) {
  const answer = await fetch(`${scheme}://api.bed.test/sse?n=100000000&every=10`);
  let text = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  while (!text.includes("tick 3\n")) text += (await reader.read()).value;
  console.log(scheme, ...[...text.matchAll(/data: (tick \d)\n/g)].slice(0, 3).map((match) => match[1]));
  await reader.cancel();
}
console.log("secret", (await fetch("https://api.bed.test/secret/sse")).status);
process.exit(0);
