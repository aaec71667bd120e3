import { once } from "node:events";
import http2 from "node:http2";
import https from "node:https";
import tls from "node:tls";

const mark = process.argv[2];
const session = http2.connect("http://127.0.0.1:3128");

async function tunnel(authority) {
  const stream = session.request({ ":method": "CONNECT", ":authority": authority });
  const [head] = await once(stream, "response");
  return [stream, head[":status"]];
}

async function read(stream) {
  let text = "";
  for await (const data of stream) text += data;
  return text;
}

async function ask(session, headers) {
  const stream = session.request(headers);
  const text = read(stream);
  const [head] = await once(stream, "response");
  return [head[":status"], await text];
}

// HTTP/2 inside a stream of HTTP/2.
const [first] = await tunnel("api.bed.test:443");
const inner = http2.connect("https://api.bed.test", { createConnection: () => tls.connect({ socket: first, servername: "api.bed.test", ALPNProtocols: ["h2"] }) });
const [status, fetched] = await ask(inner, { ":path": `/echo?m=${mark}` });
console.log("first", status, JSON.parse(fetched).version);

// HTTP/1.1 inside another, while the first is open.
const [second] = await tunnel("h1.bed.test:443");
const socket = tls.connect({ socket: second, servername: "h1.bed.test", ALPNProtocols: ["http/1.1"] });
await once(socket, "secureConnect");
const answer = await new Promise((done) => https.get({ host: "h1.bed.test", path: `/echo?m=${mark}`, headers: { host: "h1.bed.test" }, createConnection: () => socket }, done));
console.log("second", answer.statusCode, JSON.parse(await read(answer)).version);

const [redis] = await tunnel("redis.bed.test:6379");
redis.write("*1\r\n$4\r\nPING\r\n");
console.log("relayed", String((await once(redis, "data"))[0]).trim().slice(1));
redis.end();

const plain = await ask(session, { ":scheme": "http", ":authority": "api.bed.test", ":path": `/echo?m=${mark}` });
console.log("plain", plain[0]);
const connect = (authority) => ask(session, { ":method": "CONNECT", ":authority": authority });
console.log("evil", ...(await connect("evil.bed.test:443")));
console.log("secret inside", ...(await ask(inner, { ":path": "/secret/x" })));
console.log("head inside", ...(await ask(inner, { ":method": "HEAD", ":path": "/secret/x" })));
console.log("metadata", ...(await connect("169.254.169.254:80")));
process.exit(0);
