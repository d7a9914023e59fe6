"""The mapping table, cell by cell, and what the messages say."""

from __future__ import annotations

import math

import pytest

from engine.errors import (
    Answer,
    ConfigError,
    ConnectionClosed,
    EngineError,
    HandshakeRejected,
    Http2Code,
    HTTPError,
    HubError,
    LimitExceeded,
    LimitKind,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    RpcError,
    StartupError,
    StatusCode,
    answer_for,
)

H2, GRPC = Http2Code, StatusCode


def limit(kind: LimitKind) -> LimitExceeded:
    return LimitExceeded("x.y", 1, kind=kind)


TABLE: list[tuple[BaseException, Answer]] = [
    (limit(LimitKind.MESSAGE_SIZE), Answer(413, H2.CANCEL, 1009, GRPC.RESOURCE_EXHAUSTED, None, True)),
    (limit(LimitKind.HEAD_SIZE), Answer(431, H2.PROTOCOL_ERROR, 1009, GRPC.RESOURCE_EXHAUSTED, None, True)),
    (limit(LimitKind.TARGET_SIZE), Answer(414, H2.PROTOCOL_ERROR, 1009, GRPC.RESOURCE_EXHAUSTED, None, True)),
    (limit(LimitKind.RATE), Answer(429, H2.ENHANCE_YOUR_CALM, 1008, GRPC.RESOURCE_EXHAUSTED, None, True)),
    (limit(LimitKind.CAPACITY), Answer(503, H2.REFUSED_STREAM, 1013, GRPC.UNAVAILABLE, None, True)),
    (limit(LimitKind.TIMEOUT), Answer(408, H2.CANCEL, 1008, GRPC.DEADLINE_EXCEEDED, None, True)),
    (RemoteProtocolError("bad"), Answer(400, H2.PROTOCOL_ERROR, 1002, GRPC.INTERNAL, None, True)),
    (
        RemoteProtocolError("bad", http_status=501, http2_code=H2.FRAME_SIZE_ERROR, websocket_code=1007),
        Answer(501, H2.FRAME_SIZE_ERROR, 1007, GRPC.INTERNAL, None, True),
    ),
    (HTTPError(401), Answer(401, H2.CANCEL, 1008, GRPC.UNAUTHENTICATED, None, True)),
    (HTTPError(403), Answer(403, H2.CANCEL, 1008, GRPC.PERMISSION_DENIED, None, True)),
    (HTTPError(404), Answer(404, H2.CANCEL, 1008, GRPC.UNIMPLEMENTED, None, True)),
    (HTTPError(418), Answer(418, H2.CANCEL, 1008, GRPC.UNKNOWN, None, True)),
    (HTTPError(503), Answer(503, H2.INTERNAL_ERROR, 1011, GRPC.UNAVAILABLE, None, True)),
    (HubError("text"), Answer(500, H2.INTERNAL_ERROR, 1011, GRPC.UNKNOWN, "text", True)),
    (ConnectionClosed(1001), Answer(499, H2.CANCEL, 1001, GRPC.CANCELLED, None, False)),
    (ValueError("secret"), Answer(500, H2.INTERNAL_ERROR, 1011, GRPC.UNKNOWN, None, False)),
    (LocalProtocolError("ours"), Answer(500, H2.INTERNAL_ERROR, 1011, GRPC.UNKNOWN, None, False)),
]


@pytest.mark.parametrize(("error", "answer"), TABLE, ids=lambda value: repr(value)[:60])
def test_each_error_has_its_answer_on_each_protocol(error: BaseException, answer: Answer) -> None:
    assert answer_for(error) == answer


def test_every_kind_of_limit_has_an_answer() -> None:
    covered = {error.kind for error, _ in TABLE if isinstance(error, LimitExceeded)}
    assert covered == set(LimitKind)


# The Connect protocol's table of codes; OK is never an error.
CODES = {
    GRPC.OK: 200,
    GRPC.CANCELLED: 499,
    GRPC.UNKNOWN: 500,
    GRPC.INVALID_ARGUMENT: 400,
    GRPC.DEADLINE_EXCEEDED: 504,
    GRPC.NOT_FOUND: 404,
    GRPC.ALREADY_EXISTS: 409,
    GRPC.PERMISSION_DENIED: 403,
    GRPC.RESOURCE_EXHAUSTED: 429,
    GRPC.FAILED_PRECONDITION: 400,
    GRPC.ABORTED: 409,
    GRPC.OUT_OF_RANGE: 400,
    GRPC.UNIMPLEMENTED: 501,
    GRPC.INTERNAL: 500,
    GRPC.UNAVAILABLE: 503,
    GRPC.DATA_LOSS: 500,
    GRPC.UNAUTHENTICATED: 401,
}


@pytest.mark.parametrize("code", list(StatusCode))
def test_each_rpc_status_has_its_http_status(code: StatusCode) -> None:
    answer = answer_for(RpcError(code, "m"))
    assert (answer.http_status, answer.grpc_code, answer.public) == (CODES[code], code, True)


def test_all_errors_are_engine_errors() -> None:
    for kind in (ConfigError, ConnectionClosed, HandshakeRejected, HTTPError, HubError, LimitExceeded, ProtocolError):
        assert issubclass(kind, EngineError)
    for kind in (RpcError, StartupError):
        assert issubclass(kind, EngineError)
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)


@pytest.mark.parametrize(
    ("name", "value", "observed", "text"),
    [
        ("grpc.max_receive_message_size", 4 * 1024 * 1024, 4194305, "of 4194305 bytes exceeds {} (4 MiB)"),
        ("http2.max_header_block", 64 * 1024, None, "message size exceeds {} (64 KiB)"),
        ("http1.max_fields", 100, 101, "of 101 exceeds {} (100)"),
        ("http1.min_body_rate", 0.5, None, "exceeds {} (0.5)"),
        ("http1.max_body_size", math.inf, None, "exceeds {} (inf bytes)"),
    ],
)
def test_a_limit_error_names_the_setting_and_what_to_do(
    name: str, value: float, observed: float | None, text: str
) -> None:
    message = str(LimitExceeded(name, value, observed, kind=LimitKind.MESSAGE_SIZE))
    assert text.format(name) in message
    assert message.endswith(f"send less, or raise {name} on the server")


def test_a_closed_connection_says_how() -> None:
    assert str(ConnectionClosed(1000, "bye", clean=True)) == "connection closed: 1000 bye"
    assert str(ConnectionClosed()) == "connection lost: 1006"


def test_a_rejected_handshake_carries_the_answer() -> None:
    error = HandshakeRejected(403, [("a", "b")], b"no")
    assert (error.status, error.headers, error.body) == (403, (("a", "b"),), b"no")
    assert "403" in str(error)
