"""A server that stops: hub connections that outlast their exchanges are drained, awaited and cancelled."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine.app import App
from engine.config import Config
from engine.server import Phase, Server
from engine.signalr.hub import Hub
from tests.signalr.http_peer import Request
from tests.signalr.hub_peer import JSON_HANDSHAKE


class StopHub(Hub):
    async def on_disconnected(self, error: Exception | None) -> None:
        EVENTS.append(error)

    async def block(self) -> None:
        await trio.sleep_forever()


EVENTS: list[Any] = []


async def ask(server: Server, nursery: trio.Nursery, raw: bytes) -> Request:
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(server.serve_stream, theirs)
    request = Request(ours, raw)
    await request.send()
    return request


async def poller(server: Server, nursery: trio.Nursery) -> str:
    """A connection over Long Polling; its target."""
    head = b"HTTP/1.1\r\nHost: x\r\n"
    answer = await (await ask(server, nursery, b"POST /hub/negotiate " + head + b"Content-Length: 0\r\n\r\n")).answer()
    target = f"/hub?id={answer.text.split('connectionId')[1][3:25]}"
    get = f"GET {target} ".encode() + head + b"\r\n"
    await (await ask(server, nursery, get)).answer()
    post = f"POST {target} ".encode() + head
    await (
        await ask(server, nursery, post + b"Content-Length: %d\r\n\r\n" % len(JSON_HANDSHAKE) + JSON_HANDSHAKE)
    ).answer()
    assert (await (await ask(server, nursery, get)).answer()).text == "{}\x1e"
    return target


@pytest.fixture
async def server(nursery: trio.Nursery) -> Server:
    EVENTS.clear()
    app = App(Config().replace(server__port=0))
    app.hub("/hub")(StopHub)
    return await nursery.start(Server(app).run)


async def test_a_drain_waits_for_connections_without_a_request(
    server: Server, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await poller(server, nursery)
    server.drain()
    await trio.sleep(0.9)
    assert server.phase is Phase.DRAINING
    await trio.sleep(0.2)
    assert (server.phase, EVENTS) == (Phase.STOPPED, [None])


async def test_what_does_not_finish_is_cancelled_after_the_grace(
    server: Server, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    target = await poller(server, nursery)
    call = b'{"type":1,"invocationId":"1","target":"Block","arguments":[]}\x1e'
    raw = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(call)}\r\n\r\n".encode() + call
    assert (await (await ask(server, nursery, raw)).answer()).status == 200
    server.drain()
    await trio.sleep(9.9)
    assert server.phase is Phase.DRAINING
    await trio.sleep(3)
    assert (server.phase, EVENTS) == (Phase.STOPPED, [None])
