"""Headless Chromium on a page of another origin: the official grpc-web and @connectrpc/connect-web."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.peers import chromium
from tests.interop.server_process import ServerProcess
from tests.interop.test_connect_node import descriptors

pytestmark = pytest.mark.interop

INVALID_ARGUMENT, UNIMPLEMENTED = 3, 12


@pytest.fixture(scope="module")
def conformance_server() -> Iterator[ServerProcess]:
    """The app that allows every origin."""
    server = ServerProcess("examples.conformance:app")
    yield server
    server.stop()


@pytest.mark.timeout(120)
def test_the_browsers_clients_call_across_origins(conformance_server: ServerProcess) -> None:
    results = chromium("chromium_web_clients.mjs", conformance_server.url, descriptors(), limit=100)
    assert results["blocked"] == []
    clients = results["seen"]
    assert len(clients) == 5
    for name, seen in clients.items():
        assert seen["unary"] == "Hello Ада", name
        assert seen["long"] == 100_006, name
        if name.startswith("grpc-web"):  # Connect's clients know no method that is not in the types
            assert seen["unknown"]["code"] == UNIMPLEMENTED, name
        if name == "grpc-web binary":
            continue  # which has no streams
        assert seen["stream"] == ["Hello Ada"] * 3, name
        assert seen["refused"] == {"code": INVALID_ARGUMENT, "message": "count must be 1 to 1000"}, name
