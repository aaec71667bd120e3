import axios from "axios";

const mark = process.argv[2];
const client = axios.create({ timeout: 60000, validateStatus: null, responseType: "text" });

for (const scheme of ["https", "http"]) console.log("allowed", (await client.get(`${scheme}://api.bed.test/echo?m=${mark}`)).status);
for (const [name, scheme] of [["secret", "https"], ["plain secret", "http"]]) {
  const answer = await client.get(`${scheme}://api.bed.test/secret/x`);
  console.log(name, answer.status, answer.data);
}
await client.get("https://evil.bed.test/").then(
  (answer) => console.log(answer.status === 403 ? "evil" : "reached", answer.status, answer.data),
  (error) => console.log("evil", error.code, error.message),
);
