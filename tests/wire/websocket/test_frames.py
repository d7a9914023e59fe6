"""The hand-written parts of the frame codec (RFC 6455 section 5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.websocket import frames
from tests.wire.websocket.client_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    frame,
    server_frame,
    server_frames,
)

LENGTHS = [0, 1, 3, 4, 5, 124, 125, 126, 127, 511, 512, 513, 515, 65535, 65536, 65539]


def parse(data: bytes, offset: int = 0, limit: int = 1 << 20) -> tuple[int, list[str | bytes]]:
    messages: list[str | bytes] = []
    return frames.parse_messages(data, offset, limit, messages.append), messages


@pytest.mark.parametrize("length", LENGTHS)
def test_both_ways_to_unmask_agree_with_the_definition(length: int) -> None:
    payload, key = bytes(i * 7 & 0xFF for i in range(length)), b"\x00\x81\x7f\xff"
    expected = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    assert frames.unmask_in_python(payload, key) == expected
    assert frames.unmask(payload, key) == expected


@pytest.mark.parametrize("length", LENGTHS)
def test_whole_messages_of_any_length_are_taken(length: int) -> None:
    data = frame(BINARY, b"x" * length) + frame(TEXT, b"y" * length)
    assert parse(data) == (len(data), [b"x" * length, "y" * length])


def test_it_works_without_the_c_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "unmask", frames.unmask_in_python)
    data = frame(TEXT, "grüß".encode()) + frame(BINARY, bytes(1000))
    assert parse(data) == (len(data), ["grüß", bytes(1000)])


@pytest.mark.parametrize(
    "other",
    [
        frame(PING),
        frame(CLOSE),
        frame(TEXT, b"a", fin=False),
        frame(CONTINUATION, b"a"),
        frame(TEXT, b"a", rsv=4),
        frame(3, b"a"),
        frame(TEXT, b"a", key=None),
        frame(TEXT, b"a", key=None) + bytes(100),  # as if there were a key in front of more
        frame(TEXT, b"\xff"),
        frame(TEXT, b"a" * 101),  # beyond the limit
        frame(BINARY, b"a" * 65536, length=1 << 62)[:30],
        b"\x82\xfe\x00\x05" + bytes(9),  # two bytes of length where one would do
        b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(65539),
        frame(TEXT, b"abc")[:-1],
        frame(TEXT, b"abc")[:5],
        frame(TEXT, b"abc")[:1],
    ],
)
def test_it_stops_in_front_of_anything_that_is_not_simple(other: bytes) -> None:
    data = b"??" + frame(TEXT, b"first") + other
    assert parse(data, 2, limit=100) == (len(data) - len(other), ["first"])


@pytest.mark.parametrize("length", LENGTHS)
def test_a_header_is_measured_only_when_it_is_complete(length: int) -> None:
    data = frame(BINARY, bytes(length))
    start = len(data) - length
    for cut in range(start):
        assert frames.read_header(b"?" + data[:cut], 1) is None
    assert frames.read_header(b"?" + data[:start], 1) == (start + 1, length)


@pytest.mark.parametrize(
    "header",
    [
        b"\x83\x80",  # reserved opcode
        b"\x8b\x80",
        b"\x09\x80",  # fragmented ping
        b"\x89\xfe",  # ping of more than 125 bytes
        b"\xc1\x80",  # RSV1
        b"\x91\x80",
        b"\x81\x00",  # not masked
        b"\x81\xfe\x00\x7d",
        b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff",
        b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00",
    ],
)
def test_a_header_that_breaks_the_protocol_is_found_at_its_last_byte(header: bytes) -> None:
    assert frames.read_header(header, 0) is frames.MALFORMED
    assert frames.read_header(header[:-1], 0) is None


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_codes_that_a_close_frame_may_carry(code: int) -> None:
    assert frames.is_close_code(code)
    assert frames.parse_close(code.to_bytes(2, "big") + b"why") == (code, "why")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_a_close_frame_may_not_carry(code: int) -> None:
    assert not frames.is_close_code(code)
    assert frames.parse_close(code.to_bytes(2, "big")) is None


def test_an_empty_close_payload_means_no_status_and_one_byte_is_wrong() -> None:
    assert frames.parse_close(b"") == (1005, "")
    assert frames.close_payload(1005, "") == b""
    assert frames.parse_close(b"\x03") is None


def test_a_long_reason_is_cut_between_characters() -> None:
    payload = frames.close_payload(1000, "é" * 100)
    assert len(payload) == 2 + 122
    assert payload[2:].decode() == "é" * 61


@pytest.mark.parametrize("length", LENGTHS)
def test_frames_are_written_in_the_shortest_form(length: int) -> None:
    assert frames.binary_frame(b"x" * length) == server_frame(BINARY, b"x" * length)
    assert frames.text_frame("x" * length) == server_frame(TEXT, b"x" * length)
    assert frames.encoded_text_frame(b"x" * length) == server_frame(TEXT, b"x" * length)


@given(st.lists(st.text() | st.binary()))
def test_what_is_written_is_what_was_given(messages: list[str | bytes]) -> None:
    written = b"".join(frames.text_frame(m) if isinstance(m, str) else frames.binary_frame(m) for m in messages)
    read = [str(payload, "utf-8") if opcode == TEXT else payload for opcode, payload in server_frames(written)]
    assert read == messages


@given(st.lists(st.text() | st.binary()), st.binary(min_size=4, max_size=4))
def test_what_a_client_sends_is_what_is_read(messages: list[str | bytes], key: bytes) -> None:
    data = b"".join(
        frame(TEXT, m.encode(), key=key) if isinstance(m, str) else frame(BINARY, m, key=key) for m in messages
    )
    assert parse(data) == (len(data), messages)
