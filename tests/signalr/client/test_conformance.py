"""The client against the conformance hub, over sockets: every transport and both protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from engine import HubConnection
from engine.errors import HubError
from tests.interop.server_process import ServerProcess


@pytest.fixture(scope="module")
def hub_url() -> Iterator[str]:
    server = ServerProcess("examples.conformance:app")
    yield f"{server.url}/conformance"
    server.stop()


async def each(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value


@pytest.mark.parametrize(
    ("transport", "protocol"),
    [
        ("WebSockets", "json"),
        ("WebSockets", "messagepack"),
        ("ServerSentEvents", "json"),
        ("LongPolling", "json"),
        ("LongPolling", "messagepack"),
    ],
)
async def test_the_contract_holds(hub_url, transport, protocol):
    options: dict[str, Any] = {"transports": [transport], "protocol": protocol, "access_token": "user:ada"}
    with trio.fail_after(30):
        async with HubConnection(f"{hub_url}?a=b", **options) as hub:
            assert await hub.invoke("GetTransport") == transport
            assert await hub.invoke("GetUserId") == "ada"
            assert await hub.invoke("GetConnectionId") == hub.connection_id
            assert await hub.invoke("GetQuery", "a") == "b"
            assert await hub.invoke("ReverseBytes", b"\x00\x01\xff", result_type=bytes) == b"\xff\x01\x00"
            day = datetime(2026, 1, 1, tzinfo=UTC)
            assert await hub.invoke("AddDays", day, 2, result_type=datetime) == day.replace(day=3)
            assert await hub.invoke("UploadTwo", each(1, 2), "x", each("a", "b")) == [3, "x", "ab"]
            assert await hub.invoke("UploadTake", each(*range(100)), 3) == 3
            async with hub.stream("StreamCounter", 300, 0) as items:
                assert [item async for item in items] == list(range(300))
            async with hub.stream("StreamThrow", 1, "boo") as items:
                assert await anext(items) == 0
                with pytest.raises(HubError, match="HubException: boo"):
                    await anext(items)
            hub.on("Double", lambda value: 2 * value)
            assert await hub.invoke("InvokeCaller", "Double", 4) == 8
            received: list[int] = []
            hub.on("Number", received.append)
            await hub.invoke("SendMany", "Number", 500)
            assert await hub.invoke("ReturnLarge", 300_000) == "x" * 300_000
            assert await hub.invoke("InvokeCaller", "Double", 5) == 10
            assert received == list(range(500))
