"""The official interop cases: grpcio's client and its generated stubs against the conformance app."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is missing; install it to run its client")
pytest.importorskip("grpc_tools", reason="grpcio-tools is missing; install the extra codegen")

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from engine.grpc.codegen.generate import generate
from examples.conformance.generated import conformance_probe_pb2 as probe_pb
from examples.conformance.generated.interop_test_pb2 import EchoStatus
from tests.interop.interop_cases import CASES, LIMIT, code_of
from tests.interop.server_process import ROOT, ServerProcess

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess("examples.conformance:app")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModuleType, ModuleType, ModuleType]]:
    """What grpcio's own compiler makes: the messages and the stubs of both services."""
    out = tmp_path_factory.mktemp("stock")
    protos = [ROOT / "protos/grpc/testing", ROOT / "protos/conformance"]
    generate(protos, out, include=protos, imports="absolute", stock=True)
    sys.path.insert(0, str(out))
    names = ("interop_test_pb2", "interop_test_pb2_grpc", "conformance_probe_pb2_grpc")
    messages, testing, probe = (importlib.import_module(name) for name in names)
    yield messages, testing, probe
    sys.path.remove(str(out))


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def probe(channel: grpc.Channel, stock: Any) -> Any:
    return stock[2].ProbeStub(channel)


@pytest.mark.parametrize("name", CASES)
def test_an_official_case_passes(name: str, channel: grpc.Channel, stock: Any) -> None:
    messages, testing, _ = stock
    CASES[name](testing.TestServiceStub(channel), messages)


def test_a_service_that_is_not_served_is_unimplemented(channel: grpc.Channel, stock: Any) -> None:
    messages, testing, _ = stock
    stub = testing.UnimplementedServiceStub(channel)
    assert code_of(lambda: stub.UnimplementedCall(messages.Empty(), timeout=LIMIT))[0].name == "UNIMPLEMENTED"


# -- conformance.v1.Probe ------------------------------------------------------


def test_the_outcome_of_handlers_is_told(probe: Any) -> None:
    def outcome(key: str) -> Any:
        return probe.Outcome(probe_pb.OutcomeRequest(key=key, wait_ms=10_000), timeout=LIMIT)

    assert probe.Hang(probe_pb.HangRequest(key="ends", hold_ms=1), timeout=LIMIT).key == "ends"
    assert outcome("ends").state == probe_pb.OutcomeReply.FINISHED
    code = code_of(lambda: probe.Hang(probe_pb.HangRequest(key="late"), timeout=0.2))[0]
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert outcome("late").state == probe_pb.OutcomeReply.CANCELLED
    stream = probe.HangStream(probe_pb.HangRequest(key="stream", messages=3, chunk_size=10), timeout=LIMIT)
    assert [len(next(stream).data) for _ in range(3)] == [10, 10, 10]
    running = probe.Outcome(probe_pb.OutcomeRequest(key="stream"), timeout=LIMIT)
    assert (running.state, running.sent, running.running_now) == (probe_pb.OutcomeReply.RUNNING, 3, 1)
    stream.cancel()
    ended = outcome("stream")
    assert (ended.state, ended.running_now) == (probe_pb.OutcomeReply.CANCELLED, 0)
    assert ended.running_peak >= 1
    chunks = [probe_pb.Chunk(key="input", hold_ms=5, data=b"ab"), probe_pb.Chunk(data=b"c")]
    reply = probe.HangInput(iter(chunks), timeout=LIMIT)
    assert (reply.messages, reply.bytes, outcome("input").received) == (2, 3, 2)
    never = probe.Outcome(probe_pb.OutcomeRequest(key="never"), timeout=LIMIT)
    assert never.state == probe_pb.OutcomeReply.UNKNOWN


def test_a_flood_arrives_whole_and_an_early_reply_comes_early(probe: Any) -> None:
    flood = probe.Flood(probe_pb.FloodRequest(key="flood", chunk_size=64_000, count=200), timeout=LIMIT)
    assert sum(len(chunk.data) for chunk in flood) == 64_000 * 200
    requests = iter(lambda: probe_pb.Chunk(data=bytes(1000), key="early"), None)
    assert probe.EarlyReply(requests, timeout=LIMIT).bytes == 1000
    greetings = probe.Greet(iter([probe_pb.Chunk(data=b"x")]), timeout=LIMIT)
    assert [chunk.data for chunk in greetings] == [b"hello", b"x"]


def test_metadata_and_deadline_are_echoed(probe: Any) -> None:
    metadata = (("x-a", "1"), ("y-b", "no"), ("x-b-bin", b"\x00\xff"), ("x-a", "2"))
    entries = probe.EchoMetadata(probe_pb.Nothing(), metadata=metadata, timeout=LIMIT).entries
    assert [(each.key, each.value) for each in entries] == [("x-a", b"1"), ("x-b-bin", b"\x00\xff"), ("x-a", b"2")]
    deadline = probe.Deadline(probe_pb.Nothing(), timeout=10)
    assert deadline.has_deadline
    assert 5_000_000 < deadline.remaining_us <= 10_200_000  # C-core rounds up
    assert not probe.Deadline(probe_pb.Nothing()).has_deadline


def test_failures_carry_what_was_asked_for(probe: Any) -> None:
    request = probe_pb.FailRequest(kind=probe_pb.FailRequest.RICH, text="why", code=9)
    with pytest.raises(grpc.RpcError) as caught:
        probe.Fail(request, timeout=LIMIT)
    status = rpc_status.from_call(caught.value)  # checks that code and message agree with the call's
    assert (status.code, status.message) == (9, "why")
    echoed = EchoStatus()
    assert status.details[0].Unpack(echoed)
    assert echoed.message == "detail: why"
    after = probe.FailStream(
        probe_pb.FailRequest(kind=probe_pb.FailRequest.AFTER_MESSAGE, text="then", code=10), timeout=LIMIT
    )
    assert next(after) == probe_pb.Chunk()
    assert code_of(lambda: next(after)) == (grpc.StatusCode.ABORTED, "then")


# -- health and reflection -----------------------------------------------------


def test_health_is_told_and_watched(channel: grpc.Channel, probe: Any) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    serving, unknown = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    for name in ("", "grpc.testing.TestService", "conformance.v1.Probe"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=LIMIT).status == serving
    asked = health_pb2.HealthCheckRequest(service="later")
    assert code_of(lambda: stub.Check(asked, timeout=LIMIT))[0] is grpc.StatusCode.NOT_FOUND
    assert "" in stub.List(health_pb2.HealthListRequest(), timeout=LIMIT).statuses
    watch = stub.Watch(asked, timeout=LIMIT)
    assert next(watch).status == unknown
    for status in (1, 2, 3):
        probe.SetHealth(probe_pb.HealthRequest(service="later", status=status), timeout=LIMIT)
        assert next(watch).status == status
    watch.cancel()


def test_grpcio_reflection_finds_services_files_and_messages(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    names = list(database.get_services())
    assert {"grpc.testing.TestService", "conformance.v1.Probe", "grpc.health.v1.Health", "greet.Greeter"} <= set(names)
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("grpc.testing.TestService")
    assert service.methods_by_name["UnaryCall"].input_type.full_name == "grpc.testing.SimpleRequest"
    assert pool.FindFileByName("conformance_probe.proto").package == "conformance.v1"
    assert list(database.FindAllExtensionNumbers("grpc.testing.Payload")) == []
    with pytest.raises(KeyError):
        pool.FindMessageTypeByName("google.protobuf.compiler.CodeGeneratorRequest")


def test_the_asyncio_client_plays_with_all_four_kinds(server: ServerProcess, stock: Any) -> None:
    messages, testing, _ = stock

    def output(size: int) -> Any:
        return messages.StreamingOutputCallRequest(response_parameters=[messages.ResponseParameters(size=size)])

    async def play() -> None:
        async with grpc.aio.insecure_channel(server.target, compression=grpc.Compression.Gzip) as channel:
            stub = testing.TestServiceStub(channel)
            compressed = messages.BoolValue(value=True)
            request = messages.SimpleRequest(
                response_size=9,
                payload=messages.Payload(body=bytes(10_000)),  # what does not shrink is not compressed
                response_compressed=compressed,
                expect_compressed=compressed,
            )
            assert len((await stub.UnaryCall(request, timeout=LIMIT)).payload.body) == 9
            sizes = [len(each.payload.body) async for each in stub.StreamingOutputCall(output(5), timeout=LIMIT)]
            assert sizes == [5]
            upload = stub.StreamingInputCall(timeout=LIMIT)
            for size in (3, 4):
                await upload.write(messages.StreamingInputCallRequest(payload=messages.Payload(body=bytes(size))))
            await upload.done_writing()
            assert (await upload).aggregated_payload_size == 7
            duplex = stub.FullDuplexCall(timeout=LIMIT)
            for size in (1, 20_000, 3):
                await duplex.write(output(size))
                assert len((await duplex.read()).payload.body) == size
            await duplex.done_writing()
            assert await duplex.read() is grpc.aio.EOF
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
            hanging = stub.FullDuplexCall(timeout=LIMIT)
            hanging.cancel()
            assert await hanging.code() is grpc.StatusCode.CANCELLED

    asyncio.run(play())
