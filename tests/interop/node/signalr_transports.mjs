// @microsoft/signalr over each transport: calls, streams, uploads, client results, fall-back, credentials, cuts.
// Usage: node signalr_transports.mjs BASE_URL PROXY_URL; POST BASE_URL/cut cuts what goes through the proxy.
import { HttpTransportType, HubConnectionBuilder, LogLevel, Subject } from "@microsoft/signalr";

const [base, proxy] = process.argv.slice(2);
const NAMES = { WebSockets: 1, ServerSentEvents: 2, LongPolling: 4 };

const build = (url, options = {}, configure = (builder) => builder) =>
  configure(new HubConnectionBuilder().withUrl(url, options).configureLogging(LogLevel.None)).build();

const started = async (...options) => {
  const connection = build(...options);
  await connection.start();
  return connection;
};

const outcome = (promise) => promise.then((value) => ({ value }), (error) => ({ error: error.message }));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const collect = (stream) =>
  new Promise((resolve, reject) => {
    const items = [];
    stream.subscribe({ next: (item) => items.push(item), complete: () => resolve(items), error: reject });
  });

async function exercise(name) {
  const found = {};
  const hub = await started(`${base}/conformance`, { transport: NAMES[name] });
  found.transport = await hub.invoke("GetTransport");
  found.echo = await hub.invoke("Echo", { text: "é€😀\n\r\n", list: [1, null] });
  found.large = (await hub.invoke("ReturnLarge", 200_000)).length;
  found.stream = await collect(hub.stream("StreamCounter", 4, 1));
  const numbers = new Subject();
  const sum = hub.invoke("UploadSum", numbers);
  for (const number of [1, 2, 3]) numbers.next(number);
  numbers.complete();
  found.upload = await sum;
  hub.on("Ask", (value) => value * 10);
  found.asked = await hub.invoke("InvokeCaller", "Ask", 4);
  found.error = (await outcome(hub.invoke("ThrowHubError", "mine"))).error;
  const heard = [];
  hub.on("Heard", (value) => heard.push(value));
  await hub.invoke("JoinGroup", `group of ${name}`);
  await hub.invoke("SendMany", "Heard", 50);
  await hub.invoke("SendToGroup", `group of ${name}`, "Heard", "grouped");
  while (heard.length < 51) await pause(5);
  found.heard = [heard.length, heard[0], heard[49], heard[50]];
  found.many = (await Promise.all(Array.from({ length: 40 }, (_, n) => hub.invoke("Add", n, 1)))).at(-1);
  const id = hub.connectionId;
  const closed = new Promise((resolve) => hub.onclose((error) => resolve(error?.message ?? null)));
  await hub.stop();
  found.closed = await closed;
  const observer = await started(`${base}/conformance`);
  do found.events = await observer.invoke("GetEvents", id);
  while (found.events.length < 2 && (await pause(10)) === undefined);
  await observer.stop();
  return found;
}

async function authenticate(name) {
  const url = `${base}/conformance-auth`;
  const refused = (await outcome(build(url, { transport: NAMES[name] }).start())).error;
  const token = "user:ada;role=admin";
  const hub = await started(url, { transport: NAMES[name], accessTokenFactory: () => token });
  const found = [await hub.invoke("GetUserId"), await hub.invoke("GetClaim", "role"), await hub.invoke("AdminOnly")];
  await hub.stop();
  return { refused, found };
}

async function reconnect(name) {
  const delays = (builder) => builder.withAutomaticReconnect([0, 50, 200, 500, 1000]);
  const hub = await started(`${proxy}/conformance`, { transport: NAMES[name] }, delays);
  const again = new Promise((resolve) => hub.onreconnected(resolve));
  const first = hub.connectionId;
  await fetch(`${base}/cut`, { method: "POST" });
  const second = await again;
  const echo = await hub.invoke("Echo", "again");
  await hub.stop();
  return [echo, first !== second];
}

async function resume() {
  const hub = await started(`${proxy}/conformance`, { transport: NAMES.WebSockets }, (builder) =>
    builder.withStatefulReconnect().withAutomaticReconnect([0, 0, 50]),
  );
  let reconnected = 0;
  hub.onreconnected(() => (reconnected += 1));
  const first = await hub.invoke("GetConnectionId");
  const heard = [];
  hub.on("Heard", (value) => heard.push(value));
  await hub.invoke("StartSequence", "Heard", 300, 5);
  const sums = [];
  for (let cut = 0; cut < 4; cut += 1) {
    await pause(200);
    const calls = Promise.all(Array.from({ length: 10 }, (_, n) => hub.invoke("Add", cut * 10 + n, 0)));
    await fetch(`${base}/cut`, { method: "POST" });
    sums.push(...(await calls));
  }
  while (heard.length < 300) await pause(20);
  const found = { same: first === (await hub.invoke("GetConnectionId")), reconnected, sums, heard };
  await hub.stop();
  return found;
}

const results = { exercised: {}, authenticated: {}, reconnected: {} };
for (const name of Object.keys(NAMES)) {
  results.exercised[name] = await exercise(name);
  results.authenticated[name] = await authenticate(name);
}
for (const name of ["WebSockets", "ServerSentEvents"]) results.reconnected[name] = await reconnect(name);

const best = await started(`${base}/conformance`);
const next = await started(`${base}/conformance-nows`);
const last = await started(`${base}/conformance-nows`, { transport: HttpTransportType.LongPolling });
results.fallBack = await Promise.all([best, next, last].map((hub) => hub.invoke("GetTransport")));
await Promise.all([best, next, last].map((hub) => hub.stop()));

results.resumed = await resume();
console.log(JSON.stringify(results));
