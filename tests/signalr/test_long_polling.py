"""Long Polling on the wire: polls, their replacement, POST, DELETE, time, and what is lost when."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from engine.signalr.hub import Hub
from tests.signalr.http_peer import HttpPeer, Request
from tests.signalr.hub_peer import HubHost, hosting

settle = trio.testing.wait_all_tasks_blocked
HANDSHAKE = '{"protocol":"json","version":1}\x1e'


class PollHub(Hub):
    events: ClassVar[list[Any]]
    gate: ClassVar[trio.Event]

    async def on_connected(self) -> None:
        self.events.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.events.append(error)

    async def echo(self, value: Any) -> Any:
        return value

    async def block(self) -> str:
        await self.gate.wait()
        return "done"

    async def transport(self) -> str:
        return self.context.transport

    async def header(self, name: str) -> str | None:
        value = self.context.request.header(name.encode())
        return None if value is None else value.decode()

    async def to_all(self, count: int, size: int) -> None:
        for number in range(count):
            await self.clients.all.send("M", number, "x" * size)


@pytest.fixture
def events() -> list[Any]:
    PollHub.events = []
    PollHub.gate = trio.Event()
    return PollHub.events


class Poller:
    """A client of one connection."""

    def __init__(self, host: HubHost, token: str) -> None:
        self.http = HttpPeer(host)
        self.target = f"/hub?id={token}"

    async def poll(self, **headers: str) -> tuple[int, str]:
        answer = await self.http.ask("GET", self.target, **headers)
        assert answer.fields["cache-control"] == "no-cache, no-store"
        assert (answer.fields["pragma"], answer.fields["expires"]) == ("no-cache", "Thu, 01 Jan 1970 00:00:00 GMT")
        return answer.status, answer.text

    async def start_poll(self) -> Request:
        request = await self.http.start("GET", self.target)
        await settle()
        return request

    async def post(self, text: str) -> int:
        return (await self.http.ask("POST", self.target, text)).status

    async def call(self, target: str, *arguments: Any, invocation_id: str = "7") -> None:
        message = {"type": 1, "invocationId": invocation_id, "target": target, "arguments": arguments}
        assert await self.post(json.dumps(message) + "\x1e") == 200

    async def delete(self) -> int:
        return (await self.http.ask("DELETE", self.target)).status


async def negotiate(host: HubHost) -> Poller:
    return Poller(host, (await host.negotiate())["connectionToken"])


async def connect(host: HubHost) -> Poller:
    client = await negotiate(host)
    assert await client.poll() == (200, "")
    assert await client.post(HANDSHAKE) == 200
    assert await client.poll() == (200, "{}\x1e")
    return client


def result(value: Any, invocation_id: str = "7") -> str:
    message = {"type": 3, "invocationId": invocation_id, "result": value}
    return json.dumps(message, separators=(",", ":")) + "\x1e"


async def test_the_first_poll_returns_at_once_and_later_ones_wait(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        poll = await client.start_poll()
        assert not await poll.is_answered()
        await client.call("Transport")
        assert (await poll.answer()).text == result("LongPolling")


async def test_what_waits_is_fetched_by_one_poll_in_order(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        for number in range(3):
            await client.call("Echo", number)
        assert await client.poll() == (200, result(0) + result(1) + result(2))


async def test_a_newer_poll_sends_the_older_home_and_nothing_is_lost(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        polls = [await client.start_poll() for _ in range(4)]
        for replaced in polls[:3]:
            answer = await replaced.answer()
            assert (answer.status, answer.text) == (204, "")
            assert answer.fields["content-type"] == "text/plain"
        await client.call("Echo", "for the last")
        assert (await polls[3].answer()).text == result("for the last")


async def test_a_poll_that_is_cut_takes_nothing_with_it(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        poll = await client.start_poll()
        await poll.cut()
        await trio.sleep(1)
        await client.call("Echo", "kept")
        assert await client.poll() == (200, result("kept"))


async def test_a_poll_ends_empty_after_its_time(events: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    async with hosting(PollHub, long_poll_timeout=5) as host:
        client = await connect(host)
        started = trio.current_time()
        assert await client.poll() == (200, "")
        assert trio.current_time() - started == pytest.approx(5)


async def test_there_are_no_pings_and_no_time_out_of_a_client_that_polls(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        assert await client.poll() == (200, "")
        assert trio.current_time() > 89
        await client.call("Echo", 1)
        assert await client.poll() == (200, result(1))


async def test_a_client_that_polls_no_more_is_gone(events: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        await trio.sleep(14.9)
        assert events == ["connected"]
        await trio.sleep(0.2)
        assert events == ["connected", None]
        assert (await client.poll())[0] == 404
        assert len(host.endpoints["/hub"]._tickets) == 0
        assert len(host.background) == 0


async def test_no_handshake_in_time_is_canceled(events: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    async with hosting(PollHub, handshake_timeout=3) as host:
        client = await negotiate(host)
        await client.poll()
        assert await client.poll() == (200, '{"error":"Handshake was canceled."}\x1e')
        assert await client.poll() == (204, "")
        assert (await client.poll())[0] == 404
        assert events == []


async def test_delete_ends_it_for_a_poll_that_waits_too(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        poll = await client.start_poll()
        assert await client.delete() == 202
        assert (await poll.answer()).status == 204
        await settle()
        assert events == ["connected", None]
        assert (await client.poll())[0] == 404
        assert await client.post(HANDSHAKE) == 404
        assert await client.delete() == 404


async def test_delete_before_any_poll_is_refused(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await negotiate(host)
        answer = await client.http.ask("DELETE", client.target)
        assert (answer.status, answer.text) == (400, "Cannot terminate this connection using the DELETE endpoint.")


async def test_a_close_message_is_answered_and_then_it_is_over(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        assert await client.post('{"type":7}\x1e') == 200
        assert await client.poll() == (200, '{"type":7}\x1e')
        assert await client.poll() == (204, "")
        assert (await client.poll())[0] == 404
        assert events == ["connected", None]


async def test_what_is_posted_before_the_first_poll_waits_for_it(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await negotiate(host)
        assert await client.post(HANDSHAKE[:9]) == 200
        assert await client.post(HANDSHAKE[9:]) == 200
        assert events == []
        assert await client.poll() == (200, ""), "the first poll is empty, whatever there is to say"
        assert await client.poll() == (200, "{}\x1e")
        assert events == ["connected"]
        early = await negotiate(host)
        refused = await early.http.ask("POST", early.target, "x" * 20_000)
        assert refused.status == 413
        assert "signalr.max_early_data (16384)" in refused.text


async def test_a_message_may_span_requests_and_a_request_many_messages(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        text = '{"type":1,"invocationId":"7","target":"Echo","arguments":["é"]}\x1e'.encode()
        assert (await client.http.ask("POST", client.target, text[:60])).status == 200
        assert (await client.http.ask("POST", client.target, text[60:] + text)).status == 200
        assert await client.poll() == (200, result("é").replace("\\u00e9", "é") * 2)


async def test_a_request_that_breaks_off_leaves_no_half_message_behind(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        stream = await host.open_stream()
        await stream.send_all(f"POST {client.target} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n".encode())
        await stream.send_all(b'{"type":1,"target":"Ec')
        await settle()
        await stream.aclose()
        await trio.sleep(1)
        await client.call("Echo", "whole")
        assert await client.poll() == (200, result("whole"))


async def test_a_post_waits_while_too_much_is_pending_and_polls_go_on(events: list[Any]) -> None:
    async with hosting(PollHub, max_pending_invocations=2, max_pending_size=1) as host:
        client = await connect(host)
        for number in range(3):
            await client.call("Block", invocation_id=str(number))
        waiting = await client.http.start("POST", client.target, '{"type":6}\x1e')
        await settle()
        assert not await waiting.is_answered()
        PollHub.gate.set()
        assert (await waiting.answer()).status == 200
        assert await client.poll() == (200, "".join(result("done", str(number)) for number in range(3)))


async def test_the_context_is_that_of_the_first_poll(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await negotiate(host)
        assert await client.poll(x_first="yes") == (200, "")
        assert await client.post(HANDSHAKE) == 200
        await client.poll()
        await client.call("Header", "x-first")
        assert await client.poll() == (200, result("yes"))


async def test_a_client_that_fetches_too_little_is_closed(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        slow, other = await connect(host), await connect(host)
        for _ in range(3):
            await other.call("ToAll", 10, 40_000)
            await other.poll()
        await settle()
        assert any("server.outbox_size" in str(event) for event in events)
        assert (await slow.poll())[0] == 404


async def test_a_server_that_drains_says_so_to_the_poll_that_waits(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        poll = await client.start_poll()
        host.background.drain()
        answer = await poll.answer()
        assert (answer.status, answer.text) == (200, '{"type":7,"allowReconnect":true}\x1e')
        await host.background.idle()
        assert events == ["connected", None]


async def test_a_server_that_drains_does_not_wait_long_for_a_poll(
    events: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with hosting(PollHub) as host:
        await connect(host)
        host.background.drain()
        started = trio.current_time()
        await host.background.idle()
        assert trio.current_time() - started == pytest.approx(1)


async def test_transports_cannot_be_changed_whatever_the_other_is(events: list[Any]) -> None:
    async with hosting(PollHub) as host:
        client = await connect(host)
        answer = await client.http.ask("GET", client.target, accept="text/event-stream")
        assert (answer.status, answer.text) == (400, "Cannot change transports mid-connection")
        answer = await client.http.ask(
            "GET", client.target, connection="Upgrade", upgrade="websocket", sec_websocket_version="13",
            sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
        )  # fmt: skip
        assert (answer.status, answer.text) == (400, "Cannot change transports mid-connection")
