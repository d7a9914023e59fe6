"""The gRPC examples do what they say when grpcio's client calls them."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is missing; install it to run its client")

import grpc
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from examples.stock import greet_pb2, greet_pb2_grpc
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

LIMIT = 20
Start = Callable[..., ServerProcess]


@pytest.fixture
def connect(start_engine: Start) -> Iterator[Callable[[str], grpc.Channel]]:
    channels: list[grpc.Channel] = []

    def connect(target: str) -> grpc.Channel:
        channels.append(grpc.insecure_channel(start_engine(target).target))
        return channels[-1]

    yield connect
    for channel in channels:
        channel.close()


def requests(*names: str) -> Iterator[Any]:
    return iter([greet_pb2.HelloRequest(name=name) for name in names])


def hello(name: str) -> Any:
    return greet_pb2.HelloRequest(name=name)


def refusal(call: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("example", ["greeter", "migrating_from_grpc_aio"])
def test_both_greeters_serve_all_four_kinds(connect: Any, example: str) -> None:
    stub = greet_pb2_grpc.GreeterStub(connect(f"examples.{example}:app"))
    assert stub.SayHello(hello("Ada"), timeout=LIMIT).message == "Hello Ada"
    refused = refusal(lambda: stub.SayHello(hello(""), timeout=LIMIT))
    assert (refused.code().name, refused.details()) == ("INVALID_ARGUMENT", "whom shall I greet?")
    three = greet_pb2.StreamHellosRequest(name="Ada", count=3, interval_ms=1)
    replies = [each.message for each in stub.StreamHellos(three, timeout=LIMIT)]
    assert replies == [f"Hello Ada, {number}" for number in (1, 2, 3)]
    assert stub.CollectNames(requests("Ada", "Bob"), timeout=LIMIT).message == "Hello Ada and Bob"
    answers = {each.message for each in stub.Chat(requests("Ada", "Bob"), timeout=LIMIT)}
    assert {"Hello Ada", "Hello Bob"} <= answers


def test_only_those_with_a_token_are_let_in(connect: Any) -> None:
    channel = connect("examples.auth_interceptor:app")
    stub = greet_pb2_grpc.GreeterStub(channel)

    def by(name: str) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer secret-of-{name}"),), "timeout": LIMIT}

    for metadata in ((), (("authorization", "Bearer nonsense"),), (("authorization", "Basic secret-of-ada"),)):
        refused = refusal(lambda metadata=metadata: stub.SayHello(hello("x"), metadata=metadata, timeout=LIMIT))
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert stub.SayHello(hello("x"), **by("bob")).message == "Hello x"
    assert [each.message for each in stub.Chat(requests("y"), **by("ada"))] == ["Hello y"]
    forbidden = refusal(lambda: list(stub.Chat(requests("y"), **by("bob"))))
    assert (forbidden.code().name, forbidden.details()) == ("PERMISSION_DENIED", "bob may not open streams")
    large = refusal(lambda: stub.CollectNames(requests("x" * 2000), **by("ada")))
    assert large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status == 1


def test_errors_say_what_to_mend_and_when_to_come_back(connect: Any) -> None:
    stub = greet_pb2_grpc.GreeterStub(connect("examples.error_details:app"))
    status = rpc_status.from_call(refusal(lambda: stub.SayHello(hello("x" * 21), timeout=LIMIT)))
    bad = BadRequest()
    assert status.details[0].Unpack(bad)
    assert [(each.field, each.description) for each in bad.field_violations] == [
        ("name", "must have at most 20 letters")
    ]
    assert stub.SayHello(hello("Ada"), timeout=LIMIT).message == "Hello Ada"
    status = rpc_status.from_call(refusal(lambda: stub.SayHello(hello("Ada"), timeout=LIMIT)))
    retry = RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.seconds == 1


@pytest.mark.timeout(120)
def test_a_page_calls_from_the_browser(start_engine: Start, chromium: Callable[..., Any]) -> None:
    server = start_engine("examples.grpc_web_page:app")
    seen = chromium("chromium_grpc_web_page.mjs", f"{server.url}/", "Ада ☺", "", "Bob", limit=100)
    assert seen["shown"] == ["Hello Ада ☺", "failed: 3 whom shall I greet?", "Hello Bob"]
    assert seen["problems"] == []


def test_health_follows_the_service_and_the_drain(start_engine: Start) -> None:
    server = start_engine("examples.health_and_reflection:app")
    with grpc.insecure_channel(server.target) as channel:
        assert "greet.Greeter" in ProtoReflectionDescriptorDatabase(channel).get_services()
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="greet.Greeter"), timeout=LIMIT
        )
        statuses = [next(watch).status]
        while statuses[-1] != health_pb2.HealthCheckResponse.SERVING:
            statuses.append(next(watch).status)
        with urllib.request.urlopen(f"{server.url}/calls", timeout=LIMIT) as answer:
            (call,) = [each for each in json.load(answer) if each["path"] == "/grpc.health.v1.Health/Watch"]
        assert call["peer"].startswith("127.0.0.1:")
        assert call["sent"] == 7 * len(statuses)
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert refusal(lambda: next(watch)).code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(5) == 0  # a watcher does not hold it up
