"""Outgoing connections: TCP, Unix sockets, TLS, and the way through an HTTP proxy.

Owns: how a client gets a `ByteStream` to a server, and the naming of what goes wrong on the way: every
failure is a `ConnectionClosed` whose reason says which step failed, with the original as its cause.
Never speaks the protocol that the stream is for. There are no time-outs here: callers have Trio's.

Specs: RFC 9110 section 9.3.6 (CONNECT), RFC 8305 (several addresses; Trio does that), RFC 7301 (ALPN).
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote, urlsplit

import trio

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected, RemoteProtocolError
from engine.transport.stream import ByteStream, SocketByteStream, WrappedByteStream, format_address
from engine.transport.tls import ReplayStream
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


@cache
def default_tls_context(alpn: str) -> ssl.SSLContext:
    """Trusts what the system trusts, TLS 1.2 and up, and offers one protocol; shared, so leave it as it is."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([alpn])
    return context


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
    proxy = destination.proxy if destination.unix is None else None
    connect = destination.connect or trio.open_tcp_stream
    plain: trio.abc.Stream
    if destination.unix is not None:
        plain = await _connect_unix(destination.unix)
    elif proxy is not None:
        plain = await _connect_tcp(connect, proxy.host, proxy.port)
    else:
        plain = await _connect_tcp(connect, destination.host, destination.port)
    # Before anything is wrapped around them, and the socket hidden.
    local, peer = _addresses(plain, destination)
    stream, tunnel = plain, b""
    try:
        if proxy is not None:
            if proxy.tls:
                stream = await _start_tls(stream, default_tls_context("http/1.1"), proxy.host, None)
            tunnel = await _tunnel(stream, proxy, destination, config)
        if tunnel:
            stream = ReplayStream(stream, tunnel)
        if destination.tls is not None:
            name = destination.server_name or destination.host
            stream = await _start_tls(stream, destination.tls, name, destination.alpn)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    server = config.server
    if isinstance(stream, trio.SocketStream) and stream is plain:
        return SocketByteStream(socket.socket(fileno=stream.socket.detach()), read_size=server.read_size)
    return WrappedByteStream(
        stream,
        read_size=server.read_size,
        close_timeout=server.close_timeout,
        local_address=local,
        peer_address=peer,
    )


def _addresses(stream: trio.abc.Stream, destination: Destination) -> tuple[str, str]:
    """Our own, and the server's: as it was asked for where there is a proxy in between, or no socket."""
    local, peer = "", f"{destination.host}:{destination.port}"
    if not isinstance(stream, trio.SocketStream):
        return local, peer
    with contextlib.suppress(OSError):  # the server may be gone already: the next step will tell
        local = format_address(stream.socket.getsockname())
        if destination.proxy is None:
            peer = format_address(stream.socket.getpeername())
    return local, peer


# -- the steps ------------------------------------------------------------


async def _connect_tcp(connect: Connect, host: str, port: int) -> trio.abc.Stream:
    with _naming(f"cannot connect to {host}:{port}"):
        return await connect(host, port)
    raise AssertionError("unreachable: _naming swallows nothing")


async def _connect_unix(path: str) -> trio.SocketStream:
    with _naming(f"cannot connect to {path}"):
        return await trio.open_unix_socket(path)
    raise AssertionError("unreachable: _naming swallows nothing")


async def _start_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, name: str, alpn: str | None
) -> trio.SSLStream[trio.abc.Stream]:
    # https_compatible would keep close_notify back, and with it the difference between an end and a cut.
    tls = trio.SSLStream(stream, context, server_hostname=name, https_compatible=False)
    with _naming(f"TLS handshake with {name}"):
        await tls.do_handshake()
    negotiated = tls.selected_alpn_protocol()
    if alpn is not None and negotiated != alpn:
        hint = "give an ssl_context that offers it, to a server that speaks it"
        raise ConnectionClosed(1006, f"TLS handshake with {name}: {alpn} was not negotiated (RFC 7301); {hint}")
    return tls


async def _tunnel(stream: trio.abc.Stream, proxy: Proxy, destination: Destination, config: Config) -> bytes:
    """CONNECT; returns what came behind the proxy's answer."""
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    authority = f"{host}:{destination.port}".encode("ascii")
    request = [b"CONNECT %s HTTP/1.1" % authority, b"Host: " + authority]
    if proxy.authorization is not None:
        request.append(b"Proxy-Authorization: " + proxy.authorization)
    where = f"the proxy {proxy.host}:{proxy.port}"
    reader = ResponseHeadReader(config.http1)
    with _naming(where):
        await stream.send_all(b"\r\n".join((*request, b"\r\n")))
        head = None
        while head is None:
            data = await stream.receive_some()
            if not data:
                raise ConnectionClosed(1006, f"{where} ended the connection without an answer to CONNECT")
            try:
                head = reader.feed(bytes(data))
            except RemoteProtocolError as error:
                raise RemoteProtocolError(f"{where}: {error}") from None
    # "Any 2xx (Successful) response indicates that the sender ... will switch to tunnel mode."
    if not 200 <= head.status < 300:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.fields]
        message = f"{where} answered CONNECT with {head.status}; check the proxy's address and credentials"
        raise HandshakeRejected(head.status, headers, bytes(reader.rest), message=message)
    return bytes(reader.rest)


@contextlib.contextmanager
def _naming(step: str) -> Iterator[None]:
    """Whatever the transport raises becomes ConnectionClosed with the step's name."""
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ConnectionClosed(1006, f"{step}: {_reason(error.__cause__ or error)}") from (error.__cause__ or error)
    except OSError as error:
        raise ConnectionClosed(1006, f"{step}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted, {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return error.reason or "the server ended the connection"
    several = error.__cause__
    if isinstance(several, BaseExceptionGroup):  # Trio tried more than one address
        return _reason(several.exceptions[0])
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # Trio's text repeats the address
    return str(error) or type(error).__name__
