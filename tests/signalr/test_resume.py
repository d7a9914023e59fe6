"""Stateful reconnect on the wire: cuts, takeovers, repetitions, grace, and buffers that are full."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.signalr.hub import Hub
from tests.signalr.hub_peer import CLOSE, HubClient, HubHost, hosting

settle = trio.testing.wait_all_tasks_blocked
HANDSHAKE = '{"protocol":"json","version":2}\x1e'
ERROR = '{"type":7,"error":"Connection closed with an error.","allowReconnect":true}'


class ResumeHub(Hub):
    events: ClassVar[list[Any]]

    async def on_connected(self) -> None:
        self.events.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.events.append(error)

    async def echo(self, value: Any) -> Any:
        self.events.append(value)
        return value

    async def to_all(self, value: Any) -> None:
        await self.clients.all.send("M", value)

    async def bulk(self, connection_id: str, count: int, size: int) -> int:
        for number in range(count):
            await self.clients.client(connection_id).send("M", number, "x" * size)
            self.events.append(number)
        return count

    async def my_id(self) -> str:
        return self.context.connection_id

    async def abort(self) -> None:
        self.context.abort()


@pytest.fixture
def events() -> list[Any]:
    ResumeHub.events = []
    return ResumeHub.events


class Resumable:
    """A client that keeps its token over its WebSockets."""

    def __init__(self, host: HubHost, token: str) -> None:
        self.host = host
        self.target = f"/hub?id={token}"
        self.socket: HubClient

    async def open(self) -> HubClient:
        self.socket = await self.host.websocket(self.target)
        return self.socket

    async def cut(self) -> None:
        await self.socket.cut()
        await settle()


async def connect(host: HubHost, handshake: str = HANDSHAKE) -> Resumable:
    offer = await host.negotiate(query="negotiateVersion=1&useStatefulReconnect=true")
    assert offer["useStatefulReconnect"] is True
    client = Resumable(host, offer["connectionToken"])
    socket = await client.open()
    await socket.send(handshake)
    assert await socket.record() == "{}"
    return client


async def messages(socket: HubClient, count: int) -> list[Any]:
    """The next messages that are no pings and no Acks."""
    found: list[Any] = []
    while len(found) < count:
        message = await socket.message()
        if message["type"] not in (6, 8):
            found.append(message)
    return found


async def test_what_was_lost_with_a_cut_is_repeated_behind_the_sequence(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        await client.socket.call("Echo", 1)
        await client.socket.send('{"type":8,"sequenceId":1}\x1e')
        await client.socket.invoke("Echo", 2, invocation_id="8")
        await settle()
        await client.cut()
        socket = await client.open()
        assert await socket.message() == {"type": 9, "sequenceId": 2}
        assert await socket.message() == {"type": 3, "invocationId": "8", "result": 2}
        await socket.send('{"type":9,"sequenceId":1}\x1e')
        await socket.invoke("Echo", 1)
        await socket.invoke("Echo", 2, invocation_id="8")
        await socket.invoke("Echo", 3, invocation_id="9")
        assert (await messages(socket, 1)) == [{"type": 3, "invocationId": "9", "result": 3}]
        assert events == ["connected", 1, 2, 3]


async def test_what_is_sent_during_the_cut_waits_for_the_next_socket(events: list[Any]) -> None:
    async with hosting(ResumeHub) as host:
        client, other = await connect(host), await host.connect()
        await client.cut()
        for number in range(3):
            await other.invoke("ToAll", number)
            assert [(await other.message())["type"] for _ in range(2)] == [1, 3]
        socket = await client.open()
        assert (await socket.message())["sequenceId"] == 1
        assert [(await socket.message())["arguments"] for _ in range(3)] == [[0], [1], [2]]
        await other.invoke("ToAll", 3)
        assert (await socket.message())["arguments"] == [3]


async def test_half_a_message_before_the_cut_is_discarded(events: list[Any]) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        await client.socket.send('{"type":1,"invocationId":"7","target":"Ec')
        await client.cut()
        socket = await client.open()
        assert (await socket.message())["type"] == 9
        await socket.send('{"type":9,"sequenceId":1}\x1e')
        assert (await socket.call("Echo", "whole"))["result"] == "whole"
        assert events == ["connected", "whole"]


async def test_another_socket_takes_over_and_the_first_is_closed(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        older = client.socket
        socket = await client.open()
        assert await socket.message() == {"type": 9, "sequenceId": 1}
        await older.send('{"type":1,"invocationId":"1","target":"Echo","arguments":["old"]}\x1e')
        while await older.frame() is not None:
            pass
        assert older.close_code == 1000
        await socket.send('{"type":9,"sequenceId":1}\x1e')
        assert (await socket.call("Echo", "new"))["result"] == "new"
        await trio.sleep(20)
        assert (await messages_of_call(socket))["result"] == "later"
        assert events == ["connected", "new", "later"]


async def messages_of_call(socket: HubClient) -> Any:
    await socket.invoke("Echo", "later", invocation_id="8")
    return (await messages(socket, 1))[0]


async def test_a_client_that_does_not_come_back_within_the_grace_is_gone(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        await client.cut()
        await trio.sleep(14.9)
        assert events == ["connected"]
        await trio.sleep(0.2)
        assert events == ["connected", None]
        response = await host.request(upgrade(client.target))
        assert response.startswith("HTTP/1.1 404 ")
        assert len(host.background) == 0


def upgrade(target: str) -> str:
    return (
        f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )


async def end_by_close_message(client: Resumable) -> None:
    await client.socket.send('{"type":7}\x1e')
    assert await client.socket.record() == '{"type":7}'


async def end_by_close_frame(client: Resumable) -> None:
    await client.socket.send(b"\x03\xe8", opcode=CLOSE)


async def end_by_abort(client: Resumable) -> None:
    await client.socket.invoke("Abort")
    assert await client.socket.record() == '{"type":7}'


@pytest.mark.parametrize("end", [end_by_close_message, end_by_close_frame, end_by_abort])
async def test_a_connection_that_was_closed_cannot_be_resumed(events: list[Any], end: Any) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        await end(client)
        while await client.socket.frame() is not None:
            pass
        await client.cut()
        assert events == ["connected", None]
        assert (await host.request(upgrade(client.target))).startswith("HTTP/1.1 404 ")
        assert len(host.background) == 0


async def test_version_1_of_the_protocol_turns_it_off(events: list[Any]) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host, '{"protocol":"json","version":1}\x1e')
        assert (await host.request(upgrade(client.target))).startswith("HTTP/1.1 409 ")
        await client.socket.call("Echo", 1)
        await client.cut()
        assert events == ["connected", 1, None]
        assert (await host.request(upgrade(client.target))).startswith("HTTP/1.1 404 ")


async def test_it_may_be_switched_off(events: list[Any]) -> None:
    async with hosting(ResumeHub, stateful_reconnect=False) as host:
        offer = await host.negotiate(query="negotiateVersion=1&useStatefulReconnect=true")
        assert "useStatefulReconnect" not in offer


async def test_acks_come_once_a_second_and_only_with_news(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        started = trio.current_time()
        for number in range(3):
            assert (await client.socket.call("Echo", number))["result"] == number
        assert await client.socket.record() == '{"type":8,"sequenceId":3}'
        assert trio.current_time() - started == pytest.approx(1)
        assert await client.socket.record() == '{"type":6}'
        assert trio.current_time() - started == pytest.approx(15)


async def test_an_ack_that_was_lost_with_the_socket_is_sent_again(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    """A client whose buffer is full sends nothing but what the server has had already, and waits for the Ack."""
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        await client.socket.send('{"type":1,"target":"Echo","arguments":[1]}\x1e')
        await trio.sleep(1.5)  # the Ack is under way
        await client.cut()
        await client.open()
        await client.socket.send('{"type":9,"sequenceId":1}\x1e{"type":1,"target":"Echo","arguments":[1]}\x1e')
        with trio.fail_after(3):
            assert await client.socket.message() == {"type": 9, "sequenceId": 1}
            assert await client.socket.message() == {"type": 8, "sequenceId": 1}
        assert events == ["connected", 1]


async def test_a_client_that_is_cut_off_every_moment_still_gets_its_acks(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        await client.socket.call("Echo", 1)
        acknowledged = []
        for _ in range(5):  # each socket lives for less than the time between two Acks
            await client.cut()
            await trio.sleep(0.3)
            socket = await client.open()
            with trio.move_on_after(0.3):
                while (record := await socket.record()) is not None:
                    acknowledged += [record] if '"type":8' in record else []
        assert acknowledged == ['{"type":8,"sequenceId":1}']


async def test_a_sequence_too_far_ahead_ends_the_connection(events: list[Any]) -> None:
    async with hosting(ResumeHub) as host:
        client = await connect(host)
        await client.cut()
        socket = await client.open()
        assert (await socket.message())["type"] == 9
        await socket.send('{"type":9,"sequenceId":2}\x1e')
        assert await socket.record() == ERROR


async def test_a_full_buffer_holds_up_who_sends_to_this_client_and_nobody_else(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(ResumeHub) as host:
        silent, sender, third = await connect(host), await host.connect(), await host.connect()
        silent_id = (await silent.socket.call("MyId"))["result"]
        await sender.invoke("Bulk", silent_id, 10, 30_000)
        await trio.sleep(1)
        assert [each for each in events if isinstance(each, int)] == [0, 1, 2]  # the fourth waits
        await third.invoke("ToAll", "still here")
        assert (await sender.message())["arguments"] == ["still here"]
        assert [(await third.message())["type"] for _ in range(2)] == [1, 3]
        received = await messages(silent.socket, 5)
        assert [each["arguments"][0] for each in received] == [0, 1, 2, 3, "still here"]
        await silent.socket.send('{"type":8,"sequenceId":6}\x1e')
        assert [each["arguments"][0] for each in await messages(silent.socket, 4)] == [4, 5, 6, 7]
        await silent.socket.send('{"type":8,"sequenceId":10}\x1e')
        assert (await messages(sender, 1))[0]["result"] == 10


async def test_a_client_that_never_acknowledges_broadcasts_is_closed_in_the_end(events: list[Any]) -> None:
    async with hosting(ResumeHub, max_message_size=2_000_000) as host:
        silent, sender = await connect(host), await host.connect()
        for _ in range(3):
            await sender.invoke("ToAll", "x" * 500_000)
            while (await sender.message())["type"] != 3:
                pass
        await settle()
        assert "server.outbox_size" in str(events[-1])
        assert (await host.request(upgrade(silent.target))).startswith("HTTP/1.1 404 ")


async def test_a_draining_server_tells_clients_that_are_cut_off_nothing_and_ends(events: list[Any]) -> None:
    async with hosting(ResumeHub) as host:
        away, here = await connect(host), await connect(host)
        await away.cut()
        host.background.drain()
        assert json.loads(str(await here.socket.record())) == {"type": 7, "allowReconnect": True}
        await here.socket.cut()
        await host.background.idle()
        assert events == ["connected", "connected", None, None]
