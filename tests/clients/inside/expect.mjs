import http from "node:http";
import https from "node:https";

const ask = (url) =>
  new Promise((done, failed) => {
    const headers = { expect: "100-continue", "content-length": 4 };
    let continued = "not continued";
    const request = (url.startsWith("https") ? https : http).request(url, { method: "POST", headers }, (answer) => {
      let text = "";
      answer.on("data", (data) => (text += data));
      answer.on("end", () => done([continued, answer.statusCode, text]));
    });
    // The body is held until it is asked for.
    request.on("continue", () => {
      continued = "continued";
      request.end("body");
    });
    request.on("error", failed);
    request.flushHeaders();
  });

for (const scheme of ["https", "http"]) {
  const [continued, status, text] = await ask(`${scheme}://api.bed.test/echo?m=${process.argv[2]}`);
  console.log(scheme, continued, status, JSON.parse(text).body);
}
const [continued, status] = await ask("https://api.bed.test/secret/x");
console.log("secret", status, continued);
process.exit(0);
