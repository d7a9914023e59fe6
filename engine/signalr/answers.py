"""Whole responses to the requests of a hub's paths, and which pages of other origins may read them.

Owns: the header fields that all of them share, CORS among them. Texts and statuses are others'.

Spec: HttpConnectionDispatcher.cs; https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.http.response import server_fields

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange, Fields, RequestHead

__all__ = ["BYTES", "JSON", "NOT_CACHED", "TEXT", "Answers"]

TEXT: Fields = ((b"content-type", b"text/plain"),)
BYTES: Fields = ((b"content-type", b"application/octet-stream"),)
JSON: Fields = ((b"content-type", b"application/json"),)
NOT_CACHED: Fields = (
    # Of answers to polls, whatever they say: a cached one would be taken for a message.
    (b"cache-control", b"no-cache, no-store"),
    (b"pragma", b"no-cache"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),
)

_PREFLIGHT_AGE = b"600"  # seconds; the longest that Chromium used to take


class Answers:
    """Responses of one hub.

    Args:
        cors_origins: whose pages may use the hub, with credentials; `*` is all pages, without them.
    """

    def __init__(self, cors_origins: Sequence[str] = ()) -> None:
        self._any = "*" in cors_origins
        self._origins = frozenset(each.rstrip("/").encode() for each in cors_origins if each != "*")

    def fields(self, head: RequestHead) -> list[tuple[bytes, bytes]]:
        """What every response to this request carries."""
        fields = server_fields()
        if self._origins or self._any:
            fields.append((b"vary", b"Origin"))
            origin = head.header(b"origin")
            if origin is not None and origin in self._origins:
                fields += ((b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true"))
            elif self._any:
                fields.append((b"access-control-allow-origin", b"*"))
        return fields

    def may_open(self, head: RequestHead) -> bool:
        """A page of this origin may open a WebSocket, which CORS does not ask for; always where CORS is off."""
        origin = head.header(b"origin")
        if origin is None or self._any or not self._origins or origin in self._origins:
            return True
        return origin == f"{head.scheme}://{head.authority}".encode()

    def respond(self, exchange: Exchange, status: int, body: bytes | str = b"", headers: Fields = ()) -> None:
        """Write a whole response and flush it."""
        content = body.encode("utf-8", "replace") if isinstance(body, str) else body
        head_only = exchange.head.method == "HEAD"
        fields = [*self.fields(exchange.head), *headers]
        if not head_only and status != 204:
            fields.append((b"content-length", b"%d" % len(content)))
        exchange.write_head(status, fields, end=not content or head_only)
        if content and not head_only:
            exchange.write(content, end=True)
        exchange.flush()

    def answer_preflight(self, exchange: Exchange) -> bool:
        """Answer a browser that asks whether a page may send a request; False: it is none, or CORS is off."""
        head = exchange.head
        if head.method != "OPTIONS" or not (self._origins or self._any):
            return False
        if head.header(b"origin") is None or head.header(b"access-control-request-method") is None:
            return False
        fields = [(b"access-control-allow-methods", b"GET, POST, DELETE"), (b"access-control-max-age", _PREFLIGHT_AGE)]
        wanted = head.header(b"access-control-request-headers")
        if wanted is not None:
            fields.append((b"access-control-allow-headers", wanted))
        self.respond(exchange, 204, b"", fields)
        return True
