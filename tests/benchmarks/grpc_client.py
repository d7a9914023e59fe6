"""Measures our gRPC client beside grpcio's asyncio client, against grpcio's server, in one run.

    .venv/bin/python -m tests.benchmarks.grpc_client [--calls 10000] [--in-flight 100] [--rounds 3] [--one-core]

The server has core 0 for itself, a client core 1; with `--one-core` both share one, so that a client which
costs less leaves more for the server. Rounds alternate between the clients and medians count.
Two ratios are printed: calls a second, which the server bounds where it is the slower side, and processor
time of the client for a call, which it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
METHOD = "/greet.Greeter/SayHello"
CLIENTS = ("engine", "grpc.aio")


def messages() -> tuple[Any, Any]:
    sys.path.insert(0, str(FOLDER / "peers"))
    from greet_messages import HelloReply, HelloRequest

    return HelloRequest, HelloReply


async def measure_aio(port: str, calls: int, in_flight: int) -> None:
    import grpc

    request_type, reply_type = messages()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD, request_type.SerializeToString, reply_type.FromString)

        async def work(count: int) -> None:
            for _ in range(count):
                await call(request_type(name="Ada"))

        await asyncio.gather(*(work(5) for _ in range(in_flight)))
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work(calls // in_flight) for _ in range(in_flight)))
        report(wall, cpu, calls)


async def measure_engine(port: str, calls: int, in_flight: int) -> None:
    import trio

    from engine import Channel

    request_type, reply_type = messages()
    async with Channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD, request_type.SerializeToString, reply_type.FromString)

        async def work(count: int) -> None:
            for _ in range(count):
                await call(request_type(name="Ada"))

        async def all_at_once(count: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(in_flight):
                    nursery.start_soon(work, count)

        await all_at_once(5)
        wall, cpu = time.perf_counter(), time.process_time()
        await all_at_once(calls // in_flight)
        report(wall, cpu, calls)


def report(wall: float, cpu: float, calls: int) -> None:
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"rate": calls / wall, "cpu": cpu / calls * 1e6}))


def pinned(core: int) -> Any:
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[min(core, len(cores) - 1)]})


def run_client(name: str, port: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.grpc_client", "--client", name, "--port", port]
    command += ["--calls", str(options.calls), "--in-flight", str(options.in_flight)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, preexec_fn=pinned(1))
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(options: argparse.Namespace) -> None:
    server = subprocess.Popen(
        [sys.executable, str(FOLDER / "peers" / "grpcio_aio.py")],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(1 if options.one_core else 0),
    )
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
    try:
        for _ in range(options.rounds):
            for name in CLIENTS:
                results[name].append(run_client(name, port, options))
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
    rates = {name: statistics.median(each["rate"] for each in found) for name, found in results.items()}
    costs = {name: statistics.median(each["cpu"] for each in found) for name, found in results.items()}
    print(f"unary, {options.in_flight} in flight, against grpcio's asyncio server")
    for name in CLIENTS:
        print(f"  {name:<9} {rates[name]:8,.0f} calls/s   {costs[name]:6.1f} µs of its core a call")
    print(f"  calls/s   {rates['engine'] / rates['grpc.aio']:8.2f} ×")
    print(f"  calls for the same core time {costs['grpc.aio'] / costs['engine']:.2f} ×")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.grpc_client")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one-core", action="store_true", help="client and server on the same core")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--port", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client == "engine":
        import trio

        trio.run(measure_engine, options.port, options.calls, options.in_flight)
    elif options.client:
        asyncio.run(measure_aio(options.port, options.calls, options.in_flight))
    else:
        compare(options)


if __name__ == "__main__":
    main()
