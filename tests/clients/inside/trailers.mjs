import http from "node:http";
import https from "node:https";

const ask = (url) =>
  new Promise((done, failed) => {
    const request = (url.startsWith("https") ? https : http).request(url, { method: "POST", headers: { trailer: "x-sum", te: "trailers" } }, (answer) => {
      let text = "";
      answer.on("data", (data) => (text += data));
      answer.on("end", () => done([answer.statusCode, text, answer.trailers["x-bed-trailer"]]));
    });
    request.on("error", failed);
    request.write("a body");
    request.addTrailers({ "x-sum": "7" });
    request.end();
  });

console.log("https", ...(await ask("https://api.bed.test/trailers")).slice(1));
console.log("http", ...(await ask("http://api.bed.test/trailers")).slice(1));
console.log("secret", (await ask("https://api.bed.test/secret/x"))[0]);
process.exit(0);
