"""@microsoft/signalr under Node.js as the client of the demo's chat hub."""

from __future__ import annotations

import pytest

from tests.interop.peers import node
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("negotiation", ["", "skip"], ids=["negotiated", "skip-negotiation"])
def test_two_clients_chat_to_all_and_to_a_group(engine_server: ServerProcess, negotiation: str) -> None:
    results = node("signalr_chat.mjs", f"{engine_server.url}/chathub", negotiation)
    assert results["completed"] is None
    assert sorted(results["ada"][:2]) == [["Ada", "hello · 你好"], ["Grace", "hi"]]
    assert sorted(results["grace"]) == [["Ada", "hello · 你好"], ["Grace", "hi"]]
    assert results["ada"][2] == ["Grace", "to the group"]
    # Ada left before nobody spoke: 2 to all, 1 to the group, 50 at once, 1 at the end; Grace is in no group.
    assert results["counts"][0] == 54
    assert results["counts"][1] in (52, 53)
    assert "NoSuchMethod" in results["unknown"]
    assert "SendMessage" in results["missingArguments"]
    assert results["alive"] is None
    assert results["closeError"] is None
    if not negotiation:
        assert all(results["ids"])
        assert len(set(results["ids"])) == 2
