"""Responses of plain HTTP.

Owns: `Response`, `StreamingResponse`, and the fields that every response of ours carries (`date`,
`server`). A plain refusal (404, 426 ...) is a `Response`, whichever endpoint makes it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import LocalProtocolError
from engine.transport.date import http_date

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange

__all__ = ["Response", "StreamingResponse", "refuse", "server_fields"]

HeaderPairs = Mapping[str, str] | Iterable[tuple[str, str]]

_SERVER = (b"server", b"engine")
_TEXT = "text/plain; charset=utf-8"
_FRAMING = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_NAME_CHARACTERS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def server_fields() -> list[tuple[bytes, bytes]]:
    """The fields that every response carries: `date` and `server`."""
    return [(b"date", http_date()), _SERVER]


def _encode(headers: HeaderPairs) -> list[tuple[bytes, bytes]]:
    """Fields as bytes, names in lower case.

    Raises:
        LocalProtocolError: CR, LF or NUL in a field would let a value forge what follows it
            (response splitting); framing belongs to the driver.
    """
    fields: list[tuple[bytes, bytes]] = []
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        try:
            raw_name, raw_value = name.lower().encode("ascii"), value.strip(" \t").encode("latin-1")
        except UnicodeEncodeError:
            raise LocalProtocolError(f"response field {name!r} is not Latin-1; encode its value") from None
        if not raw_name or not _NAME_CHARACTERS.issuperset(raw_name):
            raise LocalProtocolError(f"{name!r} is no field name; use letters, digits and dashes")
        if b"\r" in raw_value or b"\n" in raw_value or b"\0" in raw_value:
            raise LocalProtocolError(f"CR, LF or NUL in response field {name!r}; check where its value comes from")
        if raw_name in _FRAMING:
            raise LocalProtocolError(f"response field {name!r} is the connection's affair; leave it off")
        fields.append((raw_name, raw_value))
    return fields


class Response:
    """A whole response.

    Attributes:
        status: 200 to 599.
        body: bytes; text was encoded as UTF-8.
        headers: pairs of name and value, more than one of a name is possible.
        content_type: None for none.
    """

    __slots__ = ("_fields", "body", "content_type", "headers", "status")

    def __init__(
        self,
        body: str | bytes = b"",
        status: int = 200,
        headers: HeaderPairs = (),
        content_type: str | None = None,
    ) -> None:
        """
        Args:
            body: text or bytes.
            status: the HTTP status.
            headers: further fields; content-length, date and server come by themselves.
            content_type: plain text, or octets where `body` is bytes, if it is left off.

        Raises:
            LocalProtocolError: a field that no response may have, or a content-length that is not the body's.
        """
        if not 200 <= status <= 599:
            raise LocalProtocolError(f"{status} is no status of a response; give 200 to 599")
        text = isinstance(body, str)
        self.body = body.encode() if isinstance(body, str) else body
        self.status = status
        self.headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self._fields = _encode(self.headers) if self.headers else []
        if self.body:  # without one it may be that of the GET whose HEAD is answered
            for name, value in self._fields:
                if name == b"content-length" and value != b"%d" % len(self.body):
                    hint = f"the body has {len(self.body)} bytes: leave it off"
                    raise LocalProtocolError(f"content-length {value.decode('latin-1')}, but {hint}")
        if content_type is None and self.body and not any(name == b"content-type" for name, _ in self._fields):
            content_type = _TEXT if text else "application/octet-stream"
        self.content_type = content_type

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: HeaderPairs = ()) -> Response:
        """`value` as JSON: all that `msgspec` encodes (dicts, lists, dataclasses, Structs, dates ...)."""
        return cls(msgspec.json.encode(value), status, headers, "application/json")

    def fields(self) -> list[tuple[bytes, bytes]]:
        """All fields of the head."""
        fields = server_fields()
        content_type = self.content_type
        if content_type is not None:
            fields.append(_content_type(content_type))
        if self.status not in (204, 304) and not any(name == b"content-length" for name, _ in self._fields):
            fields.append((b"content-length", b"%d" % len(self.body)))
        fields += self._fields
        return fields

    def write(self, exchange: Exchange) -> None:
        """Queue and flush it; never waits."""
        exchange.write_head(self.status, self.fields(), end=not self.body)
        if self.body:
            exchange.write(self.body, end=True)
        exchange.flush()

    async def send(self, exchange: Exchange) -> None:
        """Send it. Cancellation leaves the response as it is, cut short or whole."""
        exchange.write_head(self.status, self.fields(), end=not self.body)
        if self.body:
            exchange.write(self.body, end=True)
        await exchange.drain()


class StreamingResponse:
    """A response whose body is produced while it is sent, as fast as the peer takes it.

    `body` yields bytes or text. Where it fails, the response is cut short, and the peer can tell. It is
    closed when the response ends, also when the peer is gone before.
    """

    __slots__ = ("_fields", "body", "content_type", "headers", "status")

    def __init__(
        self,
        body: AsyncIterable[bytes] | AsyncIterable[str],
        status: int = 200,
        headers: HeaderPairs = (),
        content_type: str | None = "application/octet-stream",
    ) -> None:
        """
        Args:
            body: an async iterator, or an async generator.
            status: the HTTP status.
            headers: further fields; give content-length where it is known.
            content_type: None for none.

        Raises:
            LocalProtocolError: a field that no response may have.
        """
        if not 200 <= status <= 599:
            raise LocalProtocolError(f"{status} is no status of a response; give 200 to 599")
        self.body = body
        self.status = status
        self.headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self.content_type = content_type
        self._fields = _encode(self.headers)

    def fields(self) -> list[tuple[bytes, bytes]]:
        """All fields of the head."""
        fields = server_fields()
        if self.content_type is not None:
            fields.append(_content_type(self.content_type))
        return fields + self._fields

    async def send(self, exchange: Exchange) -> None:
        """Send it. Cancellation ends the iterator and cuts the response short."""
        bodiless = exchange.head.method == "HEAD" or self.status in (204, 304)
        exchange.write_head(self.status, self.fields(), end=False)
        if bodiless:
            if isinstance(self.body, AsyncGenerator):
                await self.body.aclose()
            await exchange.drain()
            return
        if isinstance(self.body, AsyncGenerator):
            async with aclosing(self.body):
                await _send_all(exchange, self.body)
        else:
            await _send_all(exchange, self.body)
        exchange.write(b"", end=True)
        await exchange.drain()


async def _send_all(exchange: Exchange, body: AsyncIterable[bytes] | AsyncIterable[str]) -> None:
    piece: bytes | str
    async for piece in body:
        await exchange.send(piece.encode() if isinstance(piece, str) else bytes(piece))


@lru_cache(maxsize=128)  # an application has a handful of them
def _content_type(value: str) -> tuple[bytes, bytes]:
    return _encode([("content-type", value)])[0]


def refuse(exchange: Exchange, status: int, text: str, headers: HeaderPairs = ()) -> None:
    """Answer with a status and a line of plain text, from any endpoint; synchronous.

    Where a response has begun it is cut short instead.
    """
    if exchange.status:
        if not exchange.response_ended:
            exchange.reset()
        return
    Response(f"{text}\n" if text else "", status, headers).write(exchange)
