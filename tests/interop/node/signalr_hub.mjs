// What @microsoft/signalr makes of results, errors, streams, client results and closes.
// Usage: node signalr_hub.mjs BASE_URL; prints what each case came to.
import { HttpTransportType, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";

const [base] = process.argv.slice(2);

async function connect(path, configure = (builder) => builder) {
  const builder = new HubConnectionBuilder()
    .withUrl(`${base}${path}`, { transport: HttpTransportType.WebSockets })
    .configureLogging(LogLevel.None);
  const connection = configure(builder).build();
  connection.closed = new Promise((resolve) => connection.onclose((error) => resolve(error?.message ?? null)));
  return connection;
}

const started = async (...options) => {
  const connection = await connect(...options);
  await connection.start();
  return connection;
};

const outcome = (promise) => promise.then((value) => ({ value }), (error) => ({ error: error.message }));

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
const hub = await started("/conformance");
const record = { Id: 1, Name: "n", Score: 2.5, Tags: ["a"], When: "2024-02-29T12:30:45.123Z", Blob: "AQID", Child: null };

results.echo = await hub.invoke("echo", { text: "é€😀", list: [1, null, true] });
results.record = await hub.invoke("EchoTyped", { ...record, Child: record });
results.large = (await hub.invoke("Echo", "x".repeat(30_000))).length;
results.nothing = (await hub.invoke("DoNothing")) ?? null;
results.hubError = await outcome(hub.invoke("ThrowHubError", "mine"));
results.error = await outcome(hub.invoke("ThrowError", "secret"));
results.binding = await outcome(hub.invoke("Add", 1));
results.stream = await collect(hub.stream("StreamCounter", 3, 0));
results.streamError = await collect(hub.stream("StreamThrow", 2, "mine"));
results.wrongKind = await collect(hub.stream("Echo", 1));
results.cancelled = await collect(hub.stream("StreamForever", "node", 1), 2);
results.many = (await collect(hub.stream("StreamCounter", 2000, 0))).items.length;

hub.on("Ask", async (value) => (await hub.invoke("Add", value, 1)) * 10);
results.clientResult = await hub.invoke("InvokeCaller", "Ask", 4);
hub.on("Fail", () => {
  throw new Error("the client failed");
});
results.clientError = await outcome(hub.invoke("InvokeCaller", "Fail", 0));
results.noHandler = await outcome(hub.invoke("InvokeCaller", "Nobody", 0));

await hub.send("Abort");
results.aborted = await hub.closed;

const detailed = await started("/conformance-detailed");
results.detailed = await outcome(detailed.invoke("ThrowError", "secret"));
results.unserialisable = await outcome(detailed.invoke("ReturnUnserialisable"));
results.closedWith = await detailed.closed;

// The Close may overtake the end of `start`, which then fails with it.
const rejected = await connect("/conformance?reject=1");
results.rejected = (await outcome(rejected.start())).error ?? (await rejected.closed);

// Both sides ping: the connection outlives the server's time-out of two seconds.
const fast = await started("/conformance-fast", (builder) => builder.withKeepAliveInterval(500).withServerTimeout(2000));
await new Promise((resolve) => setTimeout(resolve, 3000));
results.alive = await outcome(fast.invoke("Echo", "still here"));
await fast.stop();

console.log(JSON.stringify(results));
