"""A feed that counts, and a client that misses nothing of it whatever happens on the way.

python -m engine serve examples.websocket_reconnect:app
python -m examples.websocket_reconnect ws://localhost:8000/feed

Stop the server while the client runs, and start it again.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable

import trio

import engine
from engine import App, WebSocket
from engine.websocket.reconnect import Backoff

INTERVAL = 1.0  # seconds between two numbers

app = App()


@app.websocket("/feed")
async def feed(ws: WebSocket) -> None:
    """Sends numbers, from the one that the client asks for."""
    number = int(await ws.receive())
    while True:
        await ws.send(str(number))
        number += 1
        await trio.sleep(INTERVAL)


async def follow(url: str, show: Callable[[int], None], *, until: float = math.inf, **options: Backoff) -> None:
    """Show each number once and in order, over as many connections as that takes."""
    wanted = 0
    async for connection in engine.reconnecting_websocket(url, **options):
        async with connection as ws:
            await ws.send(str(wanted))
            async for message in ws:
                show(int(message))
                wanted += 1
                if wanted > until:
                    return


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)  # says why there is a pause, and how long
    trio.run(follow, sys.argv[1], print)
