// The browser's own WebSocket against /echo, over HTTP/1.1 and, on an HTTP/2 page, by extended CONNECT (RFC 8441).
// Usage: node chromium_websocket.mjs CHROMIUM URL SECURE_URL; prints what each socket saw.
import { withBrowser } from "./browser.mjs";

const [executablePath, url, secureUrl] = process.argv.slice(2);

async function converse(target) {
  const opened = (socket) =>
    new Promise((resolve, reject) => Object.assign(socket, { onopen: resolve, onerror: () => reject(new Error("no")) }));
  const next = (socket) => new Promise((resolve) => Object.assign(socket, { onmessage: ({ data }) => resolve(data) }));
  const ended = (socket) =>
    new Promise((resolve) => Object.assign(socket, { onclose: ({ code, reason, wasClean }) => resolve({ code, reason, wasClean }) }));

  const words = Array.from({ length: 20_000 }, (_, index) => `word ${index % 97} · 你好`).join(" ");
  const noise = crypto.getRandomValues(new Uint8Array(60_000));
  const large = new Uint8Array(1_000_000).map((_, index) => (index * 31) & 0xff);
  const socket = new WebSocket(target, ["x", "b"]);
  socket.binaryType = "arraybuffer";
  await opened(socket);
  const same = [];
  for (const text of ["", "hello", words, "x".repeat(300)]) {
    const reply = next(socket);
    socket.send(text);
    same.push((await reply) === text);
  }
  for (const bytes of [new Uint8Array(0), noise, large]) {
    const reply = next(socket);
    socket.send(bytes);
    const back = new Uint8Array(await reply);
    same.push(back.length === bytes.length && back.every((byte, index) => byte === bytes[index]));
  }
  const replies = [];
  const all = new Promise((resolve) => {
    socket.onmessage = ({ data }) => replies.push(data) === 1000 && resolve();
  });
  for (let index = 0; index < 1000; index += 1) socket.send(`${index}`);
  await all;
  same.push(replies.every((data, index) => data === `${index}`));
  const end = ended(socket);
  socket.close(4000, "done");
  const { protocol, extensions } = socket;

  const tooLarge = new WebSocket(target);
  await opened(tooLarge);
  const refusal = ended(tooLarge);
  tooLarge.send(new Uint8Array(16 * 1024 * 1024 + 1));
  const missing = new WebSocket(target.replace("/echo", "/nope"));
  const failed = await new Promise((resolve) => Object.assign(missing, { onerror: () => resolve(true), onopen: () => resolve(false) }));
  return { protocol, extensions, same, end: await end, refusal: await refusal, failed };
}

const results = await withBrowser(executablePath, async (browser) => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const seen = {};
  for (const [name, from] of [["http1", url], ["http2", secureUrl]]) {
    const page = await context.newPage();
    await page.goto(`${from}/`);
    seen[name] = await page.evaluate(converse, `${from.replace("http", "ws")}/echo`);
    seen[name].version = await page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol);
  }
  return seen;
});
console.log(JSON.stringify(results));
