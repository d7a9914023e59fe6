"""The negotiate answer: versions, member order, transports."""

from __future__ import annotations

import pytest

from engine.wire.signalr.negotiate import (
    NegotiateRequest,
    TransportKind,
    negotiation,
    parse_negotiate,
    query_value,
    redirection,
)

ALL = tuple(TransportKind)


@pytest.mark.parametrize(
    ("query", "version"),
    [("", 0), ("negotiateVersion=0", 0), ("negotiateVersion=1", 1), ("NEGOTIATEVERSION=1", 1),
     ("negotiateVersion=7", 1), ("a=b&negotiateVersion=1", 1),
     ("negotiateVersion=%31", 1), ("negotiateVersion=+1", 1)],
)  # fmt: skip
def test_a_version_that_we_do_not_know_yet_becomes_our_newest(query: str, version: int) -> None:
    assert parse_negotiate(query) == NegotiateRequest(version)


@pytest.mark.parametrize("text", ["", "x", "1.0", "1x", "0x1", "99999999999", "\u0661"])
def test_a_version_that_is_no_int_is_refused(text: str) -> None:
    assert parse_negotiate(f"negotiateVersion={text}") == (
        b'{"error":"The client requested a non-integer protocol version."}'
    )


def test_a_version_below_the_minimum_is_refused() -> None:
    body = b'{"error":"The client requested version \'%d\', but the server does not support this version."}'
    assert parse_negotiate("negotiateVersion=-1") == body % -1
    assert parse_negotiate("", minimum_version=1) == body % 0


@pytest.mark.parametrize(("value", "wanted"), [("true", True), ("True", True), ("1", False), ("false", False)])
def test_stateful_reconnect_is_asked_for_with_a_bool(value: str, wanted: bool) -> None:
    assert parse_negotiate(f"useStatefulReconnect={value}") == NegotiateRequest(0, wanted)


TRANSPORTS = (
    b'"availableTransports":[{"transport":"WebSockets","transferFormats":["Text","Binary"]},'
    b'{"transport":"ServerSentEvents","transferFormats":["Text"]},'
    b'{"transport":"LongPolling","transferFormats":["Text","Binary"]}]}'
)


def test_version_1_has_a_token_and_version_0_has_none() -> None:
    old, new = NegotiateRequest(0), NegotiateRequest(1)
    assert negotiation(old, "ID", "ID", ALL) == b'{"negotiateVersion":0,"connectionId":"ID",' + TRANSPORTS
    assert negotiation(new, "ID", "TOKEN", ALL) == (
        b'{"negotiateVersion":1,"connectionId":"ID","connectionToken":"TOKEN",' + TRANSPORTS
    )


def test_stateful_reconnect_stands_first_where_both_sides_want_it() -> None:
    asked = NegotiateRequest(1, stateful_reconnect=True)
    assert negotiation(asked, "I", "T", ALL, stateful_reconnect=True).startswith(
        b'{"useStatefulReconnect":true,"negotiateVersion":1,'
    )
    assert negotiation(asked, "I", "T", ALL).startswith(b'{"negotiateVersion":1,')


def test_only_the_transports_that_are_offered_are_listed_in_the_fixed_order() -> None:
    body = negotiation(NegotiateRequest(0), "I", "I", [TransportKind.LONG_POLLING, TransportKind.WEB_SOCKETS])
    assert body.index(b"WebSockets") < body.index(b"LongPolling")
    assert b"ServerSentEvents" not in body


def test_a_redirection_may_carry_a_token() -> None:
    assert redirection("http://x") == b'{"url":"http://x"}'
    assert redirection("http://x", "t") == b'{"url":"http://x","accessToken":"t"}'


def test_query_names_ignore_case_and_values_do_not() -> None:
    assert query_value("ID=aB%2Bc+d&id=2", "id") == "aB+c d"
    assert query_value("x=1", "id") is None
