"""Measures gRPC beside grpcio's and grpclib's servers in one run, and prints ratios.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.grpc [--seconds 3] [--rounds 3] [--json FILE]

A server has core 0 for itself, h2load core 1.
"""

from __future__ import annotations

import sys

from tests.benchmarks.loads import Load, grpc_load
from tests.benchmarks.program import main
from tests.benchmarks.servers import BENCH_PYTHON, engine, peer
from tests.benchmarks.suites import Suite, Target

SUITES = (
    Suite(
        "unary",
        "gRPC unary (greet.Greeter/SayHello)",
        (engine(), peer("grpcio aio", "grpcio_aio"), peer("grpclib", "grpclib_uvloop", python=BENCH_PYTHON)),
        (Load(4, 25), Load(1, 1)),
        grpc_load,
        (Target(Load(4, 25), 1.0, "grpcio aio"),),
    ),
)

if __name__ == "__main__":
    sys.exit(main("grpc", SUITES))
