"""A small HTTP/1.1 client: what the hub client needs, and no more.

Owns: the few connections that are kept for the next request, and the life of a response.
Never interprets a status, and never follows a redirection: its caller knows what they mean.

An idle connection is used again only for a few seconds, so that a server does not close it just when
a request leaves; where that happens all the same, only a request that may be repeated is.

Specs: RFC 9110, RFC 9112 (the wire part is `engine.wire.http1_client`).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import trio

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, LocalProtocolError, RemoteProtocolError
from engine.transport.dial import Destination, Proxy, dial
from engine.transport.dial import proxy_from_environment as environment_proxy
from engine.transport.stream import ByteStream
from engine.transport.tls_client import default_tls_context
from engine.wire.http1_client import DataReceived, Http1ClientCore, ResponseEnded, ResponseFailed, ResponseReceived

__all__ = [
    "Dial",
    "Http1Client",
    "Origin",
    "Response",
    "StreamedResponse",
    "dialer",
    "discard",
    "field",
    "split_url",
]

Headers = Sequence[tuple[str, str]]

_IDLE_LIMIT = 4.0  # seconds; below the keep-alive of every server that is in wide use (node's is 5)
_MAX_IDLE = 4  # connections kept; a hub connection has two requests at once at most
_MAX_BODY = 32 * 1024 * 1024  # bytes of a response that is read whole
_CLOSE_TIMEOUT = 1.0  # seconds
_AS_IT_IS = "".join(map(chr, range(0x21, 0x7F)))  # of a URL; the rest is percent-encoded, as browsers do
_MAY_REPEAT = frozenset(("GET", "DELETE"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom to connect to."""

    scheme: str  # http or https
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The `Host` field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


Dial = Callable[[Origin, ssl.SSLContext | None], Awaitable[ByteStream]]
"""Connects, with TLS where a context is given; raises ConnectionClosed where that fails."""


def split_url(url: str) -> tuple[Origin, str]:
    """An origin and the request target (path and query).

    Raises:
        ConfigError: it is no URL of a server.
    """
    try:
        parts = urlsplit(url)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        host, port = parts.hostname, parts.port
        if host is not None and not host.isascii():
            host = host.encode("idna").decode("ascii")
    except ValueError as error:
        raise ConfigError("url", url, f"write http://host:port/path ({error})") from None
    if scheme not in ("http", "https") or not host or parts.username is not None:
        raise ConfigError("url", url, "write http://host:port/path or https://host:port/path")
    target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_AS_IT_IS)
    return Origin(scheme, host, port or (443 if scheme == "https" else 80)), target


def dialer(
    *,
    proxy: Proxy | None = None,
    proxy_from_environment: bool = False,
    unix: str | None = None,
    server_name: str | None = None,
) -> Dial:
    """A dial over TCP or a Unix socket, and through a proxy where that is asked for.

    Args:
        proxy: to go through.
        proxy_from_environment: ask the environment where `proxy` is None.
        unix: the path of a Unix socket to connect to, whatever host is asked for.
        server_name: whom the certificate must be for, where that is not the host.
    """
    config = Config()

    async def connect(origin: Origin, context: ssl.SSLContext | None) -> ByteStream:
        through = proxy
        if through is None and proxy_from_environment and unix is None:
            through = environment_proxy(origin.host, origin.port, tls=origin.scheme == "https")
        return await dial(
            Destination(origin.host, origin.port, unix, tls=context, server_name=server_name, proxy=through), config
        )

    return connect


async def discard(stream: ByteStream) -> None:
    """Close at once, also when cancelled."""
    stream.abort()
    # R5: a shield always carries a deadline. An aborted stream closes without waiting for its peer.
    with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await stream.aclose()


def field(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The first value of a field, by its name in lower case."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class StreamedResponse:
    """A response whose head has come; made by `Http1Client.stream`."""

    def __init__(self, connection: _Connection, head: ResponseReceived) -> None:
        self.status = head.status
        self.headers = head.headers
        self._connection = connection

    async def receive_some(self) -> bytes:
        """The next piece of body, `b""` at its end. Cancellation loses nothing.

        Raises:
            ConnectionClosed: the connection broke.
            RemoteProtocolError: what came is no HTTP.
        """
        event = await self._connection.next_event()
        return event.data if isinstance(event, DataReceived) else b""

    async def discard(self) -> None:
        """Close the connection at once, also when cancelled."""
        await discard(self._connection.stream)

    async def read(self, limit: int = _MAX_BODY) -> bytes:
        """All of the body.

        Raises:
            RemoteProtocolError: it is larger than `limit` bytes; and as `receive_some`.
        """
        pieces: list[bytes] = []
        size = 0
        while data := await self.receive_some():
            pieces.append(data)
            size += len(data)
            if size > limit:
                raise RemoteProtocolError(f"the server's answer is larger than {limit} bytes")
        return b"".join(pieces)


class _Connection:
    """One connection and the request that it is busy with."""

    def __init__(self, stream: ByteStream, origin: Origin) -> None:
        self.stream = stream
        self.origin = origin
        self.core = Http1ClientCore()
        self.idle_since = 0.0

    async def request(self, method: str, target: str, headers: Headers, body: bytes | None) -> ResponseReceived:
        """Send a request and wait for the head of its response."""
        fields = [(b"host", self.origin.authority.encode("ascii"))]
        try:
            fields += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"header fields are ASCII or Latin-1: {error}") from None
        await self.stream.send_all(self.core.send_request(method.encode(), target.encode(), fields, body))
        event = await self.next_event()
        if not isinstance(event, ResponseReceived):
            raise AssertionError("a response begins with its head")
        return event

    async def next_event(self) -> ResponseReceived | DataReceived | ResponseEnded:
        while True:
            event = self.core.next_event()
            if isinstance(event, ResponseFailed):
                raise event.error
            if event is not None:
                return event
            if self.core.ended:
                return ResponseEnded()
            data = await self.stream.receive_some()
            if data:
                self.core.receive_data(data)
            else:
                self.core.receive_eof()


class Http1Client:
    """Requests to any origin, one connection for each that is under way.

    Args:
        context: for https; None: the system's certificate authorities.
        dial: how to connect; None: over TCP. Tests give one that needs no sockets.
    """

    def __init__(self, *, context: ssl.SSLContext | None = None, dial: Dial | None = None) -> None:
        self._context = context
        self._dial = dial or dialer()
        self._idle: list[_Connection] = []

    async def request(self, method: str, url: str, headers: Headers = (), body: bytes | None = None) -> Response:
        """One request and its whole response. Cancellation closes its connection.

        Raises:
            ConnectionClosed: no connection, or it broke.
            RemoteProtocolError: what came is no HTTP, or too much.
        """
        async with self.stream(method, url, headers, body) as response:
            return Response(response.status, response.headers, await response.read())
        raise AssertionError("unreachable: the context manager does not swallow")

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Headers = (), body: bytes | None = None, *, repeat: bool = False
    ) -> AsyncIterator[StreamedResponse]:
        """One request; inside the block the head of its response is there and its body can be read.

        Args:
            repeat: nothing is lost when the server gets it twice, though it is a POST.

        Raises:
            ConnectionClosed, RemoteProtocolError: as `request`.
        """
        connection, head = await self._send(method, url, headers, body, repeat or method in _MAY_REPEAT)
        try:
            yield StreamedResponse(connection, head)
        finally:
            await self._give_back(connection)  # noqa: ASYNC102  `discard` shields itself

    async def connect(self, url: str) -> ByteStream:
        """A connection to the server of a URL, for another protocol; raises what the dial does."""
        return await self._dial_origin(split_url(url)[0])

    async def drop_idle(self) -> None:
        """Close what is kept."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await discard(connection.stream)

    async def _send(
        self, method: str, url: str, headers: Headers, body: bytes | None, repeat: bool
    ) -> tuple[_Connection, ResponseReceived]:
        origin, target = split_url(url)
        kept = await self._take(origin)
        if kept is not None:
            try:
                return kept, await self._ask(kept, method, target, headers, body)
            except (ConnectionClosed, RemoteProtocolError):
                if kept.core.answered or not repeat:
                    raise
        connection = await self._open(origin)
        return connection, await self._ask(connection, method, target, headers, body)

    async def _ask(
        self, connection: _Connection, method: str, target: str, headers: Headers, body: bytes | None
    ) -> ResponseReceived:
        try:
            return await connection.request(method, target, headers, body)
        except BaseException:
            await discard(connection.stream)  # noqa: ASYNC102  `discard` shields itself
            raise

    async def _open(self, origin: Origin) -> _Connection:
        return _Connection(await self._dial_origin(origin), origin)

    async def _dial_origin(self, origin: Origin) -> ByteStream:
        context = None
        if origin.scheme == "https":
            if self._context is None:
                self._context = default_tls_context("http/1.1")
            context = self._context
        return await self._dial(origin, context)

    async def _take(self, origin: Origin) -> _Connection | None:
        now = trio.current_time()
        for connection in [each for each in self._idle if now - each.idle_since > _IDLE_LIMIT]:
            self._idle.remove(connection)
            await discard(connection.stream)
        for connection in self._idle:
            if connection.origin == origin:
                self._idle.remove(connection)
                return connection
        return None

    async def _give_back(self, connection: _Connection) -> None:
        while connection.core.answered and connection.core.failure is None:
            event = connection.core.next_event()  # the end may be there, unread
            if event is None or isinstance(event, ResponseFailed):
                break
        if connection.core.reusable and len(self._idle) < _MAX_IDLE:
            connection.core.start_next()
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            await discard(connection.stream)
