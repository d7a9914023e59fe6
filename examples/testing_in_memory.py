"""Tests of an app in memory, under a clock that jumps: no ports, no waiting.

    python -m examples.testing_in_memory     # or, as tests: pytest with pytest-trio

An hour's deadline and a night without messages pass at once, because nothing but the clock is waited for.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from engine import App, CallContext
from engine.demo.chat import ChatHub
from engine.demo.generated.greet_engine import GreeterBase, GreeterStub, greet_pb2
from engine.grpc import RpcError, StatusCode
from engine.testing import Network, TestClient

HOUR = 3600.0


class Sleeper(GreeterBase):
    """Answers the patient."""

    async def say_hello(self, request: greet_pb2.HelloRequest, context: CallContext) -> greet_pb2.HelloReply:
        await trio.sleep(2 * HOUR)
        return greet_pb2.HelloReply(message=f"Hello {request.name}")


app = App()
app.add_service(Sleeper())
app.hub("/chathub")(ChatHub)


async def test_a_call_ends_at_its_deadline(autojump_clock: MockClock) -> None:
    async with TestClient(app) as client, client.channel() as channel:
        began = trio.current_time()
        with pytest.raises(RpcError) as failed:
            await GreeterStub(channel).say_hello(greet_pb2.HelloRequest(name="Ada"), timeout=HOUR)
        assert failed.value.code is StatusCode.DEADLINE_EXCEEDED
        assert HOUR <= trio.current_time() - began < HOUR + 1


async def test_a_patient_caller_is_answered(autojump_clock: MockClock) -> None:
    async with TestClient(app) as client, client.channel() as channel:
        reply = await GreeterStub(channel).say_hello(greet_pb2.HelloRequest(name="Ada"), timeout=3 * HOUR)
        assert reply.message == "Hello Ada"


async def test_a_hub_survives_a_quiet_night_and_a_cut(autojump_clock: MockClock) -> None:
    network = Network(latency=0.05)
    async with TestClient(app, network=network) as client, client.hub("/chathub", automatic_reconnect=True) as hub:
        reconnected, received = trio.Event(), trio.Event()
        hub.on_reconnected(lambda connection_id: reconnected.set())
        hub.on("ReceiveMessage", lambda user, message: received.set())
        await trio.sleep(8 * HOUR)  # kept alive by pings
        network.cut()
        await reconnected.wait()
        await hub.invoke("SendMessage", "Ada", "good morning")
        await received.wait()


if __name__ == "__main__":
    for test in (
        test_a_call_ends_at_its_deadline,
        test_a_patient_caller_is_answered,
        test_a_hub_survives_a_quiet_night_and_a_cut,
    ):
        clock = MockClock(autojump_threshold=0)
        trio.run(test, clock, clock=clock)
        print(f"{test.__name__}: {clock.current_time():,.0f} s of virtual time")
