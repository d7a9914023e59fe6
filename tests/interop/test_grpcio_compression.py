"""grpcio as the client: compressed requests, and responses that the handler compresses message by message."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

LONG = "x" * 100_000


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess("tests.interop.compressing_app:app")
    yield process
    process.stop()


@pytest.mark.parametrize("sent", [grpc.Compression.NoCompression, grpc.Compression.Deflate, grpc.Compression.Gzip])
@pytest.mark.parametrize("asked", ["identity", "gzip", "deflate"])
def test_both_directions_are_understood(server: ServerProcess, sent: grpc.Compression, asked: str) -> None:
    with grpc.insecure_channel(server.target, compression=sent) as channel:
        say = channel.unary_unary(
            "/greet.Greeter/SayHello",
            request_serializer=HelloRequest.SerializeToString,
            response_deserializer=HelloReply.FromString,
        )
        reply = say(HelloRequest(name=LONG), metadata=(("x-compression", asked),), timeout=20)
        assert reply.message == f"{sent is not grpc.Compression.NoCompression} {LONG}"
        stream = channel.unary_stream(
            "/greet.Greeter/StreamHellos",
            request_serializer=StreamHellosRequest.SerializeToString,
            response_deserializer=HelloReply.FromString,
        )
        request = StreamHellosRequest(name=LONG, count=4)
        replies = list(stream(request, metadata=(("x-compression", asked),), timeout=20))
        assert [reply.message for reply in replies] == [LONG] * 4
