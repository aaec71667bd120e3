import grpc from "@grpc/grpc-js";

const raw = (bytes) => bytes;
const method = (name, requestStream, responseStream) => ({ path: `/bed.Echo/${name}`, requestStream, responseStream, requestSerialize: raw, requestDeserialize: raw, responseSerialize: raw, responseDeserialize: raw });
const Echo = grpc.makeGenericClientConstructor(
  {
    unary: method("Unary", false, false),
    count: method("Count", false, true),
    chat: method("Chat", true, true),
    fail: method("Fail", false, false),
    late: method("FailLate", false, true),
    secret: method("Secret", false, false),
  },
  "Echo",
);
const deadline = () => ({ deadline: Date.now() + 60000 });
const client = new Echo("grpc.bed.test:443", grpc.credentials.createSsl());
const code = (error) => `${grpc.status[error.code]} ${error.details}`;

await new Promise((done) => {
  const call = client.unary(Buffer.from("hello"), deadline(), (error, answer) => console.log("unary", error ? code(error) : String(answer)));
  call.on("status", (status) => done(console.log("trailer", status.metadata.get("x-bed-trailer")[0])));
});
let count = 0;
for await (const _ of client.count(Buffer.from("12345"), deadline())) count++;
console.log("count", count);

const chat = client.chat(deadline());
const words = ["one", "two", "three"];
const heard = [];
chat.write(Buffer.from(words[0]));
for await (const answer of chat) {
  heard.push(String(answer));
  heard.length < words.length ? chat.write(Buffer.from(words[heard.length])) : chat.end();
}
console.log("chat", heard.join(" "));

const unary = (name, service = client) => new Promise((done) => service[name](Buffer.from("x"), deadline(), (error, answer) => done(error ? code(error) : `answered ${answer}`)));
console.log("fail", await unary("fail"));
try {
  for await (const _ of client.late(Buffer.from("x"), deadline()));
} catch (error) {
  console.log("late", code(error));
}
console.log("secret", await unary("secret"));
console.log("evil", await unary("unary", new Echo("evil.bed.test:443", grpc.credentials.createSsl())));
process.exit(0);
