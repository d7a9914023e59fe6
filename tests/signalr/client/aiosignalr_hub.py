"""A hub on aiosignalr's own aiohttp server, for the other environment's Python. Prints its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiosignalr.server import Hub, SignalRServer


class MixedHub(Hub):
    async def echo(self, text: str) -> str:
        return text

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def fail(self) -> None:
        raise ValueError("a secret")

    async def count(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def tell(self, text: str) -> None:
        await self.clients.caller.send("Told", text)


async def main() -> None:
    _, port = await SignalRServer(MixedHub).serve("127.0.0.1", 0, path="/hub")
    print(port, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
