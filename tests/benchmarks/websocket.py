"""Measures WebSockets beside other servers in one run, and prints ratios.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.websocket [echo …] [--seconds 3] [--rounds 3] [--json FILE]

A server has core 0 for itself, the load generator core 1. Messages are text of 32 bytes where nothing
else is said.
"""

from __future__ import annotations

import sys

from tests.benchmarks.loads import Load, websocket_load
from tests.benchmarks.program import main
from tests.benchmarks.servers import PYTHON, SOCKET, Server, engine, peer
from tests.benchmarks.suites import Suite, Target
from tests.benchmarks.websocket_loads import (
    binary_load,
    broadcast_load,
    deflate_load,
    either_load,
    flood_load,
    idle_load,
    spinning_load,
)

WEBSOCKETS = peer("websockets", "websockets_asyncio")
PICOWS = peer("picows", "picows_asyncio")
BUSY_POLLING = engine("busy polling", "/callback", "--busy-poll", "100us")
BUSY, ONE, MANY = Load(16, 1), Load(1, 1), Load(4, 32, 128)
LARGE = Load(2, 1, 1 << 20)

_WITHOUT_SPEEDUPS = (
    "import sys; sys.modules['websockets.speedups'] = None; from engine.cli import main; sys.exit(main())"
)


def without_speed_extra(server: Server) -> Server:
    """The same server without C masking."""
    arguments = server.command[server.command.index("serve") :]
    return Server("engine in Python", (PYTHON, "-c", _WITHOUT_SPEEDUPS, *arguments), server.path)


SUITES = (
    Suite(
        "echo",
        "WebSocket echo by asynchronous handlers",
        (engine(path="/echo"), WEBSOCKETS, peer("websockets trio", "websockets_trio")),
        (BUSY, ONE, MANY),
        websocket_load,
        (Target(BUSY, 2.0, "websockets"), Target(BUSY, 4.5, "websockets trio"), Target(MANY, 4.0, "websockets")),
    ),
    Suite(
        "callback",
        "WebSocket echo by synchronous callbacks",
        (engine(path="/callback"), PICOWS),
        (BUSY, ONE, MANY),
        websocket_load,
        (Target(BUSY, 0.7, "picows"), Target(MANY, 1.0, "picows")),
    ),
    Suite(
        "busy",
        "Latency of an echo with busy polling, and what it costs",
        (BUSY_POLLING, engine("asleep", "/callback"), PICOWS),
        (ONE,),
        spinning_load,
        (Target(ONE, 0.5, "picows", of=BUSY_POLLING.name, figure="p50_us", at_most=True),),
        figure="p50_us",
    ),
    Suite(
        "latency",
        "Latency of an echo beside that of the same bytes on a bare Trio stream",
        (engine(path="/echo"), peer("trio tcp", "trio_tcp", "tcp")),
        (ONE,),
        either_load,
        (Target(ONE, 1.15, "trio tcp", figure="p50_us", at_most=True),),
        figure="p50_us",
    ),
    Suite(
        "large",
        "WebSocket echo of large binary messages",
        (
            engine(path="/echo"),
            without_speed_extra(engine(path="/echo")),
            WEBSOCKETS,
            peer("trio-websocket", "trio_websocket_echo"),
        ),
        (LARGE,),
        binary_load,
        (Target(LARGE, 1.0, "websockets"), Target(LARGE, 5.0, "trio-websocket", of="engine in Python")),
    ),
    Suite(
        "idle",
        "Memory of a connection that is idle",
        (engine(path="/echo"), WEBSOCKETS),
        (Load(5000, 1),),
        idle_load,
        figure="kib",
    ),
    Suite(
        "broadcast",
        "Broadcast to all connections, deliveries",
        (engine(path="/broadcast"), peer("websockets", "websockets_broadcast")),
        (Load(1000, 1),),
        broadcast_load,
        (Target(Load(1000, 1), 2.0, "websockets"),),
    ),
    Suite(
        "deflate",
        "Broadcast to all connections, which compress as browsers do, deliveries",
        (engine(path="/broadcast"), peer("websockets", "websockets_broadcast")),
        (Load(1000, 1, 1024),),
        deflate_load,
        (Target(Load(1000, 1, 1024), 2.0, "websockets"),),
    ),
    Suite(
        "fairness",
        "Latency beside a connection that sends without end",
        (engine(path="/echo"), WEBSOCKETS),
        (Load(8, 1),),
        flood_load,
        (Target(Load(8, 1), 2.0, figure="slowdown", at_most=True),),
        figure="p99_us",
    ),
    Suite(
        "unix",
        "WebSocket echo over Unix sockets",
        (engine(path="/echo", unix=True), peer("websockets", "websockets_asyncio", "/", SOCKET)),
        (BUSY, ONE, MANY),
        websocket_load,
    ),
    Suite(
        "tls",
        "WebSocket echo over TLS",
        (engine(path="/echo", tls=True), peer("websockets", "websockets_asyncio", "/", "tls")),
        (BUSY, ONE, MANY),
        websocket_load,
    ),
)

if __name__ == "__main__":
    sys.exit(main("websocket", SUITES))
