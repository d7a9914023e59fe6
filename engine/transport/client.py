"""Outgoing connections: addresses, the client's TLS, and the dial.

Owns: `Address`, every choice about TLS on our side as a client, and the way from an address to a
`ByteStream`. Never speaks a protocol on it, and never retries: that is the caller's policy.

Specs: RFC 8446 and RFC 5246 (TLS), RFC 6066 section 3 (SNI), RFC 7301 (ALPN), RFC 9113 section 3.2.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from engine.config import ClientTlsConfig, ServerConfig
from engine.errors import ConfigError, ConnectionClosed
from engine.transport.stream import ByteStream, SocketByteStream, WrappedByteStream

__all__ = ["Address", "TlsClient", "client_context", "dial", "start_tls"]

_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9113 9.2.2: ephemeral keys and AEAD only


@dataclass(frozen=True, slots=True)
class Address:
    """Where a connection goes: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None  # of a Unix socket; a leading NUL means the abstract namespace

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}" if self.path[:1] != "\0" else f"unix-abstract:{self.path[1:]}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsClient:
    """What a TLS handshake needs."""

    context: ssl.SSLContext
    server_name: str
    alpn: str | None = None  # what must be agreed on; None: anything


def client_context(config: ClientTlsConfig, alpn: Sequence[str]) -> ssl.SSLContext:
    """The context for connections to servers.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.set_alpn_protocols(list(alpn))
    context.options |= ssl.OP_NO_COMPRESSION  # RFC 9113 9.2.1
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.ca_file is None and config.ca_data is None:
        context.load_default_certs()
    else:
        _load_authorities(context, config)
    if config.cert_file is not None:
        _load_certificate(context, config.cert_file, config.key_file)
    return context


def _load_authorities(context: ssl.SSLContext, config: ClientTlsConfig) -> None:
    for setting, file in (("client_tls.ca_file", config.ca_file), ("client_tls.ca_data", None)):
        data = config.ca_data if file is None else None
        if file is None and data is None:
            continue
        try:
            context.load_verify_locations(cafile=file, cadata=data)
        except ssl.SSLError as error:
            raise ConfigError(setting, file, f"give certificates in PEM form ({error.reason or error})") from None
        except OSError as error:
            raise ConfigError(setting, file, f"name a PEM file that can be read ({error.strerror})") from None


def _load_certificate(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    def refuse_password() -> str:  # without it OpenSSL asks on the terminal
        raise ConfigError("client_tls.key_file", key_file or cert_file, "give the key without a pass phrase")

    for file in filter(None, (cert_file, key_file)):
        if not Path(file).is_file():
            raise ConfigError("client_tls.cert_file", file, "name PEM files of our certificate and its key")
    try:
        context.load_cert_chain(cert_file, key_file, password=refuse_password)
    except ssl.SSLError as error:
        hint = f"give a PEM certificate and its own key ({error.reason or error})"
        raise ConfigError("client_tls.cert_file", cert_file, hint) from None


async def dial(address: Address, tls: TlsClient | None, config: ServerConfig) -> ByteStream:
    """Connect, and shake hands where `tls` is given. Cancellation leaves nothing open.

    Args:
        config: `read_size` and `close_timeout` are used.

    Raises:
        ConnectionClosed: it did not work; the reason says why.
    """
    try:
        sock = await _connect(address)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)  # strerror of Trio's repeats the address
        raise ConnectionClosed(1006, reason) from None
    if tls is None:
        return SocketByteStream(socket.socket(fileno=sock.detach()), read_size=config.read_size)
    local, peer = str(sock.getsockname()), str(address)
    stream = await start_tls(trio.SocketStream(sock), tls)
    return WrappedByteStream(
        stream,
        read_size=config.read_size,
        close_timeout=config.close_timeout,
        local_address=local,
        peer_address=peer,
    )


async def _connect(address: Address) -> trio.socket.SocketType:
    if address.path is not None:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        ip = ipaddress.ip_address(address.host.partition("%")[0])
        sock = trio.socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        await sock.connect((address.host, address.port) if address.path is None else address.path)
    except BaseException:
        sock.close()
        raise
    return sock


async def start_tls(stream: trio.abc.Stream, tls: TlsClient) -> trio.SSLStream[trio.abc.Stream]:
    """Shake hands as the client; the stream is closed where that fails.

    Raises:
        ConnectionClosed: the handshake failed, or agreed on another protocol.
    """
    encrypted = trio.SSLStream(stream, tls.context, server_hostname=tls.server_name, https_compatible=True)
    try:
        await encrypted.do_handshake()
        agreed = encrypted.selected_alpn_protocol()
        if tls.alpn is not None and agreed != tls.alpn:
            raise ConnectionClosed(1006, f"the server agreed on {agreed or 'no protocol'} by ALPN, not on {tls.alpn}")
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise ConnectionClosed(1006, f"TLS handshake failed: {_reason(error)}") from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return encrypted


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return cause.reason or str(cause)
    return str(cause or "the server closed the connection")
