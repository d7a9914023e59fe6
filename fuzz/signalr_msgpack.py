"""The MessagePack hub protocol never raises for bytes, ends at its first error, and does not care about chunks."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from engine.errors import RemoteProtocolError
from engine.wire.signalr.messages import BindingError, Completion, Invocation, Malformed, StreamInvocation, StreamItem
from engine.wire.signalr.msgpack import MsgpackHubProtocol

LIMIT = 4096

SEEDS: list[bytes] = [
    bytes.fromhex("12960181a161a162a137a64e6f417267739090029106"),
    bytes.fromhex("20960180a137a94563686f546872656593ffceb2d05e00cb3ff80000000000009091a173"),
    bytes.fromhex("16960180a137a74164644461797392d6ff65de77800190"),
    bytes.fromhex(
        "54960180a137a94563686f54797065649187a2496401a44e616d65a16ea553636f7265cb4004000000000000a45461677391a161"
    )
    + bytes.fromhex("a45768656ed7ff1d53530065e078f5a4426c6f62c403010203a54368696c64c090"),
    bytes.fromhex(
        "07940280a2733128 07940380a2733102 0c950380a2733101a46d696e65 05930580a137 9307c0c3 03920801 03920902"
    ),
    bytes.fromhex(
        "0c940180a137a64e6f41726773 0e960180a137a64e6f417267738090 0391060103920601 0f960180a137a2ff4191a2ff4190"
    ),
    bytes.fromhex("8080808001 0180 0190 00 01c1 808080808001"),
    b"\x88\x01\x96\x01\x80\xa17\xa1T" + b"\x91" * 127 + b"\x01\x90",
]

_PROTOCOL = MsgpackHubProtocol()
_BINDERS = [_PROTOCOL.argument_decoder(types) for types in ([], [Any], [int, str], [list[float], bytes, str | None])]


def _parse(chunks: list[bytes]) -> list[Any]:
    reader = _PROTOCOL.reader(LIMIT)
    events: list[Any] = []
    for chunk in chunks:
        reader.receive_data(chunk)
        assert reader._size <= LIMIT, "more than the limit is kept"
        assert reader._size == sum(map(len, reader._chunks))
        while (event := reader.next_event()) is not None:
            assert not events or not isinstance(events[-1], Malformed), "an event behind the terminal one"
            events.append(event)
    assert (reader.failure is not None) == bool(events and isinstance(events[-1], Malformed))
    return events


def _shape(event: Any) -> Any:
    """What can be compared: errors and raw values have no equality of their own."""
    if isinstance(event, Malformed):
        return "malformed"
    return type(event), tuple(
        bytes(value) if isinstance(value, msgspec.Raw) else value
        for value in (getattr(event, name) for name in event.__struct_fields__)
    )


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    whole = _parse([data])
    size = 1 + len(data) % 7
    pieces = _parse([data[start : start + size] for start in range(0, len(data), size)])
    assert [_shape(each) for each in whole] == [_shape(each) for each in pieces], "chunks change the messages"
    for event in whole:
        if isinstance(event, Invocation | StreamInvocation):
            for bind in _BINDERS:
                with contextlib.suppress(BindingError, RemoteProtocolError):
                    assert isinstance(bind(event.arguments), tuple)
        value = event.item if isinstance(event, StreamItem) else event.result if isinstance(event, Completion) else None
        if value is not None:
            with contextlib.suppress(RemoteProtocolError, msgspec.ValidationError):
                _write(_PROTOCOL.decode(value))


def _write(value: Any) -> None:
    """What was read can be written, and reads as the same again."""
    frame = _PROTOCOL.result("7", value)
    (event,) = _parse_unlimited(frame)
    assert _PROTOCOL.result("7", _PROTOCOL.decode(event.result)) == frame


def _parse_unlimited(frame: bytes) -> list[Any]:
    reader = _PROTOCOL.reader(float("inf"))
    reader.receive_data(frame)
    return list(iter(reader.next_event, None))
