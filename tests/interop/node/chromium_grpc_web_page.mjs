// Uses the page of examples/grpc_web_page.py. Usage: node chromium_grpc_web_page.mjs CHROMIUM URL NAME...
// Prints what the page shows after each name.
import { openPage, withBrowser } from "./browser.mjs";

const [executablePath, url, ...names] = process.argv.slice(2);

const results = await withBrowser(executablePath, async (browser) => {
  const { page, problems } = await openPage(await browser.newContext(), url);
  const shown = [];
  for (const name of names) {
    await page.$eval("output", (output) => { output.value = ""; });
    await page.fill("input", name);
    await page.click("button");
    await page.waitForFunction(() => document.querySelector("output").value !== "");
    shown.push(await page.$eval("output", (output) => output.value));
  }
  return { shown, problems };
});
console.log(JSON.stringify(results));
