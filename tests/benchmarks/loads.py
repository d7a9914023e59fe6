"""Runs the load generators, each on the core that the server does not have.

They say how busy their core was (`load_busy`): where that is near 100 %, the figure is the generator's
and not the server's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.servers import FOLDER, LOAD_CORE, Running

Figures = dict[str, float]
"""What one load found, by name; `tests.benchmarks.report` has the names."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load: how many connections keep how many messages of which size on the way."""

    connections: int
    in_flight: int
    size: int = 32  # bytes of a message

    def __str__(self) -> str:
        return f"{self.connections}×{self.in_flight}" + (f" of {_bytes(self.size)}" if self.size != 32 else "")


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size} B"


def run_pinned(*command: str, limit: float) -> str:
    """What a command prints that has the load's core.

    Raises:
        RuntimeError: it, or a system package, is missing, or it failed.
    """
    for program, package in ((command[0], _PACKAGES.get(command[0])), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            raise RuntimeError(f"{program} is missing; install the system package {package}")
    pinned = ("taskset", "-c", str(LOAD_CORE), *command)
    done = subprocess.run(pinned, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def holding(*command: str) -> Iterator[None]:
    """Around a block: a load generator in its mode `idle`, whose connections stay open.

    Raises:
        RuntimeError: some could not be opened.
    """
    process = subprocess.Popen(
        ["taskset", "-c", str(LOAD_CORE), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("some connections could not be opened; is `ulimit -n` high enough?")
        yield
    finally:
        process.communicate()


_PACKAGES = {"h2load": "nghttp2-client", "gcc": "gcc"}


@functools.cache
def compiled(*files: str, options: tuple[str, ...] = ()) -> str:
    """The path of a program of ours, compiled where its C files (the first names it) or headers have changed."""
    if shutil.which("gcc") is None:
        raise RuntimeError("gcc is missing; install the system package gcc")
    folder = Path(tempfile.gettempdir()) / f"engine-benchmarks-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    sources = [FOLDER / each for each in files]
    program, read = folder / sources[0].parent.name, [*sources, *FOLDER.glob("*/*.h")]
    if not program.exists() or program.stat().st_mtime < max(each.stat().st_mtime for each in read):
        done = subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wextra", *options, "-o", str(program), *map(str, sources), "-lssl"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"install the system package libssl-dev:\n{done.stderr}")
    return str(program)


WS_LOAD = ("ws_load/main.c", "ws_load/connection.c")


def websocket_load(
    running: Running, load: Load, seconds: float, mode: str = "text", pace: float = 0, *, spins: bool = False
) -> Figures:
    """`ws_load/main.c`: every answer must be a whole one.

    Args:
        mode: see there.
        pace: seconds between two messages of a connection; 0: the next follows the answer.
        spins: poll instead of sleeping, so that no server has to wake the load generator.
    """
    arguments = (
        mode, running.address, running.server.path,
        load.connections, load.in_flight, load.size, seconds, "spin" if spins else round(pace * 1e6) or "sleep",
    )  # fmt: skip
    began = running.processor_time()
    found: Figures = json.loads(run_pinned(compiled(*WS_LOAD), *map(str, arguments), limit=seconds + 60))
    found["server_us"] = (running.processor_time() - began) * 1e6 / found["messages"]
    return found


def grpc_load(running: Running, load: Load, seconds: float) -> Figures:
    """h2load with one framed HelloRequest; every answer must carry a whole reply."""
    message = b"\x0a\x05world"
    with tempfile.NamedTemporaryFile() as body:
        body.write(b"\x00" + len(message).to_bytes(4, "big") + message)
        body.flush()
        report = run_pinned(
            "h2load", f"-c{load.connections}", f"-m{load.in_flight}", "-D", f"{seconds:.0f}", "--warm-up-time", "1",
            "-d", body.name, "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"http://127.0.0.1:{running.address}/greet.Greeter/SayHello", limit=seconds + 30,
        )  # fmt: skip
    counts = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", report)
    data = re.search(r"\((\d+)\) data", report)
    rate = re.search(r"([\d.]+) req/s", report)
    if not (counts and data and rate) or counts[1] != counts[2] or int(counts[1]) == 0:
        raise RuntimeError(f"h2load reports errors:\n{report}")
    reply = 5 + 2 + len("Hello world")  # prefix, field, text: less means that some answers were bare statuses
    if int(data[1]) < reply * int(counts[1]):
        raise RuntimeError(f"some calls had no reply:\n{report}")
    return {"rate": float(rate[1])}
