"""Calls through a channel to a scripted HTTP/2 server: what each answer becomes."""

from __future__ import annotations

import gzip

import pytest
import trio

from engine.config import ChannelConfig
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.errors import ConfigError, ConnectionClosed, LocalProtocolError
from engine.grpc import Channel, RpcError, StatusCode
from tests.grpc.client_peer import DATA, HEAD, HEADERS, PING, RST, WINDOW, Outcomes, frame, hello, message, scripted
from tests.wire.http2_peer import block

ADA = HelloRequest(name="Ada")


async def call_beside(nursery: trio.Nursery, outcomes: Outcomes, stub: object, **options: object) -> None:
    nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA, **options))  # type: ignore[attr-defined]


async def test_a_unary_call_is_head_message_and_end(autojump_clock: trio.testing.MockClock) -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub, timeout=1.5, metadata=[("x-a", "1"), ("x-bin", b"\x00\xff")])
        server = await network.accept()
        stream_id, head = await server.request()
        assert list(head)[:6] == [b":method", b":scheme", b":path", b":authority", b"te", b"grpc-timeout"]
        assert head[b":path"] == b"/greet.Greeter/SayHello"
        assert (head[b":scheme"], head[b":authority"]) == (b"http", b"peer:1")
        assert head[b"grpc-timeout"] == b"1500000u"
        assert head[b"content-type"] == b"application/grpc"
        assert head[b"grpc-accept-encoding"] == b"identity,gzip,deflate,zstd"
        assert head[b"user-agent"].startswith(b"grpc-python-engine/")
        assert (head[b"x-a"], head[b"x-bin"]) == (b"1", b"AP8")
        assert await server.next(DATA) == (DATA, 1, stream_id, hello("Ada"))
        await server.answer(stream_id, hello("Hello Ada"))
    assert outcomes.results["call"] == HelloReply(message="Hello Ada")


@pytest.mark.parametrize(
    ("fields", "end", "code", "text"),
    [
        ([(b":status", b"503"), (b"content-type", b"text/html")], False, StatusCode.UNAVAILABLE, "HTTP status 503"),
        ([(b":status", b"404")], True, StatusCode.UNIMPLEMENTED, "HTTP status 404"),
        ([(b":status", b"400")], True, StatusCode.INTERNAL, "HTTP status 400"),
        ([(b":status", b"401")], True, StatusCode.UNAUTHENTICATED, "HTTP status 401"),
        ([(b":status", b"418")], True, StatusCode.UNKNOWN, "HTTP status 418"),
        ([HEAD[0], (b"content-type", b"text/html")], False, StatusCode.UNKNOWN, "text/html"),
        ([HEAD[0], (b"content-type", b"application/grpc-web")], False, StatusCode.UNKNOWN, "grpc-web"),
        ([(b":status", b"503"), (b"grpc-status", b"5"), (b"grpc-message", b"b")], True, StatusCode.NOT_FOUND, "b"),
        ([*HEAD], True, StatusCode.UNKNOWN, "without grpc-status"),
        ([*HEAD, (b"grpc-status", b"99")], True, StatusCode.UNKNOWN, ""),
        ([*HEAD, (b"grpc-status", b"0")], True, StatusCode.UNIMPLEMENTED, "without a response"),
        ([*HEAD, (b"x", b"y" * 20_000)], False, StatusCode.RESOURCE_EXHAUSTED, "max_metadata_size"),
    ],
)  # fmt: skip
async def test_a_head_without_status_becomes_one(
    fields: list[tuple[bytes, bytes]], end: bool, code: StatusCode, text: str
) -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        head = block(fields)
        await server.send(
            *[frame(1, 5 if end else 4, stream_id, head)]
            if len(head) < 16_384
            else [frame(1, 0, stream_id, head[:16_000]), frame(9, 4, stream_id, head[16_000:])]
        )
        if not end:
            assert (await server.next(RST))[3] == b"\0\0\0\x08"
    error = outcomes.results["call"]
    assert isinstance(error, RpcError)
    assert error.code is code
    assert text in error.message
    assert [(cause.address, cause.attempt) for cause in error.causes] == [("peer:1", 1)]


@pytest.mark.parametrize(
    ("trailers", "code", "text", "ended_by"),
    [
        ([(b"grpc-status", b"5"), (b"grpc-message", b"none")], StatusCode.NOT_FOUND, "none", "status NOT_FOUND in"),
        ([(b"x", b"y")], StatusCode.UNAVAILABLE, "HTTP status 503", "HTTP status 503"),
        (None, StatusCode.UNAVAILABLE, "HTTP status 503", "RST_STREAM NO_ERROR"),
    ],
)
async def test_a_status_in_trailers_wins_over_the_http_status(
    trailers: list[tuple[bytes, bytes]] | None, code: StatusCode, text: str, ended_by: str
) -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        await server.send(frame(1, 4, stream_id, block([(b":status", b"503"), HEAD[1]])))
        if trailers is None:
            await server.reset(stream_id, 0)
        else:
            await server.send(frame(1, 5, stream_id, block(trailers)))
    error = outcomes.results["call"]
    assert isinstance(error, RpcError)
    assert error.code is code
    assert text in error.message
    assert ended_by in error.causes[0].ended_by


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (0, StatusCode.INTERNAL),
        (1, StatusCode.INTERNAL),
        (2, StatusCode.INTERNAL),
        (3, StatusCode.INTERNAL),
        (8, StatusCode.CANCELLED),
        (11, StatusCode.RESOURCE_EXHAUSTED),
        (12, StatusCode.PERMISSION_DENIED),
        (255, StatusCode.INTERNAL),
    ],
)
async def test_a_reset_becomes_a_status_and_its_frame_a_cause(reset: int, code: StatusCode) -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        await server.reset(stream_id, reset)
    error = outcomes.results["call"]
    assert error.code is code
    assert error.causes[0].ended_by.startswith("RST_STREAM ")


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (hello("a") + hello("b"), StatusCode.UNIMPLEMENTED, "several"),
        (hello("abc")[:-1], StatusCode.INTERNAL, "inside a message"),
        (hello("abc")[:3], StatusCode.INTERNAL, "inside a message"),
        (message(b"x", flag=1), StatusCode.INTERNAL, "compressed flag"),
        (message(b"x", flag=2), StatusCode.INTERNAL, "flag must be 0 or 1"),
        (b"\0\0\x40\0\x01", StatusCode.RESOURCE_EXHAUSTED, "channel.max_receive_message_size (4194304)"),
        (message(b"\xff\xff"), StatusCode.INTERNAL, "does not parse"),
    ],
)
async def test_a_broken_response_is_told_apart(body: bytes, code: StatusCode, text: str) -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        await server.answer(stream_id, body)
    error = outcomes.results["call"]
    assert error.code is code
    assert text in error.message


@pytest.mark.parametrize("sent", ["the head", "half a message", "the whole message"])
async def test_a_reset_before_the_trailers_is_a_failure_whatever_came_before(sent: str) -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        await server.send(frame(HEADERS, 4, stream_id, block(HEAD)))
        body = {"the head": b"", "half a message": hello("Ada")[:6], "the whole message": hello("Ada")}[sent]
        if body:
            await server.send(frame(DATA, 0, stream_id, body))
        await server.reset(stream_id, 0)
    assert outcomes.results["call"].code is StatusCode.INTERNAL


@pytest.mark.parametrize("connected", [False, True])
async def test_metadata_that_a_server_does_not_take_is_not_sent(connected: bool) -> None:
    async with scripted() as (stub, network, channel):
        network.settings = ((6, 1000), (3, 1))  # MAX_HEADER_LIST_SIZE, MAX_CONCURRENT_STREAMS
        if connected:
            await channel.ready()
        with pytest.raises(RpcError, match="exceeds the 1000 that peer:1 takes") as caught:
            await stub.say_hello(ADA, metadata=[("x-a", "y" * 1000)])
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        outcomes = Outcomes()
        async with trio.open_nursery() as nursery:  # its stream is free again
            await call_beside(nursery, outcomes, stub, metadata=[("x-a", "y")])
            server = await network.accept()
            stream_id, _ = await server.request()
            assert stream_id == 1
            await server.answer(stream_id, hello("Hello Ada"))
        assert outcomes.results["call"] == HelloReply(message="Hello Ada")


async def test_pings_of_the_server_are_answered() -> None:
    async with scripted() as (_, network, channel):
        await channel.ready()
        server = await network.accept()
        await server.send(frame(PING, 0, 0, b"12345678"))
        assert (await server.next(PING))[1:] == (1, 0, b"12345678")


async def test_informational_heads_padding_and_split_messages_are_no_trouble() -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        reply = hello("Hello")
        await server.send(
            frame(HEADERS, 4, stream_id, block([(b":status", b"103"), (b"link", b"x")])),
            frame(HEADERS, 4, stream_id, block([(b":status", b"200"), (b"content-type", b"application/grpc+proto")])),
            frame(DATA, 0, stream_id, b""),
            *[frame(DATA, 8, stream_id, b"\xff" + bytes([byte]) + bytes(255)) for byte in reply],
            frame(HEADERS, 5, stream_id, block([(b"grpc-status", b"0")])),
        )
    assert outcomes.results["call"].message == "Hello"


async def test_both_directions_compress_when_asked() -> None:
    outcomes = Outcomes()
    async with scripted(compression="gzip") as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, head = await server.request()
        assert head[b"grpc-encoding"] == b"gzip"
        _, _, _, body = await server.next(DATA)
        assert body[0] == 1
        assert gzip.decompress(body[5:]) == hello("Ada")[5:]
        fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-encoding", b"gzip")]
        await server.send(
            frame(HEADERS, 4, stream_id, block(fields)),
            frame(DATA, 0, stream_id, message(gzip.compress(hello("zip")[5:]), flag=1)),
            frame(HEADERS, 5, stream_id, block([(b"grpc-status", b"0")])),
        )
    assert outcomes.results["call"].message == "zip"


async def test_an_unknown_response_encoding_is_internal() -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-encoding", b"snappy")]
        await server.send(frame(HEADERS, 4, stream_id, block(fields)), frame(DATA, 0, stream_id, message(b"x", flag=1)))
    assert outcomes.results["call"].code is StatusCode.INTERNAL
    assert "'snappy'" in outcomes.results["call"].message


async def test_an_error_brings_details_and_metadata_of_both_kinds() -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub)
        server = await network.accept()
        stream_id, _ = await server.request()
        trailers = [
            *((b"grpc-status", b"9"), (b"grpc-message", b"no %E2%98%BA%zz")),
            *((b"grpc-status-details-bin", b"CAk"), (b"x-t", b"1"), (b"x-t", b"2")),
        ]
        fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"x-i", b"first")]
        await server.send(frame(HEADERS, 4, stream_id, block(fields)), frame(HEADERS, 5, stream_id, block(trailers)))
    error = outcomes.results["call"]
    assert (error.code, error.message, error.details) == (StatusCode.FAILED_PRECONDITION, "no ☺%zz", b"\x08\x09")
    assert [pair for pair in error.trailers if pair[0] == "x-t"] == [("x-t", "1"), ("x-t", "2")]
    assert ("x-i", "first") in error.initial_metadata
    assert error.causes[0].ended_by == "status FAILED_PRECONDITION in the trailers"


async def test_the_timeout_of_a_call_is_deadline_exceeded_and_resets_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes = Outcomes()
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        await call_beside(nursery, outcomes, stub, timeout=2)
        server = await network.accept()
        stream_id, _ = await server.request()
        assert (await server.next(RST))[2:] == (stream_id, b"\0\0\0\x08")
        assert trio.current_time() == pytest.approx(2)
    assert outcomes.results["call"].code is StatusCode.DEADLINE_EXCEEDED


async def test_the_enclosing_deadline_goes_to_the_server_and_trio_reports_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        expired = trio.Event()

        async def call() -> None:
            with pytest.raises(trio.TooSlowError), trio.fail_after(3):
                await stub.say_hello(ADA)
            expired.set()

        nursery.start_soon(call)
        server = await network.accept()
        stream_id, head = await server.request()
        assert head[b"grpc-timeout"] == b"3000000u"
        await trio.sleep(2.99)
        await server.refuse(stream_id, 4)  # a server whose clock is a little ahead changes nothing
        await expired.wait()


async def test_cancelling_a_call_resets_its_stream() -> None:
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def call() -> None:
            with scope:
                await stub.say_hello(ADA)

        nursery.start_soon(call)
        server = await network.accept()
        stream_id, _ = await server.request()
        scope.cancel()
        assert (await server.next(RST))[2:] == (stream_id, b"\0\0\0\x08")


async def test_leaving_a_stream_early_resets_it_and_a_cancelled_receive_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted() as (stub, network, _):
        async with stub.stream_hellos(StreamHellosRequest(name="Ada")) as stream:
            server = await network.accept()
            stream_id, _ = await server.request()
            with trio.move_on_after(1):
                await stream.receive()
            await server.send(frame(HEADERS, 4, stream_id, block(HEAD)))
            await server.send(frame(DATA, 0, stream_id, hello("one") + hello("two")[:4]))
            assert await stream.receive() == HelloReply(message="one")
        assert (await server.next(RST))[2:] == (stream_id, b"\0\0\0\x08")


async def test_messages_before_an_error_are_delivered() -> None:
    async with scripted() as (stub, network, _):
        got = []
        with pytest.raises(RpcError) as caught:  # noqa: PT012  # the error may come from any step of the stream
            async with stub.stream_hellos(StreamHellosRequest(name="Ada")) as stream:
                server = await network.accept()
                stream_id, _ = await server.request()
                await server.answer(stream_id, hello("one"), hello("two"), trailers=[(b"grpc-status", b"10")])
                async for reply in stream:
                    got.append(reply.message)  # noqa: PERF401  # an error follows
        assert got == ["one", "two"]
        assert caught.value.code is StatusCode.ABORTED


async def test_a_lost_connection_is_unavailable_after_what_came_before_it() -> None:
    async with scripted() as (stub, network, _):
        with pytest.raises(RpcError) as caught:  # noqa: PT012  # the error may come from any step of the stream
            async with stub.stream_hellos(StreamHellosRequest(name="Ada")) as stream:
                server = await network.accept()
                stream_id, _ = await server.request()
                await server.send(frame(HEADERS, 4, stream_id, block(HEAD)))
                await server.send(frame(DATA, 0, stream_id, hello("one") + hello("two")[:4]))
                await server.stream.aclose()
                assert (await stream.receive()) == HelloReply(message="one")
                await stream.receive()
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert "connection lost" in caught.value.causes[0].ended_by


async def test_a_sender_waits_for_the_window_and_learns_of_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted() as (stub, network, _), trio.open_nursery() as nursery:
        server = None
        blocked = trio.Event()

        async def serve() -> None:
            nonlocal server
            server = await network.accept()
            stream_id, _ = await server.request()
            await blocked.wait()
            await server.send(frame(WINDOW, 0, 0, (1 << 20).to_bytes(4, "big")))
            await server.send(frame(WINDOW, 0, stream_id, (1 << 20).to_bytes(4, "big")))
            await trio.sleep(1)
            await server.answer(stream_id, hello("enough"))
            assert (await server.next(RST))[3] in (b"\0\0\0\0", b"\0\0\0\x08")

        nursery.start_soon(serve)
        async with stub.collect_names() as stream:
            big = HelloRequest(name="x" * 60_000)
            with trio.move_on_after(1) as scope:
                for _ in range(10):
                    await stream.send(big)
            assert scope.cancelled_caught  # 65,535 bytes of window and a send buffer
            blocked.set()
            await stream.send(big)
            await trio.sleep(2)
            with pytest.raises(ConnectionClosed, match="ended the call with OK"):
                await stream.send(big)
            assert await stream.reply() == HelloReply(message="enough")


async def test_credit_goes_back_when_the_application_reads(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted() as (stub, network, _):  # noqa: SIM117  # the stub is of the first
        async with stub.stream_hellos(StreamHellosRequest(name="Ada")) as stream:
            server = await network.accept()
            stream_id, _ = await server.request()
            await server.send(frame(HEADERS, 4, stream_id, block(HEAD)))
            big = message(HelloReply(message="x" * 16_000).SerializeToString())
            for _ in range(12):
                await server.send(frame(DATA, 0, stream_id, big))
            await trio.testing.wait_all_tasks_blocked()
            server.frames.clear()
            with trio.move_on_after(1):
                await server.next(WINDOW)
                raise AssertionError("credit for what nobody has read")
            for _ in range(12):
                await stream.receive()
            assert (await server.next(WINDOW))[2] == stream_id


async def test_a_channel_says_how_it_is_to_be_used() -> None:
    channel = Channel("peer:1")
    with pytest.raises(LocalProtocolError, match="has not been entered"):
        await channel.unary_unary("/a/b")(b"")
    async with channel:
        with pytest.raises(LocalProtocolError, match="entered twice"):
            await channel.__aenter__()
    with pytest.raises(RpcError, match="the channel is closed"):
        await channel.unary_unary("/a/b")(b"")
    with pytest.raises(ConfigError, match="load_balancing"):
        Channel("peer:1", load_balancing="random")
    with pytest.raises(ConfigError, match="compression"):
        Channel("peer:1", compression="lz4")
    with pytest.raises(ConfigError, match="keepalive_time"):
        ChannelConfig(keepalive_time=0)


async def test_closing_a_channel_cancels_the_calls_of_other_tasks_and_says_goodbye() -> None:
    outcomes = Outcomes()
    async with trio.open_nursery() as nursery:
        async with scripted() as (stub, network, _):
            await call_beside(nursery, outcomes, stub)
            server = await network.accept()
            stream_id, _ = await server.request()
        assert (await server.next(RST))[2:] == (stream_id, b"\0\0\0\x08")
        assert (await server.next(7))[3] == bytes(8)
    assert outcomes.results["call"].code is StatusCode.CANCELLED


async def test_an_error_in_the_block_is_not_wrapped() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with scripted() as _:
            raise ValueError("mine")
