"""The conformance app's Probe tells apart how handlers end, on the paths that no well-behaved client takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from engine.grpc import GrpcEndpoint
from engine.grpc.health import HealthService
from engine.transport.exchange import CancelReason
from engine.wire.grpc.framing import frame
from examples.conformance.generated import conformance_probe_pb2 as pb
from examples.conformance.probe import Probe
from tests.grpc.calls import call
from tests.grpc.fake_exchange import FakeExchange

State = pb.OutcomeReply
FIRST = pb.Chunk(key="k", data=b"abc").SerializeToString()


async def outcome(endpoint: GrpcEndpoint, wait_ms: int = 0) -> pb.OutcomeReply:
    request = pb.OutcomeRequest(key="k", wait_ms=wait_ms).SerializeToString()
    return pb.OutcomeReply.FromString((await call(endpoint, "/conformance.v1.Probe/Outcome", request)).messages[0])


def reset(exchange: FakeExchange) -> None:
    exchange.abort_request(CancelReason.PEER_RESET)


def lose(exchange: FakeExchange) -> None:
    exchange.abort_request(CancelReason.CONNECTION_LOST)


def truncate(exchange: FakeExchange) -> None:
    exchange.send_bytes(b"".join(frame(FIRST))[:-1])
    exchange.end_request()


@pytest.mark.parametrize(
    ("end", "state"),
    [(reset, State.CANCELLED), (lose, State.CANCELLED), (truncate, State.FAILED), (None, State.FINISHED)],
)
async def test_an_upload_ends_as_what_it_was(
    autojump_clock, end: Callable[[FakeExchange], None] | None, state: int
) -> None:
    endpoint = GrpcEndpoint([Probe(HealthService())])
    exchange = FakeExchange("/conformance.v1.Probe/HangInput")
    exchange.send_message(FIRST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, endpoint)
        await trio.testing.wait_all_tasks_blocked()
        running = await outcome(endpoint)
        assert (running.state, running.received, running.running_now) == (State.RUNNING, 1, 1)
        if end is None:
            exchange.end_request()
        else:
            end(exchange)
    ended = await outcome(endpoint)
    assert (ended.state, ended.running_now, ended.running_peak) == (state, 0, 1)


async def test_an_outcome_is_waited_for_also_where_the_call_comes_later(autojump_clock) -> None:
    endpoint = GrpcEndpoint([Probe(HealthService())])
    states: list[int] = []

    async def ask() -> None:
        states.append((await outcome(endpoint, wait_ms=60_000)).state)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(1)
        request = pb.HangRequest(key="k", hold_ms=1000).SerializeToString()
        await call(endpoint, "/conformance.v1.Probe/Hang", request)
    assert states == [State.FINISHED]


async def test_a_flood_counts_what_the_client_has_let_through(autojump_clock) -> None:
    endpoint = GrpcEndpoint([Probe(HealthService())])
    exchange = FakeExchange("/conformance.v1.Probe/Flood")
    exchange.room = 200_000
    exchange.send_message(pb.FloodRequest(key="k", chunk_size=50_000, count=1000).SerializeToString())
    exchange.end_request()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, endpoint)
        await trio.testing.wait_all_tasks_blocked()
        assert 3 <= (await outcome(endpoint)).sent <= 8
        lose(exchange)
    assert (await outcome(endpoint)).state == State.CANCELLED
