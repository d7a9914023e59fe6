"""The reconnecting client misses nothing while its server is stopped and started again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from engine import Config, serve
from engine.server import Server
from engine.websocket.reconnect import Backoff
from examples import websocket_reconnect

if TYPE_CHECKING:
    import pytest


async def test_the_client_goes_on_where_it_was_when_the_server_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_reconnect, "INTERVAL", 0.001)
    shown: list[int] = []
    some = trio.Event()

    def show(number: int) -> None:
        shown.append(number)
        if number == 3:
            some.set()

    async def serve_twice(task_status: trio.TaskStatus[str]) -> None:
        config = Config().replace(server__port=0)
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(serve, websocket_reconnect.app, config)
            port = int(server.addresses[0].rpartition(":")[2])
            task_status.started(f"ws://127.0.0.1:{port}/feed")
            await some.wait()
            server.stop()
        await serve(websocket_reconnect.app, config.replace(server__port=port))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_twice)
            backoff = Backoff(initial=0.01, maximum=0.1)
            await websocket_reconnect.follow(url, show, until=50, backoff=backoff)
            nursery.cancel_scope.cancel()
    assert shown == list(range(51))
