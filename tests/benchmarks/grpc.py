"""Measures gRPC servers beside grpcio's and grpclib's in one run, and prints ratios.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.grpc [SUITE …] [--seconds 3] [--rounds 3] [--json FILE]

    unary      h2load
    calls      one call, one round trip on a stream, at a time
    streams    server streams of 16 B and of 64 KiB
    open       what a call costs while 1 to 1,000 streams are open on its connection
    in-flight  what it costs where as many are in flight

A server has core 0 for itself, the load generator core 1. `server µs` is the processor time of the server
for one message; it depends less than the rate on what else the machine does. The client's side is
`tests.benchmarks.grpc_client`, copies and writes are counted by `tests.benchmarks.grpc_copies`.
"""

from __future__ import annotations

import sys

from tests.benchmarks.grpc_loads import CHUNK, ECHO, GrpcLoad, flood, measure
from tests.benchmarks.loads import Load, grpc_load
from tests.benchmarks.program import main
from tests.benchmarks.servers import BENCH_PYTHON, engine, peer
from tests.benchmarks.suites import Suite, Target

OFFICIAL = "grpcio aio"
SERVERS = (engine(), peer(OFFICIAL, "grpcio_aio"))
WIDE = engine("engine", "/", "--set", "http2.max_concurrent_streams=2000")

ONE_CALL = GrpcLoad(1, 1, name="unary 1×1")
PING_PONG = GrpcLoad(1, 1, name="ping-pong 1×1", path=ECHO, request=CHUNK, ping_pong=True)
SMALL, LARGE = flood(100_000, 16, "16 B"), flood(2_000, 65_536, "64 KiB")
OPEN = tuple([GrpcLoad(1, 10, name=f"{count:,} open", open_streams=count) for count in (1, 10, 100, 1_000)])
IN_FLIGHT = tuple([GrpcLoad(1, count, name=f"{count:,} in flight") for count in (1, 10, 100, 1_000)])
FLAT = 1.25  # what a call may cost among 1,000 streams, as a multiple of the cost beside one

SUITES = (
    Suite(
        "unary",
        "gRPC unary (greet.Greeter/SayHello), by h2load",
        (*SERVERS, peer("grpclib", "grpclib_uvloop", python=BENCH_PYTHON)),
        (Load(4, 25), Load(1, 1)),
        grpc_load,
        (Target(Load(4, 25), 2.0, OFFICIAL),),
    ),
    Suite(
        "calls",
        "gRPC, one message at a time",
        SERVERS,
        (ONE_CALL, PING_PONG),
        measure,
        (
            Target(ONE_CALL, 1.0, OFFICIAL, figure="p50_us", at_most=True),
            Target(PING_PONG, 1.0, OFFICIAL),
        ),
    ),
    Suite(
        "streams",
        "gRPC server streams, messages",
        SERVERS,
        (SMALL, LARGE),
        measure,
        (Target(SMALL, 1.5, OFFICIAL), Target(LARGE, 0.5, OFFICIAL, figure="mib")),
    ),
    Suite(
        "open",
        "gRPC unary calls, 10 in flight, among open streams of their connection",
        (WIDE, peer(OFFICIAL, "grpcio_aio")),
        OPEN,
        measure,
        (Target(OPEN[-1], FLAT, "engine", figure="server_us", at_most=True, base=OPEN[0]),),
    ),
    Suite(
        "in-flight",
        "gRPC unary calls on one connection",
        (WIDE,),
        IN_FLIGHT,
        measure,
        (Target(IN_FLIGHT[-1], FLAT, "engine", figure="server_us", at_most=True, base=IN_FLIGHT[1]),),
    ),
)

if __name__ == "__main__":
    sys.exit(main("grpc", SUITES))
