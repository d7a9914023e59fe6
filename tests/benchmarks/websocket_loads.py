"""What is measured of WebSockets beside the echo of small messages: memory, and fairness."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

from tests.benchmarks.loads import WS_LOAD, Figures, Load, compiled, holding, websocket_load
from tests.benchmarks.servers import Running

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
    with _idle(running, _FIRST):
        sizes.append(running.memory())
        with _idle(running, load.connections):
            sizes.append(running.memory())
    return {"kib": (sizes[1] - sizes[0]) / load.connections / 1024}


def _idle(running: Running, connections: int) -> AbstractContextManager[None]:
    arguments = ("idle", running.address, running.server.path, str(connections), "1", "32", "0", "sleep")
    return holding(compiled(*WS_LOAD), *arguments)


def flood_load(running: Running, load: Load, seconds: float) -> Figures:
    """Others' p99 beside a connection that sends without end, and how much that is of p99 without it."""
    quiet = websocket_load(running, load, seconds, pace=PACE)
    beside = Load(load.connections + 1, load.in_flight, load.size)
    found = websocket_load(running, beside, seconds, "flood", PACE)
    found["slowdown"] = found["p99_us"] / quiet["p99_us"]
    return found
