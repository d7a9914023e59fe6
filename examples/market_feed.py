"""A market-data feed: binary ticks to every subscriber, the latest price to those who are slow.

A client of port 7001 sends symbols of four bytes, and gets 16 bytes a tick: the symbol, a sequence
number (uint32) and the price (float64), big-endian.
"""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine import App, StreamProtocol

TICK = struct.Struct(">4sId")
SYMBOLS = (b"AAAA", b"BBBB", b"CCCC")

subscribers: set[FeedProtocol] = set()


class FeedProtocol(StreamProtocol):
    def __init__(self) -> None:
        self.buffer = b""
        self.wanted: set[bytes] = set()
        self.slow = False
        self.missed: dict[bytes, bytes] = {}  # the latest tick of each symbol, while the peer is slow

    def connection_lost(self, reason: str) -> None:
        subscribers.discard(self)

    def data_received(self, data: bytes) -> None:
        subscribers.add(self)
        self.buffer += data
        while len(self.buffer) >= 4:
            self.wanted.add(self.buffer[:4])
            self.buffer = self.buffer[4:]

    def pause_writing(self) -> None:
        self.slow = True

    def resume_writing(self) -> None:
        self.slow = False
        for tick in self.missed.values():
            self.connection.write(tick)
        self.missed.clear()

    def publish(self, symbol: bytes, tick: bytes) -> None:
        if symbol in self.wanted:
            if self.slow:
                self.missed[symbol] = tick
            else:
                self.connection.write(tick)


async def tick(every: float = 0.01) -> None:
    prices = dict.fromkeys(SYMBOLS, 100.0)
    sequence = 0
    while True:
        for symbol in SYMBOLS:
            sequence += 1
            prices[symbol] *= random.uniform(0.999, 1.001)
            message = TICK.pack(symbol, sequence, prices[symbol])
            for subscriber in subscribers:
                subscriber.publish(symbol, message)
        await trio.sleep(every)


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        yield
        nursery.cancel_scope.cancel()


app = App(lifespan=lifespan)
app.protocol(7001, FeedProtocol)
