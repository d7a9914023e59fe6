"""A hub connection's life: life-cycle methods, keep-alive, time-outs, closing, draining."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.errors import ConnectionClosed, LimitExceeded, RemoteProtocolError
from engine.signalr.hub import Hub
from tests.signalr.hub_peer import CLOSE, JSON_HANDSHAKE, HubClient, HubHost, client_frame, hosting

ERROR = '{"type":7,"error":"Connection closed with an error.","allowReconnect":true}'
settle = trio.testing.wait_all_tasks_blocked


class LifeHub(Hub):
    events: ClassVar[list[Any]]
    gate: ClassVar[trio.Event]

    async def on_connected(self) -> None:
        query = self.context.request.query
        self.events.append("connected")
        if "reject" in query:
            raise ValueError("rejected")
        if "wait" in query:
            await self.gate.wait()
        await self.groups.add(self.context.connection_id, "g")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.events.append(error)
        await self.clients.group("g").send("Gone", self.context.connection_id)
        if "hang" in self.context.request.query:
            await trio.sleep_forever()
        if "raise" in self.context.request.query:
            raise ValueError("in on_disconnected")
        self.events.append("disconnected")

    async def block(self) -> str:
        await self.gate.wait()
        return "done"

    async def echo(self, value: Any) -> Any:
        return value

    async def abort(self) -> None:
        self.context.abort()

    async def stream(self) -> AsyncIterator[int]:
        yield 1
        await trio.sleep_forever()

    async def unserialisable(self) -> object:
        return object()


@pytest.fixture
def events() -> list[Any]:
    LifeHub.events = []
    LifeHub.gate = trio.Event()
    return LifeHub.events


async def until_over(client: HubClient) -> None:
    while await client.frame() is not None:
        pass
    await client.stream.aclose()
    await settle()


# -- life-cycle ----------------------------------------------------------------


async def test_on_connected_runs_after_the_handshake_and_before_any_invocation(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.websocket("/hub?wait")
        await settle()
        assert events == []
        await client.send(JSON_HANDSHAKE + b'{"type":1,"invocationId":"7","target":"Echo","arguments":[1]}\x1e')
        assert await client.record() == "{}"
        assert await client.is_quiet()
        assert events == ["connected"]
        LifeHub.gate.set()
        assert (await client.message())["result"] == 1


async def test_an_error_on_connect_closes_and_on_disconnected_is_not_called(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect("/hub?reject")
        assert await client.record() == '{"type":7,"error":"Connection closed with an error."}'
        await until_over(client)
        assert client.close_code == 1000
        assert events == ["connected"]


async def end_by_close_message(client: HubClient) -> None:
    await client.send('{"type":7}\x1e')
    assert await client.record() == '{"type":7}'
    await until_over(client)
    assert client.close_code == 1000


async def end_by_close_frame(client: HubClient) -> None:
    await client.close()
    await until_over(client)


async def end_by_cut(client: HubClient) -> None:
    await client.cut()
    await settle()


async def end_by_abort(client: HubClient) -> None:
    await client.invoke("Abort")
    assert await client.record() == '{"type":7}'
    await until_over(client)
    assert client.close_code == 1000


@pytest.mark.parametrize("end", [end_by_close_message, end_by_close_frame, end_by_cut, end_by_abort])
async def test_a_clean_end_is_told_without_an_error_and_once(events: list[Any], end: Any) -> None:
    async with hosting(LifeHub) as host:
        client, other = await host.connect(), await host.connect()
        await end(client)
        assert events == ["connected", "connected", None, "disconnected"]
        message = await other.message()
        assert (message["target"], len(message["arguments"][0])) == ("Gone", 22)
        assert len(host.endpoints["/hub"]._tickets) == 1


async def end_by_half_a_message(client: HubClient) -> None:
    await client.send('{"type":')
    await client.close()


async def end_by_a_cut_in_a_message(client: HubClient) -> None:
    await client.send('{"type":')
    await client.cut()


async def end_by_malformed(client: HubClient) -> None:
    await client.send("x\x1e")
    assert await client.record() == ERROR
    await until_over(client)
    assert client.close_code == 1000


async def end_by_too_large(client: HubClient) -> None:
    await client.send("x" * 40_000)
    assert await client.record() == ERROR
    await until_over(client)


async def end_by_bad_result(client: HubClient) -> None:
    await client.invoke("Unserialisable")
    assert await client.record() == ERROR
    await until_over(client)


async def end_by_bad_frame(client: HubClient) -> None:
    await client.stream.send_all(b"\xff\xff")
    await until_over(client)
    assert client.close_code == 1002


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (end_by_half_a_message, RemoteProtocolError),
        (end_by_a_cut_in_a_message, RemoteProtocolError),
        (end_by_malformed, RemoteProtocolError),
        (end_by_too_large, LimitExceeded),
        (end_by_bad_result, TypeError),
        (end_by_bad_frame, ConnectionClosed),
    ],
)
async def test_an_end_with_an_error_tells_it(events: list[Any], end: Any, error: type[Exception]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        await end(client)
        await settle()
        assert isinstance(events[1], error)
        assert events[2:] == ["disconnected"]


async def test_on_disconnected_may_fail_or_hang_and_harms_nobody(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(LifeHub) as host:
        for query in ("?raise", "?hang"):
            client = await host.connect(f"/hub{query}")
            await client.close()
            await trio.sleep(15.1)
        assert len(host.endpoints["/hub"]._runtime.manager) == 0  # type: ignore[union-attr,arg-type]
        assert (await (await host.connect()).call("Echo", 1))["result"] == 1


async def test_a_client_that_leaves_during_on_connected_is_forgotten(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect("/hub?wait")
        await client.cut()
        await settle()
        assert events == ["connected"]
        assert len(host.endpoints["/hub"]._runtime.manager) == 0  # type: ignore[union-attr,arg-type]


async def test_nothing_is_received_behind_a_malformed_message(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        await client.send('x\x1e{"type":1,"invocationId":"7","target":"Echo","arguments":[1]}\x1e')
        assert await client.record() == ERROR
        assert await client.record() is None


async def test_a_binary_frame_and_fragments_are_as_good_as_a_text_frame(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        call = b'{"type":1,"invocationId":"7","target":"Echo","arguments":["\xc3\xa9"]}\x1e'
        await client.send(call, opcode=2)
        assert (await client.message())["result"] == "é"
        first, second = bytearray(client_frame(1, call[:61])), client_frame(0, call[61:])
        first[0] = 0x01  # not final, and cut within a character
        await client.stream.send_all(bytes(first) + second)
        assert (await client.message())["result"] == "é"
        assert {opcode for opcode, _ in client.frames} == {1}


# -- time ----------------------------------------------------------------------


async def test_no_handshake_in_time_is_canceled(events: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    async with hosting(LifeHub) as host:
        client = await host.websocket()
        started = trio.current_time()
        assert await client.record() == '{"error":"Handshake was canceled."}'
        assert trio.current_time() - started == pytest.approx(15)
        await until_over(client)
        assert client.close_code == 1000
        assert events == []


async def test_a_ping_is_sent_when_nothing_was_sent_for_the_interval(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        started = trio.current_time()
        assert await client.record() == '{"type":6}'
        assert trio.current_time() - started == pytest.approx(15)
        await trio.sleep(10)
        await client.call("Echo", 1)
        assert await client.record() == '{"type":6}'
        assert trio.current_time() - started == pytest.approx(40)
        assert await client.record() == '{"type":6}'
        assert trio.current_time() - started == pytest.approx(55)


async def test_a_client_that_never_pinged_is_never_too_silent(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        await trio.sleep(100)
        for _ in range(6):
            assert await client.record() == '{"type":6}'
        assert (await client.call("Echo", 1))["result"] == 1


async def test_a_client_that_pinged_is_closed_after_its_time_out_of_silence(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(LifeHub, keep_alive_interval=1000) as host:
        client = await host.connect()
        await client.send('{"type":6}\x1e')
        await trio.sleep(20)
        await client.invoke("Block")  # any message counts, and a running method does not matter
        started = trio.current_time()
        assert await client.record() == ERROR
        assert trio.current_time() - started == pytest.approx(30)
        await until_over(client)
        assert isinstance(events[1], LimitExceeded)
        assert "signalr.client_timeout" in str(events[1])


async def test_a_client_whose_messages_we_do_not_read_is_not_silent(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(LifeHub, keep_alive_interval=1000, max_pending_invocations=2, max_pending_size=1) as host:
        client = await host.connect()
        await client.send('{"type":6}\x1e')
        for number in range(3):
            await client.invoke("Block", invocation_id=str(number))
        await trio.sleep(100)
        LifeHub.gate.set()
        assert [(await client.message())["result"] for _ in range(3)] == ["done"] * 3


# -- drain ---------------------------------------------------------------------


def drain(host: HubHost) -> None:
    for connection in host.connections:
        connection.drain()


async def test_an_idle_client_is_told_to_come_back_when_the_server_drains(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        drain(host)
        assert await client.record() == '{"type":7,"allowReconnect":true}'
        await until_over(client)
        assert client.close_code == 1001
        assert events == ["connected", None, "disconnected"]


async def test_what_runs_when_the_server_drains_is_finished_first(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        await client.invoke("Block")
        await client.invoke("Stream", kind=4, invocation_id="8")
        assert (await client.message())["item"] == 1
        await settle()
        drain(host)
        assert await client.is_quiet()
        await client.invoke("Echo", 1, invocation_id="9")  # too late: the client will ask another server
        LifeHub.gate.set()
        assert (await client.message())["result"] == "done"
        assert await client.record() == '{"type":7,"allowReconnect":true}'
        await until_over(client)


async def test_the_driver_stopping_ends_even_what_does_not_finish(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        await client.invoke("Block")
        await settle()
        drain(host)
        for connection in host.connections:
            connection.stop()
        assert "error" in await client.message()
        assert await client.record() == '{"type":7,"allowReconnect":true}'
        await until_over(client)
        assert events == ["connected", None, "disconnected"]


async def test_a_close_frame_without_a_code_is_clean_too(events: list[Any]) -> None:
    async with hosting(LifeHub) as host:
        client = await host.connect()
        await client.send(b"", opcode=CLOSE)
        await until_over(client)
        assert events == ["connected", None, "disconnected"]


async def test_many_clients_are_told_to_come_back_one_after_the_other_and_until_then_served(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(LifeHub, drain_rate=10.0) as host:
        clients = [await host.connect() for _ in range(40)]
        started, told = trio.current_time(), []

        async def wait(client: HubClient) -> None:
            while (await client.message()) != {"type": 7, "allowReconnect": True}:
                pass  # others have left the group
            told.append(trio.current_time() - started)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(wait, client)
            drain(host)
            await clients[-1].invoke("Echo", "still here")
        assert len(set(told)) == 40, "each has a time of its own"
        assert 1 < max(told) <= 4
        assert sum(1 for each in told if each < 1) >= 10


async def test_a_few_clients_are_told_at_once(events: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    async with hosting(LifeHub) as host:
        clients = [await host.connect() for _ in range(10)]
        started = trio.current_time()
        drain(host)
        for client in clients:
            while (await client.message()) != {"type": 7, "allowReconnect": True}:
                pass
        assert trio.current_time() == started
