"""What is measured of hubs: invocations in three ways, broadcasts, streams, and what idle connections cost."""

from __future__ import annotations

import functools
import json
import time
from contextlib import AbstractContextManager

from tests.benchmarks.loads import Figures, Load, compiled, holding, run_pinned
from tests.benchmarks.servers import Running

_FIRST = 100  # connections that are open before memory is looked at: what a server allocates once
_WATCHED = 20.0  # seconds that idle connections are looked at: every one is pinged at least once

_SOURCES = ("hub_load/main.c", "ws_load/connection.c")


def hub_load(running: Running, load: Load, seconds: float, mode: str = "json", wait: str = "sleep") -> Figures:
    """`hub_load/main.c`: see there for `mode` and `wait`."""
    arguments = (
        mode, running.address, running.server.path, load.connections, load.in_flight, load.size, seconds, wait,
    )  # fmt: skip
    began = running.processor_time()
    found: Figures = json.loads(run_pinned(compiled(*_SOURCES), *map(str, arguments), limit=seconds + 180))
    found["server_us"] = (running.processor_time() - began) * 1e6 / found["messages"]
    return found


json_load = functools.partial(hub_load, mode="json")
spinning_load = functools.partial(hub_load, wait="spin")
msgpack_load = functools.partial(hub_load, mode="msgpack")
event_load = functools.partial(hub_load, mode="sse")
broadcast_load = functools.partial(hub_load, mode="broadcast")
stalled_load = functools.partial(hub_load, mode="stalled")
stream_load = functools.partial(hub_load, mode="stream")


def idle_load(running: Running, load: Load, _seconds: float) -> Figures:
    """KiB of the server for each connection, and the share of its core that keeping them alive takes."""
    with _idle(running, _FIRST):
        memory = running.memory()
        with _idle(running, load.connections):
            kib = (running.memory() - memory) / load.connections / 1024
            busy = running.processor_time()
            time.sleep(_WATCHED)
            busy = running.processor_time() - busy
    return {"kib": kib, "keep_alive": busy / _WATCHED}


def _idle(running: Running, connections: int) -> AbstractContextManager[None]:
    arguments = ("idle", running.address, running.server.path, str(connections), "1", "32", "0", "sleep")
    return holding(compiled(*_SOURCES), *arguments)
