// greet.Greeter/SayHello on @grpc/grpc-js, the official server of Node.js. Prints its port.
"use strict";

const path = require("path");
const grpc = require(path.join(__dirname, "../../interop/node/node_modules/@grpc/grpc-js"));

// HelloRequest and HelloReply are one string each, shorter than 128 bytes here: 0x0a, length, text.
const decode = (bytes) => ({ text: bytes.toString("utf8", 2) });
const encode = ({ text }) => Buffer.concat([Buffer.from([0x0a, Buffer.byteLength(text)]), Buffer.from(text)]);

const methods = {
  SayHello: {
    path: "/greet.Greeter/SayHello",
    requestStream: false,
    responseStream: false,
    requestSerialize: encode,
    requestDeserialize: decode,
    responseSerialize: encode,
    responseDeserialize: decode,
  },
};

const server = new grpc.Server();
server.addService(methods, { SayHello: (call, reply) => reply(null, { text: `Hello ${call.request.text}` }) });
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port);
});
