// Calls the conformance app with @connectrpc/connect-node: GET, metadata, errors of every code with their details,
// compression and lock-step streams; in Connect, gRPC-Web and gRPC, each over the HTTP versions it has.
// Usage: node connect_conformance.mjs URL DESCRIPTORS; DESCRIPTORS is a FileDescriptorSet in base64.
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient, decodeBinaryHeader, encodeBinaryHeader } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

const [baseUrl, descriptors] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64")));
const TestService = registry.getService("grpc.testing.TestService");
const Probe = registry.getService("conformance.v1.Probe");
const EchoStatus = registry.getMessage("grpc.testing.EchoStatus");
const INITIAL = "x-grpc-test-echo-initial", TRAILING = "x-grpc-test-echo-trailing-bin";
const timeoutMs = 20_000;

async function errorOf(work) {
  try {
    await work();
    return null;
  } catch (error) {
    const details = error.findDetails?.(EchoStatus).map((detail) => detail.message);
    return { code: error.code, message: error.rawMessage ?? String(error), ...(details?.length && { details }) };
  }
}

async function everything(makeTransport, { duplex }) {
  const encodings = [];
  const note = (next) => async (request) => {
    const response = await next(request);
    encodings.push(response.header.get("content-encoding") ?? response.header.get("grpc-encoding"));
    return response;
  };
  const transport = makeTransport([note]);
  const test = createClient(TestService, transport), probe = createClient(Probe, transport);
  const seen = {};

  let cached;
  await test.cacheableUnaryCall({ responseSize: 1 }, { timeoutMs, onHeader: (head) => { cached = head.get("cache-control"); } });
  seen.cacheControl = cached;

  const headers = new Headers({ [INITIAL]: "a", [TRAILING]: encodeBinaryHeader(new Uint8Array([0xab, 0xff])) });
  let initial, trailing;
  const listen = { headers, timeoutMs, onHeader: (head) => { initial = head.get(INITIAL); },
    onTrailer: (end) => { trailing = Buffer.from(decodeBinaryHeader(end.get(TRAILING))).toString("hex"); } };
  await test.unaryCall({ responseSize: 1 }, listen);
  seen.unaryMetadata = [initial, trailing];
  for await (const _ of test.streamingOutputCall({ responseParameters: [{ size: 1 }] }, listen));
  seen.streamMetadata = [initial, trailing];

  seen.codes = [];
  for (let code = 1; code <= 16; code++) {
    const { code: got, message } = await errorOf(() => test.unaryCall({ responseStatus: { code, message: `no ${code} ☺ %` } }, { timeoutMs }));
    if (message === `no ${code} ☺ %`) seen.codes.push(got);
  }
  const rich = { kind: 1, text: "rich", code: 9 };
  seen.rich = await errorOf(() => probe.fail(rich, { timeoutMs }));
  seen.richStream = await errorOf(async () => { for await (const _ of probe.failStream(rich, { timeoutMs })); });
  seen.raised = await errorOf(() => probe.fail({ kind: 0, text: "secret" }, { timeoutMs }));
  let before = 0;
  const late = await errorOf(async () => {
    for await (const _ of probe.failStream({ kind: 2, text: "late", code: 10 }, { timeoutMs })) before++;
  });
  seen.late = { before, ...late };
  seen.unimplemented = (await errorOf(() => test.unimplementedCall({}, { timeoutMs }))).code;

  const large = await test.unaryCall({ responseSize: 5000, responseCompressed: { value: true } }, { timeoutMs });
  seen.compressed = { size: large.payload.body.length, encoding: encodings.at(-1) };
  seen.deadline = (await probe.deadline({}, { timeoutMs })).hasDeadline;
  seen.hang = (await errorOf(() => probe.hang({ key: "connect-node" }, { timeoutMs: 100 }))).code;
  seen.outcome = (await probe.outcome({ key: "connect-node", waitMs: 5000 }, { timeoutMs })).state;

  if (duplex) { // each request only after the reply to the one before it
    let answered = () => {};
    async function* requests() {
      for (const size of [31415, 9, 2653]) {
        const reply = new Promise((resolve) => { answered = resolve; });
        yield { responseParameters: [{ size }] };
        await reply;
      }
    }
    seen.lockStep = [];
    for await (const reply of test.fullDuplexCall(requests(), { timeoutMs })) {
      seen.lockStep.push(reply.payload.body.length);
      answered();
    }
  }
  return seen;
}

const results = {};
for (const httpVersion of ["1.1", "2"]) {
  for (const useBinaryFormat of [true, false]) {
    const options = { baseUrl, httpVersion, useBinaryFormat, useHttpGet: true, acceptCompression: [compressionGzip] };
    const duplex = httpVersion === "2";
    const label = `${httpVersion} ${useBinaryFormat ? "binary" : "json"}`;
    const run = (create) => everything((interceptors) => create({ ...options, interceptors }), { duplex });
    results[`connect ${label}`] = await run(createConnectTransport);
    if (!useBinaryFormat) continue;
    results[`grpc-web ${label}`] = await run(createGrpcWebTransport);
    if (duplex) results[`grpc ${label}`] = await run(createGrpcTransport);
  }
}
console.log(JSON.stringify(results));
process.exit(0);
