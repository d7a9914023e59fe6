"""Measures SignalR hubs beside aiosignalr's server in one run, and prints ratios.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.signalr [--seconds 3] [--rounds 3] [--json FILE]

A server has core 0 for itself, the load generator core 1.
"""

from __future__ import annotations

import sys

from tests.benchmarks.loads import Load, hub_load
from tests.benchmarks.program import main
from tests.benchmarks.servers import BENCH_PYTHON, engine, peer
from tests.benchmarks.suites import Suite

SUITES = (
    Suite(
        "hub",
        "SignalR Echo (JSON over WebSocket)",
        (engine(path="/hub"), peer("aiosignalr", "aiosignalr_aiohttp", "/hub", python=BENCH_PYTHON)),
        (Load(16, 1), Load(1, 1)),
        hub_load,
    ),
)

if __name__ == "__main__":
    sys.exit(main("signalr", SUITES))
