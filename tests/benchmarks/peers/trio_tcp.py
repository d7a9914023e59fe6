"""Echo of plain bytes on Trio's own stream: what no server on Trio can be much faster than. Prints its port."""

from __future__ import annotations

import contextlib

import trio


async def echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # the load just goes away
        async for data in stream:
            await stream.send_all(data)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        print(listeners[0].socket.getsockname()[1], flush=True)


trio.run(main)
