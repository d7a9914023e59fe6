"""@microsoft/signalr under Node.js as the client of the contract's hub: results, errors, streams, closes."""

from __future__ import annotations

import pytest
import trio

from engine.app import App
from engine.config import Config
from engine.server import Server
from examples.conformance.hub import ConformanceHub
from tests.interop.peers import node

pytestmark = pytest.mark.interop

CLOSED = "Server returned an error on close: Connection closed with an error."


async def test_the_official_client_understands_all_that_a_hub_answers(nursery: trio.Nursery) -> None:
    app = App(Config().replace(server__port=0))
    app.hub("/conformance")(ConformanceHub)
    app.hub("/conformance-detailed", detailed_errors=True)(ConformanceHub)
    app.hub("/conformance-fast", keep_alive_interval=1, client_timeout=2)(ConformanceHub)
    server: Server = await nursery.start(Server(app).run)
    results = await trio.to_thread.run_sync(node, "signalr_hub.mjs", f"http://{server.addresses[0]}")
    server.stop()

    record = {
        "Id": 1, "Name": "n", "Score": 2.5, "Tags": ["a"], "When": "2024-02-29T12:30:45.123Z", "Blob": "AQID",
        "Child": None,
    }  # fmt: skip
    assert results["echo"] == {"text": "é€😀", "list": [1, None, True]}
    assert results["record"] == {**record, "Child": record}
    assert (results["large"], results["nothing"], results["many"]) == (30_000, None, 2000)

    assert results["hubError"]["error"].endswith("invoking 'ThrowHubError' on the server. HubException: mine")
    assert results["error"]["error"] == "An unexpected error occurred invoking 'ThrowError' on the server."
    assert results["binding"]["error"] == "Failed to invoke 'Add' due to an error on the server."

    assert results["stream"] == {"items": [0, 1, 2]}
    assert results["streamError"] == {
        "items": [0, 1],
        "error": "An error occurred on the server while streaming results. HubException: mine",
    }
    assert "non-streaming 'Echo' method with a streaming invocation" in results["wrongKind"]["error"]
    assert results["cancelled"] == {"items": [0, 1], "cancelled": True}

    assert results["clientResult"] == 50  # the client asked back before it answered
    assert results["clientError"]["error"].endswith("HubException: Error: the client failed")
    assert results["noHandler"]["error"].endswith("HubException: Client didn't provide a result.")

    assert results["aborted"] is None
    assert results["detailed"]["error"].endswith("ArithmeticException: secret")
    assert results["closedWith"].startswith(f"{CLOSED} TypeError: ")
    assert results["rejected"] == CLOSED
    assert results["alive"] == {"value": "still here"}
