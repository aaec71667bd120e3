import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";

const mark = process.argv[2];
const socket = new WebSocket(`wss://chat.bed.test/gateway?m=${mark}`);
const waiting = [];
const came = [];
socket.on("message", (data) => (waiting.length ? waiting.shift()(JSON.parse(data)) : came.push(JSON.parse(data))));
const next = () => (came.length ? came.shift() : new Promise((done) => waiting.push(done)));
const say = (message) => socket.send(JSON.stringify(message));

const hello = await next();
console.log("hello", hello.d.heartbeat_interval);
say({ op: 2, d: { token: "t", intents: 513 } });
if ((await next()).t === "READY") console.log("ready");
let beats = 0;
for (let n = 0; n < 3; n++) {
  await sleep(hello.d.heartbeat_interval);
  say({ op: 1, d: null });
  beats += (await next()).op === 11;
}
console.log("heartbeats", beats);
say({ op: 3, d: "hi there" });
console.log("said", (await next()).d);
socket.ping();
await once(socket, "pong");
say({ op: 3, d: "this is forbidden" });
const [code, reason] = await once(socket, "close");
console.log("closed", code, String(reason));

const refused = new WebSocket("wss://chat.bed.test/secret");
const [, answer] = await once(refused, "unexpected-response");
console.log("handshake", answer.statusCode);
answer.resume();
refused.on("error", () => {});
refused.terminate();
const evil = new WebSocket("wss://evil.bed.test/gateway");
const [error] = await once(evil, "error");
console.log("evil", error.code, error.message);
process.exit(0);
