// What @microsoft/signalr makes of a hub in either protocol: values, streams both ways, client results, groups.
// Usage: node signalr_protocols.mjs BASE_URL json|messagepack; prints what each case came to.
import { HttpTransportType, HubConnectionBuilder, JsonHubProtocol, LogLevel, Subject } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const [base, name] = process.argv.slice(2);
const binary = name === "messagepack";

async function start() {
  const connection = new HubConnectionBuilder()
    .withUrl(`${base}/conformance`, { transport: HttpTransportType.WebSockets })
    .withHubProtocol(binary ? new MessagePackHubProtocol() : new JsonHubProtocol())
    .configureLogging(LogLevel.None)
    .build();
  await connection.start();
  return connection;
}

const outcome = (promise) => promise.then((value) => ({ value: value ?? null }), (error) => ({ error: error.message }));
const bytes = (...octets) => (binary ? Uint8Array.from(octets) : Buffer.from(octets).toString("base64"));
const octets = (value) => [...(binary ? value : Buffer.from(value, "base64"))];
const date = (text) => (binary ? new Date(text) : text);
const iso = (value) => new Date(value).toISOString();

function upload(...items) {
  const subject = new Subject();
  // The invocation goes out first, in the same turn of the event loop.
  setTimeout(() => {
    for (const item of items) subject.next(item);
    subject.complete();
  });
  return subject;
}

function failing(...items) {
  const subject = new Subject();
  setTimeout(() => {
    for (const item of items) subject.next(item);
    subject.error(new Error("mine"));
  });
  return subject;
}

function collect(stream, count = Infinity) {
  return new Promise((resolve) => {
    const items = [];
    const subscription = stream.subscribe({
      next: (item) => {
        items.push(item);
        if (items.length === count) {
          subscription.dispose();
          resolve({ items, cancelled: true });
        }
      },
      complete: () => resolve({ items }),
      error: (error) => resolve({ items, error: error.message }),
    });
  });
}

const results = {};
const hub = await start();
const own = await hub.invoke("GetConnectionId");

results.echo = await hub.invoke("echo", { text: "é€😀", list: [1, null, true, -1.5], big: 2 ** 40 });
results.bytes = octets(await hub.invoke("ReverseBytes", bytes(1, 2, 255)));
results.date = iso(await hub.invoke("AddDays", date("2024-02-28T12:30:45.123Z"), 1));
const record = { Id: 1, Name: "é", Score: 2.5, Tags: ["a"], When: date("2024-02-29T12:30:45.000Z"), Blob: bytes(7), Child: null };
const typed = await hub.invoke("EchoTyped", { ...record, Child: record });
results.record = [typed.Id, typed.Child.Name, iso(typed.Child.When), octets(typed.Child.Blob), typed.Child.Child];
results.large = (await hub.invoke("ReturnLarge", 100_000)).length;
results.nothing = (await hub.invoke("DoNothing")) ?? null;
results.hubError = await outcome(hub.invoke("ThrowHubError", "mine"));
results.binding = await outcome(hub.invoke("Add", 1, "x"));
results.unknown = await outcome(hub.invoke("Nope"));
results.admin = await outcome(hub.invoke("AdminOnly"));

results.stream = await collect(hub.stream("StreamCounter", 3, 0));
results.streamError = await collect(hub.stream("StreamThrow", 2, "mine"));
results.cancelled = await collect(hub.stream("StreamForever", `node-${name}`, 1), 2);
results.many = (await collect(hub.stream("StreamCounter", 5000, 0))).items.length;
results.objects = await collect(hub.stream("StreamObjects", 1));

results.sum = await hub.invoke("UploadSum", upload(40, 2));
results.two = await hub.invoke("UploadTwo", upload(1, 2), "text", upload("a", "b"));
results.withArgs = await hub.invoke("UploadWithArgs", "<", upload("a", "b"), ">");
results.take = await hub.invoke("UploadTake", upload(1, 2, 3, 4), 2);
results.uploadError = await outcome(hub.invoke("UploadSum", failing(1)));
results.badItem = await outcome(hub.invoke("UploadSum", upload(1, "x")));
results.both = await collect(hub.stream("EchoStream", upload("a", 1, null)));
const held = hub.invoke("UploadHold", upload(...Array(500).fill(1)), `held-${name}`);
results.besideHeld = await hub.invoke("Echo", "beside");
await hub.invoke("Release", `held-${name}`);
results.held = await held;

hub.on("Ask", async (value) => (await hub.invoke("Add", value, 1)) * 10);
results.clientResult = await hub.invoke("InvokeCaller", "Ask", 4);
hub.on("Fail", () => {
  throw new Error("the client failed");
});
results.clientError = await outcome(hub.invoke("InvokeCaller", "Fail", 0));
results.noHandler = await outcome(hub.invoke("InvokeCaller", "Nobody", 0));

// A member of two groups gets a message to both once; whoever left gets none.
const other = await start();
const heard = { hub: [], other: [] };
hub.on("News", (value) => heard.hub.push(value));
other.on("News", (value) => heard.other.push(value));
for (const group of ["a", "b"]) await hub.invoke("JoinGroup", group);
await hub.invoke("AddToGroup", await other.invoke("GetConnectionId"), "b");
await hub.invoke("SendToGroups", ["a", "b"], "News", 1);
await other.invoke("SendToOthersInGroup", "b", "News", 2);
await hub.invoke("LeaveGroup", "b");
await hub.invoke("SendToGroup", "b", "News", 3);
await other.invoke("SendToClient", own, "News", 4);
await fetch(`${base}/conformance-broadcast?method=News&arg=5`, { method: "POST" });
await Promise.all([hub.invoke("SendMany", "News", 2), other.invoke("Echo", 0)]);
results.heard = heard;

const asked = await fetch(`${base}/conformance-clientresult?id=${own}&method=Back&arg=x`, { method: "POST" });
results.askedNobody = [asked.status, await asked.text()];
hub.on("Back", (value) => ({ got: value }));
const answered = await fetch(`${base}/conformance-clientresult?id=${own}&method=Back&arg=x`, { method: "POST" });
results.asked = [answered.status, await answered.json()];
results.counter = await other.invoke("GetCounter", `cancelled:node-${name}`);

await hub.stop();
for (let tries = 0; tries < 100; tries++) {
  results.events = await other.invoke("GetEvents", own);
  if (results.events.length > 1) break;
  await new Promise((resolve) => setTimeout(resolve, 20));
}
await other.stop();
console.log(JSON.stringify(results));
