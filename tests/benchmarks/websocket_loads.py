"""What is measured of WebSockets beside the echo of small messages: memory, and fairness."""

from __future__ import annotations

import functools
import subprocess

from tests.benchmarks.loads import WS_LOAD, Figures, Load, compiled, websocket_load
from tests.benchmarks.servers import LOAD_CORE, Running

_FIRST = 100  # connections that are open before memory is looked at: what a server allocates once
PACE = 0.002  # seconds between two messages of one of the connections that are not the flood

binary_load = functools.partial(websocket_load, mode="binary")
tcp_load = functools.partial(websocket_load, mode="tcp")
broadcast_load = functools.partial(websocket_load, mode="broadcast")
spinning_load = functools.partial(websocket_load, spins=True)
deflate_load = functools.partial(websocket_load, mode="deflate")


def either_load(running: Running, load: Load, seconds: float) -> Figures:
    """An echo over WebSocket, or of the same bytes where the server's path says `tcp`."""
    return websocket_load(running, load, seconds, "tcp" if running.server.path == "tcp" else "text")


def idle_load(running: Running, load: Load, _seconds: float) -> Figures:
    """KiB of the server for each connection that has echoed a message and then says nothing."""
    sizes = []
    with _Idle(running, _FIRST):
        sizes.append(running.memory())
        with _Idle(running, load.connections):
            sizes.append(running.memory())
    return {"kib": (sizes[1] - sizes[0]) / load.connections / 1024}


class _Idle:
    """Connections that stay open until the block is left."""

    def __init__(self, running: Running, connections: int) -> None:
        arguments = ("idle", running.address, running.server.path, str(connections), "1", "32", "0", "sleep")
        self._process = subprocess.Popen(
            ["taskset", "-c", str(LOAD_CORE), compiled(*WS_LOAD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("some connections could not be opened; is `ulimit -n` high enough?")

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def flood_load(running: Running, load: Load, seconds: float) -> Figures:
    """Others' p99 beside a connection that sends without end, and how much that is of p99 without it."""
    quiet = websocket_load(running, load, seconds, pace=PACE)
    beside = Load(load.connections + 1, load.in_flight, load.size)
    found = websocket_load(running, beside, seconds, "flood", PACE)
    found["slowdown"] = found["p99_us"] / quiet["p99_us"]
    return found
