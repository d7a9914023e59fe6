"""Measures SignalR hubs beside aiosignalr's server in one run, and prints ratios.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.signalr [echo …] [--seconds 3] [--rounds 3] [--json FILE]

A server has core 0 for itself, the load generator core 1. Messages are JSON over WebSockets with a
text of 32 characters where nothing else is said.
"""

from __future__ import annotations

import sys

from tests.benchmarks.hub_loads import (
    broadcast_load,
    event_load,
    idle_load,
    json_load,
    msgpack_load,
    spinning_load,
    stalled_load,
    stream_load,
)
from tests.benchmarks.loads import Load
from tests.benchmarks.program import main
from tests.benchmarks.servers import BENCH_PYTHON, engine, peer
from tests.benchmarks.suites import Suite, Target

ENGINE = engine(path="/hub")
PLAIN = engine("engine, plain def", "/plain")
AIOSIGNALR = peer("aiosignalr", "aiosignalr_aiohttp", "/hub", python=BENCH_PYTHON)

BUSY, MANY, ONE = Load(16, 1), Load(4, 32), Load(1, 1)
EVERYBODY = Load(1000, 1)
ITEMS = Load(1, 1, 100_000)
IDLE = Load(5000, 1)

SUITES = (
    Suite(
        "hub",
        "Echo of a hub",
        (ENGINE, PLAIN, AIOSIGNALR),
        (BUSY, MANY, ONE),
        json_load,
        (
            Target(BUSY, 3.0, "aiosignalr"),
            Target(MANY, 5.0, "aiosignalr"),
            Target(ONE, 0.7, "aiosignalr", figure="p50_us", at_most=True),
            Target(BUSY, 4.0, "aiosignalr", of="engine, plain def"),
            Target(MANY, 6.0, "aiosignalr", of="engine, plain def"),
        ),
    ),
    Suite(
        "hub-busy",
        "Echo of a hub to a client that does not sleep either",
        (
            engine("engine", "/hub", "--busy-poll", "30us"),
            engine("engine, plain def", "/plain", "--busy-poll", "30us"),
            AIOSIGNALR,
        ),
        (ONE,),
        spinning_load,
        (Target(ONE, 0.35, "aiosignalr", figure="p50_us", at_most=True),),
        figure="p50_us",
    ),
    Suite(
        "hub-broadcast",
        "Broadcast of a hub to all connections, deliveries",
        (ENGINE, AIOSIGNALR),
        (EVERYBODY,),
        broadcast_load,
        (Target(EVERYBODY, 3.0, "aiosignalr"),),
    ),
    Suite(
        "hub-stalled",
        "The same beside a connection that reads nothing",
        (ENGINE,),
        (EVERYBODY,),
        stalled_load,
    ),
    Suite(
        "hub-stream",
        "Streams of a hub, items",
        (ENGINE, AIOSIGNALR),
        (ITEMS,),
        stream_load,
        (Target(ITEMS, 3.0, "aiosignalr"),),
    ),
    Suite("hub-msgpack", "Echo of a hub in MessagePack", (ENGINE, PLAIN), (BUSY, MANY, ONE), msgpack_load),
    Suite("hub-events", "Echo of a hub over Server-Sent Events", (ENGINE,), (BUSY, ONE), event_load),
    Suite(
        "hub-idle",
        "A hub connection that is idle: memory, and processor time of its keep-alive",
        (ENGINE, AIOSIGNALR),
        (IDLE,),
        idle_load,
        figure="kib",
    ),
)

if __name__ == "__main__":
    sys.exit(main("signalr", SUITES))
