"""One client's flood of fragments, pings or compressed nothing leaves the others alone, and memory where it was."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.examples.raw_websocket import RawWebSocket
from tests.interop.server_process import ServerProcess
from tests.wire.websocket.client_frames import BINARY, CONTINUATION, PING, TEXT, close_frame, frame

pytestmark = pytest.mark.interop

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server():
    process = ServerProcess("examples.conformance:app")
    yield process
    process.stop()


def resident(server: ServerProcess) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def slowest_echo_during(server: ServerProcess, attack: Callable[[], None]) -> float:
    """Seconds, of another connection's echoes while `attack` runs in a thread."""
    attacker = threading.Thread(target=attack)
    slowest = 0.0
    with RawWebSocket(server.port, "/echo") as client:
        attacker.start()
        while attacker.is_alive():
            started = time.perf_counter()
            client.send(0x81, b"are you there")
            assert client.receive() == (0x81, b"are you there")
            slowest = max(slowest, time.perf_counter() - started)
    return slowest


def flood(server: ServerProcess, data: bytes, *, answer: int, extensions: str = "") -> None:
    """Send it all at once and read the whole message or close frame with the opcode `answer`."""

    def attack() -> None:
        with RawWebSocket(server.port, "/echo", extensions) as client:
            client.send_raw(data)
            opcodes.append(client.receive_any()[0] & 0x0F)

    opcodes: list[int] = []
    before = resident(server)
    assert slowest_echo_during(server, attack) < 1.0
    assert resident(server) - before < 64 * MIB
    assert opcodes == [answer]


def test_a_hundred_thousand_empty_fragments(server: ServerProcess) -> None:
    flood(
        server, frame(TEXT, b"", fin=False) + frame(CONTINUATION, fin=False) * 100_000 + frame(CONTINUATION), answer=1
    )


def test_sixty_five_thousand_short_fragments(server: ServerProcess) -> None:
    middle = frame(CONTINUATION, b"x" * 64, fin=False) * 65_534
    flood(server, frame(BINARY, b"x" * 64, fin=False) + middle + frame(CONTINUATION, b"x" * 64), answer=2)


def test_a_hundred_thousand_pings(server: ServerProcess) -> None:
    flood(server, frame(PING, b"x" * 100) * 100_000 + close_frame(1000), answer=10)


def test_a_bomb_of_one_gigabyte(server: ServerProcess) -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(stream.compress(bytes(MIB)) for _ in range(1024)) + stream.flush(zlib.Z_SYNC_FLUSH)
    flood(server, frame(BINARY, bomb[:-4], rsv=4), answer=8, extensions="permessage-deflate")


def test_final_blocks_by_the_hundred_thousand(server: ServerProcess) -> None:
    data = frame(BINARY, b"\x03\x00" * 500_000, rsv=4)
    flood(server, data, answer=8, extensions="permessage-deflate")


def test_a_peer_that_reads_late_gets_what_its_backlog_kept(start_engine) -> None:
    server = start_engine("examples.websocket_chat:app")
    with RawWebSocket(server.port, "/rooms/a") as slow, RawWebSocket(server.port, "/rooms/a") as fast:
        for number in range(200):
            fast.send_raw(frame(BINARY, b"%03d" % number + bytes(100_000)))
            while fast.receive_any()[0] != 0x82:
                pass
        found = []
        while not found or found[-1] != 199:
            first, payload = slow.receive_any()
            if first == 0x82:
                assert len(payload) == 100_003
                found.append(int(payload[:3]))
        assert found == sorted(found)
        assert len(found) < 200
        fast.send(0x81, b"on")
        assert slow.receive_any() == (0x81, b"on")
