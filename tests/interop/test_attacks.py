"""What hostile peers cost: bounded memory, nobody else's requests, and a clear end for them.

Each attack is sent over plain sockets to a server in a process of its own while another client asks
for something ten times a second. The attacker must be told why and closed, or be held back.
"""

from __future__ import annotations

import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Self

import hpack
import pytest

from tests.interop.server_process import ServerProcess
from tests.wire.http2_peer import CONTINUATION, DATA, HEADERS, PING, PREFACE, PRIORITY, frame, reset, settings, window

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc"),
]

MAX_GROWTH = 32 * 1024 * 1024  # bytes of resident memory
MAX_DELAY = 0.3  # seconds for the other client's answers; a machine that tests share has worse moments of its own
MAX_BYTES = 20_000_000  # that an attack sends, when nothing stops it
SECONDS = 1.5  # that an attack lasts which is only held back
PATIENCE = 30.0  # seconds for the server to end one that it must end

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/bytes/1000000")]
POST = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/echo")]
UPGRADE = (
    b"GET /echo HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
MASK = bytes(4)

Attack = Iterator[bytes]


def _block(fields: list[tuple[bytes, bytes]]) -> bytes:
    return hpack.Encoder().encode([(name, value, True) for name, value in fields])


GET_BLOCK, POST_BLOCK, MALFORMED_BLOCK = _block(GET), _block(POST), _block([*GET, (b"Connection", b"x")])


TABLE_FILLER = b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000  # an entry of HPACK's dynamic table, for one byte from then on


def _streams(*frames: Callable[[int], bytes]) -> Attack:
    """The same frames on stream after stream, fifty streams at a time."""
    first = 1
    while first < 2**30:
        yield b"".join(make(stream_id) for stream_id in range(first, first + 100, 2) for make in frames)
        first += 100


def _get(stream_id: int) -> bytes:
    return frame(HEADERS, 5, stream_id, GET_BLOCK)


def _open_post(stream_id: int) -> bytes:
    return frame(HEADERS, 4, stream_id, POST_BLOCK)


# name: (what opens the connection, what follows, whether the attacker reads, a word of the last answer)
ATTACKS: dict[str, tuple[bytes, Callable[[], Attack], bool, bytes]] = {
    "rapid reset": (PREFACE + settings(), lambda: _streams(_get, reset), True, b"too_many_resets"),
    "made you reset": (
        PREFACE + settings(),
        lambda: _streams(_open_post, lambda stream_id: window(stream_id, 0)),
        True,
        b"too_many_resets",
    ),
    "pings": (PREFACE + settings(), lambda: repeat(frame(PING, 0, 0, bytes(8)) * 200), True, b"too_many_pings"),
    "settings": (PREFACE, lambda: repeat(settings() * 200), True, b"too_many_settings"),
    "continuations": (
        PREFACE + settings() + frame(HEADERS, 0, 1, GET_BLOCK),
        lambda: repeat(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 100)),
        True,
        b"too_many_continuations",
    ),
    "priorities": (
        PREFACE + settings(),
        lambda: repeat(frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * 200),
        True,
        b"too_many_glitches",
    ),
    "empty data": (
        PREFACE + settings() + _open_post(1),
        lambda: repeat(frame(DATA, 0, 1) * 200),
        True,
        b"too_many_empty_data",
    ),
    "windows of one byte": (
        PREFACE + settings((4, 0)) + _get(1),
        lambda: repeat(window(1, 1) * 50),
        True,
        b"too_many_window_updates",
    ),
    "small data": (
        PREFACE + settings() + _open_post(1),
        lambda: repeat(frame(DATA, 0, 1, b"xy") * 500),
        True,
        b"",
    ),
    "unknown frames": (PREFACE + settings(), lambda: repeat(frame(0x77, 0, 1, b"x") * 200), True, b"too_many_glitches"),
    "malformed requests": (
        PREFACE + settings(),
        lambda: _streams(lambda stream_id: frame(HEADERS, 5, stream_id, MALFORMED_BLOCK)),
        True,
        b"too_many_",
    ),
    "data behind a reset": (
        PREFACE + settings() + _open_post(1) + reset(1),
        lambda: repeat(frame(DATA, 0, 1, b"x" * 10) * 200),
        True,
        b"too_many_glitches",
    ),
    "unknown settings": (
        PREFACE,
        lambda: (settings(*((number, 1) for number in range(first, first + 32))) for first in range(100, 60_000, 32)),
        True,
        b"too_many_settings",
    ),
    "a settings frame of a thousand entries": (
        PREFACE + settings(*((number, 1) for number in range(1000))),
        lambda: repeat(b""),
        True,
        b"too_many_settings_entries",
    ),
    "a header table that comes and goes": (
        PREFACE,
        lambda: repeat((settings((1, 0)) + settings((1, 2**32 - 1))) * 50),
        True,
        b"too_many_settings",
    ),
    "table size updates": (
        PREFACE + settings() + frame(HEADERS, 5, 1, b"\x20" * 16384),
        lambda: repeat(b""),
        True,
        b"size updates",
    ),
    "a header bomb": (
        PREFACE
        + settings()
        + frame(HEADERS, 5, 1, GET_BLOCK + b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000 + b"\xbe" * 12000),
        lambda: repeat(b""),
        True,
        b"header_list_too_large",
    ),
    "empty fields without end": (
        PREFACE
        + settings()
        + frame(HEADERS, 1, 1, GET_BLOCK)
        + b"".join(frame(CONTINUATION, 4 * (last == 7), 1, b"\x10\x01a\0" * 2000) for last in range(8)),
        lambda: repeat(b""),
        True,
        b"header_list_too_large",
    ),
    "an oversize frame": (
        PREFACE + settings() + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        lambda: repeat(bytes(16384)),
        True,
        b"http2.max_frame_size",
    ),
    "responses under a window of zero": (PREFACE + settings((4, 0)), lambda: _streams(_get), True, b""),
    "responses that nobody reads": (
        PREFACE + settings((4, 2**31 - 1)) + window(0, 2**31 - 65536),
        lambda: _streams(_get),
        False,
        b"",
    ),
    "pipelined requests, answers unread": (
        b"",
        lambda: repeat(b"GET /bytes/100000 HTTP/1.1\r\nhost: x\r\n\r\n" * 50),
        False,
        b"",
    ),
    "a head without end": (b"GET / HTTP/1.1\r\nhost: ", lambda: repeat(b"x" * 10_000), True, b"http1.max_head_size"),
    "fields without end": (b"GET / HTTP/1.1\r\n", lambda: repeat(b"a: b\r\n" * 100), True, b"http1.max_fields"),
    "a chunk extension without end": (CHUNKED, lambda: repeat(b"1;" + b"a" * 1000), True, b"400 Bad Request"),
    "a byte a chunk": (CHUNKED, lambda: repeat(b"1\r\na\r\n" * 2000), True, b""),
    "websocket pings, pongs unread": (
        UPGRADE,
        lambda: repeat((b"\x89\xfd" + MASK + bytes(125)) * 200),
        False,
        b"",
    ),
    "empty fragments": (
        UPGRADE + b"\x01\x80" + MASK,
        lambda: repeat((b"\x00\x80" + MASK) * 1000),
        True,
        b"websocket.max_fragments",
    ),
    "echoes that nobody reads": (
        UPGRADE,
        lambda: repeat(b"\x82\xfe\x40\x00" + MASK + bytes(16384)),
        False,
        b"",
    ),
    "a frame of a terabyte": (
        UPGRADE + b"\x82\xff" + struct.pack(">Q", 2**40) + MASK,
        lambda: repeat(bytes(16384)),
        True,
        b"websocket.max_message_size",
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess("examples.conformance:app")
    yield process
    process.stop()


class Bystander:
    """A client that behaves, in a thread of its own."""

    def __init__(self, port: int) -> None:
        self.failures: list[str] = []
        self.seconds: list[float] = []  # of each answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(port,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.settimeout(10)
            while not self._stop.wait(0.1):
                began = time.monotonic()
                sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                answer = sock.recv(4096)
                self.seconds.append(time.monotonic() - began)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    self.failures.append(repr(answer[:100]))


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def attack(port: int, opening: bytes, chunks: Attack, *, reads: bool, ends: bool) -> tuple[bytes, bool]:
    """Send until closed, held back or done: the last bytes of the answer, and whether we were closed."""
    end = time.monotonic() + (PATIENCE if ends else SECONDS)
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(PATIENCE if ends else 0.3)
        try:
            sock.sendall(opening)
            for chunk in chunks:
                if time.monotonic() > end or sent > MAX_BYTES:
                    return answer, False
                sock.sendall(chunk)
                sent += len(chunk)
                if not chunk:  # all is sent: wait for the end
                    time.sleep(0.01)
                if reads:
                    answer, closed = _read(sock, answer)
                    if closed:
                        return answer, True
        except TimeoutError:
            return answer, False  # held back
        except (BrokenPipeError, ConnectionResetError):
            return answer, True
    raise AssertionError("an attack has no end")


def _read(sock: socket.socket, answer: bytes) -> tuple[bytes, bool]:
    """What waits, behind the last of what came before; True at the end."""
    patience = sock.gettimeout()
    sock.setblocking(False)
    try:
        while True:
            data = sock.recv(65536)
            if not data:
                return answer, True
            answer = (answer + data)[-4096:]
    except BlockingIOError:
        return answer, False
    except ConnectionResetError:
        return answer, True
    finally:
        sock.settimeout(patience)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_bounded_memory_and_harms_nobody_else(server: ServerProcess, name: str) -> None:
    opening, chunks, reads, word = ATTACKS[name]
    before = resident(server.process.pid)
    with Bystander(server.port) as bystander:
        answer, closed = attack(server.port, opening, chunks(), reads=reads, ends=bool(word))
    assert word in answer
    assert closed or not word
    assert bystander.failures == []
    assert statistics.median(bystander.seconds or [0]) < MAX_DELAY
    assert resident(server.process.pid) - before < MAX_GROWTH


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_descriptors_come_back_after_churn(server: ServerProcess, count: int) -> None:
    resident_before = resident(server.process.pid)
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for number in range(count):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall((b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", PREFACE)[number % 4])
    deadline = time.monotonic() + 15
    while len(list(descriptors.iterdir())) > before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(list(descriptors.iterdir())) <= before + 2
    assert resident(server.process.pid) - resident_before < MAX_GROWTH
