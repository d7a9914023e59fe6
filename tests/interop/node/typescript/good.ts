// A program that uses the generated declarations rightly: it must compile.
import { HubConnectionBuilder, Subject as Upload } from "@microsoft/signalr";
import type { Item, Shop, ShopConnection, Shop_Connection, TypedHub, TypedHubConnection } from "./hubs.js";

const hub = new HubConnectionBuilder().withUrl("http://localhost/typed").build() as unknown as TypedHubConnection;
await hub.start();
const state: string = hub.state;

const item: Item = { name: "a", colour: "red", when: new Date().toISOString(), parent: null, tags: ["x", null] };
const stored: Item = await hub.invoke("Put", { ...item, parent: item }, 2);
await hub.invoke("Put", item);
await hub.send("Put", item, 1);
const pet = await hub.invoke("Pets", [{ type: "cat", lives: 9 }, { type: "dog", tricks: [] }]);
if (pet !== null && pet.type === "cat") pet.lives.toFixed();
const trees = await hub.invoke("Tree", { value: 1, children: [{ value: 2 }] }, { name: "t", leaf: { colour: "blue" } });
trees["a"]?.branches?.[0]?.leaf?.["odd-name"]?.toFixed();
const when: string = await hub.invoke("Times", "2026-01-01", "01:02:03", "PT1S");
const [number, text] = await hub.invoke("Plain", "1.5", "8c0e3d0e-0000-4000-8000-000000000000", [1, 2], { a: 1 });
number.toFixed() + text.toUpperCase() + state + when + stored.name;
const lists = await hub.invoke("Collections", [1], ["a"], [1, 2, 3]);
lists[1]?.[0]?.toFixed();
const yes: true = await hub.invoke("Literal", "a");
await hub.invoke("Literal", null, null);
const page = await hub.invoke("Names", { subject: "s" }, { x: 1 }, { kept: yes }, { open: true });
page.items[0]?.colour.toUpperCase();
const priced = await hub.invoke("Other", { price: 1.5 }, { colour: "red", "odd-name": 2 });
priced.price.toFixed();
const unknown: unknown = await hub.invoke("Anything", Symbol, () => 1);
const nothing: void = await hub.invoke("Nothing");
console.log(unknown, nothing);

hub.stream("Numbers", 3).subscribe({ next: (each) => each.name, complete: () => {}, error: () => {} });
const numbers = new Upload<number>();
const observable = {
  subscribe(observer: { next(value: Item): void; error(error: unknown): void; complete(): void }) {
    observer.next(item);
    return { unsubscribe() {} };
  },
};
const total: number = await hub.invoke("Upload", numbers, "and", observable);
hub.stream("Both", new Upload<string>()).subscribe({ next: (node) => node.value + total, complete() {}, error() {} });

hub.on("Receive", (received, level) => {
  const colour: "red" | "blue" = received.colour;
  console.log(colour, level === 2);
});
hub.on("Ask", (question) => question.length > 3);
hub.on("Ask", async (question) => question.length > 3);
hub.off("Ask");
hub.onclose((error) => console.log(error?.message));

const shop = hub as unknown as ShopConnection;
await shop.invoke("Go", "x", item);
shop.on("Told", (words, thing, count, upper: string) => console.log(words + upper, thing.name, count.toFixed()));
shop.on("Rest", (...all: number[]) => console.log(all));
const other = hub as unknown as Shop_Connection;
await other.invoke("Close");
export type Both = [TypedHub, Shop];
