"""A WebSocket as callbacks: a market-data feed for browsers, with no task switch between bytes and answer.

A client sends the names of symbols, each as a message, and gets ticks as they come; "stop" unsubscribes.

python -m engine serve examples.websocket_callbacks:app
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine import App, WebSocketProtocol, broadcast

subscribers: dict[str, set[Ticker]] = {"AAAA": set(), "BBBB": set()}


class Ticker(WebSocketProtocol):
    def message_received(self, message: str | bytes) -> None:
        if message == "stop":
            self.unsubscribe()
        elif message in subscribers:
            subscribers[str(message)].add(self)
        else:
            self.connection.write(f"error say one of {', '.join(subscribers)}, or stop")

    def connection_lost(self, closed: object) -> None:
        self.unsubscribe()

    def unsubscribe(self) -> None:
        for group in subscribers.values():
            group.discard(self)


async def tick(every: float = 0.01) -> None:
    price = 100.0
    while True:
        for symbol, group in subscribers.items():
            price *= random.uniform(0.999, 1.001)
            broadcast([each.connection for each in group], f"{symbol} {price:.2f}")
        await trio.sleep(every)


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        yield
        nursery.cancel_scope.cancel()


app = App(lifespan=lifespan)
app.protocol("/ticks", Ticker, slow_consumer="drop_oldest")
