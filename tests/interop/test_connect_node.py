"""@connectrpc/connect-node as the client of greet.Greeter, in all three protocols and over both HTTP versions."""

from __future__ import annotations

import base64

import pytest
from google.protobuf import descriptor_pb2

from engine.demo.generated import greet_pb2
from tests.interop.peers import node
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

# Connect's codes have gRPC's numbers.
CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 1, 3, 4, 8


def descriptors() -> str:
    """The greeter's types for a client that has no generated code."""
    file = descriptor_pb2.FileDescriptorProto()
    greet_pb2.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:  # the copy lacks what only JSON needs
        for field in message.field:
            first, *rest = field.name.split("_")
            field.json_name = first + "".join(map(str.capitalize, rest))
    return base64.b64encode(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()).decode("ascii")


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
