"""@microsoft/signalr under Node.js against the conformance hub, in JSON and in MessagePack."""

from __future__ import annotations

import pytest
import trio

from engine.app import App
from engine.config import Config
from engine.server import Server
from examples.conformance.hub import mount_all
from tests.interop.peers import node

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_the_official_client_gets_the_same_from_both_protocols(nursery: trio.Nursery, protocol: str) -> None:
    app = App(Config().replace(server__port=0))
    mount_all(app)
    server: Server = await nursery.start(Server(app).run)
    url = f"http://{server.addresses[0]}"
    results = await trio.to_thread.run_sync(node, "signalr_protocols.mjs", url, protocol)
    server.stop()

    assert results["echo"] == {"text": "é€😀", "list": [1, None, True, -1.5], "big": 2**40}
    assert results["bytes"] == [255, 2, 1]
    assert results["date"] == "2024-02-29T12:30:45.123Z"
    assert results["record"] == [1, "é", "2024-02-29T12:30:45.000Z", [7], None]
    assert (results["large"], results["nothing"]) == (100_000, None)
    assert results["hubError"]["error"].endswith("invoking 'ThrowHubError' on the server. HubException: mine")
    assert results["binding"]["error"] == "Failed to invoke 'Add' due to an error on the server."
    assert results["unknown"]["error"].endswith("HubException: Method does not exist.")
    assert results["admin"]["error"] == "Failed to invoke 'AdminOnly' because user is unauthorized"

    assert results["stream"] == {"items": [0, 1, 2]}
    assert results["streamError"]["items"] == [0, 1]
    assert results["streamError"]["error"].endswith("while streaming results. HubException: mine")
    assert results["cancelled"] == {"items": [0, 1], "cancelled": True}
    assert (results["many"], results["counter"]) == (5000, 1)
    assert results["objects"] == {"items": [{"Index": 0, "Label": "item-0"}]}

    assert (results["sum"], results["two"]) == (42, [3, "text", "ab"])
    assert (results["withArgs"], results["take"]) == ("<ab>", 3)
    assert results["uploadError"]["error"].endswith("HubException: mine")
    assert results["badItem"]["error"].endswith("HubException: Failed to bind Stream message.")
    assert results["both"] == {"items": ["a", 1, None]}
    assert (results["besideHeld"], results["held"]) == ("beside", 500)

    assert results["clientResult"] == 50  # the client asked back before it answered
    assert results["clientError"]["error"].endswith("HubException: Error: the client failed")
    assert results["noHandler"]["error"].endswith("HubException: Client didn't provide a result.")
    assert results["heard"] == {"hub": [1, 2, 4, "5", 0, 1], "other": [1, 3, "5"]}
    assert results["askedNobody"][0] == 502
    assert "Client didn't provide a result." in results["askedNobody"][1]
    assert results["asked"] == [200, {"got": "x"}]
    assert results["events"] == ["connected", "disconnected:clean"]
