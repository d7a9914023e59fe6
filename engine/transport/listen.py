"""Listening sockets: opened here, accepted from here.

Owns: name resolution of the bind address, one port number for all of a host's addresses, what to say
when the port is taken, and an accept loop that outlives a lack of file descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable

import trio

from engine.errors import StartupError

_log = logging.getLogger(__name__)

_ACCEPTS_BEFORE_CHECKPOINT = 16  # one loud listener must not keep connections from running
_RESOURCE_PAUSE = 0.1  # trio.serve_listeners' pause when the process or the machine has no more to give
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_GONE_BEFORE_ACCEPT = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EPERM})


async def open_listeners(host: str, port: int, backlog: int, *, flag: str = "--port") -> list[socket.socket]:
    """Bind and listen on every address of `host`, all with the same port.

    Args:
        host: a name or an address; empty: all interfaces.
        port: 0 picks a free one.
        backlog: connections that the kernel queues for us.
        flag: the setting to name where the port is taken.

    Raises:
        StartupError: the address does not resolve, or cannot be bound.
    """
    try:
        found = await trio.socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartupError(f"cannot resolve {host!r}: {error.strerror}; check --host") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if sockets and port == 0:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_listen(family, kind, protocol, address, backlog, flag))
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def open_unix_listener(path: str, backlog: int) -> socket.socket:
    """Listen on a Unix socket; a file that a dead server left behind is replaced.

    Raises:
        StartupError: somebody listens there, or the path cannot be used.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
                os.unlink(path)
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        why = os.strerror(error.errno or 0).lower()
        raise StartupError(f"cannot listen on unix:{path}: {why}; choose another path, or remove the file") from None
    return sock


def _answers(path: str) -> bool:
    """Somebody accepts connections there."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        return True


def _listen(
    family: int, kind: int, protocol: int, address: tuple[object, ...], backlog: int, flag: str
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        hint = {
            errno.EADDRINUSE: f"stop the program that has it, or choose another with {flag} (0 picks a free one)",
            errno.EACCES: f"ports below 1024 need privileges: choose another with {flag}",
            errno.EADDRNOTAVAIL: "this machine has no such address: choose another with --host",
        }.get(error.errno or 0, "check --host and " + flag)
        raise StartupError(
            f"cannot listen on {address[0]}:{address[1]}: {os.strerror(error.errno or 0).lower()}; {hint}"
        ) from None
    return sock


async def accept_forever(
    listener: socket.socket,
    admit: Callable[[], Awaitable[None]],
    accepted: Callable[[socket.socket], None],
) -> None:
    """Accept connections until cancelled.

    Args:
        listener: a non-blocking listening socket.
        admit: waits until one more connection may come; those that must wait stay in the backlog.
        accepted: takes over a connected socket, synchronously.
    """
    accepts = 0
    while True:
        await admit()
        sock, pause = _accept(listener)
        if sock is not None:
            accepted(sock)
            accepts += 1
            if accepts >= _ACCEPTS_BEFORE_CHECKPOINT:
                accepts = 0
                await trio.lowlevel.checkpoint()
        elif pause:
            await trio.sleep(_RESOURCE_PAUSE)
        else:
            accepts = 0
            await trio.lowlevel.wait_readable(listener)


def _accept(listener: socket.socket) -> tuple[socket.socket | None, bool]:
    """A connection that waits, or None; True where the machine has no room for one."""
    try:
        return listener.accept()[0], False
    except BlockingIOError:
        return None, False
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            _log.error("cannot accept: %s; raise the limit on open files (ulimit -n)", error.strerror)
            return None, True
        if error.errno in _GONE_BEFORE_ACCEPT:
            return None, False
        raise
