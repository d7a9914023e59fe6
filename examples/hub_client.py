"""A hub of stock prices and a Trio client of it: calls, streams both ways, results from the client, reconnection.

python -m engine serve examples.hub_client:app
python -m examples.hub_client http://localhost:8000/tickerhub
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

from engine import App, Hub, HubConnection

app = App()


@dataclass
class Price:
    symbol: str
    cents: int


@app.hub("/tickerhub")
class TickerHub(Hub):
    async def prices(self, symbol: str, count: int) -> AsyncIterator[Price]:
        """A stream to the client."""
        for step in range(count):
            yield Price(symbol, 10_000 + 25 * step)
            await trio.sleep(0.01)

    async def total(self, trades: AsyncIterator[Price]) -> int:
        """A stream from the client."""
        return sum([trade.cents async for trade in trades])

    async def buy(self, symbol: str) -> str:
        """Asks the client back before it answers."""
        if await self.clients.caller.invoke("Confirm", symbol, result_type=bool):
            await self.clients.all.send("Bought", symbol)
            return f"bought {symbol}"
        return "never mind"


async def trades() -> AsyncIterator[Price]:
    for cents in (100, 250, 50):
        yield Price("ABC", cents)


async def main(url: str) -> None:
    hub = HubConnection(url, protocol="messagepack", automatic_reconnect=True, stateful_reconnect=True)
    heard = trio.Event()

    def bought(symbol: str) -> None:
        print(f"somebody bought {symbol}")
        heard.set()

    hub.on("Bought", bought)
    hub.on("Confirm", lambda symbol: symbol == "ABC")
    hub.on_reconnecting(lambda error: print(f"lost: {error}"))
    async with hub:
        async with hub.stream("Prices", "ABC", 3, item_type=Price) as prices:
            async for price in prices:
                print(f"{price.symbol} {price.cents / 100:.2f}")
        print(await hub.invoke("Total", trades(), result_type=int))
        print(await hub.invoke("Buy", "ABC"))
        await heard.wait()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
