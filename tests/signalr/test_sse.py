"""Server-Sent Events on the wire: the stream's first bytes, framing, POST, keep-alive and the ends."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.signalr.hub import Hub
from engine.signalr.transports.sse import ServerSentEventsTransport
from tests.signalr.http_peer import HttpPeer, Request
from tests.signalr.hub_peer import HubHost, hosting

settle = trio.testing.wait_all_tasks_blocked
HANDSHAKE = '{"protocol":"json","version":1}\x1e'


class EventHub(Hub):
    events: ClassVar[list[Any]]

    async def on_connected(self) -> None:
        self.events.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.events.append(error)

    async def echo(self, value: Any) -> Any:
        return value

    async def transport(self) -> str:
        return self.context.transport

    async def abort(self) -> None:
        self.context.abort()


@pytest.fixture
def events() -> list[Any]:
    EventHub.events = []
    return EventHub.events


class Listener:
    """A client of one connection."""

    def __init__(self, host: HubHost, token: str) -> None:
        self.http = HttpPeer(host)
        self.target = f"/hub?id={token}"
        self.stream: Request

    async def open(self) -> None:
        self.stream = await self.http.start("GET", self.target, accept="text/event-stream")
        head = await self.stream.head()
        assert (head.status, head.fields["content-type"]) == (200, "text/event-stream")
        assert head.fields["cache-control"] == "no-cache,no-store"
        assert (head.fields["pragma"], head.fields["content-encoding"]) == ("no-cache", "identity")
        assert await self.stream.event() == ":\r\n"

    async def post(self, text: str) -> int:
        return (await self.http.ask("POST", self.target, text)).status

    async def call(self, target: str, *arguments: Any) -> str | None:
        message = {"type": 1, "invocationId": "7", "target": target, "arguments": arguments}
        assert await self.post(json.dumps(message) + "\x1e") == 200
        return await self.stream.event()


async def connect(host: HubHost) -> Listener:
    client = Listener(host, (await host.negotiate())["connectionToken"])
    await client.open()
    assert await client.post(HANDSHAKE) == 200
    assert await client.stream.event() == "data: {}\x1e\r\n\r\n"
    return client


async def test_calls_are_posted_and_answers_are_events(events: list[Any]) -> None:
    async with hosting(EventHub) as host:
        client = await connect(host)
        assert await client.call("Echo", "a\nb") == ('data: {"type":3,"invocationId":"7","result":"a\\nb"}\x1e\r\n\r\n')
        assert '"ServerSentEvents"' in str(await client.call("Transport"))


def test_a_payload_with_line_feeds_becomes_several_lines() -> None:
    transport = ServerSentEventsTransport.__new__(ServerSentEventsTransport)
    assert transport.frame(b"a\nb\r\nc") == b"data: a\r\ndata: b\r\ndata: c\r\n\r\n"
    assert transport.frame(b"") == b"data: \r\n\r\n"


async def test_the_end_of_the_stream_is_the_end_of_the_connection(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(EventHub) as host:
        client = await connect(host)
        await client.stream.cut()
        await trio.sleep(1)
        assert events == ["connected", None]
        assert await client.post('{"type":6}\x1e') == 404


async def test_abort_ends_the_stream_behind_its_close(events: list[Any]) -> None:
    async with hosting(EventHub) as host:
        client = await connect(host)
        assert await client.call("Abort") == 'data: {"type":7}\x1e\r\n\r\n'
        assert await client.stream.event() is None
        assert await client.post("x") == 404
        await settle()
        assert events == ["connected", None]


async def test_it_is_kept_alive_by_pings(events: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    async with hosting(EventHub) as host:
        client = await connect(host)
        started = trio.current_time()
        assert await client.stream.event() == 'data: {"type":6}\x1e\r\n\r\n'
        assert trio.current_time() - started == pytest.approx(15)


async def test_a_second_stream_is_refused_and_so_are_other_transports(events: list[Any]) -> None:
    async with hosting(EventHub) as host:
        client = await connect(host)
        again = await client.http.ask("GET", client.target, accept="text/event-stream")
        assert (again.status, again.text) == (409, "")
        poll = await client.http.ask("GET", client.target)
        assert (poll.status, poll.text) == (400, "Cannot change transports mid-connection")
        deleted = await client.http.ask("DELETE", client.target)
        assert (deleted.status, deleted.text) == (400, "Cannot terminate this connection using the DELETE endpoint.")
        assert await client.post("") == 200
        assert "ok" in str(await client.call("Echo", "ok"))


async def test_a_server_that_drains_sends_close_and_ends_the_stream(events: list[Any]) -> None:
    async with hosting(EventHub) as host:
        client = await connect(host)
        for connection in host.connections:
            connection.drain()
        assert await client.stream.event() == 'data: {"type":7,"allowReconnect":true}\x1e\r\n\r\n'
        assert await client.stream.event() is None
        await settle()
        assert events == ["connected", None]


async def test_a_stream_without_an_id_or_with_an_unknown_one_is_refused(events: list[Any]) -> None:
    async with hosting(EventHub) as host:
        http = HttpPeer(host)
        for target, status, text in (
            ("/hub", 400, "Connection ID required"),
            ("/hub?id=nobody", 404, "No Connection with that ID"),
        ):
            answer = await http.ask("GET", target, accept="text/event-stream")
            assert (answer.status, answer.text) == (status, text)
            assert "cache-control" not in answer.fields
