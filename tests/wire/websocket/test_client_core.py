"""The core at the client's end: masked out, unmasked in, and against the core at the server's end."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import WebSocketConfig
from engine.errors import RemoteProtocolError
from engine.wire.websocket import frames
from engine.wire.websocket.core import State, WebSocketCore
from engine.wire.websocket.deflate import Agreement
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, Frame, MessagePart, Ping, Pong
from engine.wire.websocket.raw import RawFrameCore
from tests.wire.websocket import client_frames
from tests.wire.websocket.client_frames import BINARY, CLOSE, KEY, PING, PONG, TEXT, frame

AGREEMENTS = [None, Agreement(), Agreement(False, False, 9, 8), Agreement(True, False, 15, 12)]


def keys() -> Callable[[], bytes]:
    count = itertools.count(1)
    return lambda: (next(count) * 0x9E3779B1 & 0xFFFFFFFF).to_bytes(4, "big")


def client(agreed: Agreement | None = None, **settings: int) -> WebSocketCore:
    return WebSocketCore(WebSocketConfig(**settings), agreed, masking_key=lambda: KEY)


def events(core: WebSocketCore) -> list[object]:
    found = []
    while (event := core.next_event()) is not None:
        found.append(event)
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 511, 512, 65535, 65536, 100_001])
def test_a_message_is_sent_masked_with_its_key(size: int) -> None:
    assert client().send_message("x" * size) == frame(TEXT, b"x" * size)
    assert client().send_message(b"y" * size) == frame(BINARY, b"y" * size)
    assert client().send_message(bytearray(b"y" * size)) == frame(BINARY, b"y" * size)


def test_control_frames_are_masked_each_with_a_key_of_its_own() -> None:
    taken = iter([b"\x01\x02\x03\x04", b"\x05\x06\x07\x08", b"\x00\x00\x00\x09"])
    core = WebSocketCore(WebSocketConfig(), masking_key=lambda: next(taken))
    core.receive_data(frame(PING, b"are you there", key=None))
    core.send_ping(b"")
    core.send_close(1000, "done")
    assert core.data_to_send() == (
        frame(PONG, b"are you there", key=b"\x01\x02\x03\x04")
        + frame(PING, b"", key=b"\x05\x06\x07\x08")
        + frame(CLOSE, b"\x03\xe8done", key=b"\x00\x00\x00\x09")
    )
    assert next(taken, None) is None


def test_fragments_and_frames_of_any_kind_are_masked() -> None:
    core = client()
    assert core.send_fragment("a", first=True) == frame(TEXT, b"a", fin=False)
    assert core.send_fragment("b", first=False) == frame(0, b"b", fin=False)
    assert core.finish_message() == frame(0, b"")
    assert core.send_frame(3, b"c", fin=False, rsv=5) == frame(3, b"c", fin=False, rsv=5)


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_what_a_server_sends_is_read_however_it_is_cut(step: int) -> None:
    data = (
        frame(TEXT, "grüße".encode(), key=None)
        + frame(BINARY, b"x" * 300, key=None)
        + frame(TEXT, b"a", fin=False, key=None)
        + frame(PING, b"p", key=None)
        + frame(0, b"b", key=None)
        + frame(BINARY, b"y" * 70_000, key=None)
        + frame(PONG, b"q", key=None)
        + frame(CLOSE, b"\x03\xe8bye", key=None)
    )
    core = client()
    for start in range(0, len(data), step):
        core.receive_data(data[start : start + step])
    assert events(core) == [
        "grüße",
        b"x" * 300,
        Ping(b"p"),
        "ab",
        b"y" * 70_000,
        Pong(b"q"),
        CloseReceived(1000, "bye"),
    ]
    assert core.data_to_send() == frame(PONG, b"p") + frame(CLOSE, b"\x03\xe8")
    assert core.state is State.CLOSED


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x"), 1002),  # masked: "A client MUST close a connection if it detects a masked frame."
        (frame(PING, b"x"), 1002),
        (frame(BINARY, b"x" * 200), 1002),
        (frame(TEXT, b"x", rsv=4, key=None), 1002),
        (frame(3, b"x", key=None), 1002),
        (frame(0, b"x", key=None), 1002),
        (frame(TEXT, b"\xff", key=None), 1007),
        (frame(CLOSE, b"\x00", key=None), 1002),
        (frame(PING, b"x" * 126, key=None), 1002),
        (frame(BINARY, b"", key=None, length=1 << 21), 1009),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_server_that_breaks_the_protocol_is_answered_with_its_code(data: bytes, code: int, step: int) -> None:
    core = client()
    for start in range(0, len(data), step):
        core.receive_data(data[start : start + step])
    [failed] = events(core)
    assert isinstance(failed, ConnectionFailed)
    assert failed.code == code
    answer = core.data_to_send()
    assert answer[:2] == bytes((0x88, 0x80 | (len(answer) - 6)))
    assert frames.unmask(answer[6:8], KEY) == code.to_bytes(2, "big")


def test_a_masked_frame_is_named_as_what_is_wrong() -> None:
    core = client()
    core.receive_data(frame(TEXT, b"x"))
    [failed] = events(core)
    assert isinstance(failed.error, RemoteProtocolError)
    assert "masked" in str(failed.error)


def test_raw_frames_go_both_ways() -> None:
    core = RawFrameCore(WebSocketConfig(), masking_key=lambda: KEY)
    data = frame(5, b"abc", rsv=3, fin=False, key=None) + frame(PING, b"p", key=None)
    for byte in data:
        core.receive_data(bytes((byte,)))
    got = events(core)
    assert got[0] == Frame(5, b"abc", fin=False, rsv=3)
    assert core.data_to_send() == frame(PONG, b"p")
    core.receive_data(frame(BINARY, b"x"))
    assert isinstance(events(core)[-1], ConnectionFailed)


messages = st.lists(
    st.one_of(st.text(max_size=300), st.binary(max_size=300), st.integers(0, 3).map(lambda n: b"z" * (n * 40_000))),
    max_size=6,
)


@given(messages, messages, st.sampled_from(AGREEMENTS), st.data())
def test_both_cores_understand_each_other_under_any_chunking(
    upward: list[str | bytes], downward: list[str | bytes], agreed: Agreement | None, data: st.DataObject
) -> None:
    config = WebSocketConfig(compression_threshold=10)
    ours, theirs = WebSocketCore(config, agreed, masking_key=keys()), WebSocketCore(config, agreed)
    size = data.draw(st.sampled_from([1, 2, 7, 100, 10**6]))
    for sender, receiver, sent in ((ours, theirs, upward), (theirs, ours, downward)):
        wire = b""
        for message in sent:
            if data.draw(st.booleans()):
                half = len(message) // 2
                wire += sender.send_fragment(message[:half], first=True)
                sender.send_ping(b"between")
                wire += sender.data_to_send() + sender.send_fragment(message[half:], first=False)
                wire += sender.finish_message()
            else:
                wire += sender.send_message(message)
        step = max(size, len(wire) // 500)
        for start in range(0, len(wire), step):
            receiver.receive_data(wire[start : start + step])
        assert [event for event in events(receiver) if not isinstance(event, Ping | Pong | MessagePart)] == sent
    ours.send_close(1000, "done")
    theirs.receive_data(ours.data_to_send())
    assert events(theirs)[-1] == CloseReceived(1000, "done")
    ours.receive_data(theirs.data_to_send())
    assert events(ours)[-1] == CloseReceived(1000, "")
    assert ours.state is theirs.state is State.CLOSED


def test_the_frames_of_the_tests_are_the_rfcs_own() -> None:
    # RFC 6455 section 5.7: "A single-frame masked text message"
    assert client().send_message("Hello") == bytes.fromhex("818537fa213d7f9f4d5158")
    assert bytes.fromhex("37fa213d") == client_frames.KEY
