"""Outgoing connections: TCP, Unix sockets, TLS, and the way through an HTTP proxy.

Owns: how a client gets a `ByteStream` to a server, and the naming of what goes wrong on the way: every
failure is a `ConnectionClosed` whose reason says which step failed, with the original as its cause.
Never speaks the protocol that the stream is for. There are no time-outs here: callers have Trio's.

Specs: RFC 9110 section 9.3.6 (CONNECT), RFC 8305 (several addresses; Trio does that), RFC 7301 (ALPN).
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import trio

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected, RemoteProtocolError
from engine.transport.stream import ByteStream, ReplayedByteStream, SocketByteStream, WrappedByteStream
from engine.transport.tls_client import TlsClient, default_tls_context, start_tls
from engine.wire.http1_response import ResponseHeadReader

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Gives a stream to a host and port, in place of a TCP connection."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that tunnels with CONNECT."""

    host: str
    port: int
    tls: bool = False  # the way to the proxy is encrypted
    authorization: bytes | None = None  # the value of Proxy-Authorization


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to connect to.

    Attributes:
        host, port: by TCP; what the certificate must be for, unless `server_name` says otherwise.
        unix: the path of a Unix socket, which is connected instead.
        tls: None: no TLS.
        server_name: in place of `host` for SNI and the certificate.
        alpn: what must have been negotiated; None: anything.
        proxy: to go through; not for Unix sockets.
        connect: in place of TCP, to the proxy as well.
    """

    host: str
    port: int
    unix: str | None = None
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    alpn: str | None = None
    proxy: Proxy | None = None
    connect: Connect | None = None


def parse_proxy(url: str) -> Proxy:
    """`http://user:password@host:port`, or https.

    Raises:
        ConfigError: it is something else.
    """
    shown = url.rpartition("@")[2]  # no passwords in errors
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("proxy", shown, "give http://host:port or https://host:port; SOCKS is not spoken")
    authorization = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(credentials.encode())
    tls = parts.scheme == "https"
    return Proxy(host, port or (443 if tls else 80), tls, authorization)


def proxy_from_environment(host: str, port: int, *, tls: bool) -> Proxy | None:
    """What `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` say, as `urllib` reads them.

    Encrypted connections go through `https_proxy`, others through `http_proxy`; `all_proxy` is for both.

    Raises:
        ConfigError: a variable names no HTTP proxy.
    """
    from urllib.request import getproxies, proxy_bypass  # costs 20 ms, and few programs get here

    if proxy_bypass(f"{host}:{port}") or _is_loopback(host):
        return None
    proxies = getproxies()
    url = proxies.get("https" if tls else "http") or proxies.get("all")
    return parse_proxy(url) if url else None


def _is_loopback(host: str) -> bool:
    # A proxy's own loopback is never meant (curl and Go skip it alike).
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def dial(destination: Destination, config: Config) -> ByteStream:
    """Connect, through a proxy and with TLS where that is asked for.

    Cancellation closes what was opened.

    Raises:
        ConnectionClosed: some step failed; its reason says which.
        HandshakeRejected: the proxy refused.
        RemoteProtocolError, LimitExceeded: the proxy's answer is no HTTP.
    """
    server = config.server
    stream = await _connect(destination, config)
    proxy = destination.proxy if destination.unix is None else None
    tunnel = b""
    if proxy is not None:
        if proxy.tls:
            stream = await start_tls(stream, TlsClient(default_tls_context("http/1.1"), proxy.host), server)
        try:
            tunnel = await _tunnel(stream, proxy, destination, config)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + server.close_timeout):
                await stream.aclose()
            raise
        stream.peer_address = f"{destination.host}:{destination.port}"
    if destination.tls is not None:
        tls = TlsClient(destination.tls, destination.server_name or destination.host, destination.alpn)
        return await start_tls(stream, tls, server, tunnel)
    return ReplayedByteStream(stream, tunnel) if tunnel else stream


# -- the steps ------------------------------------------------------------


async def _connect(destination: Destination, config: Config) -> ByteStream:
    """To the server, or to its proxy."""
    server = config.server
    connect: Connect = destination.connect or trio.open_tcp_stream
    nearest = destination.proxy or destination
    where = destination.unix or f"{nearest.host}:{nearest.port}"
    try:
        plain: trio.abc.Stream
        if destination.unix is not None:
            plain = await trio.open_unix_socket(destination.unix)
        else:
            plain = await connect(nearest.host, nearest.port)
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__ or error
        raise ConnectionClosed(1006, f"cannot connect to {where}: {_reason(cause)}") from cause
    if isinstance(plain, trio.SocketStream):
        return SocketByteStream(socket.socket(fileno=plain.socket.detach()), read_size=server.read_size)
    return WrappedByteStream(
        plain, read_size=server.read_size, close_timeout=server.close_timeout, local_address="", peer_address=where
    )


async def _tunnel(stream: ByteStream, proxy: Proxy, destination: Destination, config: Config) -> bytes:
    """CONNECT; returns what came behind the proxy's answer."""
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    authority = f"{host}:{destination.port}".encode("ascii")
    request = [b"CONNECT %s HTTP/1.1" % authority, b"Host: " + authority]
    if proxy.authorization is not None:
        request.append(b"Proxy-Authorization: " + proxy.authorization)
    where = f"the proxy {proxy.host}:{proxy.port}"
    reader = ResponseHeadReader(config.http1)
    head = None
    try:
        await stream.send_all(b"\r\n".join((*request, b"\r\n")))
        while head is None:
            data = await stream.receive_some()
            if not data:
                raise ConnectionClosed(1006, "it ended the connection without an answer to CONNECT")
            head = reader.feed(data)
    except ConnectionClosed as error:
        raise ConnectionClosed(1006, f"{where}: {error.reason}") from error
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{where}: {error}") from None
    # "Any 2xx (Successful) response indicates that the sender ... will switch to tunnel mode."
    if not 200 <= head.status < 300:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.fields]
        message = f"{where} answered CONNECT with {head.status}; check the proxy's address and credentials"
        raise HandshakeRejected(head.status, headers, bytes(reader.rest), message=message)
    return bytes(reader.rest)


def _reason(error: BaseException) -> str:
    several = error.__cause__
    if isinstance(several, BaseExceptionGroup):  # Trio tried more than one address
        return _reason(several.exceptions[0])
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # Trio's text repeats the address
    return str(error) or type(error).__name__
