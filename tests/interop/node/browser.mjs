// Headless Chromium as the tests start it: nothing of its own on the network, no sandbox for root.
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export async function withBrowser(executablePath, work) {
  const browser = await chromium.launch({ executablePath, headless: true, args: FLAGS });
  try {
    return await work(browser);
  } finally {
    await browser.close();
  }
}

// A page that keeps what went wrong on it: uncaught errors, console errors, failed requests.
export async function openPage(context, url) {
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(`uncaught: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && problems.push(`console: ${message.text()}`));
  page.on("requestfailed", (request) => problems.push(`failed: ${request.url()} ${request.failure()?.errorText}`));
  page.on("response", (response) => response.status() >= 400 && problems.push(`${response.status()} ${response.url()}`));
  await page.goto(url);
  return { page, problems };
}
