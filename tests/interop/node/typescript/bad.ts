// Each line marked with an error must be refused, and nothing else.
import { Subject as Upload } from "@microsoft/signalr";
import type { Item, TypedHubConnection } from "./hubs.js";

declare const hub: TypedHubConnection;
declare const item: Item;

await hub.invoke("Putt", item); // error: no such method
await hub.invoke("Put"); // error: too few
await hub.invoke("Put", item, 3); // error: no such level
await hub.invoke("Put", { ...item, colour: "green" }); // error: no such colour
await hub.invoke("Put", { name: "a" }); // error: members are missing
await hub.invoke("Numbers", 3); // error: a stream is not invoked
hub.stream("Put", item); // error: no stream
const text: string = await hub.invoke("Literal", "a"); // error: another result
await hub.invoke("Upload", new Upload<string>(), "x", new Upload<Item>()); // error: items of another type
await hub.invoke("Upload", [1, 2], "x", new Upload<Item>()); // error: no stream
await hub.invoke("Pets", [{ type: "cow", lives: 1 }]); // error: none of the union
hub.on("Received", () => {}); // error: nobody calls it
hub.on("Receive", (wrong: number) => wrong); // error: another argument
hub.on("Ask", () => "yes"); // error: another answer
console.log(text);
