"""Pydantic models bind the same way in both encodings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import BindingError, HubProtocol
from engine.wire.signalr.msgpack import MsgpackHubProtocol

pydantic = pytest.importorskip("pydantic")

WHEN = datetime(2024, 2, 29, 12, 30, 45, tzinfo=UTC)


class Child(pydantic.BaseModel):
    Blob: bytes


class Record(pydantic.BaseModel):
    Id: int
    Name: str | None
    When: datetime
    Blob: bytes
    Children: list[Child]
    Only: Child | None = None
    ByName: dict[str, bytes]


RECORD = Record(
    Id=1,
    Name=None,
    When=WHEN,
    Blob=b"\x00\xff",
    Children=[Child(Blob=b"\x01")],
    Only=Child(Blob=b"\x02"),
    ByName={"a": b"\x03"},
)


@pytest.fixture(params=[JsonHubProtocol(), MsgpackHubProtocol()], ids=["json", "messagepack"])
def protocol(request: pytest.FixtureRequest) -> HubProtocol:
    made: HubProtocol = request.param
    return made


def encoded(protocol: HubProtocol, value: Any) -> msgspec.Raw:
    reader = protocol.reader(32_768)
    reader.receive_data(protocol.invocation("T", [value]))
    event: Any = reader.next_event()
    raw: msgspec.Raw = event.arguments
    return raw


def test_a_model_comes_through_unchanged(protocol: HubProtocol) -> None:
    assert protocol.argument_decoder([Record])(encoded(protocol, RECORD)) == (RECORD,)
    assert protocol.argument_decoder([list[Record]])(encoded(protocol, [RECORD])) == ([RECORD],)


def test_a_model_and_a_struct_look_alike_on_the_wire(protocol: HubProtocol) -> None:
    class Same(msgspec.Struct):
        Blob: bytes

    assert bytes(encoded(protocol, Same(b"\x01"))) == bytes(encoded(protocol, Child(Blob=b"\x01")))


def test_what_does_not_fit_a_model_is_a_binding_error(protocol: HubProtocol) -> None:
    for value in ({"Blob": 5}, {}, "text", None):
        with pytest.raises(BindingError):
            protocol.argument_decoder([Child])(encoded(protocol, value))


def test_text_that_is_no_base64_is_a_binding_error() -> None:
    protocol = JsonHubProtocol()
    with pytest.raises(BindingError):
        protocol.argument_decoder([Child])(encoded(protocol, {"Blob": "*"}))


def test_a_type_that_nobody_knows_has_no_form(protocol: HubProtocol) -> None:
    with pytest.raises(TypeError, match="unsupported"):
        protocol.result("7", object())
