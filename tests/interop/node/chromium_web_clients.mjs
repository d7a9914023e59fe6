// Calls greet.Greeter from a page on another origin, with the browsers' official clients.
// Usage: node chromium_web_clients.mjs CHROMIUM URL DESCRIPTORS; DESCRIPTORS is a FileDescriptorSet in base64.
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { openPage, withBrowser } from "./browser.mjs";

const [executablePath, url, descriptors] = process.argv.slice(2);

const bundle = await build({
  entryPoints: [fileURLToPath(new URL("web_clients.entry.mjs", import.meta.url))],
  bundle: true,
  write: false,
  format: "iife",
  logLevel: "silent",
});
const script = bundle.outputFiles[0].text.replaceAll("</script", "<\\/script");
const server = createServer((_, answer) => {
  answer.setHeader("content-type", "text/html; charset=utf-8");
  answer.end(`<!doctype html><link rel="icon" href="data:,"><script>${script}</script>`);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const results = await withBrowser(executablePath, async (browser) => {
  const context = await browser.newContext();
  const { page, problems } = await openPage(context, `http://127.0.0.1:${server.address().port}/`);
  const seen = await page.evaluate(([to, types]) => globalThis.runWebClients(to, types), [url, descriptors]);
  // Connect's client aborts a response that it has read to its status, which the browser calls a failed request.
  return { seen, blocked: problems.filter((problem) => /CORS|uncaught/.test(problem)) };
});
server.close();
console.log(JSON.stringify(results));
