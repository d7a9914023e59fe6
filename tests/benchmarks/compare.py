"""Measures the engine beside its peers: all suites of all protocols, or those that are named.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.compare [SUITE …] [--seconds 3] [--rounds 3] [--json FILE]

`tests.benchmarks.grpc`, `.websocket` and `.signalr` run those of one protocol.
"""

from __future__ import annotations

import sys

from tests.benchmarks import grpc, signalr, websocket
from tests.benchmarks.program import main

if __name__ == "__main__":
    sys.exit(main("compare", (*grpc.SUITES, *websocket.SUITES, *signalr.SUITES)))
