"""A handler's own calls live within its call: its deadline and its end are theirs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from engine import App, CallContext
from engine.demo.generated.greet_engine import GreeterBase, GreeterStub
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.grpc import RpcError, StatusCode
from engine.testing import TestClient
from engine.transport.exchange import CancelReason

if TYPE_CHECKING:
    from trio.testing import MockClock


class Back(GreeterBase):
    """Says how long it may take; takes for ever when it is told to wait."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.ended: list[CancelReason | None] = []

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        remaining = context.time_remaining()
        if request.name == "wait":
            self.started.set()
            try:
                await trio.sleep_forever()
            finally:
                self.ended.append(context.cancelled)
        return HelloReply(message="inf" if remaining is None else str(math.ceil(remaining)))


class Front(GreeterBase):
    """Asks the one behind it."""

    def __init__(self, back: GreeterStub) -> None:
        self.back = back

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        return await self.back.say_hello(request)


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[GreeterStub, Back]]:
    back, behind, before = Back(), App(), App()
    behind.add_service(back)
    async with TestClient(behind) as inner, inner.channel() as to_back:
        before.add_service(Front(GreeterStub(to_back)))
        async with TestClient(before) as outer, outer.channel() as to_front:
            yield GreeterStub(to_front), back


@pytest.mark.parametrize("timeout", [None, 3.0])
async def test_a_deadline_goes_on_to_the_calls_that_the_handler_makes(
    autojump_clock: MockClock, timeout: float | None
) -> None:
    async with two_servers() as (stub, _):
        reply = await stub.say_hello(HelloRequest(name="Ada"), timeout=timeout)
        assert reply.message == ("inf" if timeout is None else "3")


async def test_an_expired_deadline_ends_both_handlers(autojump_clock: MockClock) -> None:
    async with two_servers() as (stub, back):
        began = trio.current_time()
        with pytest.raises(RpcError) as failed:
            await stub.say_hello(HelloRequest(name="wait"), timeout=3.0)
        assert failed.value.code is StatusCode.DEADLINE_EXCEEDED
        assert trio.current_time() - began == pytest.approx(3.0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(back.ended) == 1


async def test_a_cancelled_call_cancels_what_its_handler_has_asked_for(autojump_clock: MockClock) -> None:
    async with two_servers() as (stub, back):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stub.say_hello, HelloRequest(name="wait"))
                await back.started.wait()
                scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert back.ended == [CancelReason.PEER_RESET]
