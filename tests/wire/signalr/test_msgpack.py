"""The MessagePack hub protocol, byte by byte: framing, what is refused, and what is written."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from engine.errors import LimitExceeded, RemoteProtocolError
from engine.wire.signalr.messages import (
    Ack,
    BindingError,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Malformed,
    Ping,
    SequenceStart,
    StreamInvocation,
    StreamItem,
)
from engine.wire.signalr.msgpack import MsgpackHubProtocol, parse_message

PROTOCOL = MsgpackHubProtocol()
NO_ARGS = bytes.fromhex("960180a137a64e6f417267739090")


def read(data: bytes, limit: float = 32_768) -> list[Any]:
    reader = PROTOCOL.reader(limit)
    reader.receive_data(data)
    return list(iter(reader.next_event, None))


def bare(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


def framed(message: Any) -> bytes:
    return varint(len(bare(message))) + bare(message)


def varint(size: int) -> bytes:
    octets = b""
    while size >= 0x80:
        octets += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return octets + bytes((size,))


# -- framing ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_a_length_has_as_many_bytes_as_it_needs_both_ways(size: int) -> None:
    text = "x" * size
    frame = PROTOCOL.stream_item("7", text)
    message = bare([2, {}, "7", text])
    assert frame == varint(len(message)) + message
    (event,) = read(frame, math.inf)
    assert PROTOCOL.decode(event.item) == text


def test_a_message_that_trickles_in_is_read_once_it_is_whole() -> None:
    reader = PROTOCOL.reader(32_768)
    frame = framed([1, {}, "7", "Echo", ["x" * 300], []])
    for index in range(len(frame)):
        assert reader.next_event() is None
        reader.receive_data(frame[index : index + 1])
    assert isinstance(reader.next_event(), Invocation)


def test_several_messages_and_a_half_one_come_out_in_order() -> None:
    reader = PROTOCOL.reader(32_768)
    reader.receive_data(PROTOCOL.ping + framed([5, {}, "7"]) + b"\x0e\x96")
    assert [type(each) for each in iter(reader.next_event, None)] == [Ping, CancelInvocation]
    reader.receive_data(NO_ARGS[1:])
    assert isinstance(reader.next_event(), Invocation)


def test_a_message_that_is_too_large_is_refused_from_its_length() -> None:
    events = read(b"\x02\x91\x06" + varint(100), limit=50)
    assert [type(each) for each in events] == [Ping, Malformed]
    assert isinstance(events[1].error, LimitExceeded)
    assert "signalr.max_message_size" in str(events[1].error)


def test_the_limit_counts_the_length_as_well() -> None:
    frame = framed([1, {}, "7", "Echo", ["x" * 200], []])
    assert isinstance(read(frame, limit=len(frame))[0], Invocation)
    assert isinstance(read(frame, limit=len(frame) - 1)[0], Malformed)


@pytest.mark.parametrize("data", ["808080808001", "ffffffffff", "8080808010"])
def test_a_length_of_more_than_five_bytes_or_two_gib_is_malformed(data: str) -> None:
    (event,) = read(bytes.fromhex(data), math.inf)
    assert isinstance(event, Malformed)


def test_half_a_message_at_the_end_is_an_error() -> None:
    reader = PROTOCOL.reader(32_768)
    reader.receive_data(b"\x05\x93")
    reader.receive_eof()
    event = reader.next_event()
    assert isinstance(event, Malformed)
    assert str(event.error) == "Connection terminated while reading a message."


def test_nothing_comes_after_a_malformed_message() -> None:
    reader = PROTOCOL.reader(32_768)
    reader.receive_data(b"\x00" + PROTOCOL.ping)
    reader.receive_data(PROTOCOL.ping)
    reader.receive_eof()
    assert [type(each) for each in iter(reader.next_event, None)] == [Malformed]


# -- messages --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ([2, {}, "s", 5], StreamItem("s", Raw(b"\x05"))),
        ([3, {}, "7", 1, "e"], Completion("7", error="e")),
        ([3, {}, "7", 2], Completion("7")),
        ([3, {}, "7", 2, "ignored"], Completion("7")),
        ([5, {}, "7"], CancelInvocation("7")),
        ([6], Ping()),
        ([6, "more"], Ping()),
        ([7, None], Close()),
        ([7, "e", True], Close("e", True)),
        ([8, 2**40], Ack(2**40)),
        ([9, 1], SequenceStart(1)),
        ([10, "unknown"], None),
        ([300], None),
        ([-1], None),
    ],
)
def test_a_message_is_understood(message: list[Any], expected: Any) -> None:
    parsed = parse_message(bare(message))
    assert type(parsed) is type(expected)
    if isinstance(parsed, StreamItem):
        assert bytes(parsed.item) == bytes(expected.item)
    else:
        assert parsed == expected


def test_an_invocation_has_all_its_parts() -> None:
    parsed = parse_message(bare([1, {"a": "b"}, "7", "T", [1, "x"], ["s1", "s2"]]))
    assert isinstance(parsed, Invocation)
    assert (parsed.target, parsed.invocation_id, parsed.stream_ids) == ("T", "7", ("s1", "s2"))
    assert parsed.headers == {"a": "b"}
    assert PROTOCOL.decode(parsed.arguments) == [1, "x"]


@pytest.mark.parametrize("invocation_id", [None, ""])
def test_no_id_and_an_empty_one_mean_that_nobody_waits(invocation_id: str | None) -> None:
    parsed = parse_message(bare([1, {}, invocation_id, "T", [], []]))
    assert isinstance(parsed, Invocation)
    assert parsed.invocation_id is None


def test_an_array_with_a_long_header_is_an_array() -> None:
    parsed = parse_message(bytes.fromhex("dc0006") + NO_ARGS[1:])
    assert isinstance(parsed, Invocation)
    assert parse_message(bytes.fromhex("dd00000001cc06")) == Ping()


@pytest.mark.parametrize(
    "message",
    [
        [],
        ["1"],
        [1, {}, "7"],
        [1, {}, 7, "T", [], []],
        [1, None, "7", "T", [], []],
        [1, {"a": 1}, "7", "T", [], []],
        [1, {}, "7", None, [], []],
        [1, {}, "7", "T", [], None],
        [1, {}, "7", "T", [], [1]],
        [4, {}, None, "T", [], []],
        [4, {}, "", "T", [], []],
        [2, {}, "7"],
        [3, {}, "7"],
        [3, {}, "7", 4],
        [3, {}, "7", 3],
        [3, {}, "7", 1, 5],
        [5, {}],
        [5, {}, None],
        [7, 5],
        [8],
        [8, "1"],
        {},
        "text",
        None,
    ],
)
def test_what_is_malformed_ends_the_connection(message: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_message(bare(message))


def test_too_few_items_of_an_invocation_are_left_to_the_binding() -> None:
    for message in ([1, {}, "7", "T"], [1, {}, "7", "T", {}, 5], [4, {}, "7", "T", "x", []]):
        parsed = parse_message(bare(message))
        assert isinstance(parsed, Invocation | StreamInvocation)
        for types in ([], [int]):
            with pytest.raises(BindingError):
                PROTOCOL.argument_decoder(types)(parsed.arguments)


def test_bytes_behind_the_array_are_ignored() -> None:
    assert parse_message(b"\x91\x06\x01") == Ping()
    assert parse_message(NO_ARGS + b"\xff" * 9) == parse_message(NO_ARGS)


def test_nesting_without_end_is_refused() -> None:
    deep = b"\x96\x01\x80\xa17\xa1T" + b"\x91" * 30_000 + b"\x01\x90"
    with pytest.raises(RemoteProtocolError, match="nested"):
        parse_message(deep)


def test_invalid_utf_8_becomes_a_replacement_character() -> None:
    parsed = parse_message(bytes.fromhex("960180a137a2ff4191a2ff4190"))
    assert isinstance(parsed, Invocation)
    assert parsed.target == "\ufffdA"
    assert PROTOCOL.argument_decoder([str])(Raw(bytes.fromhex("91a2ff41"))) == ("\ufffdA",)
    assert PROTOCOL.decode(Raw(bytes.fromhex("92a2ff41c4 02ff41".replace(" ", "")))) == ["\ufffdA", b"\xffA"]


# -- arguments and values ----------------------------------------------------------


class Point(msgspec.Struct):
    X: int
    Y: float = 0.0


@dataclasses.dataclass
class Line:
    Start: Point
    Name: str | None = None


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, 2**63),
        (int, -(2**63)),
        (bytes, b"\x00\xff"),
        (datetime, datetime(2024, 2, 29, 12, 30, 45, 123000, tzinfo=UTC)),
        (datetime, datetime(1900, 1, 1, tzinfo=UTC)),
        (Line, Line(Point(1, 2.5), "n")),
        (dict[str, list[int]], {"a": [1]}),
        (Any, {"a": [1, None, True, "é", b"x"]}),
    ],
)
def test_values_come_through_unchanged(type_: Any, value: Any) -> None:
    (event,) = read(PROTOCOL.result("7", value))
    assert isinstance(event, Completion)
    assert event.result is not None
    assert PROTOCOL.decode(event.result, type_) == value


def test_a_datetime_is_the_timestamp_extension_in_utc() -> None:
    at_noon = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert bytes.fromhex("d6ff65928d20") in PROTOCOL.result("7", at_noon)
    assert PROTOCOL.result("7", datetime(2024, 1, 1, 10)) == PROTOCOL.result("7", at_noon)
    assert bytes.fromhex("d6ff65928d20") in PROTOCOL.result("7", {"when": [datetime(2024, 1, 1, 10)], "b": b"x"})


def test_text_that_looks_like_a_datetime_stays_text() -> None:
    (event,) = read(PROTOCOL.result("7", ["2024-01-01T10:00:00", b"x"]))
    assert PROTOCOL.decode(event.result) == ["2024-01-01T10:00:00", b"x"]


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800"])
def test_what_has_no_form_is_a_type_error_or_value_error(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        PROTOCOL.result("7", value)


def test_arguments_that_do_not_fit_tell_how_many_there_were() -> None:
    decode = PROTOCOL.argument_decoder([int, str])
    for arguments in ([1], [1, "x", 2], ["x", "x"], [1, None]):
        with pytest.raises(BindingError) as caught:
            decode(Raw(bare(arguments)))
        assert caught.value.count == len(arguments)


def test_messages_are_written_as_asp_net_core_writes_them() -> None:
    assert PROTOCOL.ping.hex() == "029106"
    assert PROTOCOL.result("7", None).hex() == "07950380a13703c0"
    assert PROTOCOL.finished("7").hex() == "06940380a13702"
    assert PROTOCOL.stream_item("7", 0).hex() == "06940280a13700"
    assert PROTOCOL.invocation("M", ["a"]).hex() == "0a960180c0a14d91a16190"
    assert PROTOCOL.invocation("M", [], "7", stream=True, stream_ids=["s"]).hex() == "0b960480a137a14d9091a173"
    assert PROTOCOL.cancel("7").hex() == "05930580a137"
    assert PROTOCOL.close().hex() == "049307c0c2"
    assert PROTOCOL.close("e", allow_reconnect=True).hex() == "059307a165c3"
    assert PROTOCOL.error("7", "e\ud800").hex() == "09950380a13701a2653f"
    assert (PROTOCOL.ack(1).hex(), PROTOCOL.sequence(2).hex()) == ("03920801", "03920902")
