"""A hub whose arguments and results have types: what does not fit is refused before a method runs.

python -m engine serve examples.typed_hub:app
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from engine import App, Hub, authorize, hub_method
from engine.errors import HubError

app = App()

Amount = Annotated[int, msgspec.Meta(gt=0, le=1_000_000)]


class Order(msgspec.Struct):
    """The same over JSON and MessagePack: bytes are base64 or bin, datetimes ISO 8601 or timestamps."""

    item: str
    amount: Amount
    wanted: datetime | None = None


@dataclass
class Receipt:
    number: int
    order: Order
    taken: datetime


orders: list[Order] = []


@app.hub("/orders", user_id=lambda head: (head.header(b"x-user") or b"").decode() or None)
class Orders(Hub):
    async def place(self, order: Order) -> Receipt:
        if order.item == "moon":
            raise HubError("we are out of moons")  # the text reaches the client
        orders.append(order)
        receipt = Receipt(len(orders), order, datetime.now(UTC))
        await self.clients.others.send("OrderPlaced", receipt)
        return receipt

    def count(self) -> int:
        """A plain method runs at once, without a task switch: it must not block."""
        return len(orders)

    @hub_method(name="Clear")
    @authorize(lambda context: context.user_id == "boss")
    def forget_everything(self) -> None:
        orders.clear()
