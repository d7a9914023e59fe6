"""Streams from the client: what arrives, how it ends, and who is held up by an upload that nobody reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.errors import ConfigError, ConnectionClosed, HubError
from engine.signalr.endpoint import HubEndpoint
from engine.signalr.hub import Hub
from tests.signalr.hub_peer import HubClient, hosting


class UploadHub(Hub):
    gate: ClassVar[trio.Event]
    seen: ClassVar[list[Any]]

    async def total(self, s: AsyncIterator[int]) -> int:
        return sum([item async for item in s])

    async def hold(self, s: AsyncIterator[int]) -> int:
        await self.gate.wait()
        return sum([item async for item in s])

    async def two(self, a: AsyncIterator[int], text: str, b: AsyncIterator[str]) -> list[Any]:
        return [[item async for item in a], text, [item async for item in b]]

    async def first(self, s: AsyncIterator[int]) -> int:
        return await anext(s)

    async def watch(self, s: AsyncIterator[Any]) -> None:
        try:
            async for item in s:
                self.seen.append(item)
        except (HubError, ConnectionClosed, trio.Cancelled) as error:
            self.seen.append(type(error).__name__)
            raise

    async def step(self, s: AsyncIterator[int]) -> int:
        count = 0
        async for _ in s:
            count += 1
            await trio.sleep(0.01)
        return count

    async def mirror(self, s: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in s:
            yield item

    def echo(self, x: Any) -> Any:
        return x

    async def block(self) -> str:
        await self.gate.wait()
        return "blocked"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    UploadHub.gate = trio.Event()
    UploadHub.seen = []


async def start(
    client: HubClient, target: str, *arguments: Any, ids: tuple[str, ...] = ("s",), kind: int = 1, own_id: str = "7"
) -> None:
    message = {"type": kind, "invocationId": own_id, "target": target, "arguments": arguments, "streamIds": ids}
    await client.send(json.dumps(message) + "\x1e")


async def items(client: HubClient, *values: Any, stream: str = "s") -> None:
    records = [json.dumps({"type": 2, "invocationId": stream, "item": value}) + "\x1e" for value in values]
    await client.send("".join(records))


async def end(client: HubClient, *, stream: str = "s", **more: Any) -> None:
    await client.send(json.dumps({"type": 3, "invocationId": stream, **more}) + "\x1e")


async def test_items_arrive_in_order_with_their_types() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Two", "text", ids=("a", "b"))
        await items(client, "x", stream="b")
        await items(client, 1, 2, stream="a")
        await end(client, stream="b")
        await items(client, 3, stream="a")
        await end(client, stream="a")
        assert (await client.message())["result"] == [[1, 2, 3], "text", ["x"]]


async def test_items_behind_the_invocation_in_one_frame_are_kept() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await client.send(
            '{"type":1,"invocationId":"7","target":"Total","arguments":[],"streamIds":["s"]}\x1e'
            '{"type":2,"invocationId":"s","item":40}\x1e{"type":2,"invocationId":"s","item":2}\x1e'
            '{"type":3,"invocationId":"s"}\x1e'
        )
        assert (await client.message())["result"] == 42


async def test_items_of_an_invocation_that_waits_its_turn_are_kept() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await client.invoke("Block", invocation_id="1")
        await client.invoke("Echo", "behind", invocation_id="2")
        await start(client, "Total")
        await items(client, *range(20))
        await end(client)
        assert await client.is_quiet()
        UploadHub.gate.set()
        assert [(await client.message())["result"] for _ in range(3)] == ["blocked", "behind", sum(range(20))]


async def test_an_upload_that_nobody_reads_blocks_nothing_but_itself() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Hold")
        for _ in range(20):
            await items(client, *range(100))
        await client.invoke("Echo", 1, invocation_id="8")
        assert (await client.message())["invocationId"] == "8"
        UploadHub.gate.set()
        await end(client)
        assert (await client.message())["result"] == 20 * sum(range(100))


async def test_a_method_that_reads_slowly_holds_up_other_messages_only_for_a_moment(autojump_clock: Any) -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Step")
        await items(client, *range(100))
        await items(client, *range(100))
        started = trio.current_time()
        await client.invoke("Echo", 1, invocation_id="8")
        assert (await client.message())["invocationId"] == "8"
        assert trio.current_time() - started < 0.2
        await end(client)
        assert (await client.message())["result"] == 200


async def test_a_method_that_reads_slowly_gets_all_of_a_large_upload(autojump_clock: Any) -> None:
    async with hosting(UploadHub, max_upload_backlog=1_000_000) as host:
        client = await host.connect()
        await start(client, "Step")
        for _ in range(100):
            await items(client, *range(100))  # 20 KB each as they wait
        await end(client)
        while (message := await client.message())["type"] == 6:
            pass
        assert message["result"] == 10_000


async def test_a_method_that_stops_reading_stops_the_back_pressure(autojump_clock: Any) -> None:
    class Stuck(Hub):
        async def stuck(self, s: AsyncIterator[int]) -> None:
            await anext(s)
            await trio.sleep_forever()

        def echo(self, x: Any) -> Any:
            return x

    async with hosting(Stuck) as host:
        client = await host.connect()
        await start(client, "Stuck")
        for _ in range(5):
            await items(client, *range(100))
        await client.invoke("Echo", 1, invocation_id="8")
        with trio.fail_after(0.2):
            assert (await client.message())["invocationId"] == "8"


async def test_unread_items_are_limited_in_bytes() -> None:
    async with hosting(UploadHub, max_upload_backlog=10_000) as host:
        client = await host.connect()
        await start(client, "Hold")
        for _ in range(10):
            await items(client, *range(10))
        assert await client.is_quiet()
        UploadHub.gate.set()
        error = (await client.message())["error"]
        assert "HubException: unread stream items exceeds signalr.max_upload_backlog (10000)" in error
        assert (await client.call("Echo", 5))["result"] == 5


async def test_the_bytes_of_what_was_read_do_not_count() -> None:
    async with hosting(UploadHub, max_upload_backlog=10_000) as host:
        client = await host.connect()
        await start(client, "Total")
        for _ in range(50):
            await items(client, *range(10))
            await trio.testing.wait_all_tasks_blocked()
        await end(client)
        assert (await client.message())["result"] == 50 * 45


async def test_late_items_and_ends_are_ignored() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "First")
        await items(client, 5, 6, 7)
        assert (await client.message())["result"] == 5
        await items(client, 8)
        await end(client)
        await end(client, error="late")
        assert (await client.call("Echo", 1))["result"] == 1


async def test_the_error_of_the_client_is_raised_in_the_method() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Total")
        await items(client, 1)
        await end(client, error="mine")
        assert (await client.message())["error"].endswith("invoking 'Total' on the server. HubException: mine")


async def test_an_item_of_another_type_ends_the_upload() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Total")
        await items(client, 1, "x", 2)
        assert (await client.message())["error"].endswith("HubException: Failed to bind Stream message.")
        await items(client, 3)
        assert (await client.call("Echo", 1))["result"] == 1


@pytest.mark.parametrize(("ids", "expected"), [((), 1), (("a", "b"), 1)])
async def test_the_count_of_streams_must_fit(ids: tuple[str, ...], expected: int) -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Total", ids=ids)
        error = (await client.message())["error"]
        assert error.endswith(f"HubException: Client sent {len(ids)} stream(s), Hub method expects {expected}.")


async def test_a_stream_id_is_used_once_at_a_time() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Hold")
        await start(client, "Total")
        assert "Stream ID 's' is already in use." in (await client.message())["error"]
        await start(client, "Two", "x", ids=("d", "d"))
        assert "Stream ID 'd' is already in use." in (await client.message())["error"]


async def test_streams_both_ways_echo_as_items_come() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Mirror", kind=4)
        for value in ("a", 2):
            await items(client, value)
            assert (await client.message())["item"] == value
        await end(client)
        assert await client.message() == {"type": 3, "invocationId": "7"}


async def test_an_upload_is_cancelled_with_its_invocation() -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Watch")
        await items(client, 1)
        await client.send('{"type":5,"invocationId":"7"}\x1e')
        assert "error" in await client.message()
        assert UploadHub.seen == [1, "Cancelled"]
        await items(client, 2)
        assert (await client.call("Echo", 1))["result"] == 1


@pytest.mark.parametrize("how", ["cut", "close"])
async def test_the_method_learns_that_its_client_went_away(how: str) -> None:
    async with hosting(UploadHub) as host:
        client = await host.connect()
        await start(client, "Watch")
        await items(client, 1)
        await trio.testing.wait_all_tasks_blocked()
        await (client.cut() if how == "cut" else client.close())
        await trio.testing.wait_all_tasks_blocked()
        assert UploadHub.seen[0] == 1
        assert UploadHub.seen[1] in ("Cancelled", "ConnectionClosed")


async def test_open_streams_are_limited_in_both_directions_together() -> None:
    async with hosting(UploadHub, max_streams=2) as host:
        client = await host.connect()
        await start(client, "Hold", ids=("s1",))
        await start(client, "Two", "x", ids=("s2", "s3"))
        error = (await client.message())["error"]
        assert "HubException: open streams of 3 exceeds signalr.max_streams (2)" in error
        await start(client, "Mirror", ids=("s4",), kind=4, own_id="8")
        assert "signalr.max_streams" in (await client.message())["error"]


async def test_an_item_type_that_cannot_be_decoded_is_an_error_of_the_start() -> None:
    class Bad(Hub):
        async def upload(self, s: AsyncIterator[list[int] | set[int]]) -> None: ...

    with pytest.raises(ConfigError, match="cannot be decoded"):
        HubEndpoint(Bad, "/hub")
