// Two @microsoft/signalr clients chat through the hub at URL.
// Usage: node signalr_chat.mjs URL [skip]; `skip` leaves negotiation out. Prints what both received.
import { HttpTransportType, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";

const [url, skip] = process.argv.slice(2);

async function join() {
  const connection = new HubConnectionBuilder()
    .withUrl(url, { transport: HttpTransportType.WebSockets, skipNegotiation: skip === "skip" })
    .configureLogging(LogLevel.Warning)
    .build();
  const received = [];
  const waiting = [];
  connection.on("ReceiveMessage", (...message) => {
    received.push(message);
    waiting.splice(0).forEach((wake) => wake());
  });
  await connection.start();
  return {
    connection,
    received,
    async until(count) {
      while (received.length < count) await new Promise((wake) => waiting.push(wake));
    },
  };
}

// console.log is this script's result; whatever the library says goes to stderr.
console.info = console.warn = console.debug = console.error;

const results = {};
const ada = await join();
const grace = await join();
results.ids = [ada.connection.connectionId, grace.connection.connectionId];

// To all: an invocation completes after the hub method has run.
results.completed = (await ada.connection.invoke("SendMessage", "Ada", "hello · 你好")) ?? null;
await grace.connection.send("sendmessage", "Grace", "hi"); // lookup ignores case
await Promise.all([ada.until(2), grace.until(2)]);

// To a group: only its member hears it.
await ada.connection.invoke("JoinGroup", "engines");
await grace.connection.invoke("SendToGroup", "engines", "Grace", "to the group");
await ada.until(3);

// Fifty invocations on their way at once complete in any case.
await Promise.all(Array.from({ length: 50 }, (_, n) => grace.connection.invoke("SendMessage", "Grace", `n${n}`)));
await Promise.all([ada.until(53), grace.until(52)]);

results.unknown = await ada.connection.invoke("NoSuchMethod").catch((error) => error.message);
results.missingArguments = await ada.connection.invoke("SendMessage").catch((error) => error.message);
results.alive = (await ada.connection.invoke("SendMessage", "Ada", "still here")) ?? null;

const closed = new Promise((resolve) => ada.connection.onclose((error) => resolve(error?.message ?? null)));
await ada.connection.stop();
results.closeError = await closed;
await grace.connection.stop();
results.ada = ada.received.slice(0, 3);
results.grace = grace.received.slice(0, 2);
results.counts = [ada.received.length, grace.received.length];
console.log(JSON.stringify(results));
