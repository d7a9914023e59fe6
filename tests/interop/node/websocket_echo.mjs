// What `ws` gets back from an echo, with compression agreed on or not.
// Usage: node websocket_echo.mjs URL; prints what each case came to.
import WebSocket from "ws";

const [url] = process.argv.slice(2);
const messages = ["", "hello", "grüße 🦀".repeat(1000), Buffer.alloc(300000, 7), Buffer.from("x".repeat(100))];

function talk(perMessageDeflate) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, ["b"], { perMessageDeflate });
    const same = [];
    socket.on("error", reject);
    socket.on("open", () => messages.forEach((message) => socket.send(message)));
    socket.on("message", (data, binary) => {
      const sent = messages[same.length];
      same.push(binary === Buffer.isBuffer(sent) && data.equals(Buffer.from(sent)));
      if (same.length === messages.length) {
        socket.ping("p");
      }
    });
    socket.on("pong", (data) => socket.close(4000, `pong ${data}`));
    socket.on("close", (code, reason) =>
      resolve({
        same,
        code,
        protocol: socket.protocol,
        agreed: socket._extensions["permessage-deflate"]?.params ?? null,
      }),
    );
  });
}

console.log(
  JSON.stringify({
    plain: await talk(false),
    compressed: await talk({ threshold: 0 }),
    noTakeover: await talk({
      threshold: 0,
      serverNoContextTakeover: true,
      clientNoContextTakeover: true,
      serverMaxWindowBits: 10,
      clientMaxWindowBits: 10,
    }),
  }),
);
