// Runs in the browser, bundled by chromium_web_clients.mjs: the official grpc-web and @connectrpc/connect-web.
import { create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import grpcWeb from "grpc-web";

const { GrpcWebClientBase, MethodDescriptor, MethodType } = grpcWeb;
const LONG = "x".repeat(100_000);

async function errorOf(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return { code: error.code, message: error.rawMessage ?? error.message };
  }
}

async function callWithConnectWeb(transport, Greeter) {
  const client = createClient(Greeter, transport);
  const stream = async (request) => {
    const texts = [];
    for await (const reply of client.streamHellos(request)) texts.push(reply.message);
    return texts;
  };
  return {
    unary: (await client.sayHello({ name: "Ада" }, { headers: { "x-mine": "1" } })).message,
    long: (await client.sayHello({ name: LONG })).message.length,
    stream: await stream({ name: "Ada", count: 3 }),
    refused: await errorOf(() => stream({ count: -1 })),
  };
}

async function callWithGrpcWeb(hostname, registry, format) {
  const client = new GrpcWebClientBase({ format });
  const describe = (service, name, kind, request) =>
    new MethodDescriptor(
      `/${service}/${name}`, kind, Object, Object,
      (value) => toBinary(registry.getMessage(request), create(registry.getMessage(request), value)),
      (bytes) => fromBinary(registry.getMessage("greet.HelloReply"), bytes),
    );
  const say = (service, request) => {
    const method = describe(service, "SayHello", MethodType.UNARY, "greet.HelloRequest");
    return client.unaryCall(`${hostname}/${service}/SayHello`, request, { "x-mine": "1" }, method);
  };
  const stream = (request) =>
    new Promise((resolve, reject) => {
      const method = describe("greet.Greeter", "StreamHellos", MethodType.SERVER_STREAMING, "greet.StreamHellosRequest");
      const texts = [];
      client.serverStreaming(`${hostname}/greet.Greeter/StreamHellos`, request, {}, method)
        .on("data", (reply) => texts.push(reply.message))
        .on("error", reject)
        .on("status", (status) => status.code === 0 && resolve(texts))
        .on("end", () => resolve(texts));
    });
  return {
    unary: (await say("greet.Greeter", { name: "Ада" })).message,
    long: (await say("greet.Greeter", { name: LONG })).message.length,
    stream: format === "text" ? await stream({ name: "Ada", count: 3 }) : undefined, // its binary mode has no streams
    refused: format === "text" ? await errorOf(() => stream({ count: -1 })) : undefined,
    unknown: await errorOf(() => say("greet.Nobody", {})),
  };
}

globalThis.runWebClients = async (baseUrl, descriptors) => {
  const bytes = Uint8Array.from(atob(descriptors), (character) => character.charCodeAt(0));
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
  const Greeter = registry.getService("greet.Greeter");
  return {
    "connect-web connect json": await callWithConnectWeb(createConnectTransport({ baseUrl }), Greeter),
    "connect-web connect binary": await callWithConnectWeb(createConnectTransport({ baseUrl, useBinaryFormat: true }), Greeter),
    "connect-web grpc-web": await callWithConnectWeb(createGrpcWebTransport({ baseUrl }), Greeter),
    "grpc-web text": await callWithGrpcWeb(baseUrl, registry, "text"),
    "grpc-web binary": await callWithGrpcWeb(baseUrl, registry, "binary"),
  };
};
