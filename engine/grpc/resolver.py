"""From a channel's target to addresses.

Owns the syntax of targets (grpc/grpc doc/naming.md) and the look-up of host names. Never connects.

    localhost:50051              a host name, looked up by the system
    dns:///service.example:443   the same, spelt out
    ipv4:10.0.0.1:80,10.0.0.2:80 addresses as they are; ipv6:[::1]:80 likewise
    unix:relative/path           a Unix socket; unix:///absolute/path, unix-abstract:name
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from engine.errors import ConfigError
from engine.transport.client import Address

__all__ = ["Resolver", "Target", "host_of", "parse_target"]

DEFAULT_PORT = 443  # doc/naming.md

Resolver = Callable[[], Awaitable[Sequence[Address]]]
"""Gives the addresses of a target, now; asked again before each attempt to connect. Raises `OSError`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target."""

    authority: str  # for `:authority`
    host: str  # for TLS
    resolve: Resolver


def parse_target(target: str) -> Target:
    """Take a target apart.

    Raises:
        ConfigError: it has none of the forms above.
    """
    scheme, colon, rest = target.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        path = rest.removeprefix("//") if scheme == "unix" and rest.startswith("///") else rest
        if not path:
            raise ConfigError("target", target, "name the socket, such as unix:/run/app.sock")
        return _fixed("localhost", [Address(path=f"\0{path}" if scheme == "unix-abstract" else path)])
    if colon and scheme in ("ipv4", "ipv6"):
        addresses = [_literal(target, item) for item in rest.split(",")]
        return _fixed(str(addresses[0]), addresses)
    if colon and scheme == "dns":
        rest = rest.removeprefix("///") if rest.startswith("///") else rest
        if rest.startswith("//"):
            raise ConfigError("target", target, "leave the name server out: dns:///host:port")
        target = rest
    elif "://" in target:
        raise ConfigError("target", target, "write host:port without a scheme; TLS is switched on with tls=")
    host, port = _host_and_port(target)
    address = _as_ip(host, port)
    if address is not None:
        return Target(target, host, _fixed(target, [address]).resolve)

    async def resolve() -> Sequence[Address]:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # of the IDNA codec: empty or too long labels
            raise OSError(f"{host!r} is no host name ({error})") from None
        unique = dict.fromkeys(Address(str(item[4][0]), int(item[4][1])) for item in found)
        return list(unique)

    return Target(target, host, resolve)


def host_of(authority: str) -> str:
    """The host of an authority, which may have a port.

    Raises:
        ConfigError: it is no authority.
    """
    return _host_and_port(authority)[0]


def _fixed(authority: str, addresses: list[Address]) -> Target:
    async def resolve() -> Sequence[Address]:
        await trio.lowlevel.checkpoint()
        return addresses

    return Target(authority, addresses[0].host or "localhost", resolve)


def _literal(target: str, item: str) -> Address:
    host, port = _host_and_port(item)
    address = _as_ip(host, port)
    if address is None:
        raise ConfigError("target", target, f"{host!r} is no IP address; use dns:///{item} for a name")
    return address


def _as_ip(host: str, port: int) -> Address | None:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return Address(host, port)


def _host_and_port(text: str) -> tuple[str, int]:
    hint = "write host:port, such as localhost:50051 or [::1]:50051"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError("target", text, hint)
        port = rest[1:]
    elif text.count(":") > 1:
        host, port = text, ""  # an IPv6 address without a port
    else:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and int(port) <= 65535)):
        raise ConfigError("target", text, hint)
    return host, int(port) if port else DEFAULT_PORT
