"""@grpc/grpc-js as the client of greet.Greeter: all four kinds of call, and the refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop.peers import node
from tests.interop.server_process import ROOT, ServerProcess

pytestmark = pytest.mark.interop

UNIMPLEMENTED = 12


def test_all_four_kinds_of_call_succeed_and_unknown_methods_are_unimplemented(engine_server: ServerProcess) -> None:
    (proto,) = [path for path in (ROOT / "protos").rglob("*.proto") if path.name == "greet.proto"]
    results = node("grpc_greeter.mjs", engine_server.target, str(proto))
    assert results.pop("unknownMethod")["code"] == UNIMPLEMENTED
    assert results.pop("unknownService")["code"] == UNIMPLEMENTED

    assert results["SayHello"]["replies"] == [{"message": "Hello Ada"}]
    kinds = {result["kind"] for result in results.values()}
    assert kinds >= {"unary-unary", "unary-stream", "stream-unary", "stream-stream"}
    for name, result in results.items():
        assert result["status"] == 0, name
        assert result["replies"], name
        assert all(isinstance(reply["message"], str) for reply in result["replies"]), name
    ping_pong = next(result for result in results.values() if result["kind"] == "stream-stream")
    assert len(ping_pong["replies"]) == 3


@pytest.mark.timeout(150)
def test_the_official_interop_cases_pass(start_engine: Callable[..., ServerProcess]) -> None:
    server = start_engine("examples.conformance:app")
    results = node("grpc_interop.mjs", server.target, str(ROOT / "protos/grpc/testing/interop_test.proto"), limit=120)
    assert len(results) == 20
    assert {name: result for name, result in results.items() if result != "ok"} == {}
