"""The client's handshake: the request it sends, and every answer that it must not accept."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Http1Config, WebSocketConfig
from engine.errors import ConnectionClosed, LimitExceeded, LocalProtocolError, RemoteProtocolError
from engine.wire.websocket.client_handshake import (
    MAX_REJECTION_BODY,
    ClientHandshake,
    HandshakeFailed,
    Offered,
    Opened,
    Rejected,
    check_agreement,
)
from engine.wire.websocket.deflate import Agreement

NONCE = b"the sample nonce"  # RFC 6455 section 1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GOOD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"
    % ACCEPT
)


def offer(**changes: object) -> Offered:
    return dataclasses.replace(
        Offered(b"example.com", b"/chat", subprotocols=("a", "b"), config=WebSocketConfig()), **changes
    )


def outcome(answer: bytes, offered: Offered | None = None, *, step: int = 0, eof: bool = True) -> object:
    """What the answer comes to; `step`: cut into pieces of so many bytes."""
    core = ClientHandshake(offered or offer(), NONCE, Http1Config())
    for start in range(0, len(answer), step or len(answer) or 1):
        core.receive_data(answer[start : start + (step or len(answer))])
    if eof:
        core.receive_eof()
    event = core.next_event()
    assert core.next_event() is None
    return event


def failure(answer: bytes, offered: Offered | None = None) -> str:
    event = outcome(answer, offered)
    assert isinstance(event, HandshakeFailed)
    assert outcome(answer, offered, step=1) is not None
    return str(event.error)


def test_the_request_has_all_that_the_rfc_asks_for() -> None:
    core = ClientHandshake(offer(headers=((b"origin", b"http://example.com"),)), NONCE, Http1Config())
    assert core.data_to_send() == (
        b"GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-protocol: a, b\r\n"
        b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=12; client_max_window_bits=12, "
        b"permessage-deflate; client_max_window_bits=12\r\n"
        b"origin: http://example.com\r\n\r\n"
    )
    assert core.data_to_send() == b""


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_good_answer_opens_and_what_follows_it_is_handed_on(step: int) -> None:
    answer = GOOD + b"sec-websocket-protocol: b\r\n\r\n"
    event = outcome(answer, step=step)
    assert isinstance(event, Opened)
    assert (event.subprotocol, event.agreed, event.trailing) == ("b", None, b"")
    assert outcome(answer + b"\x81\x00", eof=False).trailing == b"\x81\x00"


def test_field_names_tokens_and_blanks_are_read_leniently_where_they_may_be() -> None:
    answer = (
        b"HTTP/1.1 101 \r\nUPGRADE:WebSocket\r\nconnection: keep-alive,  UPGRADE\r\nsec-websocket-accept:  %s  \r\n\r\n"
    )
    assert isinstance(outcome(answer % ACCEPT), Opened)


def test_informational_answers_before_the_switch_are_skipped() -> None:
    assert isinstance(outcome(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + GOOD + b"\r\n"), Opened)
    assert "informational" in failure(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"Upgrade: websocket\r\n", b"", "Upgrade field"),
        (b"Upgrade: websocket", b"Upgrade: h2c", "Upgrade field"),
        (b"Connection: Upgrade\r\n", b"", "Connection field"),
        (b"Connection: Upgrade", b"Connection: close", "Connection field"),
        (b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n", b"", "Sec-WebSocket-Accept"),
        (ACCEPT, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOO=", "Sec-WebSocket-Accept"),
        (ACCEPT, ACCEPT.lower(), "Sec-WebSocket-Accept"),
        (ACCEPT, ACCEPT + b"\r\nSec-WebSocket-Accept: " + ACCEPT, "Sec-WebSocket-Accept"),
        (b"HTTP/1.1", b"HTTP/1.0", "HTTP/1.0"),
        (b"HTTP/1.1", b"HTTP/2.0", "not HTTP/1"),
        (b"HTTP/1.1 101", b"SSH-2.0-OpenSSH", "not HTTP/1"),
        (b" 101 ", b" 1010 ", "status line"),
        (b"Upgrade:", b"Upgrade :", "field line"),
        (b"Upgrade: ", b" Upgrade: ", "field line"),
        (b"\r\nUpgrade", b"\nUpgrade", "bare LF"),
        (b"websocket", b"web\x00socket", "control character"),
    ],
)
def test_an_answer_that_breaks_a_rule_is_not_accepted(old: bytes, new: bytes, why: str) -> None:
    answer = GOOD.replace(old, new, 1) + b"\r\n"
    assert answer != GOOD + b"\r\n"
    assert why in failure(answer)


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (b"sec-websocket-protocol: c", "'c', which was not offered"),
        (b"sec-websocket-protocol: A", "'A', which was not offered"),
        (b"sec-websocket-protocol: a, b", "not offered"),
        (b"sec-websocket-protocol:", "not offered"),
        (b"sec-websocket-protocol: \xff", "not offered"),
        (b"sec-websocket-protocol: a\r\nsec-websocket-protocol: a", "more than one"),
        (b"sec-websocket-extensions: foo", "'foo' was not offered"),
        (b"sec-websocket-extensions: permessage-deflate, foo", "'foo' was not offered"),
        (b"sec-websocket-extensions: permessage-deflate, permessage-deflate", "more than once"),
        (b"sec-websocket-extensions: ;", "a token is missing"),
        (b"sec-websocket-extensions: permessage-deflate; x", "parameter x"),
        (b"sec-websocket-extensions: permessage-deflate; server_max_window_bits", "server_max_window_bits=None"),
        (b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=13", "more than was offered"),
        (b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=08", "server_max_window_bits=08"),
        (b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=7", "server_max_window_bits=7"),
        (b"sec-websocket-extensions: permessage-deflate; client_max_window_bits=16", "client_max_window_bits=16"),
        (b"sec-websocket-extensions: permessage-deflate; client_max_window_bits", "client_max_window_bits=None"),
        (b"sec-websocket-extensions: permessage-deflate; server_no_context_takeover=1", "takeover=1"),
        (
            b"sec-websocket-extensions: permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "repeated",
        ),
    ],
)
def test_what_was_not_offered_is_not_accepted(field: bytes, why: str) -> None:
    assert why in failure(GOOD + field + b"\r\n\r\n")


def test_no_extension_is_accepted_where_none_was_offered() -> None:
    answer = GOOD + b"sec-websocket-extensions: permessage-deflate\r\n\r\n"
    assert "was not offered" in failure(answer, offer(config=None))
    assert "was not offered" in failure(answer, offer(config=WebSocketConfig(compression=False)))


@pytest.mark.parametrize(
    ("parameters", "agreement"),
    [
        (b"", Agreement(True, True, 15, 12)),
        (b"; server_no_context_takeover", Agreement(False, True, 15, 12)),
        (b"; client_no_context_takeover", Agreement(True, False, 15, 12)),
        (b"; client_max_window_bits=15", Agreement(True, True, 15, 12)),
        (b'; server_max_window_bits="10"; client_max_window_bits=9', Agreement(True, True, 10, 9)),
    ],
)
def test_the_servers_choice_of_parameters_is_taken(parameters: bytes, agreement: Agreement) -> None:
    event = outcome(GOOD + b"sec-websocket-extensions: permessage-deflate" + parameters + b"\r\n\r\n")
    assert isinstance(event, Opened)
    assert event.agreed == agreement


def test_a_server_must_grant_no_context_takeover_where_it_was_asked_for() -> None:
    offered = offer(config=WebSocketConfig(server_context_takeover=False))
    answer = GOOD + b"sec-websocket-extensions: permessage-deflate\r\n\r\n"
    assert "not granted" in failure(answer, offered)


def test_an_answer_over_http2_needs_no_accept() -> None:
    assert check_agreement([(b"sec-websocket-protocol", b"a")], offer()).subprotocol == "a"
    with pytest.raises(RemoteProtocolError):
        check_agreement([(b"sec-websocket-protocol", b"c")], offer())


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"content-length: 5\r\n\r\nhellomore", b"hello"),
        (b"content-length: 0\r\n\r\n", b""),
        (b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\nXX\r\n", b"he"),
        (b"content-length: 9\r\n\r\nhello", b"hello"),
        (b"\r\nhello", b"hello"),
        (b"\r\n" + b"x" * MAX_REJECTION_BODY + b"y", b"x" * MAX_REJECTION_BODY),
    ],
)
def test_a_rejection_takes_the_beginning_of_its_body_along(answer: bytes, body: bytes, step: int) -> None:
    event = outcome(b"HTTP/1.1 403 Forbidden\r\nx: y\r\n" + answer, step=step)
    assert isinstance(event, Rejected)
    assert (event.status, event.headers[0], event.body) == (403, (b"x", b"y"), body)


def test_the_body_of_a_rejection_need_not_be_waited_for() -> None:
    core = ClientHandshake(offer(), NONCE, Http1Config())
    core.receive_data(b"HTTP/1.1 500 Oops\r\n\r\nhe")
    assert core.in_rejection
    assert core.next_event() is None
    core.receive_eof()
    assert core.next_event() == Rejected(500, [], b"he")
    assert not core.in_rejection


def test_a_204_has_no_body() -> None:
    assert outcome(b"HTTP/1.1 204 No\r\n\r\nx", eof=False) == Rejected(204, [], b"")


def test_an_end_without_an_answer_is_a_lost_connection() -> None:
    for answer in (b"", b"HTTP/1.1 101"):
        event = outcome(answer)
        assert isinstance(event, HandshakeFailed)
        assert isinstance(event.error, ConnectionClosed)


def test_a_head_over_a_limit_is_refused() -> None:
    big = outcome(b"HTTP/1.1 101 x\r\n" + b"a: b\r\n" * 10_000, eof=False)
    assert isinstance(big, HandshakeFailed)
    assert isinstance(big.error, LimitExceeded)
    assert "max_fields" in failure(b"HTTP/1.1 101 x\r\n" + b"a: b\r\n" * 101 + b"\r\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": ((b"x", b"a\r\nb: c"),)},
        {"headers": ((b"X", b"y"),)},
        {"headers": ((b"host", b"y"),)},
        {"headers": ((b"sec-websocket-key", b"y"),)},
        {"subprotocols": ("a b",)},
        {"subprotocols": ("a", "a")},
    ],
)
def test_what_may_not_be_sent_is_refused_at_once(changes: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        offer(**changes)


def test_a_nonce_has_sixteen_bytes() -> None:
    with pytest.raises(LocalProtocolError):
        ClientHandshake(offer(), b"short", Http1Config())


@given(st.data())
def test_the_outcome_does_not_depend_on_how_the_answer_is_cut(data: st.DataObject) -> None:
    answer = data.draw(
        st.sampled_from(
            [
                GOOD + b"\r\n\x81\x01x",
                GOOD + b"bad\r\n\r\n",
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nabc",
                b"HTTP/1.1 404 x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n",
            ]
        )
    )
    core = ClientHandshake(offer(), NONCE, Http1Config())
    rest, trailing = answer, b""
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        core.receive_data(rest[:size])
        rest = rest[size:]
        event = core.next_event()
        if isinstance(event, Opened):
            trailing = event.trailing + rest
            break
        if event is not None:
            assert repr(event) == repr(outcome(answer))
            return
    else:
        core.receive_eof()
        event = core.next_event()
    whole = outcome(answer)
    if isinstance(whole, Opened):
        assert isinstance(event, Opened)
        assert whole.trailing == trailing
    else:
        assert repr(event) == repr(whole)
