// Uses the demo page as two people would, in two tabs.
// Usage: node chromium_demo.mjs CHROMIUM URL SCREENSHOT_FOLDER; prints what each tab shows.
import { openPage, withBrowser } from "./browser.mjs";

const [executablePath, url, folder] = process.argv.slice(2);

const whenOpen = (page, id) => page.waitForSelector(`#${id}[data-state="open"]`, { timeout: 20_000 });
const messages = (page) =>
  page.$$eval("#log li:not(.note)", (items) =>
    items.map((item) => ({
      own: item.classList.contains("own"),
      user: item.querySelector("b")?.textContent ?? "",
      text: [...item.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join(""),
    })),
  );
const hasMessages = (page, count) =>
  page.waitForFunction((wanted) => document.querySelectorAll("#log li:not(.note)").length >= wanted, count);

async function say(page, text) {
  await page.fill("#chat-text", text);
  await page.click("#chat-send");
}

const results = await withBrowser(executablePath, async (browser) => {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
  const ada = await openPage(context, url);
  const grace = await openPage(context, url);
  for (const [{ page }, name] of [[ada, "Ada"], [grace, "Grace"]]) {
    await Promise.all([whenOpen(page, "chat-state"), whenOpen(page, "echo-state")]);
    await page.fill("#chat-user", name);
  }

  await say(ada.page, "hello from the first tab");
  await hasMessages(grace.page, 1);
  await say(grace.page, "hello back · <b>你好</b>");
  await Promise.all([hasMessages(ada.page, 2), hasMessages(grace.page, 2)]);

  await ada.page.bringToFront();
  await ada.page.fill("#echo-text", "are you there?");
  await ada.page.click("#echo-send");
  await ada.page.waitForFunction(() => document.querySelector("#rtt-count").textContent === "1");
  const reply = await ada.page.textContent("#echo-reply");
  await ada.page.click("#echo-run");
  await ada.page.waitForFunction(() => Number(document.querySelector("#rtt-count").textContent) >= 25);
  await ada.page.click("#echo-run");
  // The plot is a drawing: count the different colours on it.
  const colours = await ada.page.$eval("#plot", (canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
  // Its labels fit: nothing is drawn at the left edge.
  const leftEdge = await ada.page.$eval("#plot", (canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, 4, canvas.height);
    return new Uint32Array(data.buffer).every((pixel) => pixel === 0);
  });
  const median = parseFloat(await ada.page.textContent("#rtt-median"));

  const replies = () => ada.page.$$eval("#grpc-replies li", (items) => items.map((item) => item.textContent));
  const whenCalled = () =>
    ada.page.waitForFunction(() => !document.querySelector("#grpc-say").disabled &&
      document.querySelector("#grpc-state").dataset.state !== "later");
  const greeting = {};
  await ada.page.fill("#grpc-name", "Ада · <i>");
  await ada.page.click("#grpc-say");
  await whenCalled();
  greeting.unary = await replies();
  await ada.page.click("#grpc-stream");
  await ada.page.waitForFunction(() => document.querySelectorAll("#grpc-replies li").length === 2);
  greeting.early = await ada.page.$eval("#grpc-say", (button) => button.disabled); // the rest is still to come
  await whenCalled();
  greeting.stream = await replies();
  greeting.state = await ada.page.textContent("#grpc-state");
  await ada.page.screenshot({ path: `${folder}/demo.png`, fullPage: true });

  // The same page on a phone, in the dark.
  const phone = await browser.newContext({ viewport: { width: 390, height: 844 }, colorScheme: "dark" });
  const small = await openPage(phone, url);
  await whenOpen(small.page, "chat-state");
  const overflow = await small.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await small.page.screenshot({ path: `${folder}/demo-phone.png`, fullPage: true });

  return {
    ada: await messages(ada.page),
    grace: await messages(grace.page),
    reply, colours, leftEdge, median, greeting, overflow,
    problems: [...ada.problems, ...grace.problems, ...small.problems],
  };
});
console.log(JSON.stringify(results));
