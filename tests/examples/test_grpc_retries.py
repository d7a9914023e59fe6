"""The example of a client with retries does what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.app import App
from engine.config import Config
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.demo.greeter import Greeter
from engine.errors import RpcError, StatusCode
from engine.grpc import CallContext
from engine.server import Server
from examples.grpc_retries import SERVICE_CONFIG, Timing, greet
from tests.grpc.client_peer import served

if TYPE_CHECKING:
    import pytest
    import trio


class Tired(Greeter):
    """Refuses so many calls before it serves one."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.attempts: list[str | None] = []

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        self.attempts.append(context.metadata.text("grpc-previous-rpc-attempts"))
        if len(self.attempts) <= self.refusals:
            raise RpcError(StatusCode.UNAVAILABLE, "too tired")
        return await super().say_hello(request, context)


async def run(refusals: int) -> Tired:
    service, app = Tired(refusals), App()
    app.add_service(service)
    server = Server(app, Config().replace(server__port=0))
    async with served(server, service_config=SERVICE_CONFIG, interceptors=(Timing(),)) as channel:
        await greet(channel)
    return service


async def test_what_a_tired_server_refuses_is_asked_again(
    capsys: pytest.CaptureFixture[str], autojump_clock: trio.testing.MockClock
) -> None:
    service = await run(2)
    assert service.attempts == [None, "1", "2"]
    took, *greetings = capsys.readouterr().out.splitlines()
    assert took.startswith("/greet.Greeter/SayHello took 0.")
    assert greetings == ["Hello Ada"] * 4


async def test_a_server_that_stays_tired_is_given_up_with_the_causes(
    capsys: pytest.CaptureFixture[str], autojump_clock: trio.testing.MockClock
) -> None:
    service = await run(9)
    assert len(service.attempts) == 4
    _, failed, *causes = capsys.readouterr().out.splitlines()
    assert failed == "failed with UNAVAILABLE: too tired"
    assert causes == [f"  attempt {n} at peer:1: status UNAVAILABLE in the head" for n in (1, 2, 3, 4)]
