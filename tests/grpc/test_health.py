"""grpc.health.v1: what Check, List and Watch say, and how it ends when the server does."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine import App
from engine.errors import StatusCode
from engine.grpc import GrpcEndpoint
from engine.grpc.generated.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse
from engine.grpc.health import HealthService, ServingStatus
from tests.grpc.calls import call
from tests.grpc.fake_exchange import FakeExchange

CHECK, LIST, WATCH = (f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch"))


def asking(service: str) -> bytes:
    return HealthCheckRequest(service=service).SerializeToString()


def told(messages: list[bytes]) -> list[int]:
    return [HealthCheckResponse.FromString(each).status for each in messages]


async def test_check_and_list_tell_what_was_set() -> None:
    health = HealthService("greet.Greeter")
    endpoint = GrpcEndpoint([health])
    assert told((await call(endpoint, CHECK, asking(""))).messages) == [ServingStatus.SERVING]
    health.set_status("greet.Greeter", ServingStatus.NOT_SERVING)
    assert told((await call(endpoint, CHECK, asking("greet.Greeter"))).messages) == [ServingStatus.NOT_SERVING]
    (listed,) = (await call(endpoint, LIST, b"")).messages
    statuses = HealthListResponse.FromString(listed).statuses
    assert {name: answer.status for name, answer in statuses.items()} == {"": 1, "greet.Greeter": 2}
    assert (await call(endpoint, CHECK, asking("nope"))).grpc_status == (
        StatusCode.NOT_FOUND,
        "unknown service 'nope'",
    )
    assert (health.status(), health.status("nope")) == (ServingStatus.SERVING, None)


async def test_a_list_of_very_many_services_is_refused() -> None:
    endpoint = GrpcEndpoint([HealthService(*(str(number) for number in range(100)))])
    assert (await call(endpoint, LIST, b"")).grpc_status[0] == StatusCode.RESOURCE_EXHAUSTED


def test_numbers_that_are_no_status_are_refused() -> None:
    with pytest.raises(ValueError, match="7 is not a valid ServingStatus"):
        HealthService().set_status("", 7)


async def test_watch_tells_every_change_once_and_stays_open_for_the_unknown(autojump_clock) -> None:
    health = HealthService()
    exchange = FakeExchange(WATCH)
    exchange.send_message(asking("later"))
    exchange.end_request()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, GrpcEndpoint([health]))
        for status in (None, 1, 1, 2, 3, 1):
            if status is not None:
                health.set_status("later", status)
            await trio.testing.wait_all_tasks_blocked()
        assert told(exchange.messages) == [3, 1, 2, 3, 1]
        nursery.cancel_scope.cancel()


async def test_nothing_serves_from_the_stop_until_the_app_is_served_again() -> None:
    health = HealthService("a", "b")
    app = App()
    app.add_service(health)
    app.begin_drain()
    health.set_status("a", ServingStatus.UNKNOWN)
    assert [health.status(name) for name in ("", "a", "b")] == [ServingStatus.NOT_SERVING] * 3
    assert health.status("c") is None
    app.begin_serving()
    assert [int(health.status(name) or 0) for name in ("", "a", "b")] == [1, 0, 1]


async def test_a_drain_tells_watchers_and_ends_their_streams(autojump_clock) -> None:
    health = HealthService()
    app = App()
    app.add_service(health)
    exchange = FakeExchange(WATCH)
    exchange.send_message(asking(""))
    exchange.end_request()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, GrpcEndpoint([health]))
        await trio.testing.wait_all_tasks_blocked()
        app.begin_drain()
        await trio.testing.wait_all_tasks_blocked()
        assert told(exchange.messages) == [ServingStatus.SERVING, ServingStatus.NOT_SERVING]
        assert not exchange.response_ended
        exchange.draining = True
        assert exchange.on_draining is not None
        exchange.on_draining()
    assert exchange.grpc_status == (StatusCode.UNAVAILABLE, "the connection is draining; watch on another one")
