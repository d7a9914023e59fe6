"""gRPC on real HTTP/2 connections, byte for byte, with the h2 library as the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio

from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import Http2Code, StatusCode
from engine.grpc import CallContext, Metadata, RequestStream
from engine.transport.exchange import CancelReason
from engine.wire.grpc.framing import frame
from tests.grpc.calls import ADA, BOB, CHAT, COLLECT, SAY, STREAM
from tests.grpc.raw_client import RawClient, connected

TYPE = (b"content-type", b"application/grpc")
HEAD = [(b":status", b"200"), TYPE]


def framed(payload: bytes) -> bytes:
    return b"".join(frame(payload))


def texts(messages: list[bytes]) -> list[str]:
    return [HelloReply.FromString(message).message for message in messages]


@pytest.fixture(params=["socket", "memory"])
def connect(request: pytest.FixtureRequest) -> Any:
    return partial(connected, over=request.param)


class Watched(GreeterBase):
    """Handlers that say how they end."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.ended = trio.Event()
        self.reason: CancelReason | None = None
        self.received: list[str] = []
        self.metadata: Metadata | None = None
        self.sent = 0

    async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
        try:
            self.started.set()
            async for request in requests:
                self.received.append(request.name)
            self.received.append("clean end")
        finally:
            self.reason = context.cancelled
            self.ended.set()
        return HelloReply()

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        try:
            while True:
                yield HelloReply(message="x" * 1000)
                self.sent += 1
        finally:
            self.reason = context.cancelled
            self.ended.set()

    async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> None:
        self.metadata = context.metadata
        await context.send(HelloReply(message=(await anext(requests)).name))


# -- requests -------------------------------------------------------------------


async def test_a_unary_call_is_head_message_and_trailers(connect: Any) -> None:
    async with connect(Greeter()) as client:
        call = await client.start(SAY)
        await client.send(call, framed(ADA), end=True)
        stream = await client.ended(call)
    assert stream.heads == [HEAD, [(b"grpc-status", b"0")]]
    assert stream.body == framed(HelloReply(message="Hello Ada").SerializeToString())
    assert stream.order == ["head", "data", "trailers"]


async def test_a_message_may_be_cut_into_single_bytes_with_empty_frames_between(connect: Any) -> None:
    async with connect(Greeter()) as client:
        call = await client.start(SAY)
        for byte in framed(ADA):
            await client.send(call, bytes([byte]), b"")
        await client.send(call, end=True)
        assert texts((await client.ended(call)).messages) == ["Hello Ada"]


async def test_several_messages_may_share_a_frame(connect: Any) -> None:
    async with connect(Greeter()) as client:
        call = await client.start(COLLECT)
        await client.send(call, framed(ADA) * 2 + framed(BOB)[:3], framed(BOB)[3:], end=True)
        assert texts((await client.ended(call)).messages) == ["Hello Ada, Ada and Bob"]


async def test_a_request_may_end_with_its_head(connect: Any) -> None:
    async with connect(Greeter()) as client:
        collect = await client.ended(await client.start(COLLECT, end=True))
        unary = await client.ended(await client.start(SAY, end=True))
    assert texts(collect.messages) == ["Hello nobody"]
    assert unary.grpc_status == StatusCode.UNIMPLEMENTED


async def test_a_request_without_te_is_served(connect: Any) -> None:
    async with connect(Greeter()) as client:
        call = await client.start(SAY, te=b"")
        await client.send(call, framed(ADA), end=True)
        assert (await client.ended(call)).grpc_status == StatusCode.OK


async def test_metadata_that_is_not_ascii_harms_nobody(connect: Any) -> None:
    async with connect(Greeter()) as client:
        call = await client.start(SAY, [(b"x-latin", b"caf\xe9"), (b"x-latin-2", b"\xff")])
        await client.send(call, framed(ADA), end=True)
        assert (await client.ended(call)).grpc_status == StatusCode.OK


async def test_metadata_with_spaces_around_it_is_stripped_and_host_is_not_looked_at(connect: Any) -> None:
    service = Watched()
    async with connect(service) as client:
        # C-core sends what it is given; h2's client would not.
        client.h2.config.validate_outbound_headers = False
        client.h2.config.normalize_outbound_headers = False
        headers = [(b"x-a", b" b\t"), (b"x-b-bin", b" AQI= "), (b"host", b"elsewhere")]
        call = await client.start(CHAT, headers)
        await client.send(call, framed(ADA))
        assert (await client.ended(call)).grpc_status == StatusCode.OK
    assert service.metadata is not None
    assert service.metadata.get_all("x-a") == ["b"]
    assert service.metadata.get_all("x-b-bin") == [b"\1\2"]
    assert "host" not in service.metadata


async def test_metadata_is_counted_in_bytes_and_not_in_fields(connect: Any) -> None:
    service = Watched()
    async with connect(service) as client:
        fields = [(b"x-%d" % number, b"y") for number in range(220)]  # 8 KiB by gRPC's count
        call = await client.start(CHAT, fields)
        await client.send(call, framed(ADA))
        assert (await client.ended(call)).grpc_status == StatusCode.OK
    assert service.metadata is not None
    assert [pair for pair in service.metadata if pair[0].startswith("x-")] == [(f"x-{n}", "y") for n in range(220)]


@pytest.mark.parametrize("timeout", [b"1n", b"999n"])
async def test_a_deadline_that_has_passed_when_the_handler_is_due_starts_none(connect: Any, timeout: bytes) -> None:
    service = Watched()
    async with connect(service) as client:
        for path in (COLLECT, SAY):
            stream = await refused(client, path, [(b"grpc-timeout", timeout)])
            assert stream.grpc_status == StatusCode.DEADLINE_EXCEEDED
            assert stream.order == ["head"]
    assert not service.started.is_set()


# -- refusals -------------------------------------------------------------------


async def refused(client: RawClient, path: str = SAY, headers: Any = (), body: bytes = b"", **changes: bytes) -> Any:
    call = await client.start(path, headers, **changes)
    await client.send(call, body or framed(ADA), end=True)
    return await client.ended(call)


async def test_refusals_are_trailers_only_and_leave_the_connection_alone(connect: Any) -> None:
    async with connect(Greeter()) as client:
        for path, headers, body, status in [
            ("/greet.Greeter/Nope", [], b"", StatusCode.UNIMPLEMENTED),
            ("/nope/Nope", [], b"", StatusCode.UNIMPLEMENTED),
            (SAY, [(b"grpc-timeout", b"1x")], b"", StatusCode.INTERNAL),
            (SAY, [(b"grpc-timeout", b"0n")], b"", StatusCode.DEADLINE_EXCEEDED),
            (SAY, [(b"x-bin", b"%")], b"", StatusCode.INTERNAL),
            (SAY, [(b"grpc-encoding", b"br")], b"", StatusCode.UNIMPLEMENTED),
            (SAY, [(b"x", b"v" * 20_000)], b"", StatusCode.RESOURCE_EXHAUSTED),  # grpc.max_metadata_size
            (SAY, [(b"x", b"v" * 40_000)], b"", StatusCode.RESOURCE_EXHAUSTED),  # http2.max_header_list
            (SAY, [], b"\x01" + framed(ADA)[1:], StatusCode.INTERNAL),
            (SAY, [], b"\x02" + framed(ADA)[1:], StatusCode.INTERNAL),
            (SAY, [], framed(ADA)[:-1], StatusCode.INTERNAL),
            (SAY, [], framed(ADA) * 2, StatusCode.UNIMPLEMENTED),
            (SAY, [], b"\x00\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
        ]:
            stream = await refused(client, path, headers, body)
            (head,) = stream.heads
            assert head[:2] == HEAD
            assert stream.grpc_status == status, (path, headers, body)
            assert stream.order == ["head"]
        assert texts((await refused(client)).messages) == ["Hello Ada"]


async def test_what_is_no_grpc_is_refused_in_http(connect: Any) -> None:
    async with connect(Greeter()) as client:
        assert (await refused(client, content_type=b"application/connect+json")).http_status == 415
        assert (await refused(client, content_type=b"application/grpcfoo")).http_status == 415
        assert (await refused(client, content_type=b"")).http_status == 415
        assert (await refused(client, method=b"PUT")).http_status == 405
        assert (await refused(client)).grpc_status == StatusCode.OK


async def test_a_message_of_4_mib_is_taken_and_one_byte_more_is_refused_by_its_prefix(connect: Any) -> None:
    limit = 4 * 1024 * 1024
    async with connect(Greeter()) as client:
        name = "x" * (limit - 5)  # the field's tag and length take five bytes
        payload = HelloRequest(name=name).SerializeToString()
        assert len(payload) == limit
        call = await client.start(SAY)
        body = framed(payload)
        while body:
            room = min(client.h2.local_flow_control_window(call), 16_384, len(body))
            if room:
                await client.send(call, body[:room])
                body = body[room:]
            else:
                await client.until(lambda: client.h2.local_flow_control_window(call))
        await client.send(call, end=True)
        assert texts((await client.ended(call)).messages) == [f"Hello {name}"]

        call = await client.start(SAY)
        await client.send(call, b"\x00" + (limit + 1).to_bytes(4, "big"))
        stream = await client.ended(call)
        assert stream.grpc_status == StatusCode.RESOURCE_EXHAUSTED


# -- the end of calls -----------------------------------------------------------


async def test_an_answer_before_the_end_of_the_request_is_followed_by_no_error(connect: Any) -> None:
    async with connect(Watched()) as client:
        call = await client.start(CHAT)
        await client.send(call, framed(ADA))
        stream = client.streams[call]
        await client.until(lambda: stream.reset is not None)
        assert texts(stream.messages) == ["Ada"]
        assert stream.heads[-1] == [(b"grpc-status", b"0")]
        assert stream.order[-2:] == ["trailers", f"reset {Http2Code.NO_ERROR}"]


async def test_a_reset_cancels_the_handler_at_once(connect: Any) -> None:
    service = Watched()
    async with connect(service) as client:
        call = await client.start(COLLECT)
        await client.send(call, framed(ADA))
        await service.started.wait()
        await client.settled()
        await client.reset(call)
        await service.ended.wait()
        assert service.received == ["Ada"]
        assert service.reason is CancelReason.PEER_RESET
        assert (await refused(client, COLLECT)).grpc_status == StatusCode.OK


async def test_a_lost_connection_cancels_the_handler_at_once(connect: Any) -> None:
    service = Watched()
    async with connect(service) as client:
        call = await client.start(COLLECT)
        await client.send(call, framed(ADA))
        await service.started.wait()
        await client.settled()
        await client.stream.aclose()
        await service.ended.wait()
    assert service.received == ["Ada"]
    assert service.reason is CancelReason.CONNECTION_LOST


async def test_a_client_that_fails_cancels_its_calls_and_one_that_only_leaves_does_not(connect: Any) -> None:
    for code, reason in ((Http2Code.NO_ERROR, None), (Http2Code.INTERNAL_ERROR, CancelReason.CONNECTION_LOST)):
        service = Watched()
        async with connect(service) as client:
            call = await client.start(COLLECT)
            await client.send(call, framed(ADA))
            await service.started.wait()
            await client.settled()
            await client.stream.send_all(b"\0\0\x08\7\0\0\0\0\0" + bytes(4) + code.to_bytes(4, "big"))  # GOAWAY
            if reason is None:
                await client.send(call, end=True)
                assert (await client.ended(call)).grpc_status == StatusCode.OK
            await service.ended.wait()
            assert service.reason is reason
            assert service.received == ["Ada", "clean end"][: 2 if reason is None else 1]


async def test_a_deadline_is_told_in_trailers_and_then_no_error(connect: Any) -> None:
    service = Watched()
    async with connect(service) as client:
        call = await client.start(COLLECT, [(b"grpc-timeout", b"20m")])
        await client.send(call, framed(ADA))
        stream = client.streams[call]
        await client.until(lambda: stream.reset is not None)
        assert stream.heads[0][:2] == HEAD
        assert stream.grpc_status == StatusCode.DEADLINE_EXCEEDED
        assert stream.order == ["head", f"reset {Http2Code.NO_ERROR}"]
        assert service.ended.is_set()
        assert service.received == ["Ada"]


async def test_a_deadline_during_a_stream_ends_it_between_two_messages(connect: Any) -> None:
    service = Watched()
    async with connect(service) as client:
        call = await client.start(STREAM, [(b"grpc-timeout", b"50m")])
        await client.send(call, framed(b""), end=True)
        stream = await client.ended(call)
        assert stream.grpc_status == StatusCode.DEADLINE_EXCEEDED
        assert stream.body == framed(HelloReply(message="x" * 1000).SerializeToString()) * len(stream.messages)


async def test_a_client_that_does_not_read_costs_bounded_memory(connect: Any) -> None:
    service = Watched()
    async with connect(service) as client:
        client.hold_window = True
        call = await client.start(STREAM)
        await client.send(call, framed(b""), end=True)
        await client.until(lambda: len(client.streams[call].body) == 65_535)
        await client.settled()
        assert service.sent * 1000 < 65_535 + 2 * 65_536
        assert not service.ended.is_set()
        await client.reset(call)
        await service.ended.wait()
        assert service.reason is CancelReason.PEER_RESET


async def test_an_error_in_one_call_leaves_the_others_running(connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Service(Greeter):
        async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
            raise ValueError("secret")

    async with connect(Service()) as client:
        chat = await client.start(CHAT)
        await client.send(chat, framed(ADA))
        stream = await refused(client)
        assert dict(stream.heads[-1])[b"grpc-status"] == b"2"
        assert b"grpc-message" not in dict(stream.heads[-1])
        await client.send(chat, framed(BOB), end=True)
        assert texts((await client.ended(chat)).messages) == ["Hello Ada", "Hello Bob"]
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "secret" in record.getMessage()


async def test_a_hundred_calls_run_side_by_side(connect: Any) -> None:
    async with connect(Greeter()) as client:
        calls = [await client.start(CHAT) for _ in range(100)]
        for call in calls:
            await client.send(call, framed(ADA))
        for call in calls:
            await client.until(lambda: len(client.streams[call].messages) == 1)  # noqa: B023
        for call in calls:
            await client.send(call, framed(BOB), end=True)
        for call in calls:
            assert texts((await client.ended(call)).messages) == ["Hello Ada", "Hello Bob"]
