"""Opens a client's WebSocket: the way to the server, the handshake, and redirects on the way.

Owns: one attempt to connect, over HTTP/1.1 and HTTP/2. Starts no task: everything is done by the task
that calls, and cancelling it closes what was opened. What follows is `engine.websocket.client`'s.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import trio

from engine.config import Config, WebSocketConfig
from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected, LocalProtocolError
from engine.transport.dial import Connect, Destination, Proxy, dial, proxy_from_environment
from engine.transport.exchange import Fields, Peer, RequestHead
from engine.transport.stream import ByteStream
from engine.transport.tls_client import default_tls_context
from engine.transport.websocket_client import ClientConnection, SwitchedConnection
from engine.transport.websocket_client_http2 import Http2ClientConnection
from engine.websocket.address import Address, follow
from engine.wire.websocket.client_handshake import (
    MAX_REJECTION_BODY,
    ClientHandshake,
    HandshakeFailed,
    Offered,
    Opened,
    Rejected,
    check_agreement,
)

_REDIRECTS = frozenset((301, 302, 303, 307, 308))  # RFC 9110 section 15.4
_MAX_QUOTED = 100  # characters of a rejection's text that go into the error; all of it is in its `body`
_CREDENTIALS = frozenset((b"authorization", b"cookie", b"proxy-authorization"))

HeaderPairs = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect; see `engine.websocket.client.connect_websocket`."""

    headers: tuple[tuple[bytes, bytes], ...]
    subprotocols: tuple[str, ...]
    compression: bool
    proxy: Proxy | None  # for all connections; None: what the environment says, if it is asked
    proxy_from_environment: bool
    ssl_context: ssl.SSLContext | None
    server_name: str | None
    http2: bool
    max_redirects: int
    config: Config
    entropy: Callable[[int], bytes]
    connect: Connect | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A connection that is switched, and that nothing has been read from yet."""

    connection: ClientConnection
    answer: Opened


def field_pairs(headers: HeaderPairs) -> tuple[tuple[bytes, bytes], ...]:
    """Header fields as bytes, names in lower case.

    Raises:
        LocalProtocolError: characters that no field can have.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    try:
        return tuple((name.lower().encode("ascii"), value.encode("latin-1")) for name, value in pairs)
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"header fields are ASCII or Latin-1: {error}") from None


async def open_connection(address: Address, options: Options) -> Open:
    """Connect and shake hands, following redirects.

    Raises:
        HandshakeRejected: the server, or the proxy, answered something else.
        ConnectionClosed: the server cannot be reached, or went away.
        RemoteProtocolError, LimitExceeded: the answer breaks the protocol, or a limit.
        ConfigError: the proxy cannot be used, or a redirect leads to where it is not followed to.
    """
    headers = options.headers
    for followed in range(options.max_redirects + 1):
        outcome = await _attempt(address, headers, options)
        if isinstance(outcome, Open):
            return outcome
        location = dict(outcome.headers).get(b"location", b"").decode("latin-1")
        if outcome.status not in _REDIRECTS or not location or followed == options.max_redirects:
            raise _rejection(outcome, address, followed)
        target = follow(address, location)
        if target.origin != address.origin:
            # What was meant for one server is not told to another.
            headers = tuple(field for field in headers if field[0] not in _CREDENTIALS)
        address = dataclasses.replace(target, authorization=target.authorization or _kept(address, target))
    raise AssertionError("the last attempt returns or raises")


def _kept(address: Address, target: Address) -> str | None:
    return address.authorization if target.origin == address.origin else None


def _rejection(answer: Rejected, address: Address, followed: int) -> HandshakeRejected:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    message = f"{address.url} answered the handshake with {answer.status}"
    if answer.status in _REDIRECTS and followed:
        message += f" after {followed} redirects; raise max_redirects, or give the URL that it leads to"
    else:
        text = answer.body.decode("utf-8", "replace").partition("\n")[0].strip()[:_MAX_QUOTED]
        quoted = f" ({text})" if text and text.isprintable() and not text.startswith("<") else ""
        message += f"{quoted}; check the URL, the path and credentials"
    return HandshakeRejected(answer.status, headers, answer.body, message=message)


async def _attempt(address: Address, headers: Fields, options: Options) -> Open | Rejected:
    if address.authorization is not None and all(name != b"authorization" for name, _ in headers):
        headers = (*headers, (b"authorization", address.authorization.encode("ascii")))
    offered = offer(address, headers, options)
    stream = await dial(_destination(address, options), options.config)
    try:
        peer = Peer(stream.peer_address, stream.local_address, 0, tls=address.tls)
        opening = _open_http2 if options.http2 else _open_http1
        outcome = await opening(stream, address, offered, peer, options)
    except BaseException:
        stream.abort()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + options.config.server.close_timeout):
            await stream.aclose()
        raise
    if isinstance(outcome, Rejected):
        await stream.aclose()
    return outcome


def offer(address: Address, headers: Fields, options: Options) -> Offered:
    """What one attempt asks for.

    Raises:
        LocalProtocolError: header fields or subprotocols that may not be sent.
    """
    return Offered(
        authority=address.authority.encode("ascii"),
        target=address.target.encode("ascii"),
        headers=tuple(headers),
        subprotocols=options.subprotocols,
        config=options.config.websocket if options.compression else None,
    )


async def _open_http1(
    stream: ByteStream, address: Address, offered: Offered, peer: Peer, options: Options
) -> Open | Rejected:
    config = options.config
    outcome = await shake_hands(stream, ClientHandshake(offered, options.entropy(16), config.http1), config.websocket)
    if isinstance(outcome, Rejected):
        return outcome
    head = _request_head(address, offered, "1.1")
    return Open(SwitchedConnection(stream, head, peer, config, outcome.trailing), outcome)


async def shake_hands(stream: ByteStream, core: ClientHandshake, config: WebSocketConfig) -> Opened | Rejected:
    """Send the request on a connection of its own, and read the answer. Never closes the stream.

    Raises:
        ConnectionClosed: the server went away.
        RemoteProtocolError, LimitExceeded: the answer breaks the protocol, or a limit.
    """
    await stream.send_all(core.data_to_send())
    event = None
    while event is None and not core.in_rejection:
        _receive(core, await stream.receive_some())
        event = core.next_event()
    with trio.move_on_after(config.close_timeout):  # a body that never ends is not waited for
        while event is None:
            try:
                _receive(core, await stream.receive_some())
            except ConnectionClosed:
                core.receive_eof()
            event = core.next_event()
    if event is None:
        core.receive_eof()
        event = core.next_event()
    if isinstance(event, HandshakeFailed):
        raise event.error
    assert event is not None  # the end of the input made one
    return event


def _receive(core: ClientHandshake, data: bytes) -> None:
    if data:
        core.receive_data(data)
    else:
        core.receive_eof()


async def _open_http2(
    stream: ByteStream, address: Address, offered: Offered, peer: Peer, options: Options
) -> Open | Rejected:
    connection = Http2ClientConnection(stream, _request_head(address, offered, "2"), peer, options.config)
    fields = offered.connect_fields(b"https" if address.tls else b"http")
    answer = await connection.connect(fields)
    # "The server ... a 2XX status code" (RFC 8441 section 5); RFC 9110 leaves a 204 no tunnel.
    if 200 <= answer.status < 300 and not answer.end_stream:
        return Open(connection, check_agreement(answer.headers, offered))
    body = bytearray()
    with trio.move_on_after(options.config.websocket.close_timeout):
        await connection.receive_body(body, MAX_REJECTION_BODY)
    return Rejected(answer.status, answer.headers, bytes(body[:MAX_REJECTION_BODY]))


def _destination(address: Address, options: Options) -> Destination:
    alpn = "h2" if options.http2 else "http/1.1"
    context = (options.ssl_context or default_tls_context(alpn)) if address.tls else None
    return Destination(
        host=address.host,
        port=address.port,
        unix=address.unix,
        tls=context,
        server_name=options.server_name,
        alpn="h2" if options.http2 and address.tls else None,
        proxy=_proxy(address, options),
        connect=options.connect,
    )


def _proxy(address: Address, options: Options) -> Proxy | None:
    if options.proxy_from_environment and address.unix is None and options.connect is None:
        return proxy_from_environment(address.host, address.port, tls=address.tls)
    return options.proxy


def _request_head(address: Address, offered: Offered, http_version: str) -> RequestHead:
    path, _, query = address.target.partition("?")
    return RequestHead(
        method="GET" if http_version == "1.1" else "CONNECT",
        path=unquote(path),
        query=query,
        scheme="https" if address.tls else "http",
        authority=address.authority,
        headers=offered.common_fields(),
        http_version=http_version,
        protocol="websocket",
        raw_path=path.encode("ascii"),
    )


def check_max_redirects(limit: int) -> int:
    """Raises ConfigError for a number below 0."""
    if limit < 0:
        raise ConfigError("max_redirects", limit, "give 0 or more")
    return limit
