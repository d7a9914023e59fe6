"""Outgoing connections to addresses that a resolver found.

Owns: `Address`, and the way from one to a `ByteStream`. Never speaks a protocol on it, and never
retries: that is the caller's policy.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

import trio

from engine.config import ServerConfig
from engine.errors import ConnectionClosed
from engine.transport.stream import ByteStream, SocketByteStream
from engine.transport.tls_client import TlsClient, start_tls

__all__ = ["Address", "dial"]


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
    stream = SocketByteStream(socket.socket(fileno=sock.detach()), read_size=config.read_size)
    if tls is None:
        return stream
    return await start_tls(stream, tls, config)


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
