"""The hub handshake: what is accepted, and every text that refuses."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from engine.wire.signalr.handshake import HandshakeAccepted, HandshakeReader, HandshakeRefused, handshake_request
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import TransferFormat

JSON = JsonHubProtocol()
BOTH = frozenset(TransferFormat)


class BinaryProtocol(JsonHubProtocol):
    name: ClassVar[str] = "messagepack"
    transfer_format: ClassVar[TransferFormat] = TransferFormat.BINARY


PROTOCOLS = {"json": JSON, "messagepack": BinaryProtocol()}


def shake(
    *chunks: bytes, limit: float = 100, formats: frozenset[TransferFormat] = BOTH, **options: Any
) -> HandshakeAccepted | HandshakeRefused | None:
    reader = HandshakeReader(PROTOCOLS, formats, limit, **options)
    for chunk in chunks:
        reader.receive_data(chunk)
    event = reader.next_event()
    assert reader.next_event() is None
    return event


@pytest.mark.parametrize("protocol", ["json", "JSON", "Json"])
@pytest.mark.parametrize("version", [0, 1, 2, -1])
def test_json_up_to_version_2_is_accepted_in_any_case(protocol: str, version: int) -> None:
    event = shake(handshake_request(protocol, version))
    assert event == HandshakeAccepted(JSON, version, b"")
    assert isinstance(event, HandshakeAccepted)
    assert event.answer == b"{}\x1e"


def test_what_comes_behind_the_request_is_handed_on() -> None:
    event = shake(b'{"x":[{}],"version":1,"pro', b'tocol":"json"}\x1e{"type":6}\x1e{"t')
    assert event == HandshakeAccepted(JSON, 1, b'{"type":6}\x1e{"t')


def test_a_request_in_single_bytes_is_the_same_request() -> None:
    data = handshake_request("json", 1)
    assert shake(*(data[index : index + 1] for index in range(len(data)))) == HandshakeAccepted(JSON, 1, b"")


def test_an_incomplete_request_waits() -> None:
    assert shake(b'{"protocol":"json","version":1}') is None


UNEXPECTED = "An unexpected error occurred during connection handshake."


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b'{"protocol":"xml","version":1}', "The protocol 'xml' is not supported."),
        (b'{"protocol":"json","version":3}', "The server does not support version 3 of the 'json' protocol."),
        (b'{"protocol":"json"}', UNEXPECTED),
        (b'{"version":1}', UNEXPECTED),
        (b'{"protocol":"json","version":"1"}', UNEXPECTED),
        (b'{"protocol":"json","version":2147483648}', UNEXPECTED),
        (b'{"protocol":null,"version":1}', UNEXPECTED),
        (b"hello", UNEXPECTED),
        (b"[]", UNEXPECTED),
        (b"", UNEXPECTED),
        (b"x" * 100, "Handshake was canceled."),
    ],
)
def test_a_refusal_has_its_exact_text(request_: bytes, error: str) -> None:
    assert shake(request_ + b"\x1e") == HandshakeRefused(error)


def test_a_request_without_an_end_is_refused_over_the_limit() -> None:
    assert shake(b"x" * 100) is None
    assert shake(b"x" * 100, b"x") == HandshakeRefused("Handshake was canceled.")


def test_a_binary_protocol_needs_a_transport_that_carries_bytes() -> None:
    text_only = frozenset((TransferFormat.TEXT,))
    assert shake(handshake_request("messagepack", 1), formats=text_only) == HandshakeRefused(
        "Cannot use the 'messagepack' protocol on the current transport. "
        "The transport does not support 'Binary' transfer format."
    )
    assert isinstance(shake(handshake_request("messagepack", 1)), HandshakeAccepted)


def test_details_are_told_only_when_asked_for() -> None:
    event = shake(b"hello\x1e", detailed=True)
    assert isinstance(event, HandshakeRefused)
    assert event.error.startswith(UNEXPECTED + " DecodeError: ")


def test_the_answer_of_a_refusal_is_json() -> None:
    assert HandshakeRefused("The protocol '\"' is not supported.").answer == (
        b'{"error":"The protocol \'\\"\' is not supported."}\x1e'
    )


def test_bytes_behind_the_outcome_are_discarded() -> None:
    reader = HandshakeReader(PROTOCOLS, BOTH, 100)
    reader.receive_data(b"\x1e")
    reader.receive_data(handshake_request("json", 1))
    assert isinstance(reader.next_event(), HandshakeRefused)
    assert reader.next_event() is None
