"""The JSON hub protocol: framing, parsing in any order, terminal errors, exact bytes written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

from engine.errors import LimitExceeded, RemoteProtocolError
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import (
    Ack,
    BindingError,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Malformed,
    MessageReader,
    Ping,
    SequenceStart,
    StreamInvocation,
    StreamItem,
)

PROTOCOL = JsonHubProtocol()
RS = b"\x1e"


def events(*chunks: bytes, limit: float = 32768) -> list[Any]:
    reader = PROTOCOL.reader(limit)
    for chunk in chunks:
        reader.receive_data(chunk)
    return take(reader)


def take(reader: MessageReader) -> list[Any]:
    found = []
    while (event := reader.next_event()) is not None:
        found.append(event)
    return found


def only(data: bytes) -> Any:
    (event,) = events(data + RS)
    return event


def test_every_type_is_parsed() -> None:
    call = only(b'{"type":1,"headers":{"a":"b"},"invocationId":"7","target":"T","arguments":[1],"streamIds":["s"]}')
    assert isinstance(call, Invocation)
    assert (call.target, call.invocation_id, call.stream_ids, call.headers) == ("T", "7", ("s",), {"a": "b"})
    assert bytes(call.arguments) == b"[1]"
    stream = only(b'{"type":4,"invocationId":"7","target":"T","arguments":[]}')
    assert isinstance(stream, StreamInvocation)
    item = only(b'{"type":2,"invocationId":"7","item":{"a":1}}')
    assert isinstance(item, StreamItem)
    assert bytes(item.item) == b'{"a":1}'
    done = only(b'{"type":3,"invocationId":"7","result":null}')
    assert isinstance(done, Completion)
    assert done.result is not None
    assert bytes(done.result) == b"null"
    assert only(b'{"type":3,"invocationId":"7"}') == Completion("7")
    assert only(b'{"type":3,"invocationId":"7","error":"e"}') == Completion("7", error="e")
    assert only(b'{"type":5,"invocationId":"7"}') == CancelInvocation("7")
    assert only(b'{"type":6}') == Ping()
    assert only(b'{"type":7}') == Close()
    assert only(b'{"type":7,"error":"e","allowReconnect":true}') == Close("e", allow_reconnect=True)
    assert only(b'{"type":8,"sequenceId":9}') == Ack(9)
    assert only(b'{"type":9,"sequenceId":3}') == SequenceStart(3)


def test_members_come_in_any_order_and_unknown_ones_are_skipped() -> None:
    call = only(b'{"arguments":[1,[2]],"x":{"y":[1]},"target":"T","type":1}')
    assert (call.target, bytes(call.arguments), call.invocation_id) == ("T", b"[1,[2]]", None)


def test_the_last_of_duplicate_members_wins() -> None:
    assert only(b'{"type":5,"invocationId":"6","invocationId":"7"}') == CancelInvocation("7")


def test_unknown_types_are_ignored_and_the_next_message_is_found() -> None:
    assert events(b'{"type":42,"anything":1}\x1e{"type":-1}\x1e{"type":6}\x1e') == [Ping()]
    assert events(b'{"invocationId":[5],"error":{},"type":42}\x1e{"type":6}\x1e') == [Ping()]


def test_an_empty_invocation_id_is_none() -> None:
    assert only(b'{"type":1,"invocationId":"","target":"T","arguments":[]}').invocation_id is None


def test_frame_boundaries_mean_nothing() -> None:
    data = b'{"type":6}\x1e{"type":5,"invocationId":"7"}\x1e{"type":7}\x1e'
    whole = events(data)
    assert whole == [Ping(), CancelInvocation("7"), Close()]
    assert events(*(data[index : index + 1] for index in range(len(data)))) == whole
    assert events(data[:15], data[15:]) == whole


MALFORMED = [
    b"", b"x", b"[]", b"1", b"null", b"{}", b'{"type":"1"}', b'{"type":null}', b'{"type":1.5}', b'{"type":6,}',
    b'{"type":6/* */}', b'{"Type":6}', b'{"type":6}{', b'\xef\xbb\xbf{"type":6}',
    b'{"type":1,"arguments":[]}', b'{"type":1,"target":null,"arguments":[]}', b'{"type":1,"target":"T"}',
    b'{"type":1,"target":"T","arguments":{}}', b'{"type":1,"target":"T","arguments":null}',
    b'{"type":1,"target":"T","arguments":[1,]}', b'{"type":1,"invocationId":7,"target":"T","arguments":[]}',
    b'{"type":1,"target":"T","arguments":[],"streamIds":"s"}', b'{"type":1,"target":"T","arguments":[],"headers":"h"}',
    b'{"type":4,"target":"T","arguments":[]}', b'{"type":4,"invocationId":"","target":"T","arguments":[]}',
    b'{"type":2,"invocationId":"7"}', b'{"type":2,"item":1}', b'{"type":3,"result":1}',
    b'{"type":3,"invocationId":"7","result":1,"error":"e"}', b'{"type":5}', b'{"type":8}', b'{"type":9}',
    b'{"type":1,"target":"T","arguments":' + b"[" * 64 + b"]" * 64 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("record", MALFORMED, ids=lambda record: record[:50].decode("latin-1"))
def test_a_malformed_message_is_terminal_and_those_before_it_are_kept(record: bytes) -> None:
    reader = PROTOCOL.reader(32768)
    reader.receive_data(b'{"type":6}\x1e' + record + b'\x1e{"type":7}\x1e')
    ping, failed = take(reader)
    assert ping == Ping()
    assert isinstance(failed, Malformed)
    assert isinstance(failed.error, RemoteProtocolError)
    assert reader.failure is failed.error
    reader.receive_data(b'{"type":6}\x1e')
    assert take(reader) == []


def test_depth_counts_brackets_outside_of_strings_only() -> None:
    text = b'{"type":1,"target":"T","arguments":["' + b"[{" * 100 + b'\\"]"]}'
    assert isinstance(only(text), Invocation)
    wide = b'{"type":1,"target":"T","arguments":[' + b",".join([b"[{}]"] * 100) + b"]}"
    assert isinstance(only(wide), Invocation)
    assert isinstance(only(b'{"type":1,"target":"T","arguments":' + b"[" * 63 + b"]" * 63 + b"}"), Invocation)


def test_a_message_may_be_as_large_as_the_limit_with_its_separator() -> None:
    record = b'{"type":6,"x":"' + b"x" * 83 + b'"}'
    assert events(record + RS, limit=len(record) + 1) == [Ping()]
    (failed,) = events(record + RS, limit=len(record))
    assert isinstance(failed.error, LimitExceeded)
    assert "signalr.max_message_size" in str(failed.error)


def test_a_record_without_an_end_is_refused_once_it_is_over_the_limit() -> None:
    assert events(b"x" * 60, b"x" * 40, limit=100) == []
    (failed,) = events(b"x" * 60, b"x" * 41, limit=100)
    assert isinstance(failed.error, LimitExceeded)


def test_the_limit_is_of_a_message_and_not_of_a_chunk() -> None:
    assert len(events(b'{"type":6}\x1e' * 1000, limit=20)) == 1000


def test_half_a_message_at_the_end_is_an_error() -> None:
    reader = PROTOCOL.reader(100)
    reader.receive_data(b'{"type":6}\x1e{"ty')
    reader.receive_eof()
    assert take(reader)[1] == Malformed(reader.failure)  # type: ignore[arg-type]
    assert str(reader.failure) == "Connection terminated while reading a message."
    clean = PROTOCOL.reader(100)
    clean.receive_data(b'{"type":6}\x1e')
    clean.receive_eof()
    assert clean.failure is None


def test_invalid_utf8_becomes_the_replacement_character() -> None:
    call = only(b'{"type":1,"target":"T\xff","arguments":["\xff"]}')
    assert call.target == "T\ufffd"
    assert PROTOCOL.argument_decoder([str])(call.arguments) == ("\ufffd",)
    late = only(b'{"type":1,"target":"T","arguments":["\xff"]}')
    assert PROTOCOL.argument_decoder([str])(late.arguments) == ("\ufffd",)
    assert PROTOCOL.decode(msgspec.Raw(b'"\xff"')) == "\ufffd"


# -- arguments -----------------------------------------------------------------


@dataclass
class Point:
    x: int
    y: float = 0.5


def bind(types: list[Any], arguments: bytes) -> tuple[Any, ...]:
    return PROTOCOL.argument_decoder(types)(msgspec.Raw(arguments))


def test_arguments_are_decoded_into_their_types() -> None:
    when = datetime(2024, 2, 29, 12, 30, 45, 123000, tzinfo=UTC)
    values = bind(
        [int, bytes, datetime, Point, list[str], Any, str | None],
        b'[9007199254740993,"AQID","2024-02-29T12:30:45.123Z",{"x":1},["a"],{"k":[1]},null]',
    )
    assert values == (9007199254740993, b"\1\2\3", when, Point(1), ["a"], {"k": [1]}, None)
    assert bind([], b"[]") == ()


@pytest.mark.parametrize(
    ("arguments", "count"), [(b"[1]", 1), (b"[1,2,3]", 3), (b'["x",2]', 2), (b"[null,2]", 2), (b"[1.5,2]", 2)]
)
def test_arguments_that_do_not_fit_are_counted(arguments: bytes, count: int) -> None:
    with pytest.raises(BindingError) as caught:
        bind([int, int], arguments)
    assert caught.value.count == count


def test_arguments_that_do_not_fit_are_counted_also_with_invalid_utf8() -> None:
    with pytest.raises(BindingError) as caught:
        bind([], b'["\x80"]')
    assert caught.value.count == 1


def test_arguments_that_are_no_json_are_the_peers_fault() -> None:
    with pytest.raises(RemoteProtocolError):
        bind([Any], b'["\\ud800"]')
    with pytest.raises(RemoteProtocolError):
        PROTOCOL.decode(msgspec.Raw(b'"\\ud800"'))


# -- writing -------------------------------------------------------------------


def test_messages_are_written_as_aspnet_core_writes_them() -> None:
    assert PROTOCOL.ping == b'{"type":6}\x1e'
    assert PROTOCOL.result("7", None) == b'{"type":3,"invocationId":"7","result":null}\x1e'
    assert PROTOCOL.result('"', [1, "é"]) == '{"type":3,"invocationId":"\\"","result":[1,"é"]}\x1e'.encode()
    assert PROTOCOL.finished("7") == b'{"type":3,"invocationId":"7"}\x1e'
    assert PROTOCOL.error("7", "e") == b'{"type":3,"invocationId":"7","error":"e"}\x1e'
    assert PROTOCOL.stream_item("7", 0) == b'{"type":2,"invocationId":"7","item":0}\x1e'
    assert PROTOCOL.cancel("7") == b'{"type":5,"invocationId":"7"}\x1e'
    assert PROTOCOL.invocation("M", (1, "b")) == b'{"type":1,"target":"M","arguments":[1,"b"]}\x1e'
    assert PROTOCOL.invocation("M", [], "s1") == b'{"type":1,"invocationId":"s1","target":"M","arguments":[]}\x1e'
    assert PROTOCOL.invocation("M", [], "1", stream=True).startswith(b'{"type":4,"invocationId":"1",')
    assert PROTOCOL.close() == b'{"type":7}\x1e'
    assert PROTOCOL.close("e") == b'{"type":7,"error":"e"}\x1e'
    assert PROTOCOL.close("e", allow_reconnect=True) == b'{"type":7,"error":"e","allowReconnect":true}\x1e'


def result(value: Any) -> str:
    return (
        PROTOCOL.result("7", value)
        .decode()
        .removeprefix('{"type":3,"invocationId":"7","result":')
        .removesuffix("}\x1e")
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2024, 2, 29, 12, 30, 45, 123000, tzinfo=UTC), '"2024-02-29T12:30:45.123Z"'),
        (datetime(2024, 2, 29, 12, 30, 45, 123456, tzinfo=UTC), '"2024-02-29T12:30:45.123456Z"'),
        (datetime(2024, 2, 29, tzinfo=UTC), '"2024-02-29T00:00:00Z"'),
        (datetime(2024, 2, 29, 0, 0, 0, 500000, tzinfo=timezone(timedelta(hours=2))), '"2024-02-29T00:00:00.5+02:00"'),
        ({"at": [datetime(2024, 2, 29, 0, 0, 0, 10, tzinfo=UTC)]}, '{"at":["2024-02-29T00:00:00.00001Z"]}'),
        (["a .000000 b", 'x.123450"'], '["a .000000 b","x.123450\\""]'),
        (b"\1\2\3", '"AQID"'),
        ([datetime(2024, 1, 1, 0, 0, 0, 100000, tzinfo=UTC), b"\1"], '["2024-01-01T00:00:00.1Z","AQ=="]'),
        (2**63, "9223372036854775808"),
        (Point(1), '{"x":1,"y":0.5}'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (("a", 1.5, None, True), '["a",1.5,null,true]'),
    ],
)
def test_values_have_the_form_of_system_text_json(value: Any, text: str) -> None:
    assert result(value) == text


def test_text_that_is_no_unicode_can_still_be_told_in_an_error() -> None:
    assert PROTOCOL.error("7", "\ud800") == b'{"type":3,"invocationId":"7","error":"?"}\x1e'


@pytest.mark.parametrize("value", [object(), "\ud800", {1, object()}])
def test_a_value_without_a_form_raises(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        PROTOCOL.result("7", value)


def test_a_type_that_nothing_decodes_into_is_found_when_the_decoder_is_made() -> None:
    with pytest.raises(TypeError):
        PROTOCOL.argument_decoder([int | Point | dict[int, complex] | list[int] | set[int]])


def test_what_a_client_and_stateful_reconnect_write_is_as_the_others_write_it() -> None:
    protocol = JsonHubProtocol()
    assert protocol.invocation("M", [1], "7", stream_ids=["s1", "s2"]) == (
        b'{"type":1,"invocationId":"7","target":"M","arguments":[1],"streamIds":["s1","s2"]}\x1e'
    )
    assert protocol.ack(3) == b'{"type":8,"sequenceId":3}\x1e'
    assert protocol.sequence(4) == b'{"type":9,"sequenceId":4}\x1e'
