// A WebSocket in a stream of HTTP/2, by nothing but Node's own http2: frames are made by hand. Where variables name a proxy,
// the connection goes through a CONNECT.
import { once } from "node:events";
import http from "node:http";
import http2 from "node:http2";
import tls from "node:tls";

const mark = process.argv[2];
const proxy = process.env.HTTPS_PROXY && new URL(process.env.HTTPS_PROXY);

async function open(host) {
  let socket;
  if (proxy) {
    const connect = http.request({ host: proxy.hostname, port: proxy.port, method: "CONNECT", path: `${host}:443`, headers: { host: `${host}:443` } }).end();
    [, socket] = await once(connect, "connect");
  }
  const session = http2.connect(`https://${host}`, {
    createConnection: () => tls.connect({ socket, host: socket ? undefined : host, port: 443, servername: host, ALPNProtocols: ["h2"] }),
  });
  await once(session, "remoteSettings");
  return session;
}

function frame(text) {
  const payload = Buffer.from(text);
  const mask = Buffer.from([1, 2, 3, 4]);
  const length = payload.length < 126 ? [0x80 | payload.length] : [0x80 | 126, payload.length >> 8, payload.length & 255];
  return Buffer.concat([Buffer.from([0x81, ...length]), mask, payload.map((byte, at) => byte ^ mask[at % 4])]);
}

const session = await open("chat.bed.test");
console.log("offered", session.remoteSettings.enableConnectProtocol);
const handshake = (path, more) => ({ ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13", ...more });

const stream = session.request(handshake(`/gateway?m=${mark}`));
const [head] = await once(stream, "response");
if (head[":status"] !== 200) throw new Error(`status ${head[":status"]}`);
let held = Buffer.alloc(0);
const frames = [];
const waiting = [];
stream.on("data", (data) => {
  held = Buffer.concat([held, data]);
  while (held.length >= 2) {
    const long = (held[1] & 127) === 126;
    const start = long ? 4 : 2;
    if (held.length < start) return;
    const end = start + (long ? held.readUInt16BE(2) : held[1] & 127);
    if (held.length < end) return;
    const came = [held[0] & 15, held.subarray(start, end)];
    held = held.subarray(end);
    waiting.length ? waiting.shift()(came) : frames.push(came);
  }
});
const next = () => (frames.length ? frames.shift() : new Promise((done) => waiting.push(done)));
const text = async () => JSON.parse((await next())[1]);
const say = (message) => stream.write(frame(JSON.stringify(message)));

console.log("hello", (await text()).d.heartbeat_interval);
say({ op: 2, d: { token: "t" } });
if ((await text()).t === "READY") console.log("ready");
say({ op: 3, d: "hi there" });
console.log("said", (await text()).d);
// Another stream of the same connection, while the first is open.
const second = session.request(handshake(`/gateway?m=${mark}&second`));
console.log("beside", (await once(second, "response"))[0][":status"]);
say({ op: 3, d: "this is forbidden" });
for (;;) {
  const [opcode, payload] = await next();
  if (opcode === 8) {
    console.log("closed", payload.readUInt16BE(0), String(payload.subarray(2)));
    break;
  }
}

async function refused(name, headers) {
  const stream = session.request(headers);
  const [head] = await once(stream, "response");
  let body = "";
  stream.on("data", (data) => (body += data));
  await once(stream, "end");
  console.log(name, head[":status"], body);
}
await refused("path", handshake("/secret"));
await refused("protocol", { ...handshake("/gateway"), ":protocol": "connect-udp" });
await refused("host", { ...handshake("/gateway"), ":authority": "evil.bed.test" });
process.exit(0);
