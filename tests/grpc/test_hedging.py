"""Hedged calls to a scripted server: when attempts begin, which one counts, what becomes of the others."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine.config import ChannelConfig
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.errors import ConfigError, RpcError, StatusCode
from engine.grpc.retry import ServiceConfig
from tests.grpc.client_peer import DATA, HEAD, HEADERS, RST, Outcomes, ScriptedServer, frame, hello, scripted
from tests.wire.http2_peer import block

ADA = HelloRequest(name="Ada")
CANCEL = b"\0\0\0\x08"


def hedging(**policy: Any) -> dict[str, Any]:
    policy = {"maxAttempts": 3, "hedgingDelay": "1s", "nonFatalStatusCodes": ["UNAVAILABLE"], **policy}
    return {"methodConfig": [{"name": [{}], "hedgingPolicy": policy}]}


async def requests(server: ScriptedServer, count: int) -> list[tuple[int, float, bytes | None]]:
    """So many requests: stream, time of arrival, `grpc-previous-rpc-attempts`."""
    found = []
    for _ in range(count):
        stream_id, head = await server.request()
        found.append((stream_id, trio.current_time(), head.get(b"grpc-previous-rpc-attempts")))
    return found


async def test_the_first_attempt_that_is_answered_counts_and_the_others_are_reset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=hedging()) as (stub, network, _), trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello.with_call(ADA))
        server = await network.accept()
        (first, at, none), (second, later, one), (third, last, two) = await requests(server, 3)
        assert [at - began, later - began, last - began] == pytest.approx([0, 1, 2])
        assert (none, one, two) == (None, b"1", b"2")
        await server.send(frame(HEADERS, 4, second, block(HEAD)))
        resets = {(await server.next(RST))[2:], (await server.next(RST))[2:]}
        assert resets == {(first, CANCEL), (third, CANCEL)}
        await server.send(
            frame(DATA, 0, second, hello("two")), frame(HEADERS, 5, second, block([(b"grpc-status", b"0")]))
        )
    assert outcomes.results["call"].message == HelloReply(message="two")


async def test_no_delay_sends_all_attempts_at_once_and_no_more_than_five(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = hedging(maxAttempts=9, hedgingDelay="0s")
    outcomes = Outcomes()
    async with scripted(service_config=config) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA, timeout=5))
        server = await network.accept()
        found = await requests(server, 5)
        assert len({at for _, at, _ in found}) == 1
        with trio.move_on_after(4) as waiting:
            await server.request()
        assert waiting.cancelled_caught
    error = outcomes.results["call"]
    assert error.code is StatusCode.DEADLINE_EXCEEDED


async def test_a_failure_that_is_not_fatal_brings_the_next_attempt_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=hedging()) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        for number in range(3):
            stream_id, began, _ = (await requests(server, 1))[0]
            assert trio.current_time() == pytest.approx(began)
            await server.refuse(stream_id, 14, (b"grpc-message", b"%d" % number))
    error = outcomes.results["call"]
    assert isinstance(error, RpcError)
    assert (error.code, error.message) == (StatusCode.UNAVAILABLE, "2")
    assert [(each.attempt, each.ended_by) for each in error.causes] == [
        (number, "status UNAVAILABLE in the head") for number in (1, 2, 3)
    ]


async def test_a_fatal_failure_ends_the_call_and_resets_the_others(autojump_clock: trio.testing.MockClock) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=hedging()) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        (first, _, _), (second, _, _) = await requests(server, 2)
        await server.refuse(first, 9, (b"grpc-message", b"no"))
        assert (await server.next(RST))[2:] == (second, CANCEL)
    error = outcomes.results["call"]
    assert (error.code, error.message) == (StatusCode.FAILED_PRECONDITION, "no")
    assert [each.attempt for each in error.causes] == [1]


@pytest.mark.parametrize(("pushback", "wait"), [(b"2500", 2.5), (b"-1", None), (b"soon", None)])
async def test_a_server_may_say_when_or_whether_the_next_attempt_begins(
    autojump_clock: trio.testing.MockClock, pushback: bytes, wait: float | None
) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=hedging()) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        first, began, _ = (await requests(server, 1))[0]
        await server.refuse(first, 14, (b"grpc-retry-pushback-ms", pushback))
        if wait is not None:
            second, at, attempts = (await requests(server, 1))[0]
            assert at - began == pytest.approx(wait)
            assert attempts == b"1"
            await server.answer(second, hello("two"))
    if wait is None:
        assert outcomes.results["call"].code is StatusCode.UNAVAILABLE
    else:
        assert outcomes.results["call"] == HelloReply(message="two")


async def test_an_empty_budget_allows_no_second_attempt_after_a_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = hedging() | {"retryThrottling": {"maxTokens": 2, "tokenRatio": 0.1}}
    outcomes = Outcomes()
    async with scripted(service_config=config) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        first, _, _ = (await requests(server, 1))[0]
        await server.refuse(first, 14)  # one of two tokens is left: not more than half
    error = outcomes.results["call"]
    assert error.code is StatusCode.UNAVAILABLE
    assert len(error.causes) == 1


async def test_what_a_server_did_not_take_is_repeated_and_not_counted(autojump_clock: trio.testing.MockClock) -> None:
    outcomes = Outcomes()
    async with scripted(service_config=hedging()) as (stub, network, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcomes.run, "call", lambda: stub.say_hello(ADA))
        server = await network.accept()
        first, _, _ = (await requests(server, 1))[0]
        await server.reset(first, 7)
        second, _, attempts = (await requests(server, 1))[0]
        assert attempts is None
        await server.answer(second, hello("again"))
    assert outcomes.results["call"] == HelloReply(message="again")


async def test_what_a_stream_sends_goes_to_every_attempt_until_one_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted(service_config=hedging()) as (stub, network, _), stub.chat() as stream:
        await stream.send(HelloRequest(name="one"))
        server = await network.accept()
        (first, _, _), (second, _, _) = await requests(server, 2)
        assert (await server.next(DATA))[2:] == (second, hello("one"))
        await stream.send(HelloRequest(name="two"))
        assert {(await server.next(DATA))[2:] for _ in range(2)} == {(first, hello("two")), (second, hello("two"))}
        await server.send(frame(HEADERS, 4, second, block(HEAD)), frame(DATA, 0, second, hello("hi")))
        assert await stream.receive() == HelloReply(message="hi")
        assert (await server.next(RST))[2:] == (first, CANCEL)
        await stream.send(HelloRequest(name="three"))
        assert (await server.next(DATA))[2:] == (second, hello("three"))
        await stream.done_writing()
        assert (await server.next(DATA))[1:] == (1, second, b"")
        await server.send(frame(HEADERS, 5, second, block([(b"grpc-status", b"0")])))
        assert await stream.receive() is None


async def test_a_stream_that_sends_too_much_to_keep_settles_for_one_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = ChannelConfig(close_timeout=0.01, retry_buffer_size=20)
    async with (
        scripted(service_config=hedging(), config=config) as (stub, network, _),
        stub.collect_names() as stream,
    ):
        await stream.send(HelloRequest(name="x" * 10))
        server = await network.accept()
        (first, _, _), (second, _, _) = await requests(server, 2)
        await stream.send(HelloRequest(name="y" * 10))
        assert (await server.next(RST))[2:] == (second, CANCEL)
        with trio.move_on_after(10) as waiting:
            await server.request()
        assert waiting.cancelled_caught
        await server.answer(first, hello("done"))
        assert await stream.reply() == HelloReply(message="done")


@pytest.mark.parametrize("how", ["cancelled", "left", "late"])
async def test_the_end_of_a_call_ends_all_of_its_attempts(autojump_clock: trio.testing.MockClock, how: str) -> None:
    async with scripted(service_config=hedging()) as (stub, network, _):
        request = StreamHellosRequest(name="Ada", count=1)
        async with stub.stream_hellos(request, timeout=1.5 if how == "late" else None) as stream:
            server = await network.accept()
            (first, _, _), (second, _, _) = await requests(server, 2)
            if how == "cancelled":
                stream.cancel()
                with pytest.raises(RpcError, match="CANCELLED"):
                    await stream.receive()
            elif how == "late":
                with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
                    await stream.receive()
        assert {(await server.next(RST))[2:] for _ in range(2)} == {(first, CANCEL), (second, CANCEL)}


@pytest.mark.parametrize(
    "policy",
    [
        {"maxAttempts": 1},
        {"maxAttempts": True},
        {},
        {"maxAttempts": 2, "hedgingDelay": "soon"},
        {"maxAttempts": 2, "nonFatalStatusCodes": "UNAVAILABLE"},
        {"maxAttempts": 2, "nonFatalStatusCodes": ["NOPE"]},
    ],
)
def test_a_policy_that_means_nothing_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"hedgingPolicy\."):
        ServiceConfig.parse({"methodConfig": [{"name": [{}], "hedgingPolicy": policy}]})


def test_a_method_is_either_retried_or_hedged() -> None:
    both = {"retryPolicy": {}, "hedgingPolicy": {}}
    with pytest.raises(ConfigError, match="not both"):
        ServiceConfig.parse({"methodConfig": [{"name": [{}], **both}]})
