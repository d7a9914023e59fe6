"""A hub client that comes back when its connection is lost, and asks for what it has missed.

python -m engine serve examples.hub_reconnect:app
python -m examples.hub_reconnect http://localhost:8000/newshub
"""

from __future__ import annotations

import random
import sys
from typing import ClassVar

import trio

from engine import App, Hub, HubConnection, HubConnectionState
from engine.errors import ConnectionClosed
from engine.signalr.client.retry import RetryContext

app = App()


@app.hub("/newshub")
class NewsHub(Hub):
    headlines: ClassVar[list[str]] = []

    async def publish(self, headline: str) -> None:
        self.headlines.append(headline)
        await self.clients.all.send("Headline", len(self.headlines), headline)

    def since(self, number: int) -> list[str]:
        """Headlines behind the first `number` ones."""
        return self.headlines[number:]


def patiently(context: RetryContext) -> float | None:
    """At once, then about once a second for a minute: not all clients in the same moment."""
    if context.elapsed > 60:
        return None
    return 0.0 if context.previous_retry_count == 0 else random.uniform(0.5, 1.5)


async def follow(url: str) -> None:
    """Print each headline once, in order, until the server is gone for good."""
    hub = HubConnection(url, reconnect_policy=patiently)
    known = 0

    async def catch_up(_connection_id: str | None = None) -> None:
        nonlocal known
        try:
            for headline in await hub.invoke("Since", known, result_type=list[str]):
                known += 1
                print(f"{known} {headline}", flush=True)
        except ConnectionClosed:
            pass  # lost again; so it will be called again

    async def headline(number: int, _text: str) -> None:
        if number > known:
            await catch_up()

    hub.on("Headline", headline)
    hub.on_reconnecting(lambda error: print("lost", flush=True))
    hub.on_reconnected(catch_up)
    async with hub:
        await catch_up()
        await hub.wait_state(HubConnectionState.DISCONNECTED)
    print("gone", flush=True)


if __name__ == "__main__":
    trio.run(follow, sys.argv[1])
