"""The client against our own hub, over memory streams: every transport and both protocols."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

from engine import Hub, HubConnection
from engine.errors import (
    ConfigError,
    ConnectionClosed,
    HubError,
    LocalProtocolError,
    RemoteProtocolError,
)
from engine.signalr.client.connection import HubConnectionState
from engine.wire.signalr.negotiate import TransportKind
from tests.signalr.client.client_peer import URL, connected, hub_dial
from tests.signalr.hub_peer import hosting

COMBINATIONS = [
    pytest.param({"transports": [transport], "protocol": protocol}, id=f"{transport}-{protocol}")
    for transport in ("WebSockets", "ServerSentEvents", "LongPolling")
    for protocol in ("json", "messagepack")
    if (transport, protocol) != ("ServerSentEvents", "messagepack")
]


@dataclass
class Record:
    id: int
    when: datetime
    blob: bytes


class CallsHub(Hub):
    cancelled = 0

    def add(self, a: int, b: int) -> int:
        return a + b

    def echo(self, record: Record) -> Record:
        return record

    def nothing(self) -> None:
        pass

    def fail(self, text: str) -> None:
        raise HubError(text)

    async def forever(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            CallsHub.cancelled += 1

    async def counter(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def endless(self) -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                await trio.sleep(0.1)
        finally:
            CallsHub.cancelled += 1

    async def broken(self) -> AsyncIterator[int]:
        yield 1
        raise HubError("no more")

    async def total(self, numbers: AsyncIterator[int], factor: int) -> int:
        return factor * sum([each async for each in numbers])

    async def both(self, a: AsyncIterator[int], text: str, b: AsyncIterator[str]) -> list[Any]:
        return [sum([each async for each in a]), text, "".join([each async for each in b])]

    async def first(self, numbers: AsyncIterator[int]) -> int:
        async for number in numbers:
            return number
        return -1

    async def twice(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    async def tell(self, method: str, arguments: list[Any]) -> None:
        await self.clients.caller.send(method, *arguments)

    async def ask(self, method: str, argument: Any) -> Any:
        try:
            return await self.clients.caller.invoke(method, argument)
        except HubError as error:
            return f"error: {error}"


async def numbers(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value


@pytest.fixture(autouse=True)
def _count_anew():
    CallsHub.cancelled = 0


@pytest.mark.parametrize("options", COMBINATIONS)
async def test_methods_are_called_and_answer(options):
    async with connected(CallsHub, **options) as hub:
        assert hub.state is HubConnectionState.CONNECTED
        assert hub.transport is TransportKind(options["transports"][0])
        assert hub.connection_id
        assert await hub.invoke("Add", 2, 3) == 5
        assert await hub.invoke("Nothing") is None
        record = Record(1, datetime(2026, 1, 2, 3, 4, 5, 600000, UTC), b"\x00\xff")
        assert await hub.invoke("Echo", record, result_type=Record) == record
        with pytest.raises(HubError, match="HubException: oh"):
            await hub.invoke("Fail", "oh")
        with pytest.raises(HubError, match="Method does not exist"):
            await hub.invoke("Nobody")
    assert hub.state is HubConnectionState.DISCONNECTED
    assert hub.connection_id is None
    with pytest.raises(ConnectionClosed, match="Disconnected"):
        await hub.invoke("Add", 2, 3)


@pytest.mark.parametrize("options", COMBINATIONS)
async def test_streams_go_both_ways(options):
    async with connected(CallsHub, **options) as hub:
        async with hub.stream("Counter", 100) as items:
            assert [each async for each in items] == list(range(100))
        assert await hub.invoke("Total", numbers(1, 2, 3), 2) == 12
        assert await hub.invoke("Both", numbers(1, 2), "-", numbers("a", "b")) == [3, "-", "ab"]
        async with hub.stream("Twice", numbers(4, 5)) as items:
            assert [each async for each in items] == [8, 10]
        async with hub.stream("Broken") as items:
            assert await anext(items) == 1
            with pytest.raises(HubError, match="no more"):
                await anext(items)


@pytest.mark.parametrize("options", COMBINATIONS)
async def test_the_server_calls_handlers_in_order_and_gets_results(options):
    received: list[Any] = []
    async with connected(CallsHub, **options) as hub:

        async def slow(number: int) -> None:
            await trio.lowlevel.checkpoint()
            received.append(number)

        hub.on("number", slow)
        hub.on("Double", lambda value: 2 * value)
        for number in range(10):
            await hub.send("Tell", "Number", [number])
        assert await hub.invoke("Ask", "double", 21) == 42
        await trio.testing.wait_all_tasks_blocked()
    assert received == list(range(10))


async def test_a_result_of_the_wrong_type_is_told_apart_from_an_error_of_the_method():
    async with connected(CallsHub) as hub:
        with pytest.raises(RemoteProtocolError, match="result of Add does not fit"):
            await hub.invoke("Add", 1, 2, result_type=str)
        async with hub.stream("Counter", 1, item_type=str) as items:
            with pytest.raises(RemoteProtocolError, match="an item does not fit"):
                await anext(items)
        assert await hub.invoke("Add", 1, 2) == 3


async def test_cancelling_a_call_cancels_the_method(autojump_clock):
    async with connected(CallsHub) as hub:
        with trio.move_on_after(1) as scope:
            await hub.invoke("Forever")
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert CallsHub.cancelled == 1


async def test_leaving_a_stream_cancels_it(autojump_clock):
    async with connected(CallsHub) as hub:
        async with hub.stream("Endless") as items:
            async for item in items:
                if item == 3:
                    break
        await trio.sleep(1)
        assert CallsHub.cancelled == 1
        async with hub.stream("Endless") as items:
            assert await anext(items) == 0
            items.cancel()
            assert [each async for each in items] == []


async def test_a_method_that_is_done_stops_the_upload_that_it_did_not_read(autojump_clock):
    ended = trio.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 7
                await trio.sleep(1)
        finally:
            ended.set()

    async with connected(CallsHub) as hub:
        assert await hub.invoke("First", endless()) == 7
        await ended.wait()


async def test_an_upload_that_fails_is_an_error_of_the_method(caplog):
    async def failing() -> AsyncIterator[int]:
        yield 1
        raise ValueError("out of numbers")

    async with connected(CallsHub) as hub:
        with pytest.raises(HubError, match="invoking 'Total'"):
            await hub.invoke("Total", failing(), 1)
    assert "an upload failed" in caplog.text


async def test_arguments_of_handlers_are_converted_and_bad_ones_are_logged(caplog):
    received: list[Any] = []

    def typed(record: Record, note: str = "none") -> None:
        received.append((record, note))

    async with connected(CallsHub) as hub:
        hub.on("Typed", typed)
        hub.on("Any", lambda *arguments: received.append(arguments))
        plain = {"id": 1, "when": "2026-01-02T03:04:05Z", "blob": "AAE="}
        record = Record(1, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), b"\x00\x01")
        await hub.invoke("Tell", "Typed", [plain])
        await hub.invoke("Tell", "Typed", [plain, "x", "dropped"])
        await hub.invoke("Tell", "Any", [1, "2", None])
        await trio.testing.wait_all_tasks_blocked()
        assert received == [(record, "none"), (record, "x"), (1, "2", None)]
        caplog.clear()
        await hub.invoke("Tell", "Typed", [])
        await hub.invoke("Tell", "Typed", [5])
        await hub.invoke("Tell", "Nobody", [])
        await trio.testing.wait_all_tasks_blocked()
        assert "0 arguments came, the client's handler takes 2" in caplog.text
        assert "not of the types" in caplog.text
        assert "no handler for 'Nobody'" in caplog.text
    assert len(received) == 3


async def test_results_of_handlers_follow_the_official_client(caplog):
    caplog.set_level(logging.CRITICAL)

    def refuse(value: Any) -> None:
        raise HubError("not today")

    async def break_down(value: Any) -> None:
        raise ValueError("oops")

    async with connected(CallsHub) as hub:
        hub.on("Refuse", refuse)
        hub.on("BreakDown", break_down)
        hub.on("Null", lambda value: None)
        hub.on("Twice", lambda value: 1)
        hub.on("Twice", lambda value: 2)
        hub.on("Object", lambda value: object())
        assert await hub.invoke("Ask", "Refuse", 1) == "error: not today"
        assert await hub.invoke("Ask", "BreakDown", 1) == "error: ValueError: oops"
        assert await hub.invoke("Ask", "Nobody", 1) == "error: Client didn't provide a result."
        assert await hub.invoke("Ask", "Twice", 1) == "error: Client provided multiple results."
        assert await hub.invoke("Ask", "Null", 1) is None
        assert "cannot be sent" in await hub.invoke("Ask", "Object", 1)
        hub.on("FailsFirst", refuse)
        hub.on("FailsFirst", lambda value: 3)
        hub.on("FailsLast", lambda value: 3)
        hub.on("FailsLast", refuse)
        assert await hub.invoke("Ask", "FailsFirst", 1) == 3
        assert await hub.invoke("Ask", "FailsLast", 1) == "error: not today"
        hub.off("Twice")
        assert await hub.invoke("Ask", "Twice", 1) == "error: Client didn't provide a result."


async def test_a_handler_may_call_the_hub_while_the_server_waits_for_it():
    async with connected(CallsHub) as hub:

        async def add(value: int) -> Any:
            return await hub.invoke("Add", value, 1)

        hub.on("Add", add)
        assert await hub.invoke("Ask", "Add", 41) == 42


async def test_what_leaves_the_block_is_not_in_a_group():
    async with hosting(CallsHub) as host:
        with pytest.raises(KeyError, match="mine"):
            async with HubConnection(URL, dial=hub_dial(host)):
                raise KeyError("mine")


async def test_cancelling_the_block_closes_the_connection(autojump_clock):
    with trio.move_on_after(3) as scope:
        async with connected(CallsHub) as hub:
            await hub.invoke("Forever")
    assert scope.cancelled_caught
    assert hub.state is HubConnectionState.DISCONNECTED
    assert CallsHub.cancelled == 1


async def test_a_connection_is_entered_once_at_a_time():
    async with connected(CallsHub) as hub:
        with pytest.raises(LocalProtocolError, match="entered once"):
            await hub.__aenter__()


async def test_arguments_that_cannot_be_encoded_break_nothing():
    async with connected(CallsHub) as hub:
        with pytest.raises(TypeError):
            await hub.invoke("Add", object(), 1)
        assert await hub.invoke("Add", 1, 1) == 2


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"protocol": "xml"}, "json, messagepack"),
        ({"transports": ["Pigeons"]}, "known: WebSockets"),
        ({"transports": []}, "at least one"),
        ({"skip_negotiation": True}, "transports="),
        ({"server_timeout": 0}, "more than 0"),
        ({"url": "ftp://x/hub"}, "http://host:port/path"),
    ],
)
def test_a_mistake_in_the_arguments_is_named(options, hint):
    with pytest.raises(ConfigError, match=hint):
        HubConnection(**({"url": URL} | options))


async def test_a_handler_whose_types_cannot_be_decoded_is_refused():
    class Strange:
        def __init__(self, stream: trio.abc.Stream) -> None: ...

    def handler(value: dict[Strange, int]) -> None: ...

    handler.__annotations__ = {"value": "NoSuchName"}
    with pytest.raises(ConfigError, match="cannot be resolved"):
        HubConnection(URL).on("X", handler)
