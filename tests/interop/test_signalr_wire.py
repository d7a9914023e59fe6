"""What our hub client puts on the wire beside what the official one does, for the same steps.

Where the two differ on purpose, `_alike` says so.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
import trio

from engine import HubConnection
from engine.signalr.client.connection import HubConnectionState
from tests.interop.hub_recorder import Recorder
from tests.interop.peers import node

pytestmark = pytest.mark.interop

# Several times a poll more or less is a matter of timing, as is whether the last POST arrives before the DELETE.
UNORDERED = ("polls", "fallback")
PING = ("message", {"type": 6})


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


async def letters() -> AsyncIterator[str]:
    yield "i"


class Steps:
    """What signalr_wire.mjs does, with our client."""

    def __init__(self, base: str) -> None:
        self._base = base

    def build(self, scenario: str, **options: Any) -> HubConnection:
        return HubConnection(f"{self._base}/{scenario}/hub?a=b", **options)

    async def calls(self, scenario: str, transport: str) -> None:
        options = {"headers": {"X-Mine": "1"}, "access_token": lambda: "mine", "transports": [transport]}
        async with self.build(scenario, **options) as hub:
            assert await hub.invoke("Sum", numbers(), 5) == "all"
            assert await hub.invoke("Echo", "x", None) == ["x", None]
            await hub.send("Tell", [1])
            async with hub.stream("Three", 3) as items:
                assert [item async for item in items] == [0, 1, 2]
            async with hub.stream("Endless") as items:
                assert await anext(items) == 0
            asked = trio.Event()

            def question(value: int) -> int:
                asked.set()
                return value + 1

            hub.on("Question", question)
            await hub.send("Ask")
            await asked.wait()
            await trio.sleep(0.05)
            await hub.invoke("Echo")

    async def run(self) -> None:
        await self.calls("websockets", "WebSockets")
        await self.calls("polls", "LongPolling")
        await self.calls("events", "ServerSentEvents")
        async with self.build("skipped", transports=["WebSockets"], skip_negotiation=True) as hub:
            await hub.invoke("Echo")
        async with self.build("redirect", headers={"X-Mine": "1"}, access_token=lambda: "mine") as hub:
            await hub.invoke("Echo")
        async with self.build("fallback", transports=["WebSockets", "LongPolling"]) as hub:
            await hub.invoke("Echo")
        async with self.build("messagepack", transports=["WebSockets"], protocol="messagepack") as hub:
            await hub.send("Tell", 1, "x", None, b"\x01\x02", {"a": 1.5})
            await hub.send("Up", letters())
            await trio.sleep(0.05)
        async with self.build("reconnect", automatic_reconnect=True) as hub:
            await hub.invoke("Echo", 1)
            await hub.invoke("Echo", 2)
            await hub.send("Tell")
            await hub.wait_state(HubConnectionState.RECONNECTING)
            await hub.wait_state(HubConnectionState.CONNECTED)
            await hub.invoke("Echo", 3)
        async with self.build("closed", automatic_reconnect=True) as hub:
            await hub.send("CloseMe")
            await hub.wait_state(HubConnectionState.RECONNECTING)
            await hub.wait_state(HubConnectionState.CONNECTED)
        async with self.build("stateful", stateful_reconnect=True) as hub:
            await hub.invoke("Echo", 1)
            await trio.sleep(0.1)
            await hub.invoke("Echo", 2)
            await trio.sleep(2)
        async with self.build("idle", transports=["WebSockets"], keep_alive_interval=0.4) as hub:
            await hub.invoke("Echo")
            await trio.sleep(0.6)


def _alike(scenario: str, log: list[Any]) -> list[Any]:
    """What both clients must agree on."""
    found: list[Any] = []
    for kind, *rest in log:
        if kind == "message":
            found += [_message(each) for each in rest]
        elif kind == "frame":
            # The official client sends the handshake as text also where binary follows.
            found += [] if scenario == "messagepack" else [("frame", *rest)]
        elif kind == "close frame":
            found.append((kind,))
        else:
            found.append((kind, *_request(*rest)))
    if scenario in UNORDERED:
        messages = [each for each in found if each[0] == "message"]
        requests = sorted({each for each in found if each[0] not in ("message", "frame")})
        return [*messages, *requests]
    # How many messages leave in one frame or POST is timing, and how many pings there are.
    ordered = [each for each in found if each[0] not in ("frame", "POST")]
    pings = [before == each == PING for before, each in pairwise([None, *ordered])]
    ordered = [each for each, again in zip(ordered, pings, strict=True) if not again]
    return ordered + sorted({each for each in found if each[0] in ("frame", "POST")})


def _request(target: str, fields: dict[str, str], *more: Any) -> tuple[Any, ...]:
    target = re.sub(r"(id=\w+)\.\d+", r"\1", target)
    kept = dict(fields)
    # We never put a token where it ends up in logs. The official client does for events: browsers leave no choice.
    token = re.search(r"&access_token=(\w+)", target)
    if token is not None:
        target = target.replace(token[0], "")
        kept["authorization"] = f"Bearer {token[1]}"
    if "cookie" in kept:
        kept["cookie"] = kept["cookie"].partition(";")[0]  # the official client repeats the attributes
    return (target, tuple(sorted(kept.items())), *more)


def _message(message: Any) -> tuple[str, Any]:
    if isinstance(message, list):  # trailing members may be left out
        while len(message) > 2 and message[-1] in ([], False):
            message = message[:-1]
        return ("message", message)
    # Ids start anew with each connection id here, as in the .NET client.
    return ("message", {name: value for name, value in message.items() if name != "invocationId"})


async def test_our_client_cannot_be_told_from_the_official_one():
    logs = []
    for run in (lambda base: trio.to_thread.run_sync(node, "signalr_wire.mjs", base), lambda base: Steps(base).run()):
        recorder = Recorder()
        async with trio.open_nursery() as nursery:
            base = await nursery.start(recorder.run)
            with trio.fail_after(60):
                await run(base)
            nursery.cancel_scope.cancel()
        logs.append(recorder.logs)
    official, ours = logs
    assert set(ours) == set(official)
    for scenario, log in official.items():
        assert _alike(scenario, ours[scenario]) == _alike(scenario, log), scenario
