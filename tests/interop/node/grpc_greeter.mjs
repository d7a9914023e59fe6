// Calls every method of greet.Greeter with @grpc/grpc-js.
// Usage: node grpc_greeter.mjs HOST:PORT PROTO; prints {METHOD: {kind, replies, status}}.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [target, proto] = process.argv.slice(2);
const { greet } = grpc.loadPackageDefinition(loader.loadSync(proto));
const client = new greet.Greeter(target, grpc.credentials.createInsecure());
const deadline = () => ({ deadline: Date.now() + 20_000 });
const NAMES = ["Ada", "Grace", "Barbara"];

function call(path, method) {
  return new Promise((resolve, reject) => {
    const replies = [];
    const name = method.originalName;
    let stream;
    if (!method.requestStream && !method.responseStream) {
      stream = client[name]({ name: NAMES[0] }, deadline(), (error, reply) => {
        if (error) reject(error);
        else replies.push(reply);
      });
    } else if (method.requestStream && !method.responseStream) {
      stream = client[name](deadline(), (error, reply) => {
        if (error) reject(error);
        else replies.push(reply);
      });
    } else if (!method.requestStream) {
      stream = client[name]({ name: NAMES[0] }, deadline());
    } else {
      stream = client[name](deadline());
    }
    if (method.responseStream) {
      stream.on("data", (reply) => replies.push(reply));
      stream.on("error", reject);
    }
    if (method.requestStream) {
      for (const each of NAMES) stream.write({ name: each });
      stream.end();
    }
    const kind = `${method.requestStream ? "stream" : "unary"}-${method.responseStream ? "stream" : "unary"}`;
    // The status may overtake the reply's callback: settle after both.
    stream.on("status", (status) => setImmediate(() => resolve({ kind, replies, status: status.code })));
  });
}

function failing(method) {
  return new Promise((resolve) => {
    client.makeUnaryRequest(
      method, (value) => value, (value) => value, Buffer.alloc(0), deadline(),
      (error) => resolve({ code: error?.code, details: error?.details }),
    );
  });
}

const results = {};
for (const [name, method] of Object.entries(greet.Greeter.service)) {
  results[name] = await call(method.path, method);
}
results.unknownMethod = await failing("/greet.Greeter/NoSuchMethod");
results.unknownService = await failing("/no.Such/Method");
client.close();
console.log(JSON.stringify(results));
