"""@connectrpc/connect-node as the client of greet.Greeter, in all three protocols and over both HTTP versions."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from engine.demo.generated import greet_pb2
from examples.conformance.generated import conformance_probe_pb2, interop_test_pb2
from tests.interop.peers import node
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

# Connect's codes have gRPC's numbers.
CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 1, 2, 3, 4, 8
FAILED_PRECONDITION, ABORTED, UNIMPLEMENTED = 9, 10, 12


def descriptors(*modules: Any) -> str:
    """The types of these modules, the greeter's where there are none, for a client that has no generated code."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in modules or (greet_pb2,):
        file = files.file.add()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:  # the copy lacks what only JSON needs
            for field in message.field:
                first, *rest = field.name.split("_")
                field.json_name = first + "".join(map(str.capitalize, rest))
    return base64.b64encode(files.SerializeToString()).decode("ascii")


@pytest.mark.timeout(120)
def test_all_calls_succeed_in_connect_grpc_web_and_grpc(engine_server: ServerProcess) -> None:
    results = node("connect_greeter.mjs", engine_server.url, descriptors(), limit=100)
    assert set(results) == {
        *(
            f"connect {http} {form}{gzip}"
            for http in ("1.1", "2")
            for form in ("binary", "json")
            for gzip in ("", " gzip")
        ),
        *(f"grpc-web {http} binary{gzip}" for http in ("1.1", "2") for gzip in ("", " gzip")),
        *(f"grpc 2 binary{gzip}" for gzip in ("", " gzip")),
    }
    for name, seen in results.items():
        assert seen["unary"] == "Hello Барбара ☺", name
        assert seen["long"] == len("Hello ") + (20_000 if "gzip" in name else 10), name
        assert seen["serverStream"] == ["Hello Ada"] * 3, name
        assert seen["clientStream"] == "Hello Ada, Grace and Барбара ☺", name
        assert seen["refused"] == {"code": INVALID_ARGUMENT, "message": "count must be 1 to 1000"}, name
        assert seen["late"]["code"] == DEADLINE_EXCEEDED, name
        assert seen["large"]["code"] == RESOURCE_EXHAUSTED, name
        assert seen["cancelled"]["code"] == CANCELLED, name
        if "bidirectional" in seen:
            assert seen["bidirectional"] == ["Hello Ada", "Hello Grace", "Hello Барбара ☺"], name


@pytest.mark.timeout(120)
def test_metadata_errors_and_gets_are_understood_in_every_protocol(start_engine: Callable[..., ServerProcess]) -> None:
    server = start_engine("examples.conformance:app", "--access-log", errors_expected=True)
    types = descriptors(interop_test_pb2, conformance_probe_pb2)
    results = node("connect_conformance.mjs", server.url, types, limit=100)
    assert sorted(results) == [
        *(f"connect {http} {form}" for http in ("1.1", "2") for form in ("binary", "json")),
        "grpc 2 binary",
        *(f"grpc-web {http} binary" for http in ("1.1", "2")),
    ]
    for name, seen in results.items():
        assert seen["cacheControl"] == "max-age=60, public", name
        assert seen["unaryMetadata"] == seen["streamMetadata"] == ["a", "abff"], name
        assert seen["codes"] == list(range(1, 17)), name
        rich = {"code": FAILED_PRECONDITION, "message": "rich", "details": ["detail: rich"]}
        assert seen["rich"] == seen["richStream"] == rich, name
        assert seen["raised"] == {"code": UNKNOWN, "message": ""}, name
        assert seen["late"] == {"before": 1, "code": ABORTED, "message": "late"}, name
        assert seen["unimplemented"] == UNIMPLEMENTED, name
        assert seen["compressed"] == {"size": 5000, "encoding": "gzip"}, name
        assert seen["deadline"] is True, name
        assert seen["hang"] == DEADLINE_EXCEEDED, name
        assert seen["outcome"] == conformance_probe_pb2.OutcomeReply.CANCELLED, name
        assert seen.get("lockStep") == ([31415, 9, 2653] if " 2 " in name else None), name
    # "127.0.0.1:1234 GET /grpc.testing.TestService/CacheableUnaryCall HTTP/1.1 200 ..."
    log = [line.split("/grpc.testing.TestService/CacheableUnaryCall") for line in server.output.splitlines()]
    methods = [(each[0].split()[-1], each[1].split()[0]) for each in log if len(each) > 1]
    http1, http2 = "HTTP/1.1", "HTTP/2"
    assert sorted(methods) == sorted(
        [("GET", http1)] * 2 + [("GET", http2)] * 2 + [("POST", http1)] + [("POST", http2)] * 2
    )
