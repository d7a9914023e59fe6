"""One connection after its handshake: messages, control frames, limits, and every way to end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import WebSocketConfig
from engine.errors import ConnectionClosed, LimitExceeded, LocalProtocolError, RemoteProtocolError
from engine.wire.websocket.core import State, WebSocketCore
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, Event, Ping, Pong
from tests.wire.websocket.client_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    server_frame,
    server_frames,
)


def new_core(**settings: int) -> WebSocketCore:
    return WebSocketCore(WebSocketConfig(**settings))


def events(core: WebSocketCore) -> list[Event]:
    found = []
    while (event := core.next_event()) is not None:
        found.append(event)
    return found


def receive(core: WebSocketCore, *data: bytes) -> list[Event]:
    for each in data:
        core.receive_data(each)
    return events(core)


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def close_sent(core: WebSocketCore) -> int:
    """The code of the one close frame that waits."""
    [(opcode, payload)] = server_frames(core.data_to_send())
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big")


def fails_with(code: int, *data: bytes, **settings: int) -> WebSocketCore:
    """Both at once and byte by byte, these bytes are answered by a close frame with `code`."""
    for chunks in (data, byte_by_byte(b"".join(data))):
        core = new_core(**settings)
        last = receive(core, *chunks)[-1]
        assert isinstance(last, ConnectionFailed)
        assert last.code == code
        assert core.failure is last.error
        assert core.state is State.FAILED
        assert close_sent(core) == code
    return core


# -- messages -----------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_messages_of_any_length_arrive_however_they_are_cut(length: int) -> None:
    data = frame(BINARY, b"x" * length) + frame(TEXT, b"y" * length)
    expected = [b"x" * length, "y" * length]
    assert receive(new_core(), data) == expected
    assert receive(new_core(), *[data[i : i + 997] for i in range(0, len(data), 997)]) == expected


def test_messages_arrive_byte_by_byte() -> None:
    data = frame(TEXT, "grüß 😀".encode()) + frame(BINARY, b"\x00\xff") + frame(TEXT)
    assert receive(new_core(), *byte_by_byte(data)) == ["grüß 😀", b"\x00\xff", ""]


def test_fragments_become_one_message_with_control_frames_between_them() -> None:
    data = (
        frame(TEXT, b"a\xc3", fin=False)
        + frame(PING, b"1")
        + frame(CONTINUATION, b"", fin=False)
        + frame(PONG, b"2")
        + frame(CONTINUATION, b"\xbcb")
        + frame(BINARY, b"c", fin=False)
        + frame(CONTINUATION, b"d")
        + frame(TEXT, b"e")
    )
    expected = [Ping(b"1"), Pong(b"2"), "aüb", b"cd", "e"]
    for chunks in ([data], byte_by_byte(data)):
        core = new_core()
        assert receive(core, *chunks) == expected
        assert core.data_to_send() == server_frame(PONG, b"1")


def test_65536_fragments_of_64_bytes_are_one_message() -> None:
    core = new_core(max_message_size=16 << 20)
    data = frame(BINARY, b"x" * 64, fin=False)
    data += frame(CONTINUATION, b"x" * 64, fin=False) * 65534 + frame(CONTINUATION, b"x" * 64)
    assert receive(core, data) == [b"x" * 64 * 65536]


@given(st.lists(st.text() | st.binary(), max_size=5), st.data())
def test_any_fragmentation_and_any_chunking_give_the_same_messages(
    messages: list[str | bytes], data: st.DataObject
) -> None:
    wire = b""
    for message in messages:
        payload = message.encode() if isinstance(message, str) else message
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for i, piece in enumerate(pieces):
            opcode = CONTINUATION if i else TEXT if isinstance(message, str) else BINARY
            wire += frame(opcode, piece, fin=i == len(pieces) - 1)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert receive(new_core(), *chunks) == messages


# -- protocol errors ----------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"a", rsv=4),  # RSV1: no compression was negotiated
        frame(TEXT, b"a", rsv=2),
        frame(PING, b"a", rsv=1),
        frame(3, b"a"),
        frame(11, b"a"),
        frame(TEXT, b"a", key=None),
        frame(PING, b"", key=None),
        frame(PING, b"a", fin=False),
        frame(PING, b"a" * 126),
        frame(CONTINUATION, b"a"),
        frame(CONTINUATION, b""),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(BINARY, b"a", fin=False) + frame(BINARY, b"", fin=False),
        b"\x82\xfe\x00\x05" + bytes(9),
        b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff" + bytes(20),
        b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00" + bytes(20),
        frame(CLOSE, b"\x03"),
        close_frame(999),
        close_frame(1005),
        close_frame(1006),
        close_frame(1015),
        close_frame(1016),
        close_frame(5000),
    ],
)
def test_a_protocol_error_is_answered_with_1002(data: bytes) -> None:
    # wsproto reports it and sends nothing
    core = fails_with(1002, data)
    assert isinstance(core.failure, RemoteProtocolError)


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"\xff"),
        frame(TEXT, b"\xed\xa0\x80"),  # a surrogate
        frame(TEXT, b"\xf4\x90\x80\x80"),  # beyond U+10FFFF
        frame(TEXT, b"a\xc3"),  # cut off
        frame(TEXT, b"a\xc3", fin=False) + frame(CONTINUATION, b"a"),
        close_frame(1000, b"\xff"),
    ],
)
def test_text_that_is_not_utf8_is_answered_with_1007(data: bytes) -> None:
    fails_with(1007, data)


def test_bad_utf8_is_found_before_the_message_is_complete() -> None:
    fails_with(1007, frame(TEXT, b"ok \xff" + b"x" * 1000)[:20])
    fails_with(1007, frame(TEXT, b"\xff", fin=False))


def test_messages_before_an_error_in_the_same_read_are_kept() -> None:
    core = new_core()
    found = receive(core, frame(TEXT, b"a") + frame(PING, b"p") + frame(BINARY, b"b") + frame(TEXT, b"\xff"))
    assert found[:3] == ["a", Ping(b"p"), b"b"]
    assert isinstance(found[3], ConnectionFailed)
    assert [opcode for opcode, _ in server_frames(core.data_to_send())] == [PONG, CLOSE]


def test_input_after_a_failure_is_discarded_and_nothing_is_kept_of_it() -> None:
    core = fails_with(1002, frame(3))
    for _ in range(100):
        core.receive_data(frame(BINARY, bytes(1000))[:-1])
    core.receive_eof()
    assert events(core) == []
    assert core.data_to_send() == b""
    assert core._held == b""
    assert core._decoder is None
    with pytest.raises(LocalProtocolError):
        core.send_message("late")


# -- limits -------------------------------------------------------------------


def test_a_message_of_exactly_the_limit_is_accepted_and_one_byte_more_is_1009() -> None:
    assert receive(new_core(max_message_size=1000), frame(BINARY, bytes(1000))) == [bytes(1000)]
    core = fails_with(1009, frame(BINARY, bytes(1001)), max_message_size=1000)
    assert isinstance(core.failure, LimitExceeded)
    assert "message of 1001 bytes exceeds websocket.max_message_size (1000 bytes)" in str(core.failure)


def test_the_limit_counts_bytes_and_over_fragments() -> None:
    fails_with(1009, frame(TEXT, "ü".encode() * 6), max_message_size=10)
    good = frame(TEXT, b"12345", fin=False) + frame(CONTINUATION, b"12345")
    assert receive(new_core(max_message_size=10), good * 2) == ["1234512345"] * 2
    fails_with(1009, frame(TEXT, b"12345", fin=False) + frame(CONTINUATION, b"123456"), max_message_size=10)


@pytest.mark.parametrize("length", [1 << 21, 1 << 62, (1 << 63) - 1])
def test_a_frame_that_announces_too_much_is_1009_by_its_header(length: int) -> None:
    # wsproto accepts such a header and says nothing of its length
    fails_with(1009, frame(BINARY, length=length))
    fails_with(1009, frame(TEXT, b"a", fin=False) + frame(CONTINUATION, length=length))


def test_too_many_fragments_are_1009() -> None:
    data = frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 9
    assert receive(new_core(max_fragments=10), data) == []
    core = fails_with(1009, data + frame(CONTINUATION), max_fragments=10)
    assert "websocket.max_fragments" in str(core.failure)


# -- control frames -----------------------------------------------------------


def test_pings_are_answered_in_order() -> None:
    core = new_core()
    assert receive(core, b"".join(frame(PING, bytes((i,))) for i in range(10))) == [
        Ping(bytes((i,))) for i in range(10)
    ]
    assert server_frames(core.data_to_send()) == [(PONG, bytes((i,))) for i in range(10)]
    assert core.data_to_send() == b""


def test_a_flood_of_pings_that_nobody_reads_back_keeps_the_latest_pongs() -> None:
    core = new_core()
    for i in range(10_000):
        receive(core, frame(PING, i.to_bytes(4, "big")))
    pongs = server_frames(core.data_to_send())
    assert len(pongs) == 64
    assert pongs[-1] == (PONG, (9999).to_bytes(4, "big"))


def test_control_frames_are_complete_or_not_there() -> None:
    core = new_core()
    assert receive(core, frame(PING, b"x" * 125)[:-1]) == []
    assert receive(core, frame(PING, b"x" * 125)[-1:]) == [Ping(b"x" * 125)]


def test_pings_of_ours() -> None:
    core = new_core()
    core.send_ping(b"abc")
    assert core.data_to_send() == server_frame(PING, b"abc")
    with pytest.raises(LocalProtocolError):
        core.send_ping(bytes(126))


# -- sending ------------------------------------------------------------------


def test_messages_are_sent_as_their_type_says() -> None:
    core = new_core()
    assert core.send_message("ü") == server_frame(TEXT, "ü".encode())
    assert core.send_message(b"\xff") == server_frame(BINARY, b"\xff")
    assert core.send_message(bytearray(b"\xff")) == server_frame(BINARY, b"\xff")
    assert core.send_message(memoryview(b"\xff\xfe")[1:]) == server_frame(BINARY, b"\xfe")


def test_what_is_no_message_cannot_be_sent() -> None:
    core = new_core()
    with pytest.raises(TypeError, match="str or bytes, not int"):
        core.send_message(5)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="send bytes instead"):
        core.send_message("\ud800")


# -- the closing handshake ----------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_of_the_peer_is_answered_with_its_code(code: int) -> None:
    # wsproto refuses 1014
    for chunk in ([close_frame(code, b"why")], byte_by_byte(close_frame(code, b"why"))):
        core = new_core()
        assert receive(core, *chunk) == [CloseReceived(code, "why")]
        assert core.state is State.CLOSE_RECEIVED
        assert core.failure is None
        assert close_sent(core) == code
        assert core.state is State.CLOSED


def test_a_close_without_a_code_is_1005_and_answered_without_one() -> None:
    core = new_core()
    assert receive(core, frame(CLOSE)) == [CloseReceived(1005, "")]
    assert core.data_to_send() == server_frame(CLOSE)


def test_what_follows_the_peers_close_is_discarded() -> None:
    # wsproto raises LocalProtocolError
    core = new_core()
    assert receive(core, close_frame(1000) + frame(TEXT, b"late"), frame(TEXT, b"later")) == [CloseReceived(1000, "")]
    core.receive_eof()
    assert events(core) == []
    assert close_sent(core) == 1000
    assert core.state is State.CLOSED


def test_the_answer_to_a_close_or_an_error_can_wait_for_messages_that_came_before() -> None:
    for data, state in ((close_frame(1000), State.CLOSED), (frame(3), State.FAILED)):
        core = new_core()
        receive(core, frame(PING, b"p") + data)
        assert core.data_to_send(hold_answer=True) == server_frame(PONG, b"p")
        assert core.send_message("answer") == server_frame(TEXT, b"answer")
        with pytest.raises(LocalProtocolError):
            core.send_close()
        assert close_sent(core) in (1000, 1002)
        assert core.state is state
        with pytest.raises(LocalProtocolError):
            core.send_message("late")


def test_a_close_in_the_middle_of_a_message_is_a_close() -> None:
    core = new_core()
    assert receive(core, frame(TEXT, b"a", fin=False) + close_frame(1000)) == [CloseReceived(1000, "")]


def test_our_close_waits_for_the_peers() -> None:
    core = new_core()
    core.send_close(4000, "bye")
    assert core.data_to_send() == server_frame(CLOSE, b"\x0f\xa0bye")
    assert core.state is State.CLOSE_SENT
    assert receive(core, frame(TEXT, b"meanwhile") + frame(PING, b"x")) == ["meanwhile", Ping(b"x")]
    assert receive(core, close_frame(4000)) == [CloseReceived(4000, "")]
    assert core.state is State.CLOSED
    assert core.data_to_send() == b""


def test_an_error_after_our_close_sends_no_second_close() -> None:
    core = new_core()
    core.send_close()
    core.data_to_send()
    [failed] = receive(core, frame(3))
    assert isinstance(failed, ConnectionFailed)
    assert core.data_to_send() == b""


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 70000, -1])
def test_a_code_that_may_not_be_sent_is_refused_here(code: int) -> None:
    # wsproto sends 999, sends 1000 for 1006, and raises struct.error for 70000
    core = new_core()
    with pytest.raises(LocalProtocolError):
        core.send_close(code)
    assert core.state is State.OPEN
    assert core.data_to_send() == b""


def test_nothing_can_be_sent_after_a_close() -> None:
    for core in (new_core(), new_core()):
        core.send_close()
        for call in (core.send_close, core.send_ping, lambda core=core: core.send_message("x")):
            with pytest.raises(LocalProtocolError):
                call()


@pytest.mark.parametrize("start", [b"", frame(TEXT, b"abc")[:3], frame(TEXT, b"abc")[:7], frame(TEXT, b"a", fin=False)])
def test_an_end_without_a_close_frame_is_1006(start: bytes) -> None:
    core = new_core()
    core.receive_data(start)
    core.receive_eof()
    [failed] = events(core)
    assert isinstance(failed, ConnectionFailed)
    assert failed.code == 1006
    assert isinstance(failed.error, ConnectionClosed)
    assert core.data_to_send() == b""
    core.receive_eof()
    assert events(core) == []


def test_an_end_instead_of_the_peers_half_of_the_close_is_1006() -> None:
    core = new_core()
    core.send_close()
    core.receive_eof()
    [failed] = events(core)
    assert isinstance(failed, ConnectionFailed)
    assert failed.code == 1006


# -- the driver's bytes ---------------------------------------------------------


def test_what_is_held_back_between_reads_is_small() -> None:
    core = new_core(max_message_size=1 << 20)
    core.receive_data(frame(BINARY, bytes(1 << 20))[:13])
    assert len(core._held) == 13
    for _ in range(15):
        core.receive_data(bytes(1 << 16))
        assert core._held == b""


def test_a_read_of_nothing_but_whole_messages_needs_no_events() -> None:
    core = new_core()
    assert core.receive_messages(frame(TEXT, b"a") + frame(BINARY, b"b")) == ["a", b"b"]
    assert events(core) == []


@pytest.mark.parametrize(
    "rest", [frame(PING, b"p"), frame(TEXT, b"c")[:3], frame(TEXT, b"c", fin=False), close_frame(1000)]
)
def test_whatever_else_a_read_holds_all_of_it_is_an_event_in_order(rest: bytes) -> None:
    core, plain = new_core(), new_core()
    assert core.receive_messages(frame(TEXT, b"a") + rest) is None
    plain.receive_data(frame(TEXT, b"a") + rest)
    assert list(map(repr, events(core))) == list(map(repr, events(plain)))
    # What waits, an answer or a piece of a frame, must not be overtaken by what comes.
    assert core.receive_messages(frame(TEXT, b"d")) is None
    plain.receive_data(frame(TEXT, b"d"))
    assert list(map(repr, events(core))) == list(map(repr, events(plain)))
    assert core.data_to_send() == plain.data_to_send()


@pytest.mark.parametrize("message", ["y" * 70_000, b"x" * 70_000, bytearray(70_000), "short"])
def test_a_large_message_in_two_parts_is_the_frame_in_one(message: str | bytes | bytearray) -> None:
    core = new_core()
    header, payload = core.send_large(message)
    if len(message) >= 126:
        assert header + payload == core.send_message(message)
        assert len(header) <= 10
    core.send_close(1000)
    with pytest.raises(LocalProtocolError, match="closed"):
        core.send_large(message)
