"""A hub with Echo on aiosignalr's own aiohttp server. Prints its port."""

from __future__ import annotations

import asyncio

from aiosignalr.server import Hub, SignalRServer


class EchoHub(Hub):
    async def echo(self, text: str) -> str:
        return text


async def main() -> None:
    _, port = await SignalRServer(EchoHub).serve("127.0.0.1", 0, path="/hub")
    print(port, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
