import { Agent, EnvHttpProxyAgent, WebSocket, request } from "undici";

const mark = process.argv[2];

for (const dispatcher of [new EnvHttpProxyAgent(), new Agent()]) {
  for (const scheme of ["https", "http"]) {
    const answer = await request(`${scheme}://api.bed.test/echo?m=${mark}`, { dispatcher });
    await answer.body.text();
    console.log("allowed", answer.statusCode);
  }
  for (const [name, scheme] of [["secret", "https"], ["plain secret", "http"]]) {
    const answer = await request(`${scheme}://api.bed.test/secret/x`, { dispatcher });
    console.log(name, answer.statusCode, await answer.body.text());
  }
  await request("https://evil.bed.test/", { dispatcher }).then((answer) => console.log("reached", answer.statusCode), (error) => console.log("evil", error.code, error.message));
  await dispatcher.close();
}

const dispatcher = new Agent({ allowH2: true });
const answer = await request(`https://h2.bed.test/echo?m=${mark}`, { dispatcher });
console.log("http2", answer.statusCode, (await answer.body.json()).version);

const socket = new WebSocket("wss://chat.bed.test/gateway", { dispatcher: new Agent() });
socket.onmessage = ({ data }) => {
  const said = JSON.parse(data);
  if (said.op === 10) socket.send(JSON.stringify({ op: 3, d: "from undici" }));
  if (said.t === "MESSAGE_CREATE") {
    console.log("websocket said", said.d);
    process.exit(0);
  }
};
socket.onerror = (event) => {
  console.log("websocket failed", event.error);
  process.exit(1);
};
