// grpc.testing.TestService on @grpc/grpc-js. Usage: node grpc_test_server.mjs PROTO; prints its port.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const definition = loader.loadSync(process.argv[2], { keepCase: true, defaults: true, arrays: true });
const { TestService } = grpc.loadPackageDefinition(definition).grpc.testing;
const INITIAL = "x-grpc-test-echo-initial";
const TRAILING = "x-grpc-test-echo-trailing-bin";
const chunk = (size) => ({ payload: { body: Buffer.alloc(size) } });

function metadata(call) {
  const initial = new grpc.Metadata();
  const trailing = new grpc.Metadata();
  for (const value of call.metadata.get(INITIAL)) initial.add(INITIAL, value);
  for (const value of call.metadata.get(TRAILING)) trailing.add(TRAILING, value);
  call.sendMetadata(initial);
  return trailing;
}

const server = new grpc.Server();
server.addService(TestService.service, {
  EmptyCall: (call, done) => done(null, {}),
  UnaryCall(call, done) {
    const trailing = metadata(call);
    const status = call.request.response_status;
    if (status?.code) done({ code: status.code, details: status.message, metadata: trailing });
    else done(null, chunk(call.request.response_size), trailing);
  },
  StreamingOutputCall(call) {
    for (const wanted of call.request.response_parameters) call.write(chunk(wanted.size));
    call.end();
  },
  StreamingInputCall(call, done) {
    let total = 0;
    call.on("data", (request) => (total += request.payload.body.length));
    call.on("end", () => done(null, { aggregated_payload_size: total }));
  },
  FullDuplexCall(call) {
    const trailing = metadata(call);
    call.on("data", (request) => {
      const status = request.response_status;
      if (status?.code) call.emit("error", { code: status.code, details: status.message, metadata: trailing });
      else for (const wanted of request.response_parameters) call.write(chunk(wanted.size));
    });
    call.on("end", () => call.end(trailing));
    call.on("error", () => {});
  },
});
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port);
});
