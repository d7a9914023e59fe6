// @microsoft/signalr does what a test compares our client with, step by step, against a server that writes it down.
// Usage: node signalr_wire.mjs BASE_URL
import { HttpTransportType as T, HubConnectionBuilder, LogLevel, Subject } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const [base] = process.argv.slice(2);

const build = (scenario, options, configure = (builder) => builder) =>
  configure(
    new HubConnectionBuilder().withUrl(`${base}/${scenario}/hub?a=b`, options).configureLogging(LogLevel.None),
  ).build();

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const reconnected = (hub) => new Promise((resolve) => hub.onreconnected(resolve));
const end = (stream) => new Promise((resolve) => stream.subscribe({ next() {}, complete: resolve, error: resolve }));

async function calls(hub, found) {
  await hub.start();
  const numbers = new Subject();
  const sum = hub.invoke("Sum", numbers, 5);
  numbers.next(1);
  numbers.next(2);
  numbers.complete();
  found.push(await sum);
  found.push(await hub.invoke("Echo", "x", null));
  await hub.send("Tell", [1]);
  await end(hub.stream("Three", 3));
  const endless = hub.stream("Endless");
  await new Promise((resolve) => {
    const subscription = endless.subscribe({
      next() {
        subscription.dispose();
        resolve();
      },
      complete() {},
      error() {},
    });
  });
  await pause(50); // so does the cancellation
  const asked = new Promise((resolve) =>
    hub.on("Question", (value) => {
      resolve();
      return value + 1;
    }),
  );
  await hub.send("Ask");
  await asked;
  await pause(50); // its answer leaves before the next call
  await hub.invoke("Echo");
  await hub.stop();
}

const options = { headers: { "X-Mine": "1" }, accessTokenFactory: () => "mine" };
const found = [];
await calls(build("websockets", { ...options, transport: T.WebSockets }), found);
await calls(build("polls", { ...options, transport: T.LongPolling }), found);
await calls(build("events", { ...options, transport: T.ServerSentEvents }), found);

const skipped = build("skipped", { transport: T.WebSockets, skipNegotiation: true });
await skipped.start();
await skipped.invoke("Echo");
await skipped.stop();

const redirected = build("redirect", options);
await redirected.start();
await redirected.invoke("Echo");
await redirected.stop();

const fallback = build("fallback", { transport: T.WebSockets | T.LongPolling });
await fallback.start();
await fallback.invoke("Echo");
await fallback.stop();

const packed = build("messagepack", { transport: T.WebSockets }, (b) => b.withHubProtocol(new MessagePackHubProtocol()));
await packed.start();
await packed.send("Tell", 1, "x", null, new Uint8Array([1, 2]), { a: 1.5 });
const bytes = new Subject();
await packed.send("Up", bytes);
bytes.next("i");
bytes.complete();
await pause(50);
await packed.stop();

const again = build("reconnect", {}, (b) => b.withAutomaticReconnect());
await again.start();
const back = reconnected(again);
await again.invoke("Echo", 1);
await again.invoke("Echo", 2);
await again.send("Tell");
await back;
await again.invoke("Echo", 3);
await again.stop();

const told = build("closed", {}, (b) => b.withAutomaticReconnect());
await told.start();
const returned = reconnected(told);
await told.send("CloseMe");
await returned;
await told.stop();

const stateful = build("stateful", {}, (b) => b.withStatefulReconnect());
await stateful.start();
await stateful.invoke("Echo", 1); // its answer is the last before the cut
await pause(100);
await stateful.invoke("Echo", 2);
await pause(2000); // an Ack
await stateful.stop();

const idle = build("idle", { transport: T.WebSockets }, (b) => b.withKeepAliveInterval(400));
await idle.start();
await idle.invoke("Echo");
await pause(600); // it pings a second time only if the server does
await idle.stop();

console.log(JSON.stringify(found));
