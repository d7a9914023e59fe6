"""What a call must not cost: rubbish that only the garbage collector finds."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from trio.testing import wait_all_tasks_blocked

from engine.demo.generated.greet_engine import GreeterStub
from engine.demo.generated.greet_pb2 import StreamHellosRequest
from tests.grpc.client_peer import served
from tests.grpc.test_client_server import ADA, Service, make_server

CALLS = 50


@contextmanager
def collected() -> Iterator[list[str]]:
    """The names of our types that the block left in reference cycles."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += [type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("engine.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def _unary(stub: GreeterStub) -> None:
    await stub.say_hello(ADA)


async def _unary_with_a_timeout(stub: GreeterStub) -> None:
    await stub.say_hello(ADA, timeout=60)


async def _server_stream(stub: GreeterStub) -> None:
    async with stub.stream_hellos(StreamHellosRequest(count=3), timeout=60) as stream:
        assert len([each async for each in stream]) == 3


async def _client_stream(stub: GreeterStub) -> None:
    async with stub.collect_names() as stream:
        await stream.send(ADA)
        await stream.reply()


async def _chat(stub: GreeterStub) -> None:
    async with stub.chat() as stream:
        await stream.send(ADA)
        assert await stream.receive() is not None
        await stream.done_writing()
        assert await stream.receive() is None


async def test_a_call_leaves_no_reference_cycles_on_either_side() -> None:
    kinds: tuple[Callable[[GreeterStub], Awaitable[None]], ...] = (
        _unary,
        _unary_with_a_timeout,
        _server_stream,
        _client_stream,
        _chat,
    )
    async with served(make_server(Service())) as channel:
        stub = GreeterStub(channel)
        await stub.say_hello(ADA)  # what is made once is made by now
        for kind in kinds:
            await wait_all_tasks_blocked()
            with collected() as found:
                for _ in range(CALLS):
                    await kind(stub)
                await wait_all_tasks_blocked()
            assert found == [], kind.__name__
