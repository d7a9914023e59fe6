"""Compressed messages in the core: where wsproto's own extension is known to fail, and the limits."""

from __future__ import annotations

import zlib

import pytest

from engine.config import WebSocketConfig
from engine.errors import LimitExceeded, LocalProtocolError
from engine.wire.websocket.core import WebSocketCore
from engine.wire.websocket.deflate import Agreement, Inflater
from engine.wire.websocket.events import ConnectionFailed, Event, Frame, MessagePart, Ping, Pong
from engine.wire.websocket.raw import RawFrameCore
from tests.wire.websocket.client_frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame, server_frame

HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692 section 7.2.3.1
AGAIN = bytes.fromhex("f200110000")  # 7.2.3.2: the same, by reference
RSV1 = 4


def new_core(agreed: Agreement | None = None, **settings: float) -> WebSocketCore:
    return WebSocketCore(WebSocketConfig(**settings), agreed or Agreement())


def received(core: WebSocketCore, data: bytes, piece: int = 1 << 30) -> list[Event]:
    events: list[Event] = []
    for start in range(0, len(data), piece):
        core.receive_data(data[start : start + piece])
        while (event := core.next_event()) is not None:
            events.append(event)
    return events


@pytest.mark.parametrize("piece", [1, 2, 3, 1 << 30])
def test_compressed_messages_refer_to_those_before(piece: int) -> None:
    data = frame(TEXT, HELLO, rsv=RSV1) + frame(TEXT, AGAIN, rsv=RSV1) + frame(TEXT, b"plain")
    assert received(new_core(), data, piece) == ["Hello", "Hello", "plain"]


@pytest.mark.parametrize("piece", [1, 4, 1 << 30])
def test_control_frames_between_compressed_fragments_change_nothing(piece: int) -> None:
    # wsproto takes the rest of the message for uncompressed.
    data = frame(TEXT, HELLO[:3], rsv=RSV1, fin=False) + frame(PING, b"p") + frame(CONTINUATION, HELLO[3:])
    assert received(new_core(), data + frame(TEXT, AGAIN, rsv=RSV1), piece) == [Ping(b"p"), "Hello", "Hello"]


def test_a_final_block_does_not_spoil_the_next_message() -> None:
    data = frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=RSV1) + frame(BINARY, AGAIN, rsv=RSV1)
    assert received(new_core(), data) == ["Hello", b"Hello"]


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"x", rsv=2),
        frame(PING, b"x", rsv=RSV1),
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", rsv=RSV1),
        frame(TEXT, HELLO[:3], rsv=RSV1, fin=False) + frame(TEXT, HELLO, rsv=RSV1),
        frame(CONTINUATION, HELLO, rsv=RSV1),
    ],
)
def test_rsv1_where_no_message_begins_is_1002(data: bytes) -> None:
    [event] = received(new_core(), data)
    assert isinstance(event, ConnectionFailed)
    assert event.code == 1002


def test_rsv1_without_an_agreement_is_1002() -> None:
    [event] = received(WebSocketCore(WebSocketConfig()), frame(TEXT, HELLO, rsv=RSV1))
    assert isinstance(event, ConnectionFailed)
    assert event.code == 1002


@pytest.mark.parametrize("payload", [b"\xff\xff", b"\x00\x02\x00\xfd\xff\xc3\x28"])
def test_bad_compressed_data_and_bad_text_in_it_are_1007(payload: bytes) -> None:
    [event] = received(new_core(), frame(TEXT, payload, rsv=RSV1) + frame(TEXT, AGAIN, rsv=RSV1))
    assert isinstance(event, ConnectionFailed)
    assert event.code == 1007


def test_a_bomb_is_1009_at_the_limit_of_the_message() -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(50)) + stream.flush(zlib.Z_SYNC_FLUSH)
    core = new_core(max_message_size=1 << 20)
    [event] = received(core, frame(BINARY, bomb, rsv=RSV1), 1 << 16)
    assert isinstance(event, ConnectionFailed)
    assert event.code == 1009
    assert isinstance(core.failure, LimitExceeded)
    assert core.failure.name == "websocket.max_message_size"


@pytest.mark.parametrize(("size", "accepted"), [(1000, True), (1001, False)])
def test_the_limit_is_that_of_the_inflated_message(size: int, accepted: bool) -> None:
    stream = zlib.compressobj(0, zlib.DEFLATED, -15)  # stored: longer than what it holds
    data = stream.compress(bytes(size)) + stream.flush(zlib.Z_SYNC_FLUSH)
    [event] = received(new_core(max_message_size=1000), frame(BINARY, data[:-4], rsv=RSV1), 100)
    assert (event == bytes(size)) is accepted
    assert accepted or isinstance(event, ConnectionFailed)


def test_our_messages_are_compressed_from_the_threshold_on() -> None:
    core = new_core(compression_threshold=10)
    theirs = Inflater(15, takeover=True)
    assert core.send_message("x" * 9) == server_frame(TEXT, b"x" * 9)
    for message, opcode in (("y" * 10, TEXT), (b"y" * 500, BINARY), ("y" * 500, TEXT)):
        sent = core.send_message(message)
        assert sent[0] == 0xC0 | opcode
        assert len(sent) == 2 + sent[1]
        made = theirs.inflate(sent[2:], 1000) + theirs.finish(1000)
        assert made == (message if isinstance(message, bytes) else message.encode())


def test_a_streamed_message_is_compressed_as_one() -> None:
    core = new_core(Agreement(server_takeover=False), compression_threshold=1)
    sent = [core.send_fragment("hello ", first=True), core.send_fragment("hello", first=False), core.finish_message()]
    assert [each[0] for each in sent] == [0x41, 0x00, 0x80]
    theirs = Inflater(15, takeover=False)
    assert theirs.inflate(b"".join(each[2:] for each in sent), 100) + theirs.finish(100) == b"hello hello"


def test_messages_are_handed_out_in_parts_where_that_is_asked_for() -> None:
    core = WebSocketCore(WebSocketConfig())
    text = frame(TEXT, "aé".encode()[:2], fin=False)
    assert received(core, text) == []
    core.stream_messages()
    assert core.next_event() == MessagePart("a", finished=False)
    assert received(core, frame(CONTINUATION, b"\xa9b", fin=False) + frame(PING)) == [
        Ping(b""),
        MessagePart("éb", False),
    ]
    assert received(core, frame(CONTINUATION) + frame(BINARY, b"whole")) == [MessagePart("", True), b"whole"]
    assert received(core, frame(BINARY, b"ab")[:7]) == [MessagePart(b"a", False)]
    assert received(core, frame(BINARY, b"ab")[7:]) == [MessagePart(b"b", True)]


@pytest.mark.parametrize("piece", [1, 5, 1 << 30])
def test_raw_frames_are_handed_out_as_they_are(piece: int) -> None:
    core = RawFrameCore(WebSocketConfig())
    data = frame(3, b"\xff", rsv=7) + frame(CONTINUATION, b"x" * 200, fin=False) + frame(PING, b"p") + frame(0xB, b"")
    events = received(core, data, piece)
    assert events == [
        Frame(3, b"\xff", fin=True, rsv=7),
        Frame(0, b"x" * 200, fin=False, rsv=0),
        Frame(9, b"p"),
        Ping(b"p"),
        Frame(0xB, b""),
    ]
    assert core.data_to_send() == server_frame(10, b"p")
    assert received(core, frame(10, b"q"), piece) == [Frame(10, b"q"), Pong(b"q")]
    received(core, frame(CLOSE, b"\x03\xe8"), piece)
    assert core.data_to_send() == server_frame(CLOSE, b"\x03\xe8")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x", key=None), 1002),
        (frame(PING, b"", fin=False), 1002),
        (frame(BINARY, b"", length=1001)[:14], 1009),
        (b"\x82\xfe\x00\x05" + bytes(9), 1002),
    ],
)
def test_what_no_frame_may_be_ends_raw_connections_too(data: bytes, code: int) -> None:
    [event] = received(RawFrameCore(WebSocketConfig(max_message_size=1000)), data)
    assert isinstance(event, ConnectionFailed)
    assert event.code == code


@pytest.mark.parametrize(("opcode", "rsv"), [(16, 0), (-1, 0), (1, 8), (CLOSE, 0)])
def test_what_no_header_can_say_is_refused(opcode: int, rsv: int) -> None:
    with pytest.raises(LocalProtocolError):
        new_core().send_frame(opcode, b"", rsv=rsv)
