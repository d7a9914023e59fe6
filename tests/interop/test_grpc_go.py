"""grpc-go as the client: the official interop cases, and a compression that it takes from a library."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.interop.peers import grpc_go, run
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop


@pytest.mark.timeout(150)
def test_the_official_interop_cases_pass(start_engine: Callable[..., ServerProcess]) -> None:
    server = start_engine("examples.conformance:app")
    results = json.loads(run(grpc_go(), "client", server.target, limit=120).stdout)
    assert len(results) == 20
    assert {name: result for name, result in results.items() if result != "ok"} == {}


def test_messages_compressed_by_zstd_are_understood_both_ways(start_engine: Callable[..., ServerProcess]) -> None:
    server = start_engine("tests.interop.compressing_app:app")
    found = json.loads(run(grpc_go(), "zstd", server.target).stdout)
    assert found == {"size": 314_159, "username": "True 271828", "decompressed": 1}
