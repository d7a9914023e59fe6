"""Counts the hidden costs of gRPC servers: bytes that are copied and writes to sockets, beside grpcio's.

    .venv/bin/python -m tests.benchmarks.grpc_copies [--seconds 3] [--rounds 1] [--json FILE]

`copied` is how many bytes a server copies in pieces of 512 and more for each byte that it sends, `writes each` how
often it enters the kernel to send one message. `copies/main.c` counts both inside of the server, which slows it
down; the counts mean something on any machine, the rates do not.
"""

from __future__ import annotations

import dataclasses
import struct
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.grpc import LARGE, OFFICIAL, PING_PONG, SERVERS, SMALL
from tests.benchmarks.grpc_loads import GrpcLoad, run_load
from tests.benchmarks.loads import Figures, Load, compiled
from tests.benchmarks.program import main
from tests.benchmarks.servers import Running, Server
from tests.benchmarks.suites import Suite, Target

_COUNTS = struct.Struct("=QQQ")  # bytes copied, writes, bytes written
_OPTIONS = ("-shared", "-fPIC", "-fno-builtin")


def _counted(server: Server, folder: str) -> Server:
    """The same server with the counting library in front of the C library."""
    environment = {"LD_PRELOAD": compiled("copies/main.c", options=_OPTIONS), "COPIES": f"{folder}/{server.name}"}
    return dataclasses.replace(server, environment=environment)


def measure(running: Running, load: Load, seconds: float) -> Figures:
    """One run of the load, counted from before its first byte."""
    counts = Path(running.server.environment["COPIES"])
    before = _COUNTS.unpack(counts.read_bytes())
    found = run_load(running, load, seconds)
    copied, writes, written = [
        now - then for now, then in zip(_COUNTS.unpack(counts.read_bytes()), before, strict=True)
    ]
    return {"rate": found["messages"], "writes": writes / found["all"], "copied": copied / written}


def suites(folder: str) -> tuple[Suite, ...]:
    calls = GrpcLoad(4, 25)
    return (
        Suite(
            "copies",
            "gRPC, hidden costs of a message that is sent",
            tuple([_counted(server, folder) for server in SERVERS]),
            (calls, PING_PONG, SMALL, LARGE),
            measure,
            (
                Target(calls, 1.0, OFFICIAL, figure="writes", at_most=True),
                Target(SMALL, 0.1, OFFICIAL, figure="writes", at_most=True),
                Target(LARGE, 1.1, OFFICIAL, figure="copied", at_most=True),
            ),
        ),
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main("grpc_copies", suites(folder)))
