"""A gRPC client that is measured: `python -m tests.benchmarks.grpc_caller engine|grpc.aio PORT IN_FLIGHT SECONDS`.

Prints one JSON object: calls a second, their median latency, its own processor time for a call, and how busy that
keeps its core. The first one and a half seconds are warm-up.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.peers.greet_messages import HelloReply, HelloRequest

METHOD = "/greet.Greeter/SayHello"
WARM_UP = 1.5  # seconds: a server that compiles as it runs is slow at first


class Meter:
    """What calls took, from the end of the warm-up on."""

    def __init__(self, seconds: float) -> None:
        self.start = time.perf_counter() + WARM_UP
        self.end = self.start + seconds
        self._cpu = 0.0
        self._latencies: list[float] = []

    async def work(self, call: Callable[[Any], Awaitable[Any]]) -> None:
        """One call after the other until the time is up."""
        request = HelloRequest(name="world")
        began = time.perf_counter()
        while began < self.end:
            await call(request)
            ended = time.perf_counter()
            if began >= self.start:
                self._latencies.append(ended - began)
            elif ended >= self.start:
                self._cpu = time.process_time()
            began = ended

    def report(self) -> None:
        calls = len(self._latencies)
        passed, used = time.perf_counter() - self.start, time.process_time() - self._cpu
        figures = {
            "rate": calls / passed,
            "p50_us": statistics.median(self._latencies) * 1e6,
            "client_us": used / calls * 1e6,
            "load_busy": used / passed,
        }
        print(json.dumps(figures))


async def call_with_aio(port: str, in_flight: int, seconds: float) -> None:
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD, HelloRequest.SerializeToString, HelloReply.FromString)
        meter = Meter(seconds)
        await asyncio.gather(*(meter.work(call) for _ in range(in_flight)))
        meter.report()


async def call_with_engine(port: str, in_flight: int, seconds: float) -> None:
    import trio

    from engine import Channel

    async with Channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD, HelloRequest.SerializeToString, HelloReply.FromString)
        meter = Meter(seconds)
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(meter.work, call)
        meter.report()


def main() -> None:
    name, port, in_flight, seconds = sys.argv[1:]
    if name == "engine":
        import trio

        trio.run(call_with_engine, port, int(in_flight), float(seconds))
    else:
        asyncio.run(call_with_aio(port, int(in_flight), float(seconds)))


if __name__ == "__main__":
    main()
