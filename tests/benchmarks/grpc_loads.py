"""The loads on gRPC servers that `grpc_load/main.c` makes: calls, streams, ping-pong, calls beside open streams."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.benchmarks.loads import Figures, Load, compiled, run_pinned
from tests.benchmarks.servers import Running

HELLO, FLOOD, ECHO = "/greet.Greeter/SayHello", "/benchmark.Streams/Flood", "/benchmark.Streams/Echo"
NAME = b"\x0a\x05world"  # HelloRequest
CHUNK = b"\x0a\x10" + bytes(16)  # Chunk


@dataclass(frozen=True, slots=True)
class GrpcLoad(Load):
    """Calls of one method, or round trips on streams of one."""

    name: str = ""  # in the table
    path: str = HELLO
    request: bytes = NAME
    replies: int = 1  # messages that answer a call
    ping_pong: bool = False  # in_flight streams, on each the next message after the reply
    open_streams: int = 0  # of Echo, on each connection, idle while calls are measured

    def __str__(self) -> str:
        return self.name or f"{self.connections}×{self.in_flight}"


def flood(count: int, size: int, name: str) -> GrpcLoad:
    """One server stream after the other, of `count` messages of `size` bytes."""
    return GrpcLoad(1, 1, size, name, FLOOD, b"\x08" + _varint(count) + b"\x10" + _varint(size), count)


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])


def run_load(running: Running, load: Load, seconds: float) -> Figures:
    """What `grpc_load/main.c` prints."""
    assert isinstance(load, GrpcLoad)
    arguments = (
        "pingpong" if load.ping_pong else "call", running.address, running.pid, load.path, load.request.hex(),
        load.connections, load.in_flight, seconds, load.replies, ECHO, load.open_streams,
    )  # fmt: skip
    found: Figures = json.loads(run_pinned(compiled("grpc_load/main.c"), *map(str, arguments), limit=seconds + 60))
    return found


def measure(running: Running, load: Load, seconds: float) -> Figures:
    """`rate` is of messages, which for unary calls is of calls; `server_us` the server's processor time for one."""
    assert isinstance(load, GrpcLoad)
    found = run_load(running, load, seconds)
    figures: Figures = {"rate": found["messages"]}
    if load.replies == 1:
        figures |= {"p50_us": found["p50_us"], "p99_us": found["p99_us"]}
    else:
        figures["mib"] = found["bytes"] / 2**20
    figures["server_us"] = found["server_busy"] / found["messages"] * 1e6
    figures["load_busy"] = found["load_busy"]
    return figures
