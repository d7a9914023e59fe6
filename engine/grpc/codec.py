"""How a call's parts look on the wire of one protocol.

`Codec` is what the call machine in `engine.grpc.endpoint` asks for: it is one, and gRPC, gRPC-Web
(`engine.grpc.web`) and Connect (`engine.grpc.connect`) are codecs on it. A codec judges the request's
fields, makes the parser of its body, and writes the response's parts; it never runs a handler.

`GRPC` is shared by all calls that compress nothing. Every other codec belongs to one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

import trio

from engine.errors import LimitExceeded, LimitKind, RpcError, StatusCode
from engine.wire.grpc import compression, framing, status
from engine.wire.grpc import metadata as wire_metadata
from engine.wire.grpc import timeout as wire_timeout
from engine.wire.grpc.framing import MessageParser

if TYPE_CHECKING:
    from engine.grpc.methods import BoundMethod
    from engine.transport.exchange import Exchange, Fields
    from engine.wire.grpc.metadata import Metadata

_CONTENT_TYPE = (b"content-type", b"application/grpc")
_ACCEPTED = (b"grpc-accept-encoding", compression.listed(compression.ENCODINGS))

_HEAD: Fields = (_CONTENT_TYPE,)  # one constant, so that HPACK encodes it once
_FAMILY = b"application/grpc"
_COMMON = frozenset({b"application/grpc", b"application/grpc+proto"})


class WithMetadata(Protocol):
    """What a codec asks of a call: to look at the metadata of its request."""

    @property
    def metadata(self) -> Metadata: ...


class Codec(ABC):
    """One protocol's words for the parts of a call."""

    __slots__ = ("encoding", "plain_next")

    encodings: ClassVar[tuple[str, ...]] = compression.ENCODINGS
    """What messages may be compressed with."""
    accept_encoding: ClassVar[bytes] = b"grpc-accept-encoding"
    """The field in which the client says what it takes."""
    is_stream: ClassVar[bool] = True
    """Head, messages and status leave one by one; else all of a response leaves at once."""

    def __init__(self, encoding: str | None = None) -> None:
        self.encoding = encoding  # of the messages that are sent; None: they are not compressed
        self.plain_next = False  # the next one is not compressed in spite of it

    def compressing(self, encoding: str | None) -> Codec:
        """The codec that sends messages with this encoding."""
        self.encoding = encoding
        return self

    @property
    def serialisation(self) -> str:
        """A name for what `adapt` makes of a method."""
        return ""

    def adapt(self, method: BoundMethod) -> BoundMethod:
        """The method with this protocol's serialisation."""
        return method

    @abstractmethod
    def begin(self, exchange: Exchange, context: WithMetadata, max_size: int) -> MessageParser | None:
        """Judge the request's fields and start its clock; the parser of its body. None: the call is answered.

        Raises:
            RpcError: the call is refused.
        """

    @abstractmethod
    def write_head(self, exchange: Exchange, metadata: Fields = ()) -> None:
        """Queue the response head with initial metadata."""

    @abstractmethod
    def write_message(self, exchange: Exchange, payload: bytes) -> None:
        """Queue one message of a stream."""

    @abstractmethod
    def write_reply(self, exchange: Exchange, payload: bytes, metadata: Fields = ()) -> None:
        """Queue a whole response of one message: head unless it is out, message, status OK."""

    @abstractmethod
    def write_status(
        self,
        exchange: Exchange,
        code: StatusCode,
        message: str = "",
        *,
        details: bytes | None = None,
        metadata: Fields = (),
    ) -> None:
        """Queue the end of the call, and a head before it where none is out.

        Args:
            details: a serialised `google.rpc.Status`.
            metadata: trailing metadata, encoded.
        """

    def frame(self, payload: bytes) -> tuple[bytes, ...]:
        """The pieces of one length-prefixed message, compressed where that is wanted and makes sense."""
        if self.encoding is None:
            return framing.frame(payload)
        plain, self.plain_next = self.plain_next, False
        if plain or not payload:
            return framing.frame(payload)
        return framing.frame(compression.compress(self.encoding, payload), compressed=True)


class GrpcCodec(Codec):
    """gRPC over HTTP/2 (grpc/grpc doc/PROTOCOL-HTTP2.md)."""

    __slots__ = ()

    @staticmethod
    def accepts(content_type: bytes | None) -> bool:
        """`application/grpc`, then the end, `+` or `;`: `application/grpc-web` and `-foo` are others."""
        if content_type in _COMMON:
            return True
        if content_type is None:
            return False
        value = content_type.strip().lower()
        return value.startswith(_FAMILY) and value[len(_FAMILY) :].lstrip(b" \t")[:1] in (b"", b"+", b";")

    def compressing(self, encoding: str | None) -> GrpcCodec:
        return GRPC if encoding is None else GrpcCodec(encoding)

    def begin(self, exchange: Exchange, context: WithMetadata, max_size: int) -> MessageParser | None:
        """One pass over the fields: this runs for every call."""
        size = 0
        binary = False
        encoding = None
        for name, value in exchange.head.headers:
            size += len(name) + len(value) + wire_metadata.FIELD_OVERHEAD
            if name == b"grpc-timeout":
                seconds = wire_timeout.decode(value)
                if seconds is None:
                    message = "malformed grpc-timeout; send 1 to 8 digits and one of H M S m u n"
                    raise RpcError(StatusCode.INTERNAL, message)
                start_clock(exchange, seconds)
            elif name == b"grpc-encoding":
                encoding = compression.known(value, compression.ENCODINGS)
                if encoding is None:
                    self.refuse_encoding(exchange, value)
                    return None
            elif name[-4:] == b"-bin":
                binary = True
        if binary or size > exchange.config.grpc.max_metadata_size:
            check_metadata(exchange, context, size, binary=binary)
        return self.parser(max_size, None if encoding == compression.IDENTITY else encoding)

    def parser(self, max_size: int, encoding: str | None) -> MessageParser:
        """The parser of a request's body."""
        return MessageParser(max_size, encoding)

    def refuse_encoding(self, exchange: Exchange, encoding: bytes) -> None:
        """doc/compression.md: UNIMPLEMENTED, with "grpc-accept-encoding … specifying the algorithms" of ours."""
        message = f"grpc-encoding {encoding.decode('latin-1')!r} is not supported; use one of grpc-accept-encoding"
        self.write_status(exchange, StatusCode.UNIMPLEMENTED, message, metadata=(_ACCEPTED,))
        exchange.flush()

    def head_fields(self, metadata: Fields) -> Fields:
        """What the response head has beside its status."""
        if self.encoding is None:
            return (*_HEAD, *metadata) if metadata else _HEAD
        # What we accept is told where compression is in use: for every other call it would be 32 bytes for nothing.
        return (_CONTENT_TYPE, (b"grpc-encoding", self.encoding.encode("ascii")), _ACCEPTED, *metadata)

    def write_head(self, exchange: Exchange, metadata: Fields = ()) -> None:
        exchange.write_head(200, self.head_fields(metadata))

    def write_message(self, exchange: Exchange, payload: bytes) -> None:
        for piece in self.frame(payload):
            exchange.write(piece)

    def write_reply(self, exchange: Exchange, payload: bytes, metadata: Fields = ()) -> None:
        if not exchange.status:
            exchange.write_head(200, _HEAD if self.encoding is None else self.head_fields(()))
        for piece in framing.frame(payload) if self.encoding is None else self.frame(payload):
            exchange.write(piece)
        exchange.write_trailers((*status.OK_TRAILERS, *metadata) if metadata else status.OK_TRAILERS)

    def write_status(
        self,
        exchange: Exchange,
        code: StatusCode,
        message: str = "",
        *,
        details: bytes | None = None,
        metadata: Fields = (),
    ) -> None:
        fields = status_fields(exchange, code, message, details, metadata)
        if exchange.status:
            exchange.write_trailers(fields)
        else:
            exchange.write_head(200, (_CONTENT_TYPE, *fields), end=True)  # Trailers-Only


GRPC = GrpcCodec()


def status_fields(
    exchange: Exchange, code: StatusCode, message: str, details: bytes | None, metadata: Fields
) -> Fields:
    """The trailers of gRPC and gRPC-Web."""
    limit = exchange.config.grpc.max_status_message_size
    return status.trailers(code, message, details=details, metadata=metadata, max_message_size=limit)


def start_clock(exchange: Exchange, seconds: float) -> None:
    """The call ends by itself after so many seconds."""
    exchange.scope.deadline = trio.current_time() + seconds


def check_metadata(exchange: Exchange, context: WithMetadata, size: int, *, binary: bool) -> None:
    """Refuse metadata that is too large or, where there is a binary field, broken.

    Raises:
        RpcError: it is.
    """
    limit = exchange.config.grpc.max_metadata_size
    if size > limit:
        kind = LimitKind.MESSAGE_SIZE
        excess = LimitExceeded("grpc.max_metadata_size", limit, size, kind=kind, what="request metadata")
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, str(excess))
    if binary:
        _ = context.metadata  # broken base64 is the client's error, before a handler runs
