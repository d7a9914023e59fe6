"""Measures the engine beside its peers in one run and prints a table of ratios.

    bash .ci/setup bench
    .venv/bin/python -m tests.benchmarks.compare [grpc] [websocket] [signalr] [--seconds 4] [--rounds 3] [--json FILE]

A server has core 0 for itself, the load generator core 1. Each server is started afresh for a
round, rounds go around the servers, and the median of a server's rounds counts, so that a slow
moment of the machine does not fall on one of them. Only the ratios mean anything on another machine.
Exits with 1 when the engine is below a floor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PYTHON = sys.executable
BENCH_PYTHON = str(ROOT / ".venv-bench" / "bin" / "python")
SERVER_CORE, LOAD_CORE = (0, 1) if (os.cpu_count() or 1) > 1 else (0, 0)
START_LIMIT = 30.0  # seconds

ENGINE = "engine"
_PORT = re.compile(r"(?:^(\d{2,5})$)|(?:://127\.0\.0\.1:(\d{2,5})\b)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure."""

    name: str
    command: tuple[str, ...]
    path: str  # of the WebSocket or hub; the gRPC path is the same for all


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load."""

    connections: int
    in_flight: int
    size: int = 32  # bytes of a message

    def __str__(self) -> str:
        return f"{self.connections}×{self.in_flight}" + (f" of {self.size} B" if self.size != 32 else "")


@dataclass(frozen=True, slots=True)
class Result:
    """What one load found."""

    rate: float  # per second
    p50_us: float | None = None
    load_busy: float | None = None  # share of its core that the load generator used


@dataclass(frozen=True, slots=True)
class Suite:
    """Servers that answer the same question, and the loads put on them."""

    name: str
    mode: str  # grpc, echo or hub
    peers: tuple[Peer, ...]
    loads: tuple[Load, ...]
    floors: tuple[tuple[str, str, float], ...] = ()  # (load, peer, least ratio)


def _peer(name: str, python: str, script: str, path: str) -> Peer:
    return Peer(name, (python, str(FOLDER / "peers" / f"{script}.py")), path)


def _engine(path: str) -> Peer:
    command = (PYTHON, "-m", "engine", "serve", "tests.benchmarks.engine_app:app", "--port", "0")
    return Peer(ENGINE, command, path)


SUITES = (
    Suite(
        "gRPC unary (greet.Greeter/SayHello)",
        "grpc",
        (
            _engine(""),
            _peer("grpcio aio", PYTHON, "grpcio_aio", ""),
            _peer("grpclib", BENCH_PYTHON, "grpclib_uvloop", ""),
        ),
        (Load(4, 25), Load(1, 1)),
        ((str(Load(4, 25)), "grpcio aio", 1.0),),
    ),
    Suite(
        "WebSocket echo",
        "echo",
        (_engine("/echo"), _peer("websockets", PYTHON, "websockets_asyncio", "/")),
        (Load(16, 1), Load(1, 1), Load(4, 32, 128)),
        ((str(Load(16, 1)), "websockets", 0.6),),
    ),
    Suite(
        "SignalR Echo (JSON over WebSocket)",
        "hub",
        (_engine("/hub"), _peer("aiosignalr", BENCH_PYTHON, "aiosignalr_aiohttp", "/hub")),
        (Load(16, 1), Load(1, 1)),
    ),
)


@contextlib.contextmanager
def serving(peer: Peer) -> Iterator[int]:
    """Start a server on its core; gives its port."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            peer.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )  # fmt: skip
        assert process.stdout is not None
        alarm = threading.Timer(START_LIMIT, process.kill)
        alarm.start()
        try:
            printed = ""
            for line in process.stdout:
                printed += line
                if match := _PORT.search(printed):
                    alarm.cancel()
                    # Whatever else it prints must not fill the pipe.
                    threading.Thread(target=process.stdout.read, daemon=True).start()
                    yield int(match[1] or match[2])
                    return
            errors.seek(0)
            raise RuntimeError(f"{peer.name} printed no port:\n{printed}{errors.read().decode()}")
        finally:
            alarm.cancel()
            process.kill()
            process.wait()


def _run_load(*command: str, limit: float) -> str:
    pinned = ("taskset", "-c", str(LOAD_CORE), *command)
    done = subprocess.run(pinned, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def measure_grpc(port: int, load: Load, seconds: float, folder: Path) -> Result:
    """h2load with one framed HelloRequest; every answer must carry a whole reply."""
    body = folder / "hello"
    message = b"\x0a\x05world"
    body.write_bytes(b"\x00" + len(message).to_bytes(4, "big") + message)
    report = _run_load(
        "h2load", f"-c{load.connections}", f"-m{load.in_flight}", "-D", f"{seconds:.0f}", "--warm-up-time", "1",
        "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers",
        f"http://127.0.0.1:{port}/greet.Greeter/SayHello", limit=seconds + 30,
    )  # fmt: skip
    counts = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", report)
    data = re.search(r"\((\d+)\) data", report)
    rate = re.search(r"([\d.]+) req/s", report)
    if not (counts and data and rate) or counts[1] != counts[2] or int(counts[1]) == 0:
        raise RuntimeError(f"h2load reports errors:\n{report}")
    reply = 5 + 2 + len("Hello world")  # prefix, field, text: less means that some answers were bare statuses
    if int(data[1]) < reply * int(counts[1]):
        raise RuntimeError(f"some calls had no reply:\n{report}")
    return Result(float(rate[1]))


def measure_websocket(mode: str, port: int, path: str, load: Load, seconds: float, folder: Path) -> Result:
    arguments = (mode, port, path, load.connections, load.in_flight, load.size, seconds)
    return Result(**_pick(json.loads(_run_load(str(folder / "ws_load"), *map(str, arguments), limit=seconds + 30))))


def _pick(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("rate", "p50_us", "load_busy")}


def run_suite(suite: Suite, seconds: float, rounds: int, folder: Path) -> dict[str, dict[str, Result]]:
    """Medians by load and server."""
    found: dict[tuple[str, str], list[Result]] = {}
    peers = [peer for peer in suite.peers if _is_there(peer)]
    for number in range(rounds):
        for peer in peers:
            print(f"{suite.name}: round {number + 1} of {rounds}, {peer.name}", file=sys.stderr)
            with serving(peer) as port:
                for load in suite.loads:
                    if suite.mode == "grpc":
                        result = measure_grpc(port, load, seconds, folder)
                    else:
                        result = measure_websocket(suite.mode, port, peer.path, load, seconds, folder)
                    found.setdefault((str(load), peer.name), []).append(result)
    table: dict[str, dict[str, Result]] = {}
    for (load_name, name), results in found.items():
        ranked = sorted(results, key=lambda result: result.rate)
        table.setdefault(load_name, {})[name] = ranked[len(ranked) // 2] if len(ranked) % 2 else _mean(ranked)
    return table


def _mean(results: list[Result]) -> Result:
    middle = results[len(results) // 2 - 1 : len(results) // 2 + 1]
    return Result(statistics.fmean(result.rate for result in middle), middle[0].p50_us, middle[0].load_busy)


def _is_there(peer: Peer) -> bool:
    if Path(peer.command[0]).exists():
        return True
    print(f"{peer.name} left out: run bash .ci/setup bench", file=sys.stderr)
    return False


def print_table(suite: Suite, table: dict[str, dict[str, Result]]) -> bool:
    """Print one suite; True when every floor holds."""
    print(f"\n{suite.name}")
    print(f"{'load':<14}{'server':<14}{'per second':>12}{'p50 µs':>9}{'load busy':>11}{'engine is':>13}{'floor':>8}")
    good = True
    for load, results in table.items():
        for name, result in results.items():
            p50 = "" if result.p50_us is None else f"{result.p50_us:.0f}"
            busy = "" if result.load_busy is None else f"{result.load_busy:.0%}"
            verdict = floor = ""
            if name != ENGINE:
                ratio = results[ENGINE].rate / result.rate
                verdict = f"{ratio:.2f} ×"
                for floor_load, floor_peer, least in suite.floors:
                    if (floor_load, floor_peer) == (load, name):
                        floor = f"{least:.1f}" if ratio >= least else f"{least:.1f} !"
                        good = good and ratio >= least
            print(f"{load:<14}{name:<14}{result.rate:>12,.0f}{p50:>9}{busy:>11}{verdict:>13}{floor:>8}")
    return good


def _build_load_generator(folder: Path) -> None:
    source = FOLDER / "ws_load.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(folder / "ws_load"), str(source)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare")
    parser.add_argument("suites", nargs="*", metavar="grpc|websocket|signalr", help="all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, after 1 s of warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to a file too")
    arguments = parser.parse_args()
    modes = {"grpc": "grpc", "websocket": "echo", "signalr": "hub"}
    if unknown := set(arguments.suites) - set(modes):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    wanted = {modes[name] for name in arguments.suites or modes}
    for program, package in (("h2load", "nghttp2-client"), ("gcc", "gcc"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            parser.error(f"{program} is missing; install the system package {package}")

    good = True
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if wanted & {"echo", "hub"}:
            _build_load_generator(folder)
        for suite in SUITES:
            if suite.mode in wanted:
                table = run_suite(suite, arguments.seconds, arguments.rounds, folder)
                good = print_table(suite, table) and good
                figures[suite.mode] = {
                    load: {peer: result.rate for peer, result in results.items()} for load, results in table.items()
                }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
