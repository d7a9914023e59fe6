"""gRPC-Web on the call machine: for browsers, which cannot read HTTP trailers.

Owns the response head, the trailers in the body, and the text variant. Over HTTP/1.1 and HTTP/2 alike.
The status always comes in the body, also where no message does: a page on another origin may not see
header fields that a proxy forgot to expose. Spec: grpc/grpc doc/PROTOCOL-WEB.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import StatusCode
from engine.grpc import cors
from engine.grpc.codec import GrpcCodec, status_fields
from engine.transport.date import http_date
from engine.wire.grpc import compression, web
from engine.wire.grpc.framing import MessageParser

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange, Fields, RequestHead

_ACCEPTED = (b"grpc-accept-encoding", compression.listed(compression.ENCODINGS))


class WebCodec(GrpcCodec):
    """One gRPC-Web call."""

    __slots__ = ("_content_type", "_text_request", "_text_response")

    def __init__(self, head: RequestHead) -> None:
        super().__init__()
        content_type = head.header(b"content-type") or b""
        self._text_request = bool(web.is_text(content_type))
        self._text_response = web.answers_text(content_type, head.header(b"accept"))
        self._content_type = web.response_type(content_type, text=self._text_response)

    def compressing(self, encoding: str | None) -> WebCodec:
        self.encoding = encoding
        return self

    def parser(self, max_size: int, encoding: str | None) -> MessageParser:
        return (web.TextParser if self._text_request else MessageParser)(max_size, encoding)

    def refuse_encoding(self, exchange: Exchange, encoding: bytes) -> None:
        self.write_head(exchange)  # it lists what is accepted
        super().refuse_encoding(exchange, encoding)

    def write_head(self, exchange: Exchange, metadata: Fields = ()) -> None:
        fields = [(b"content-type", self._content_type), (b"date", http_date()), _ACCEPTED]
        if self.encoding is not None:
            fields.append((b"grpc-encoding", self.encoding.encode("ascii")))
        exchange.write_head(200, (*fields, *cors.fields(exchange, metadata), *metadata))

    def write_message(self, exchange: Exchange, payload: bytes) -> None:
        pieces = self.frame(payload)
        if self._text_response:
            pieces = (web.encode_text(b"".join(pieces)),)
        for piece in pieces:
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
        trailers = web.trailer_frame(status_fields(exchange, code, message, details, metadata))
        exchange.write(web.encode_text(trailers) if self._text_response else trailers, end=True)
