"""Echo on trio-websocket. Prints its port."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def echo(request: WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        while True:
            await connection.send_message(await connection.get_message())
    except ConnectionClosed:
        pass


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: serve_websocket(
                echo, "127.0.0.1", 0, None, max_message_size=2 << 20, task_status=task_status
            )
        )
        print(server.port, flush=True)


trio.run(main)
