const https = require("https");
const http = require("http");
const mark = process.argv[2];

const get = (url) =>
  new Promise((done, failed) =>
    (url.startsWith("https") ? https : http)
      .get(url, (answer) => {
        let text = "";
        answer.on("data", (data) => (text += data));
        answer.on("end", () => done([answer.statusCode, text]));
      })
      .on("error", failed),
  );

(async () => {
  for (const scheme of ["https", "http"]) console.log("allowed", (await get(`${scheme}://api.bed.test/echo?m=${mark}`))[0]);
  console.log("secret", ...(await get("https://api.bed.test/secret/x")));
  console.log("plain secret", ...(await get("http://api.bed.test/secret/x")));
  await get("https://evil.bed.test/").then((answer) => console.log("reached", answer), (error) => console.log("evil", error.code, error.message));
})();
