"""Echo on websockets' Trio server. Prints its port."""

from __future__ import annotations

import trio
from websockets.trio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, echo, 0)
        print(server.listeners[0].socket.getsockname()[1], flush=True)


trio.run(main)
