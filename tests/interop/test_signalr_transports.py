"""@microsoft/signalr under Node.js over every transport, and through a proxy that cuts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from engine import Request, Response
from engine.app import App
from engine.config import Config
from engine.server import Server
from examples.conformance.hub import mount_all
from tests.interop.cutting_proxy import CuttingProxy
from tests.interop.peers import node

pytestmark = pytest.mark.interop


async def results_of_node(nursery: trio.Nursery) -> Any:
    app = App(Config().replace(server__port=0))
    mount_all(app)
    server: Server = await nursery.start(Server(app).run)
    proxy = CuttingProxy(server.addresses[0])
    await nursery.start(proxy.run)

    @app.route("/cut", methods=("POST",))
    async def cut(request: Request) -> Response:
        proxy.cut()
        return Response("cut")

    urls = (f"http://{server.addresses[0]}", f"http://{proxy.address}")
    results = await trio.to_thread.run_sync(node, "signalr_transports.mjs", *urls)
    server.stop()
    nursery.cancel_scope.cancel()
    assert proxy.cuts >= 6
    return results


async def test_the_official_client_can_do_all_over_every_transport(nursery: trio.Nursery) -> None:
    results = await results_of_node(nursery)
    for name in ("WebSockets", "ServerSentEvents", "LongPolling"):
        assert results["exercised"][name] == {
            "transport": name,
            "echo": {"text": "é€😀\n\r\n", "list": [1, None]},
            "large": 200_000,
            "stream": [0, 1, 2, 3],
            "upload": 6,
            "asked": 40,
            "error": "An unexpected error occurred invoking 'ThrowHubError' on the server. HubException: mine",
            "heard": [51, 0, 49, "grouped"],
            "many": 40,
            "closed": None,
            "events": ["connected", "disconnected:clean"],
        }
        authenticated = results["authenticated"][name]
        assert "Unauthorized" in authenticated["refused"]
        assert authenticated["found"] == ["ada", "admin", "secret"]
    assert results["fallBack"] == ["WebSockets", "ServerSentEvents", "LongPolling"]
    for name in ("WebSockets", "ServerSentEvents"):
        assert results["reconnected"][name] == ["again", True], "a new connection, with a new id"

    resumed = results["resumed"]
    assert resumed["same"], "stateful reconnect keeps the connection"
    assert resumed["reconnected"] == 0, "and nobody is told of it"
    assert resumed["sums"] == list(range(40))
    assert resumed["heard"] == list(range(300)), "nothing is lost, doubled or reordered"
