"""How a call's parts look on the wire of one protocol.

A codec is chosen by the request's content-type and has no state of its own: the call machine in
`engine.grpc.endpoint` is one, and gRPC, later gRPC-Web and Connect, are codecs on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import StatusCode
from engine.wire.grpc import framing, status

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange, Fields

_CONTENT_TYPE = (b"content-type", b"application/grpc")

_HEAD: Fields = (_CONTENT_TYPE,)  # one constant, so that HPACK encodes it once
_FAMILY = b"application/grpc"
_COMMON = frozenset({b"application/grpc", b"application/grpc+proto"})


class GrpcCodec:
    """gRPC over HTTP/2 (grpc/grpc doc/PROTOCOL-HTTP2.md)."""

    @staticmethod
    def accepts(content_type: bytes) -> bool:
        """`application/grpc`, then the end, `+` or `;`: `application/grpc-web` and `-foo` are others."""
        if content_type in _COMMON:
            return True
        value = content_type.strip().lower()
        return value.startswith(_FAMILY) and value[len(_FAMILY) :].lstrip(b" \t")[:1] in (b"", b"+", b";")

    @staticmethod
    def write_head(exchange: Exchange, metadata: Fields = ()) -> None:
        """Queue the response head with initial metadata."""
        exchange.write_head(200, (_CONTENT_TYPE, *metadata) if metadata else _HEAD)

    @staticmethod
    def write_message(exchange: Exchange, payload: bytes) -> None:
        """Queue one message."""
        for piece in framing.frame(payload):
            exchange.write(piece)

    @staticmethod
    def write_reply(exchange: Exchange, payload: bytes, metadata: Fields = ()) -> None:
        """Queue a whole response of one message: head unless it is out, message, status OK."""
        if not exchange.status:
            exchange.write_head(200, _HEAD)
        for piece in framing.frame(payload):
            exchange.write(piece)
        exchange.write_trailers((*status.OK_TRAILERS, *metadata) if metadata else status.OK_TRAILERS)

    @staticmethod
    def write_status(
        exchange: Exchange,
        code: StatusCode,
        message: str = "",
        *,
        details: bytes | None = None,
        metadata: Fields = (),
    ) -> None:
        """Queue the end of the call: trailers, or Trailers-Only where no head is out."""
        fields = status.trailers(
            code,
            message,
            details=details,
            metadata=metadata,
            max_message_size=exchange.config.grpc.max_status_message_size,
        )
        if exchange.status:
            exchange.write_trailers(fields)
        else:
            exchange.write_head(200, (_CONTENT_TYPE, *fields), end=True)


GRPC = GrpcCodec()
