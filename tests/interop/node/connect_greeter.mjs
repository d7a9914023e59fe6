// Calls greet.Greeter with @connectrpc/connect-node: Connect, gRPC-Web and gRPC, each over the HTTP versions it has.
// Usage: node connect_greeter.mjs URL DESCRIPTORS; DESCRIPTORS is a FileDescriptorSet in base64.
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

const [baseUrl, descriptors] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64")));
const Greeter = registry.getService("greet.Greeter");
const NAMES = ["Ada", "Grace", "Барбара ☺"];

async function* names() {
  for (const name of NAMES) yield { name };
}

async function collect(stream) {
  const texts = [];
  for await (const reply of stream) texts.push(reply.message);
  return texts;
}

async function errorOf(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return { code: error.code, message: error.rawMessage };
  }
}

async function everything(transport, { bidirectional, compressed }) {
  const client = createClient(Greeter, transport);
  const timeoutMs = 20_000;
  const long = "x".repeat(compressed ? 20_000 : 10);
  const seen = {
    unary: (await client.sayHello({ name: NAMES[2] }, { timeoutMs })).message,
    long: (await client.sayHello({ name: long }, { timeoutMs })).message.length,
    serverStream: await collect(client.streamHellos({ name: "Ada", count: 3 }, { timeoutMs })),
    clientStream: (await client.collectNames(names(), { timeoutMs })).message,
    refused: await errorOf(() => collect(client.streamHellos({ name: "Ada", count: -1 }, { timeoutMs }))),
    late: await errorOf(() => collect(client.streamHellos({ count: 1000, intervalMs: 50 }, { timeoutMs: 200 }))),
    large: await errorOf(() => client.sayHello({ name: "x".repeat(5_000_000) }, { timeoutMs })),
  };
  if (bidirectional) seen.bidirectional = await collect(client.chat(names(), { timeoutMs }));
  const controller = new AbortController();
  seen.cancelled = await errorOf(async () => {
    for await (const _ of client.streamHellos({ count: 1000, intervalMs: 20 }, { signal: controller.signal })) {
      controller.abort();
    }
  });
  return seen;
}

const results = {};
const gzip = (await import("@connectrpc/connect-node")).compressionGzip;
for (const httpVersion of ["1.1", "2"]) {
  for (const useBinaryFormat of [true, false]) {
    for (const sendCompression of [undefined, gzip]) {
      const options = { baseUrl, httpVersion, useBinaryFormat, sendCompression, acceptCompression: [gzip] };
      const label = `${httpVersion} ${useBinaryFormat ? "binary" : "json"}${sendCompression ? " gzip" : ""}`;
      const traits = { bidirectional: httpVersion === "2", compressed: Boolean(sendCompression) };
      results[`connect ${label}`] = await everything(createConnectTransport(options), traits);
      if (!useBinaryFormat) continue;
      results[`grpc-web ${label}`] = await everything(createGrpcWebTransport(options), traits);
      if (httpVersion === "2") results[`grpc ${label}`] = await everything(createGrpcTransport(options), traits);
    }
  }
}
console.log(JSON.stringify(results));
process.exit(0);
