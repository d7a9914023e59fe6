"""Measures WebSockets beside other servers in one run, and prints ratios.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.websocket [echo …] [--seconds 3] [--rounds 3] [--json FILE]

A server has core 0 for itself, the load generator core 1, and says how busy it was: where that is
near 100 %, the figure is the generator's and not the server's.
"""

from __future__ import annotations

import sys

from tests.benchmarks.loads import Load, websocket_load
from tests.benchmarks.program import main
from tests.benchmarks.servers import engine, peer
from tests.benchmarks.suites import Suite, Target

SUITES = (
    Suite(
        "echo",
        "WebSocket echo by asynchronous handlers",
        (
            engine(path="/echo"),
            peer("websockets", "websockets_asyncio"),
            peer("websockets trio", "websockets_trio"),
        ),
        (Load(16, 1), Load(1, 1), Load(4, 32, 128)),
        websocket_load,
        (
            Target(Load(16, 1), 2.0, "websockets"),
            Target(Load(16, 1), 4.5, "websockets trio"),
            Target(Load(4, 32, 128), 4.0, "websockets"),
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(main("websocket", SUITES))
