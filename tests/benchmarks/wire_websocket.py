"""Microseconds of one 32-byte echo: the core here, wsproto alone, and websockets' sans-IO protocol.

`python -m tests.benchmarks.wire_websocket` prints all of them from one run, since only their ratios
mean anything. One frame in a buffer is what a slow conversation looks like, 64 what a busy one does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from engine.config import WebSocketConfig
from engine.wire.websocket import frames
from engine.wire.websocket.core import WebSocketCore

SECONDS = 0.25  # a measurement; the best of REPEATS counts
REPEATS = 5


def masked_frame(first: int, payload: bytes) -> bytes:
    key = os.urandom(4)
    length = len(payload)
    if length < 126:
        header = bytes((first, 0x80 | length))
    elif length < 65536:
        header = bytes((first, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        header = bytes((first, 0x80 | 127)) + length.to_bytes(8, "big")
    return header + key + frames.unmask_in_python(payload, key)


def engine_echo() -> Callable[[bytes], int]:
    core = WebSocketCore(WebSocketConfig(max_message_size=1 << 30))

    def echo(data: bytes) -> int:
        core.receive_data(data)
        sent = 0
        while (event := core.next_event()) is not None:
            if isinstance(event, str | bytes):
                sent += len(core.send_message(event))
        return sent

    return echo


def wsproto_echo() -> Callable[[bytes], int]:
    connection = Connection(ConnectionType.SERVER)

    def echo(data: bytes) -> int:
        connection.receive_data(data)
        sent = 0
        for event in connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                sent += len(connection.send(event))
        return sent

    return echo


def websockets_echo() -> Callable[[bytes], int]:
    protocol = ServerProtocol(state=State.OPEN, max_size=None)

    def echo(data: bytes) -> int:
        protocol.receive_data(data)
        for frame in protocol.events_received():
            # What its asyncio connection does with a frame: text is decoded, and encoded to be sent.
            if frame.opcode is Opcode.TEXT:
                protocol.send_text(str(frame.data, "utf-8").encode())
            else:
                protocol.send_binary(frame.data)
        return sum(map(len, protocol.data_to_send()))

    return echo


def microseconds(echo: Callable[[bytes], int], data: bytes, messages: int) -> float:
    """The best time of one message."""
    best = float("inf")
    for _ in range(REPEATS):
        count, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS:
            for _ in range(20):
                echo(data)
            count += 20 * messages
        best = min(best, elapsed / count)
    return best * 1e6


def main() -> None:
    peers = {"engine": engine_echo, "wsproto": wsproto_echo, "websockets": websockets_echo}
    print("masking in Python" if frames.unmask is frames.unmask_in_python else "masking in C")
    print(f"{'µs per echo':28}" + "".join(f"{name:>12}" for name in peers))
    for name, first, payload, messages in [
        ("text 32 B × 1", 0x81, b"x" * 32, 1),
        ("text 32 B × 64", 0x81, b"x" * 32, 64),
        ("binary 32 B × 64", 0x82, b"x" * 32, 64),
        ("binary 1 KiB × 16", 0x82, b"x" * 1024, 16),
        ("binary 64 KiB × 1", 0x82, b"x" * 65535, 1),
    ]:
        data = masked_frame(first, payload) * messages
        times = [microseconds(make(), data, messages) for make in peers.values()]
        print(f"{name:28}" + "".join(f"{each:12.2f}" for each in times))


if __name__ == "__main__":
    main()
