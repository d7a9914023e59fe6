"""The WebSocket core says of any bytes what plain wsproto says, however they are cut.

The first byte seeds the chunking, the rest is what a client sends. The same messages and control
frames must come out of the core in one piece, of the core in chunks, and of wsproto alone; a failure
must have the same close code. With small limits no input may make the core hold more than they allow.
"""

from __future__ import annotations

from random import Random

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as WsprotoPing
from wsproto.events import Pong as WsprotoPong

from engine.config import WebSocketConfig
from engine.errors import LimitExceeded
from engine.wire.websocket.core import State, WebSocketCore
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, Ping, Pong

KEY = b"\x01\x02\x03\x04"


def _frame(first: int, payload: bytes = b"", key: bytes = KEY) -> bytes:
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 65536:
        head = bytes((first, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + length.to_bytes(8, "big")
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


SEEDS: list[bytes] = [
    b"\x00" + _frame(0x81, b"hello") + _frame(0x82, b"\x00\xff") + _frame(0x81, "grüß 😀".encode()),
    b"\x01" + _frame(0x01, b"a\xc3") + _frame(0x89, b"ping") + _frame(0x00) + _frame(0x80, b"\xbcb"),
    b"\x02" + _frame(0x82, bytes(126)) + _frame(0x82, bytes(700)) + _frame(0x8A, b"pong"),
    b"\x03" + _frame(0x81, b"a") + _frame(0x88, b"\x03\xe8bye") + _frame(0x81, b"late"),
    b"\x04" + _frame(0x81, b"ok \xff not") + _frame(0x81, b"x"),
    b"\x05" + _frame(0x88, b"\x03\xee") + _frame(0x88),
    b"\x06" + _frame(0xC1, b"rsv") + _frame(0x83, b"opcode"),
    b"\x07" + _frame(0x02, b"12") + _frame(0x02, b"34"),
    b"\x08" + _frame(0x80, b"nothing to continue"),
    b"\x09" + b"\x82\xfe\x00\x05" + bytes(9),
    b"\x0a" + b"\x82\xff\x40\x00\x00\x00\x00\x00\x00\x00" + bytes(9),
    b"\x0b" + b"\x81\x05hello",
    b"\x0c" + _frame(0x01, b"\xf0\x9f") + _frame(0x00, b"\x98") + _frame(0x80, b"\x80") + _frame(0x81) * 3,
    b"\x0e" + _frame(0x88, b"\x03\xf6\xd3"),
    *(
        b"\x10" + _frame(0x88, code.to_bytes(2, "big"))
        for code in (999, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000)
    ),
    b"\x0f" + (_frame(0x01, b"x" * 10) + _frame(0x80, b"y" * 10)) * 5,
    b"\x0d" + _frame(0x88, b"\x03\xf6") + _frame(0x89, b"x" * 125) + _frame(0x89, b"x" * 126),
]

Outcome = tuple[list[object], int | None, int | None]
"""Messages and control frames; the close code received; the code of the failure."""


def _with_core(chunks: list[bytes], config: WebSocketConfig) -> tuple[Outcome, WebSocketCore]:
    core = WebSocketCore(config)
    found: list[object] = []
    pings: list[bytes] = []
    closed = failed = None
    for chunk in chunks:
        found.extend(core.receive_messages(chunk) or ())
        assert len(core._held) < 140, "more is held back than a header or a control frame"
        while (event := core.next_event()) is not None:
            assert closed is None, "an event after the peer's close"
            assert failed is None, "an event after the failure"
            match event:
                case CloseReceived(code=code):
                    closed = code
                case ConnectionFailed(code=code):
                    failed = code
                case Ping(payload=payload):
                    found.append(("ping", payload))
                    pings.append(payload)
                case Pong(payload=payload):
                    found.append(("pong", payload))
                case _:
                    found.append(event)
    _check_output(core, core.data_to_send(), pings, closed, failed)
    return (found, closed, failed), core


def _check_output(
    core: WebSocketCore, output: bytes, pings: list[bytes], closed: int | None, failed: int | None
) -> None:
    """Each ping is answered, the latest of many at least, and the end by one close frame, the last of all."""
    sent: list[tuple[int, bytes]] = []
    while output:
        sent.append((output[0], output[2 : 2 + output[1]]))
        output = output[2 + output[1] :]
    end = closed if failed is None else failed
    if end is not None:
        assert core.state is (State.CLOSED if failed is None else State.FAILED)
        opcode, payload = sent.pop()
        assert opcode == 0x88, "the end was not answered"
        assert (int.from_bytes(payload[:2], "big") if payload else 1005) == end, "answered by another code"
    assert sent == [(0x8A, payload) for payload in pings[-64:]], "pings are not answered by their pongs"


def with_wsproto(data: bytes, end: ConnectionType) -> Outcome:
    """What wsproto makes of it, as the server or the client."""
    connection = Connection(end)
    found: list[object] = []
    pieces: list[str | bytes] = []
    connection.receive_data(data)
    for event in connection.events():
        match event:
            case TextMessage() | BytesMessage():
                pieces.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    found.append(pieces[0][:0].join(pieces))  # type: ignore[arg-type]  # all of one type
                    pieces.clear()
            case WsprotoPing(payload=payload):
                found.append(("ping", bytes(payload)))
            case WsprotoPong(payload=payload):
                found.append(("pong", bytes(payload)))
            case CloseConnection(code=code) if connection.state is ConnectionState.REMOTE_CLOSING:
                return found, int(code), None
            case CloseConnection(code=code):
                return found, None, int(code)
    return found, None, None


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    if not data:
        return
    random, stream = Random(data[0]), data[1:]
    chunks, rest = [], stream
    while rest:
        size = random.choice((1, 1, 2, 3, 5, 7, 17, 64, 1024))
        chunks.append(rest[:size])
        rest = rest[size:]

    unlimited = WebSocketConfig(max_message_size=1 << 63, max_fragments=1 << 30)
    whole, core = _with_core([stream], unlimited)
    cut, _ = _with_core(chunks, unlimited)
    assert whole == cut, f"chunks change the outcome: {whole} {cut}"
    reference = with_wsproto(stream, ConnectionType.SERVER)
    if whole != reference:
        # 1014 is registered since wsproto was written: it calls the code a protocol error, where the
        # core accepts it, or goes on to find that the reason is not UTF-8.
        knows_1014 = whole[1] == 1014 or "reason of a close frame" in str(core.failure)
        assert knows_1014, f"wsproto differs: {whole} {reference}"
        assert reference == (whole[0], None, 1002), f"wsproto differs: {whole} {reference}"

    limits = WebSocketConfig(max_message_size=64, max_fragments=4)
    (found, _, failed), core = _with_core([stream], limits)
    (cut_found, _, cut_failed), _ = _with_core(chunks, limits)
    assert (found, failed) == (cut_found, cut_failed), "chunks change what a limit does"
    messages = [each for each in found if isinstance(each, str | bytes)]
    within = _count_within(stream, 64, 4)
    assert len(messages) >= min(within, sum(isinstance(each, str | bytes) for each in whole[0])), "refused by no limit"
    sizes = [len(m.encode() if isinstance(m, str) else m) for m in found if isinstance(m, str | bytes)]
    assert max(sizes, default=0) <= 64, "a message beyond the limit"
    assert failed != 1009 or isinstance(core.failure, LimitExceeded)


def _count_within(stream: bytes, max_size: int, max_fragments: int) -> int:
    """How many messages come before the first one that is over a limit, by their headers alone."""
    count = size = fragments = position = 0
    while position + 2 <= len(stream):
        first, length, start = stream[position], stream[position + 1] & 0x7F, position + 2
        if length > 125:
            wide = 2 if length == 126 else 8
            length = int.from_bytes(stream[start : start + wide], "big")
            start += wide
        position = start + 4 + length
        if first & 0x08:
            continue
        size, fragments = size + length, fragments + 1
        if size > max_size or fragments > max_fragments:
            break
        if first & 0x80:
            count, size, fragments = count + 1, 0, 0
    return count
