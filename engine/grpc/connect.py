"""Connect on the call machine: unary calls as plain HTTP, streams in envelopes, JSON or binary.

Owns the response's fields and bodies of both. Over HTTP/1.1 and HTTP/2 alike, also for a client that knows
nothing of Connect: `connect-protocol-version` may be left off. Spec: connectrpc.com/docs/protocol.

A unary response has its status in its first line and its trailing metadata in its head, so nothing of it
can leave before the handler has ended.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from engine.errors import LocalProtocolError, RpcError, StatusCode, answer_for
from engine.grpc import cors
from engine.grpc.codec import Codec, WithMetadata, check_metadata, start_clock
from engine.grpc.connect_json import decode_json, decode_proto, encode_json
from engine.transport.date import http_date
from engine.wire.grpc import compression, connect
from engine.wire.grpc import metadata as wire_metadata
from engine.wire.grpc.framing import MessageParser

if TYPE_CHECKING:
    from engine.grpc.methods import BoundMethod
    from engine.transport.exchange import Exchange, Fields

_ENCODINGS = compression.listed(compression.CONNECT_ENCODINGS)
_JSON_ERROR = (b"content-type", b"application/json")


class ConnectCodec(Codec):
    """What both kinds of calls share: the fields of a request, and how messages are serialised."""

    __slots__ = ("json",)

    encodings = compression.CONNECT_ENCODINGS
    content_encoding: ClassVar[bytes]
    """The field that names how the messages are compressed."""

    def __init__(self, *, json: bool) -> None:
        super().__init__()
        self.json = json

    @property
    def serialisation(self) -> str:
        return "json" if self.json else "proto"

    def adapt(self, method: BoundMethod) -> BoundMethod:
        if self.json:
            return dataclasses.replace(method, decode=decode_json(method.spec.request_type), encode=encode_json)
        return dataclasses.replace(method, decode=decode_proto(method.decode))

    def begin(self, exchange: Exchange, context: WithMetadata, max_size: int) -> MessageParser | None:
        size = 0
        binary = False
        encoding = compression.IDENTITY
        for name, value in exchange.head.headers:
            size += len(name) + len(value) + wire_metadata.FIELD_OVERHEAD
            if name == b"connect-timeout-ms":
                _start_clock(exchange, value)
            elif name == b"connect-protocol-version":
                if value != b"1":
                    raise RpcError(StatusCode.INVALID_ARGUMENT, "connect-protocol-version must be 1")
            elif name == self.content_encoding:
                encoding = value.decode("latin-1")
            elif name[-4:] == b"-bin":
                binary = True
        check_metadata(exchange, context, size, binary=binary)
        return self.parser(exchange, max_size, encoding)

    @abstractmethod
    def parser(self, exchange: Exchange, max_size: int, encoding: str) -> MessageParser | None:
        """The parser of the request; None: the call is answered.

        Raises:
            RpcError: the request cannot be read.
        """

    def require_encoding(self, exchange: Exchange, encoding: str) -> str | None:
        """The encoding of messages, None for none at all.

        Raises:
            RpcError: it is none of ours; those that are stand in a field of the answer.
        """
        name = compression.known(encoding.encode("latin-1", "replace"), self.encodings)
        if name is None:
            ours = _ENCODINGS.decode("ascii")
            raise RpcError(StatusCode.UNIMPLEMENTED, f"compression {encoding!r} is not supported; use one of {ours}")
        return None if name == compression.IDENTITY else name


class ConnectStreamCodec(ConnectCodec):
    """A call with a stream on either side: gRPC's framing, always status 200, the end in an envelope."""

    __slots__ = ()

    accept_encoding = b"connect-accept-encoding"
    content_encoding = b"connect-content-encoding"

    def parser(self, exchange: Exchange, max_size: int, encoding: str) -> MessageParser:
        return MessageParser(max_size, self.require_encoding(exchange, encoding))

    def write_head(self, exchange: Exchange, metadata: Fields = ()) -> None:
        fields = [
            (b"content-type", b"application/connect+json" if self.json else b"application/connect+proto"),
            (b"date", http_date()),
            (b"connect-accept-encoding", _ENCODINGS),
        ]
        if self.encoding is not None:
            fields.append((b"connect-content-encoding", self.encoding.encode("ascii")))
        exchange.write_head(200, (*fields, *cors.fields(exchange, metadata), *metadata))

    def write_message(self, exchange: Exchange, payload: bytes) -> None:
        for piece in self.frame(payload):
            exchange.write(piece)

    def write_reply(self, exchange: Exchange, payload: bytes, metadata: Fields = ()) -> None:
        if not exchange.status:
            self.write_head(exchange)
        self.write_message(exchange, payload)
        self.write_status(exchange, StatusCode.OK, metadata=metadata)

    def write_status(
        self,
        exchange: Exchange,
        code: StatusCode,
        message: str = "",
        *,
        details: bytes | None = None,
        metadata: Fields = (),
    ) -> None:
        if not exchange.status:
            self.write_head(exchange)
        error = None if code is StatusCode.OK else connect.error_object(code, message, details)
        exchange.write(connect.end_envelope(connect.end_stream(error, metadata)), end=True)


class ConnectUnaryCodec(ConnectCodec):
    """A unary call: one plain HTTP request and response."""

    __slots__ = ("_metadata",)

    is_stream = False
    accept_encoding = b"accept-encoding"
    content_encoding = b"content-encoding"

    def __init__(self, *, json: bool) -> None:
        super().__init__(json=json)
        self._metadata: Fields | None = None  # initial metadata that waits for the rest of the response

    def parser(self, exchange: Exchange, max_size: int, encoding: str) -> MessageParser:
        if exchange.head.method != "GET":
            return connect.BodyParser(max_size, self.require_encoding(exchange, encoding))
        query = connect.parse_query(exchange.head.query)
        if isinstance(query, RpcError):
            raise query
        parser = connect.BodyParser(max_size, self.require_encoding(exchange, query.compression))
        parser.receive_data(query.message)
        parser.receive_eof()
        return parser

    def write_head(self, exchange: Exchange, metadata: Fields = ()) -> None:
        """Keep the metadata for the response's only head."""
        if self._metadata is not None:
            raise LocalProtocolError("initial metadata was sent before; send it once")
        self._metadata = tuple(metadata)

    def write_message(self, exchange: Exchange, payload: bytes) -> None:
        raise AssertionError("a unary response has no message of its own")

    def write_reply(self, exchange: Exchange, payload: bytes, metadata: Fields = ()) -> None:
        fields = [
            (b"content-type", b"application/json" if self.json else b"application/proto"),
            (b"accept-encoding", _ENCODINGS),
        ]
        if self.encoding is not None and not self.plain_next and payload:
            payload = compression.compress(self.encoding, payload)
            fields.append((b"content-encoding", self.encoding.encode("ascii")))
        self._write(exchange, 200, fields, payload, metadata)

    def write_status(
        self,
        exchange: Exchange,
        code: StatusCode,
        message: str = "",
        *,
        details: bytes | None = None,
        metadata: Fields = (),
    ) -> None:
        if exchange.status:
            exchange.reset()  # a reply is on its way, and can no longer become an error
            return
        status = answer_for(RpcError(code)).http_status
        body = connect.encode_json(connect.error_object(code, message, details))
        fields = [_JSON_ERROR]
        if code is StatusCode.UNIMPLEMENTED:
            fields.append((b"accept-encoding", _ENCODINGS))  # perhaps it is the encoding that we lack
        self._write(exchange, status, fields, body, metadata)

    def _write(self, exchange: Exchange, status: int, fields: Fields, body: bytes, trailing: Fields) -> None:
        metadata = [*(self._metadata or ()), *((b"trailer-" + name, value) for name, value in trailing)]
        framing = ((b"content-length", b"%d" % len(body)), (b"date", http_date()))
        exchange.write_head(status, (*fields, *framing, *cors.fields(exchange, metadata), *metadata), end=not body)
        if body:
            exchange.write(body, end=True)


def _start_clock(exchange: Exchange, value: bytes) -> None:
    seconds = connect.decode_timeout(value)
    if seconds is None:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "malformed connect-timeout-ms; send 1 to 10 digits")
    start_clock(exchange, seconds)
