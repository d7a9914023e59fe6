"""Which invocation runs when: order, parallelism, cancellation, client results, bounded queues."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.errors import HubError
from engine.signalr.hub import Hub
from tests.signalr.hub_peer import HubClient, hosting


class Gates:
    """Places in hub methods that a test waits at and opens."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.left: list[str] = []
        self.cancelled: list[str] = []
        self._events: dict[str, trio.Event] = {}

    def event(self, key: str) -> trio.Event:
        return self._events.setdefault(key, trio.Event())


class WorkHub(Hub):
    gates: ClassVar[Gates]

    async def block(self, key: str) -> str:
        gates = self.gates
        gates.entered.append(key)
        try:
            await gates.event(key).wait()
        except trio.Cancelled:
            gates.cancelled.append(key)
            raise
        gates.left.append(key)
        return key

    def now(self, value: Any) -> Any:
        self.gates.entered.append(f"now {value}")
        return value

    async def later(self, value: Any) -> Any:
        self.gates.entered.append(f"later {value}")
        return value

    async def ask(self, connection_id: str | None, method: str, value: Any) -> Any:
        target = self.clients.caller if connection_id is None else self.clients.client(connection_id)
        return await target.invoke(method, value)

    async def ask_for_int(self) -> int:
        value: int = await self.clients.caller.invoke("Ask", result_type=int)
        return value

    async def my_id(self) -> str:
        return self.context.connection_id

    async def fail(self, text: str) -> None:
        raise HubError(text)

    def fail_now(self, text: str) -> None:
        raise ValueError(text)

    async def count(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    async def forever(self, key: str) -> AsyncIterator[int]:
        try:
            yield 0
            await trio.sleep_forever()
        finally:
            self.gates.cancelled.append(key)

    async def awaited_stream(self, n: int) -> AsyncIterator[int]:
        return self.count(n)


@pytest.fixture
def gates() -> Gates:
    WorkHub.gates = Gates()
    return WorkHub.gates


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def ids(client: HubClient, count: int) -> list[str]:
    return [(await client.message())["invocationId"] for _ in range(count)]


async def test_invocations_of_a_client_run_one_after_the_other_in_order(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.invoke("Block", "a", invocation_id="1")
        await client.invoke("Later", 2, invocation_id="2")
        await client.invoke("Now", 3, invocation_id="3")
        await settle()
        assert gates.entered == ["a"]
        gates.event("a").set()
        assert await ids(client, 3) == ["1", "2", "3"]
        assert gates.entered == ["a", "later 2", "now 3"]


async def test_one_client_does_not_wait_for_another(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        first, second = await host.connect(), await host.connect()
        await first.invoke("Block", "a")
        assert (await second.call("Later", 1))["result"] == 1


async def test_as_many_as_allowed_run_at_once(gates: Gates) -> None:
    async with hosting(WorkHub, parallel_invocations=3) as host:
        client = await host.connect()
        for key in "abcd":
            await client.invoke("Block", key, invocation_id=key)
        await settle()
        assert sorted(gates.entered) == ["a", "b", "c"]
        gates.event("b").set()
        assert await ids(client, 1) == ["b"]
        await settle()
        assert gates.entered[3:] == ["d"]
        for key in "acd":
            gates.event(key).set()
        assert sorted(await ids(client, 3)) == ["a", "c", "d"]
        assert (await client.call("Later", 1))["result"] == 1


async def test_a_batch_in_one_frame_is_answered_in_one_frame(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        batch = [{"type": 1, "invocationId": str(n), "target": "Later", "arguments": [n]} for n in range(20)]
        before = len(client.frames)
        await client.send("".join(json.dumps(each) + "\x1e" for each in batch))
        assert await ids(client, 20) == [str(n) for n in range(20)]
        assert len(client.frames) - before == 20


async def test_a_plain_method_runs_without_a_task_of_its_own(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        assert await client.call("Now", 1) == {"type": 3, "invocationId": "7", "result": 1}
        text = "An unexpected error occurred invoking 'FailNow' on the server."
        assert (await client.call("FailNow", "secret"))["error"] == text
        assert (await client.call("Now", 2))["result"] == 2


async def test_an_error_is_logged_once_with_its_ids_and_a_hub_error_is_not(
    gates: Gates, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        with caplog.at_level(logging.INFO, logger="engine.signalr"):
            await client.call("Fail", "told")
            assert not caplog.records
            await client.call("FailNow", "secret")
    (record,) = caplog.records
    assert "WorkHub.FailNow" in record.getMessage()
    assert record.fields["hub_method"] == "FailNow"  # type: ignore[attr-defined]


async def test_pings_completions_and_closes_are_processed_while_a_method_runs(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.invoke("Block", "a", invocation_id="1")
        await client.send(
            '{"type":6}\x1e{"type":3,"invocationId":"s99","result":1}\x1e{"type":5,"invocationId":"1"}\x1e'
        )
        message = await client.message()
        assert message == {
            "type": 3, "invocationId": "1", "error": "An unexpected error occurred invoking 'Block' on the server.",
        }  # fmt: skip
        assert gates.cancelled == ["a"]
        assert (await client.call("Later", 1))["result"] == 1


async def test_an_invocation_can_be_cancelled_before_it_starts(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.invoke("Block", "a", invocation_id="1")
        await client.invoke("Block", "b", invocation_id="2")
        await client.send('{"type":5,"invocationId":"2"}\x1e')
        assert (await client.message())["invocationId"] == "2"
        gates.event("a").set()
        assert await ids(client, 1) == ["1"]
        assert gates.entered == ["a"]


async def test_a_client_result_reaches_the_method_that_asked(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client, other = await host.connect(), await host.connect()
        await client.invoke("Ask", None, "Question", 5)
        asked = await client.message()
        assert (asked["type"], asked["target"], asked["arguments"]) == (1, "Question", [5])
        await other.send(json.dumps({"type": 3, "invocationId": asked["invocationId"], "result": "forged"}) + "\x1e")
        await settle()
        await client.send(json.dumps({"type": 3, "invocationId": asked["invocationId"], "result": "mine"}) + "\x1e")
        assert (await client.message())["result"] == "mine"


async def test_waiting_for_a_client_lets_its_next_invocation_start(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.invoke("Ask", None, "Question", 5, invocation_id="1")
        asked = await client.message()
        assert (await client.call("Later", 1))["result"] == 1  # what the client asks before it answers
        await client.invoke("Ask", None, "Question", 6, invocation_id="2")
        second = await client.message()
        for each in (second, asked):
            await client.send(json.dumps({"type": 3, "invocationId": each["invocationId"], "result": 0}) + "\x1e")
        assert await ids(client, 2) == ["2", "1"]
        await client.invoke("Block", "a", invocation_id="3")
        await client.invoke("Later", 4, invocation_id="4")
        await settle()
        assert gates.entered[-1] == "a"  # again one at a time
        gates.event("a").set()
        assert await ids(client, 2) == ["3", "4"]


async def test_a_client_that_goes_away_ends_the_wait_for_its_result(gates: Gates) -> None:
    async with hosting(WorkHub, detailed_errors=True) as host:
        client, other = await host.connect(), await host.connect()
        other_id = (await other.call("MyId"))["result"]
        await client.invoke("Ask", other_id, "Question", 5)
        assert (await other.message())["target"] == "Question"
        await other.cut()
        assert f"Connection '{other_id}' disconnected." in (await client.message())["error"]
        assert "does not exist" in (await client.call("Ask", other_id, "Question", 5))["error"]


async def test_a_result_of_another_type_is_an_error_of_the_client(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        for answer, outcome in ((b"5", {"result": 5}), (b'"x"', {"error": None})):
            await client.invoke("AskForInt")
            call_id = (await client.message())["invocationId"].encode()
            await client.send(b'{"type":3,"invocationId":"%b","result":%b}\x1e' % (call_id, answer))
            message = await client.message()
            assert message.get("result") == outcome.get("result")
            assert ("error" in message) == ("error" in outcome)


async def test_reading_pauses_while_too_much_is_pending_and_nothing_is_lost(gates: Gates) -> None:
    async with hosting(WorkHub, max_pending_invocations=4) as host:
        client = await host.connect()
        await client.invoke("Block", "a", invocation_id="a")
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                for number in range(200):
                    await client.invoke("Later", number, invocation_id=str(number))

            nursery.start_soon(flood)
            await settle()
            gates.event("a").set()
            assert await ids(client, 201) == ["a", *map(str, range(200))]


async def test_cancels_are_read_behind_however_many_invocations_that_wait(
    gates: Gates, autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(WorkHub, max_pending_invocations=4) as host:
        client = await host.connect()
        await client.invoke("Block", "a", invocation_id="a")
        for number in range(100):
            await client.invoke("Later", number, invocation_id=str(number))
        await client.send('{"type":5,"invocationId":"a"}\x1e')
        assert await ids(client, 101) == ["a", *map(str, range(100))]
        assert trio.current_time() < 10, "reading goes on every now and then"


async def test_reading_goes_on_when_all_that_waited_was_cancelled(gates: Gates) -> None:
    async with hosting(WorkHub, max_pending_invocations=4) as host:
        client = await host.connect()
        names = ["a", "1", "2", "3", "4"]
        calls = [f'{{"type":1,"target":"Block","arguments":["a"],"invocationId":"{name}"}}\x1e' for name in names]
        cancels = [f'{{"type":5,"invocationId":"{name}"}}\x1e' for name in reversed(names)]
        await client.send("".join(calls + cancels))  # in one read: what it pauses is behind it
        assert sorted(await ids(client, 5)) == sorted(names)
        assert (await client.call("Later", 1))["result"] == 1


async def test_a_stream_sends_its_items_and_then_a_completion_without_result(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        for name in ("Count", "AwaitedStream"):
            await client.invoke(name, 3, kind=4)
            assert [await client.message() for _ in range(4)] == [
                *({"type": 2, "invocationId": "7", "item": number} for number in range(3)),
                {"type": 3, "invocationId": "7"},
            ]


async def test_a_stream_of_many_items_arrives_whole_and_others_get_their_turn(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client, other = await host.connect(), await host.connect()
        await client.invoke("Count", 20_000, kind=4)
        assert (await other.call("Later", 1))["result"] == 1
        items = [(await client.message())["item"] for _ in range(20_000)]
        assert items == list(range(20_000))


async def test_streams_take_no_slot_and_end_without_error_when_cancelled(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.invoke("Forever", "a", kind=4, invocation_id="1")
        await client.invoke("Forever", "b", kind=4, invocation_id="2")
        assert sorted(await ids(client, 2)) == ["1", "2"]
        assert (await client.call("Later", 1))["result"] == 1
        await client.send('{"type":5,"invocationId":"1"}\x1e')
        assert await client.message() == {"type": 3, "invocationId": "1"}
        await client.close()
        await settle()
        assert gates.cancelled == ["a", "b"]


async def test_a_stream_cancelled_in_the_frame_that_starts_it_still_ends(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        start = '{"type":4,"invocationId":"1","target":"Forever","arguments":["a"]}\x1e'
        await client.send(start + '{"type":5,"invocationId":"1"}\x1e')
        messages = [await client.message()]
        while messages[-1]["type"] != 3:
            messages.append(await client.message())
        assert messages[-1] == {"type": 3, "invocationId": "1"}


async def test_what_a_client_sent_before_it_closed_is_still_run(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.send(
            "".join(f'{{"type":1,"target":"Later","arguments":[{n}]}}\x1e' for n in range(5)) + '{"type":7}\x1e'
        )
        assert await client.record() == '{"type":7}'
        assert gates.entered == [f"later {n}" for n in range(5)]
        assert await client.record() is None
        assert client.close_code == 1000


async def test_a_method_that_hangs_is_cancelled_soon_after_its_client_closed(
    gates: Gates, autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.invoke("Block", "a")
        started = trio.current_time()
        await client.close()
        await trio.sleep(1.1)
        assert gates.cancelled == ["a"]
        assert trio.current_time() - started < 2


async def test_a_lost_client_cancels_its_methods_at_once(gates: Gates) -> None:
    async with hosting(WorkHub) as host:
        client = await host.connect()
        await client.invoke("Block", "a")
        await settle()
        await client.cut()
        await settle()
        assert gates.cancelled == ["a"]
        assert len(host.endpoints["/hub"]._runtime.manager) == 0  # type: ignore[union-attr,arg-type]


async def test_a_hub_object_lives_for_one_invocation_and_items_for_the_connection() -> None:
    class StateHub(Hub):
        def __init__(self) -> None:
            self.calls = 0

        async def count(self) -> list[int]:
            self.calls += 1
            items = self.context.items
            items["n"] = items.get("n", 0) + 1
            return [self.calls, items["n"]]

    async with hosting(StateHub) as host:
        client = await host.connect()
        assert [(await client.call("count"))["result"] for _ in range(3)] == [[1, 1], [1, 2], [1, 3]]
        assert (await (await host.connect()).call("count"))["result"] == [1, 1]


async def test_the_limit_of_groups_is_named() -> None:
    class GroupHub(Hub):
        async def join(self, n: int) -> None:
            for number in range(n):
                await self.groups.add(self.context.connection_id, f"g{number}")

    async with hosting(GroupHub, max_groups=3) as host:
        client = await host.connect()
        assert (await client.call("join", 3))["result"] is None
        error = (await client.call("join", 4))["error"]
        assert "HubException: groups of 4 exceeds" in error
        assert "signalr.max_groups (3)" in error
