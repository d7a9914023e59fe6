"""The client's half of the WebSocket opening handshake (RFC 6455 section 4.1, RFC 8441 section 5).

Owns: the request, the reading of the answer over HTTP/1.1, and every check that a client must make of
it, whichever HTTP it came over. Never does I/O and makes no randomness: the caller gives the nonce.

Theory of operation. `engine.wire.http1_response` reads the head of the answer. 101 ends this machine's
work, with the bytes behind it handed on. Any other final status is a rejection, which takes the first
bytes of its body with it; a body that breaks its framing just ends there, since the connection is
closed anyway.

Fields are pairs of bytes with names in lower case, as in `engine.transport.exchange`.
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import Http1Config, WebSocketConfig
from engine.errors import ConnectionClosed, LimitExceeded, LocalProtocolError, RemoteProtocolError
from engine.wire.http1_chunks import ChunkReader
from engine.wire.http1_head import HeadLimits
from engine.wire.http1_response import ResponseHeadReader
from engine.wire.websocket.client_deflate import check_answer, offer
from engine.wire.websocket.deflate import Agreement
from engine.wire.websocket.handshake import accept_token, is_token

Fields = Sequence[tuple[bytes, bytes]]

MAX_REJECTION_BODY = 16 * 1024  # bytes kept of why a server said no; enough for any page of an error

_FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    b"host upgrade connection sec-websocket-key sec-websocket-version sec-websocket-protocol "
    b"sec-websocket-extensions content-length transfer-encoding".split()
)


@dataclass(frozen=True, slots=True)
class Offered:
    """What a client asks for.

    Attributes:
        authority: the value of Host or `:authority`.
        target: path and query, as sent.
        headers: further fields of the request; names in lower case.
        subprotocols: in the order of preference.
        config: whether and how to compress; None: no extension is offered.
    """

    authority: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    subprotocols: tuple[str, ...] = ()
    config: WebSocketConfig | None = None

    def __post_init__(self) -> None:
        for name, value in self.headers:
            if _FIELD_NAME.fullmatch(name) is None or _FIELD_VALUE.fullmatch(value) is None:
                raise LocalProtocolError(f"header field {name!r}: {value!r}; use a lower-case token and no line ends")
            if name in _OURS:
                raise LocalProtocolError(f"header field {name.decode()!r} is the handshake's own; leave it out")
        for subprotocol in self.subprotocols:
            if not is_token(subprotocol):
                raise LocalProtocolError(f"subprotocol {subprotocol!r}; give a token (RFC 9110 5.6.2)")
        if len(set(self.subprotocols)) != len(self.subprotocols):
            raise LocalProtocolError(f"subprotocols {self.subprotocols}; name each once (RFC 6455 4.1)")

    def common_fields(self) -> list[tuple[bytes, bytes]]:
        """What both kinds of handshake send."""
        fields = [(b"sec-websocket-version", b"13")]
        if self.subprotocols:
            fields.append((b"sec-websocket-protocol", ", ".join(self.subprotocols).encode("ascii")))
        if self.config is not None and self.config.compression:
            fields.append((b"sec-websocket-extensions", offer(self.config).encode("ascii")))
        return [*fields, *self.headers]

    def connect_fields(self, scheme: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """The head of an extended CONNECT (RFC 8441 section 5); `scheme` is that of HTTP."""
        return (
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", scheme),
            (b":path", self.target),
            (b":authority", self.authority),
            *self.common_fields(),
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """The server agreed. Terminal.

    Attributes:
        headers: the fields of its answer.
        subprotocol: the one it chose, or None.
        agreed: how messages are compressed, or None.
        trailing: bytes that came behind the answer: the first frames.
    """

    headers: Fields
    subprotocol: str | None
    agreed: Agreement | None
    trailing: bytes = b""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server gave another answer. Terminal; `body` is the beginning of it."""

    status: int
    headers: Fields
    body: bytes


@dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """What came is no answer, or one that a client must not accept. Terminal."""

    error: RemoteProtocolError | LimitExceeded | ConnectionClosed


Event = Opened | Rejected | HandshakeFailed


def check_switch(fields: Fields, offered: Offered, accept: bytes) -> Opened:
    """Judge a 101 (RFC 6455 section 4.1, "the client MUST validate the server's response").

    Args:
        fields: of the response.
        offered: the request.
        accept: what Sec-WebSocket-Accept must be.

    Raises:
        RemoteProtocolError: a client must fail the connection.
    """
    if b"websocket" not in _lower_elements(fields, b"upgrade"):
        raise _violation("its Upgrade field does not say websocket")
    if b"upgrade" not in _lower_elements(fields, b"connection"):
        raise _violation("its Connection field does not say upgrade")
    accepts = _values(fields, b"sec-websocket-accept")
    if accepts != [accept]:
        raise _violation("its Sec-WebSocket-Accept is not made of our key; something on the way answers for the server")
    return check_agreement(fields, offered)


def check_agreement(fields: Fields, offered: Offered) -> Opened:
    """Judge the subprotocol and the extensions of an answer, over any HTTP.

    Raises:
        RemoteProtocolError: the server chose what was not offered.
    """
    subprotocols = _values(fields, b"sec-websocket-protocol")
    if len(subprotocols) > 1:
        raise _violation("it has more than one Sec-WebSocket-Protocol field")
    subprotocol = subprotocols[0].decode("latin-1") if subprotocols else None
    if subprotocol is not None and subprotocol not in offered.subprotocols:
        raise _violation(f"it chose the subprotocol {subprotocol!r}, which was not offered")
    extensions = [value.decode("latin-1") for value in _values(fields, b"sec-websocket-extensions")]
    return Opened(fields, subprotocol, check_answer(extensions, offered.config))


class ClientHandshake:
    """One handshake over HTTP/1.1.

    Args:
        offered: what to ask for.
        nonce: 16 random bytes.
        config: bounds of the answer's head.
    """

    __slots__ = (
        "_accept",
        "_body",
        "_body_left",
        "_chunks",
        "_config",
        "_events",
        "_head",
        "_offered",
        "_output",
        "_rejection",
    )

    def __init__(self, offered: Offered, nonce: bytes, config: Http1Config) -> None:
        key = base64.b64encode(nonce)
        if len(key) != 24:
            raise LocalProtocolError(f"a nonce of {len(nonce)} bytes; give 16 (RFC 6455 4.1)")
        # immutable
        self._offered = offered
        self._accept = accept_token(key)
        self._config = config
        # the answer
        self._head = ResponseHeadReader(config)
        self._rejection: tuple[int, Fields] | None = None  # its head; None while that is awaited
        self._body = bytearray()
        self._body_left = MAX_REJECTION_BODY
        self._chunks: ChunkReader | None = None
        self._events: deque[Event] = deque()
        self._output = self._request(key)

    def _request(self, key: bytes) -> bytes:
        offered = self._offered
        lines = [
            b"GET %s HTTP/1.1" % offered.target,
            b"Host: " + offered.authority,
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: " + key,
            *(b"%s: %s" % field for field in offered.common_fields()),
            b"\r\n",
        ]
        return b"\r\n".join(lines)

    @property
    def in_rejection(self) -> bool:
        """The answer is a rejection, and its body may go on: `receive_eof` cuts it short."""
        return self._rejection is not None and not self._over

    def data_to_send(self) -> bytes:
        """The request, once."""
        data, self._output = self._output, b""
        return data

    def receive_data(self, data: bytes) -> None:
        """Take what the server sent, however it is cut. Never raises for it."""
        if self._over:
            return
        try:
            if self._rejection is not None:
                self._head.rest += data
                self._receive_body(self._head.rest)
            else:
                self._receive_head(data)
        except (RemoteProtocolError, LimitExceeded) as error:
            self._end(HandshakeFailed(error))

    def receive_eof(self) -> None:
        """The server sends nothing more, or nobody waits for more."""
        if self._over:
            return
        if self._rejection is not None:
            self._reject()
        else:
            reason = "the server ended the connection without an answer to the handshake"
            self._end(HandshakeFailed(ConnectionClosed(1006, reason)))

    def next_event(self) -> Event | None:
        """The outcome, once it is there."""
        return self._events.popleft() if self._events else None

    # -- private --------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self._body_left < 0

    def _end(self, event: Event) -> None:
        self._events.append(event)
        self._body_left = -1
        self._head.rest.clear()

    def _receive_head(self, data: bytes) -> None:
        head = self._head.feed(data)
        if head is None:
            return
        rest = self._head.rest
        if head.status == 101:
            opened = check_switch(head.fields, self._offered, self._accept)
            self._end(Opened(head.fields, opened.subprotocol, opened.agreed, bytes(rest)))
        else:
            self._begin_rejection(head.status, head.fields)
            self._receive_body(rest)

    def _begin_rejection(self, status: int, fields: Fields) -> None:
        self._rejection = status, fields
        if _lower_elements(fields, b"transfer-encoding") == [b"chunked"]:
            config = self._config
            self._chunks = ChunkReader(HeadLimits(config.max_head_size, config.max_target_size, config.max_fields))
        lengths = _values(fields, b"content-length")
        if status in (204, 304):
            self._body_left = 0
        elif self._chunks is None and len(lengths) == 1 and lengths[0].isdigit():
            self._body_left = min(MAX_REJECTION_BODY, int(lengths[0][:18]))

    def _receive_body(self, held: bytearray) -> None:
        if self._chunks is not None:
            payload: list[bytes] = []
            try:
                used = self._chunks.feed(held, 0, payload)
            except (RemoteProtocolError, LimitExceeded):
                self._body += b"".join(payload)[: self._body_left]
                self._reject()
                return
            del held[:used]
            data = b"".join(payload)[: self._body_left]
            ended = self._chunks.ended
        else:
            data, ended = bytes(held[: self._body_left]), False
            held.clear()
        self._body += data
        self._body_left -= len(data)
        if ended or not self._body_left:
            self._reject()

    def _reject(self) -> None:
        assert self._rejection is not None  # whoever calls has seen it
        status, fields = self._rejection
        self._end(Rejected(status, fields, bytes(self._body)))


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for key, value in fields if key == name]


def _lower_elements(fields: Fields, name: bytes) -> list[bytes]:
    elements = [element.strip(b" \t").lower() for value in _values(fields, name) for element in value.split(b",")]
    return [element for element in elements if element]


def _violation(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"the server switched, but {what} (RFC 6455 4.1)")
