"""Cancelled at any step of its life, a client leaves no task and no open stream behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from engine import Hub, HubConnection
from engine.config import Config
from engine.transport.stream import ByteStream, WrappedByteStream
from tests.signalr.client.client_peer import URL
from tests.signalr.hub_peer import HubHost


class StepsHub(Hub):
    def add(self, a: int, b: int) -> int:
        return a + b

    async def count(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def total(self, numbers: AsyncIterator[int]) -> int:
        return sum([each async for each in numbers])

    async def ask(self) -> Any:
        return await self.clients.caller.invoke("Question")


class CountedStream(WrappedByteStream):
    """Knows whether it was closed."""

    __slots__ = ("closed",)

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream, read_size=65536)
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when a task is about to take its n-th step."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task, self._scope, self._left = task, scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number
        await trio.lowlevel.checkpoint()


async def live(dial: Any, transport: str, *, stateful: bool) -> None:
    options = {"transports": [transport], "stateful_reconnect": stateful, "automatic_reconnect": True}
    async with HubConnection(URL, dial=dial, **options) as hub:
        hub.on("Question", lambda: 42)
        assert await hub.invoke("Add", 1, 2) == 3
        await hub.send("Add", 1, 2)
        async with hub.stream("Count", 5) as items:
            assert await anext(items) == 0
        assert await hub.invoke("Total", numbers()) == 3
        assert await hub.invoke("Ask") == 42


@pytest.mark.parametrize(
    ("transport", "stateful"),
    [("WebSockets", False), ("WebSockets", True), ("ServerSentEvents", False), ("LongPolling", False)],
)
async def test_every_step_can_be_the_last(transport, stateful, autojump_clock):
    step, done = 0, False
    async with trio.open_nursery() as nursery:
        host = HubHost(nursery, Config())
        host.mount(StepsHub)
        nurseries = trio.lowlevel.current_task().child_nurseries[:]
        while not done:
            step += 1
            streams: list[CountedStream] = []

            async def dial(origin: Any, context: Any, streams: list[CountedStream] = streams) -> ByteStream:
                streams.append(CountedStream(await host.open_stream()))
                return streams[-1]

            with trio.CancelScope() as scope:
                instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await live(dial, transport, stateful=stateful)
                    done = True
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            assert trio.lowlevel.current_task().child_nurseries == nurseries, f"at step {step}"
            assert [each for each in streams if not each.closed] == [], f"at step {step}"
        assert step > 20
        nursery.cancel_scope.cancel()
