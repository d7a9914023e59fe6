"""A hub on aiosignalr's own aiohttp server. Prints its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiosignalr.server import Hub, SignalRServer


class EchoHub(Hub):
    async def echo(self, text: str) -> str:
        return text

    async def broadcast(self, text: str) -> None:
        await self.clients.all_.send("Message", text)

    async def count(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            yield number


async def main() -> None:
    _, port = await SignalRServer(EchoHub).serve("127.0.0.1", 0, path="/hub")
    print(port, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
