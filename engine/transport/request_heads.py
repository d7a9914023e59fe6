"""`RequestHead`s from HTTP/2 requests, remembered.

Owns: percent-decoding and splitting of targets. Clients send the same header block call after call;
the header memo of `engine.wire` then yields the same `RequestFields` object, and this returns the same
immutable head, with its field index already built.
"""

from __future__ import annotations

from urllib.parse import unquote

from engine.transport.exchange import RequestHead
from engine.wire.http2 import RequestFields, RequestReceived

_MAX_REMEMBERED = 64  # distinct heads of one connection; a head is some kilobytes


class RequestHeads:
    """The heads of one connection's requests."""

    __slots__ = ("_remembered", "_scheme")

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self._remembered: dict[int, tuple[RequestFields, RequestHead]] = {}

    def head_for(self, event: RequestReceived) -> RequestHead:
        """The head of a request; the same object for the same fields object."""
        fields = event.head
        known = self._remembered.get(id(fields))
        if known is not None and known[0] is fields:
            return known[1]
        target, _, query = fields.path.partition(b"?")
        head = RequestHead(
            method=fields.method.decode("latin-1"),
            path=decode_path(target),
            query=query.decode("latin-1"),
            scheme=self._scheme,
            authority=fields.authority.decode("latin-1"),
            headers=fields.headers,
            http_version="2",
            protocol=fields.protocol.decode("latin-1").lower() if fields.protocol else None,
            raw_path=target,
        )
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[id(fields)] = (fields, head)
        return head


def decode_path(raw: bytes) -> str:
    """A request path as text: percent-decoded UTF-8, undecodable bytes as U+FFFD."""
    text = raw.decode("latin-1")
    if "%" in text or not text.isascii():
        return unquote(raw.decode("utf-8", "replace"), errors="replace")
    return text
