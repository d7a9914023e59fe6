"""Measures our gRPC client beside grpcio's asyncio client, against official servers, in one run.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.grpc_client [SUITE …] [--seconds 3] [--rounds 3] [--json FILE]

    aio    the server is grpcio's, on asyncio: it is the limit, for both clients
    js     the server is @grpc/grpc-js
    cpp    the server is gRPC's in C++, the core of grpcio without Python: the clients are the limit

The server has core 0 for itself, the client core 1. `client µs` is processor time of the client for a call, which
the server does not bound.
"""

from __future__ import annotations

import json
import shutil
import sys

from tests.benchmarks.loads import Figures, Load, run_pinned
from tests.benchmarks.program import main
from tests.benchmarks.servers import FOLDER, PYTHON, ROOT, Running, Server
from tests.benchmarks.suites import Suite, Target

CLIENTS = ("engine", "grpc.aio")
LOADS = (Load(1, 100), Load(1, 1))

_AIO = (PYTHON, str(FOLDER / "peers" / "grpcio_aio.py"))
_JS = (shutil.which("node") or "/usr/bin/node", str(FOLDER / "peers" / "grpc_js.cjs"))
_CPP = (str(ROOT / ".peers" / "grpc_cpp" / "server"),)
_JS_PACKAGE = ROOT / "tests" / "interop" / "node" / "node_modules" / "@grpc" / "grpc-js"


def measure(running: Running, load: Load, seconds: float) -> Figures:
    """The client whose name the server has been given."""
    arguments = (running.server.name, running.address, str(load.in_flight), str(seconds))
    output = run_pinned(PYTHON, "-m", "tests.benchmarks.grpc_caller", *arguments, limit=seconds + 60)
    found: Figures = json.loads(output)
    return found


def _suite(key: str, title: str, command: tuple[str, ...], needs: str = "") -> Suite:
    return Suite(
        key,
        f"gRPC clients, unary, against {title}",
        tuple([Server(name, command, needs=needs) for name in CLIENTS]),
        LOADS,
        measure,
        (Target(Load(1, 100), 1.5, "grpc.aio"),),
    )


SUITES = (
    _suite("aio", "grpcio's asyncio server", _AIO),
    _suite("js", "@grpc/grpc-js", _JS, str(_JS_PACKAGE)),
    _suite("cpp", "gRPC in C++", _CPP),
)

if __name__ == "__main__":
    sys.exit(main("grpc_client", SUITES))
