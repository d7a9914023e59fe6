"""Streams in both directions: a method that yields, methods that read what the client uploads.

python -m engine serve examples.hub_streaming:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from engine import App, Hub

app = App()


@app.hub("/streams")
class Streams(Hub):
    async def countdown(self, start: int, seconds: float) -> AsyncIterator[int]:
        """Server to client. It is cancelled when the client cancels it or goes away."""
        for number in range(start, 0, -1):
            yield number
            await trio.sleep(seconds)

    async def average(self, numbers: AsyncIterator[float]) -> float:
        """Client to server: a parameter that is an AsyncIterator takes no place among the arguments."""
        total = count = 0.0
        async for number in numbers:
            total += number
            count += 1
        return total / count if count else 0.0

    async def running_total(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        """Both at once: an item out for each that comes in."""
        total = 0
        async for number in numbers:
            total += number
            yield total
