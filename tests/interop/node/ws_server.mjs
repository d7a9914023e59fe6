// Node's `ws` as a server: an echo with compression on a free port, which it prints as JSON. Ends when its
// standard input does. /bye closes with 4000, /refuse is no WebSocket, /frag answers in fragments.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const http = createServer((_request, response) => response.writeHead(404).end("no such page"));
const server = new WebSocketServer({
  noServer: true,
  perMessageDeflate: { threshold: 0 },
  maxPayload: 1 << 24,
  handleProtocols: (offered) => (offered.has("b") ? "b" : false),
});
http.on("upgrade", (request, socket, head) => {
  if (request.url === "/refuse") {
    socket.end("HTTP/1.1 401 Unauthorized\r\nContent-Length: 6\r\nX-Why: test\r\n\r\nsecret");
    return;
  }
  server.handleUpgrade(request, socket, head, (client) => {
    if (request.url === "/bye") {
      client.send("the last word");
      client.close(4000, "bye");
    }
    client.on("message", (data, isBinary) => {
      if (request.url === "/frag") {
        client.send(data.subarray(0, data.length >> 1), { binary: isBinary, fin: false });
        client.ping("between");
        client.send(data.subarray(data.length >> 1), { binary: isBinary, fin: true });
      } else {
        client.send(data, { binary: isBinary });
      }
    });
  });
});
http.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: http.address().port })));
process.stdin.on("end", () => process.exit(0)).resume();
