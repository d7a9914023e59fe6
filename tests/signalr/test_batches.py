"""Many messages in one read: answered together, in order, and never more of them than the client takes."""

from __future__ import annotations

import json
from typing import ClassVar

import trio.testing

from engine.signalr.hub import Hub
from tests.signalr.hub_peer import hosting

COUNT = 500
SIZE = 65_536


class PlainHub(Hub):
    calls: ClassVar[list[int]] = []

    def echo(self, number: int) -> int:
        return number

    def grow(self, number: int) -> str:
        self.calls.append(number)
        return "x" * SIZE


def invocations(target: str, count: int) -> str:
    messages = ({"type": 1, "target": target, "arguments": [each], "invocationId": str(each)} for each in range(count))
    return "".join(json.dumps(each) + "\x1e" for each in messages)


async def test_what_one_read_brought_is_answered_in_one_frame() -> None:
    async with hosting(PlainHub) as host:
        client = await host.connect()
        client.frames.clear()
        await client.send(invocations("Echo", 50))
        assert [(await client.message())["result"] for _ in range(50)] == list(range(50))
        assert len(client.frames) == 1


async def test_a_frame_of_answers_stays_below_what_clients_accept() -> None:
    async with hosting(PlainHub) as host:
        client = await host.connect()
        client.frames.clear()
        await client.send(invocations("Grow", 3))
        assert [len((await client.message())["result"]) for _ in range(3)] == [SIZE] * 3
        assert len(client.frames) == 3


async def test_a_close_comes_behind_the_answers_of_its_read() -> None:
    async with hosting(PlainHub) as host:
        client = await host.connect()
        await client.send(invocations("Echo", 3) + "{]\x1e" + invocations("Echo", 1))
        assert [(await client.message())["result"] for _ in range(3)] == [0, 1, 2]
        assert (await client.message())["type"] == 7
        assert await client.record() is None


async def test_results_of_plain_methods_wait_for_a_client_that_reads_nothing() -> None:
    PlainHub.calls.clear()
    async with hosting(PlainHub) as host:
        client = await host.connect(lockstep=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, invocations("Grow", COUNT))
            await trio.testing.wait_all_tasks_blocked()
            assert len(PlainHub.calls) <= 4, "results pile up in memory"
            for number in range(COUNT):
                message = await client.message()
                assert message["invocationId"] == str(number)
                assert len(message["result"]) == SIZE
        assert list(range(COUNT)) == PlainHub.calls
