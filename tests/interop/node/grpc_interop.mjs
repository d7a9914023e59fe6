// The official interop cases that @grpc/grpc-js can play, against grpc.testing.TestService.
// Usage: node grpc_interop.mjs HOST:PORT PROTO; prints {CASE: "ok" | what went wrong}.
import assert from "node:assert/strict";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [target, proto] = process.argv.slice(2);
const { testing } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true })).grpc;
const credentials = grpc.credentials.createInsecure();
const client = new testing.TestService(target, credentials);
const unserved = new testing.UnimplementedService(target, credentials);
const deadline = (ms = 20_000) => ({ deadline: Date.now() + ms });
const INITIAL = "x-grpc-test-echo-initial";
const TRAILING = "x-grpc-test-echo-trailing-bin";
const REQUESTS = [27182, 8, 1828, 45904];
const RESPONSES = [31415, 9, 2653, 58979];
const NO_COMPRESS = 2; // WriteFlags.NoCompress
const SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";

const payload = (size) => ({ body: Buffer.alloc(size) });
const large = (more = {}) => ({ response_size: 314159, payload: payload(271828), ...more });
const output = (size, request = 0, more = {}) =>
  ({ response_parameters: [{ size }], payload: payload(request), ...more });

function unary(method, request, { metadata = new grpc.Metadata(), on = client, options = deadline() } = {}) {
  return new Promise((resolve) => {
    const seen = {};
    const call = on[method](request, metadata, options, (error, reply) => Object.assign(seen, { error, reply }));
    call.on("metadata", (initial) => { seen.initial = initial; });
    call.on("status", (status) => setImmediate(() => resolve({ ...seen, status })));
  });
}

function stream(call, { requests = [], onReply = () => {}, end = true } = {}) {
  return new Promise((resolve) => {
    const seen = { replies: [] };
    call.on("metadata", (initial) => { seen.initial = initial; });
    call.on("data", (reply) => { seen.replies.push(reply); onReply(call, seen.replies.length); });
    call.on("error", () => {});
    call.on("status", (status) => resolve({ ...seen, status }));
    for (const each of requests) call.write(each);
    if (end && call.end) call.end();
  });
}

const sizes = (seen) => seen.replies.map((reply) => reply.payload.body.length);
const echo = () => {
  const metadata = new grpc.Metadata();
  metadata.set(INITIAL, "test_initial_metadata_value");
  metadata.set(TRAILING, Buffer.from("ababab", "hex"));
  return metadata;
};
function echoed({ initial, status }) {
  assert.deepEqual(initial.get(INITIAL), ["test_initial_metadata_value"]);
  assert.deepEqual(status.metadata.get(TRAILING).map((each) => each.toString("hex")), ["ababab"]);
}

const CASES = {
  async empty_unary() {
    assert.deepEqual((await unary("EmptyCall", {})).reply, {});
  },
  async large_unary() {
    assert.equal((await unary("UnaryCall", large())).reply.payload.body.length, 314159);
  },
  async server_compressed_unary() {
    const { reply, initial } = await unary("UnaryCall", large({ response_compressed: { value: true } }));
    assert.equal(reply.payload.body.length, 314159);
    assert.deepEqual(initial.get("grpc-encoding"), []); // taken out by the client, which has inflated the message
  },
  async client_compressed_unary() {
    const probe = await unary("UnaryCall", large({ expect_compressed: { value: true } }));
    assert.equal(probe.status.code, grpc.status.INVALID_ARGUMENT);
    const gzip = new testing.TestService(target, credentials, { "grpc.default_compression_algorithm": 2 });
    const seen = await unary("UnaryCall", large({ expect_compressed: { value: true } }), { on: gzip });
    assert.equal(seen.status.code, 0, seen.status.details);
    gzip.close();
  },
  async cacheable_unary() {
    const [first, second] = [await unary("CacheableUnaryCall", {}), await unary("CacheableUnaryCall", {})];
    assert.deepEqual(first.initial.get("cache-control"), ["max-age=60, public"]);
    // No cache stands between: each answer is a later time in nanoseconds.
    assert.ok(BigInt(first.reply.payload.body.toString()) < BigInt(second.reply.payload.body.toString()));
  },
  async client_compressed_streaming() {
    const upload = (on, messages) => new Promise((resolve) => {
      const seen = {};
      const call = on.StreamingInputCall(deadline(), (error, reply) => resolve({ ...seen, error, reply }));
      for (const [size, compressed] of messages) {
        const flags = compressed ? 0 : NO_COMPRESS;
        call.write({ payload: payload(size), expect_compressed: { value: compressed } }, flags);
      }
      call.end();
    });
    assert.equal((await upload(client, [[27182, true]])).error.code, grpc.status.INVALID_ARGUMENT);
    const gzip = new testing.TestService(target, credentials, { "grpc.default_compression_algorithm": 2 });
    assert.equal((await upload(gzip, [[27182, true], [45904, false]])).reply?.aggregated_payload_size, 73086);
    gzip.close();
  },
  async client_streaming() {
    const reply = await new Promise((resolve, reject) => {
      const call = client.StreamingInputCall(deadline(), (error, value) => (error ? reject(error) : resolve(value)));
      for (const size of REQUESTS) call.write({ payload: payload(size) });
      call.end();
    });
    assert.equal(reply.aggregated_payload_size, 74922);
  },
  async server_streaming() {
    const request = { response_parameters: RESPONSES.map((size) => ({ size })) };
    assert.deepEqual(sizes(await stream(client.StreamingOutputCall(request, deadline()))), RESPONSES);
  },
  async server_compressed_streaming() {
    const request = { response_parameters: [{ size: 31415, compressed: { value: true } }, { size: 92653 }] };
    assert.deepEqual(sizes(await stream(client.StreamingOutputCall(request, deadline()))), [31415, 92653]);
  },
  async ping_pong() {
    const seen = await stream(client.FullDuplexCall(deadline()), {
      requests: [output(RESPONSES[0], REQUESTS[0])],
      end: false,
      onReply: (call, turn) => (turn < 4 ? call.write(output(RESPONSES[turn], REQUESTS[turn])) : call.end()),
    });
    assert.deepEqual(sizes(seen), RESPONSES);
  },
  async empty_stream() {
    const seen = await stream(client.FullDuplexCall(deadline()));
    assert.deepEqual([seen.replies.length, seen.status.code], [0, 0]);
  },
  async custom_metadata() {
    echoed(await unary("UnaryCall", large(), { metadata: echo() }));
    echoed(await stream(client.FullDuplexCall(echo(), deadline()), { requests: [output(314159)] }));
  },
  async status_code_and_message() {
    const response_status = { code: 2, message: "test status message" };
    const one = await unary("UnaryCall", { response_status });
    const both = await stream(client.FullDuplexCall(deadline()), { requests: [output(1, 0, { response_status })] });
    for (const { status } of [one, both]) assert.deepEqual([status.code, status.details], [2, "test status message"]);
  },
  async special_status_message() {
    const { status } = await unary("UnaryCall", { response_status: { code: 2, message: SPECIAL } });
    assert.deepEqual([status.code, status.details], [2, SPECIAL]);
  },
  async unimplemented_method() {
    assert.equal((await unary("UnimplementedCall", {})).status.code, 12);
  },
  async unimplemented_service() {
    assert.equal((await unary("UnimplementedCall", {}, { on: unserved })).status.code, 12);
  },
  async cancel_after_begin() {
    const call = client.StreamingInputCall(deadline(), () => {});
    const status = new Promise((resolve) => call.on("status", resolve));
    call.cancel();
    assert.equal((await status).code, grpc.status.CANCELLED);
  },
  async cancel_after_first_response() {
    const seen = await stream(client.FullDuplexCall(deadline()), {
      requests: [output(RESPONSES[0], REQUESTS[0])],
      end: false,
      onReply: (call) => call.cancel(),
    });
    assert.deepEqual([seen.replies.length, seen.status.code], [1, grpc.status.CANCELLED]);
  },
  async timeout_on_sleeping_server() {
    const request = { response_parameters: [{ size: 31415, interval_us: 10_000_000 }] };
    const seen = await stream(client.FullDuplexCall(deadline(50)), { requests: [request], end: false });
    assert.equal(seen.status.code, grpc.status.DEADLINE_EXCEEDED);
  },
  async concurrent_large_unary() {
    const options = deadline(60_000);
    const replies = await Promise.all(Array.from({ length: 300 }, () => unary("UnaryCall", large(), { options })));
    const failures = replies.filter(({ reply }) => reply?.payload.body.length !== 314159);
    assert.deepEqual(failures.map(({ status }) => `${status.code} ${status.details}`), []);
  },
};

const results = {};
for (const [name, play] of Object.entries(CASES)) {
  results[name] = await play().then(() => "ok", (error) => String(error?.message ?? error));
}
client.close();
unserved.close();
console.log(JSON.stringify(results));
process.exit(0); // timers of cancelled calls would keep it for as long as their deadlines
