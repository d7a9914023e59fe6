"""Listeners, admission and the phases of a server: starting → serving → draining → stopped.

Owns: the nursery that every connection lives in, the watchdog, the phased stop (R9) and, in
`run_until_signal`, what SIGINT and SIGTERM mean. What is served is the `App`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Protocol

import trio

from engine.app import App
from engine.config import Config
from engine.errors import ConfigError, EngineError, StartupError
from engine.routing import ProtocolRoute
from engine.transport import background
from engine.transport.callbacks import StreamProtocol
from engine.transport.connection import Connection, Surroundings
from engine.transport.listen import accept_forever, open_listeners, open_unix_listener
from engine.transport.poller import Poller
from engine.transport.statistics import ServerStatistics
from engine.transport.stream import format_address
from engine.transport.tls import TlsHandshakes
from engine.transport.watchdog import Watchdog

__all__ = ["Phase", "Server", "run_until_signal", "serve"]

_log = logging.getLogger(__name__)

UNIX = "unix:"  # in front of the path of a Unix socket, where a host could be
_HARD_STOP = 2.0  # seconds that cancelled handlers have to clean up before their tasks are cancelled


class StartedStatus(Protocol):
    """What `trio.TaskStatus` is to a server."""

    def started(self, value: Server, /) -> None:
        """The server's listeners are open."""


class Phase(Enum):
    """Where a server is in its life; it only ever moves down this list."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class _Listener:
    """A listening socket and what is spoken on it."""

    socket: socket.socket
    serves_tls: bool = False
    tls_required: bool = False  # and nothing else
    protocol: Callable[[], StreamProtocol] | None = None  # instead of HTTP

    @property
    def address(self) -> str:
        return format_address(self.socket.getsockname())


def _remove_socket_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class Server:
    """One server: an app on its listeners.

    Attributes:
        addresses: `host:port` of each cleartext listener, the real ports; the path of a Unix socket.
        tls_addresses: the same of the TLS port, where it has one of its own.
        protocol_addresses: the same of the app's custom protocols, by the address that the app gave.
        phase: see `Phase`.
    """

    def __init__(self, app: App, config: Config | None = None) -> None:
        # immutable
        self.app = app
        self.config = config or app.config
        # owned by the server task
        self.phase = Phase.STARTING
        self.addresses: list[str] = []
        self.tls_addresses: list[str] = []
        self.protocol_addresses: dict[str, list[str]] = {}
        self._tls: TlsHandshakes | None = None
        self._watchdog = Watchdog()
        self._poller: Poller | None = None
        self._nursery: trio.Nursery  # of all connections, while it runs
        self._background: background.Background  # likewise
        self._connections: set[Connection] = set()
        self._accepted = 0  # connections so far
        self._admitted = 0  # accepted sockets, counted before their tasks have run
        self._connection_ids = count(1)
        self._changed = trio.Event()  # replaced each time it is set: a connection has ended
        self._drain_requested = trio.Event()
        self._stop_scope = trio.CancelScope()

    @property
    def connection_count(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    def statistics(self) -> ServerStatistics:
        """Every connection and what runs on it at this moment; for consoles, tests and metrics."""
        connections = sorted(self._connections, key=lambda each: each.connection_id)
        return ServerStatistics(self.phase.value, self._accepted, tuple(each.statistics() for each in connections))

    def drain(self) -> None:
        """Begin the graceful stop: accept nothing new, let what runs finish. Idempotent."""
        self._drain_requested.set()

    def stop(self) -> None:
        """End now: cancel everything that runs. Idempotent."""
        self._drain_requested.set()
        self._stop_scope.cancel()

    async def run(self, *, listen: bool = True, task_status: StartedStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `drain` or `stop`. Cancellation stops at once, without a drain.

        Args:
            listen: False: open no port; connections come by `adopt_stream` and `serve_stream` alone.

        Raises:
            StartupError: a port, a certificate or the app's lifespan is in the way.
        """
        tls = TlsHandshakes(self.config.tls, self.config.server) if self.config.tls is not None else None
        self._tls = tls
        async with self._lifespan(), contextlib.AsyncExitStack() as stack:
            listeners = await self._listen(stack) if listen else []
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watchdog.run)
                self._background = background.Background(nursery, self._watchdog)
                token = background.current.set(self._background)  # for exchanges that the poller's task starts
                if listen and self.config.server.shared_poller and Poller.available:
                    self._poller = Poller(self.config.server.busy_poll)
                    nursery.start_soon(self._poller.run)
                try:
                    await self._serve(nursery, listeners, tls, task_status)
                finally:
                    background.current.reset(token)
                    self.phase = Phase.STOPPED
                    self.app.ready = False
                    nursery.cancel_scope.cancel()

    def reload_tls(self) -> None:
        """Read the certificate files again for new connections; a failure is logged and the old ones stay."""
        if self._tls is not None:
            self._tls.reload()

    @contextlib.asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        """The app's lifespan; an error in either half of it is told apart from one of the server."""
        context, half = self.app.lifespan(), "start-up"
        try:
            async with context:
                half = "server"
                yield
                half = "clean-up"
        except EngineError:
            raise
        except Exception as error:
            if half == "server":
                raise
            raise StartupError(
                f"the app's lifespan failed with {type(error).__name__}: {error}; mend its {half} code"
            ) from error

    async def _listen(self, stack: contextlib.AsyncExitStack) -> list[_Listener]:
        """Open all listeners."""
        settings, tls = self.config.server, self.config.tls
        listeners = [
            _Listener(sock, serves_tls=tls is not None and tls.port is None)
            for sock in await self._open(stack, settings.host, settings.port, "--port")
        ]
        # Ports beside a Unix socket have no host of their own to go by.
        tcp_host = "127.0.0.1" if settings.host.startswith(UNIX) else settings.host
        self.addresses = [each.address for each in listeners]
        if tls is not None and tls.port is not None:
            encrypted = await self._open(stack, tcp_host, tls.port, "--tls-port")
            listeners += [_Listener(sock, serves_tls=True, tls_required=True) for sock in encrypted]
            self.tls_addresses = [format_address(sock.getsockname()) for sock in encrypted]
        for route in self.app.protocols:
            if route.tls and tls is None:
                raise ConfigError("tls.cert_file", None, f"the protocol at {route.address} asks for TLS: name one")
            host = route.host or tcp_host if route.unix_path is None else UNIX + route.unix_path
            sockets = await self._open(stack, host, route.port, "another port in app.protocol")
            added = [_Listener(sock, route.tls, route.tls, route.factory) for sock in sockets]
            listeners += added
            self.protocol_addresses[route.address] = [each.address for each in added]
        return listeners

    async def _open(self, stack: contextlib.AsyncExitStack, host: str, port: int, flag: str) -> list[socket.socket]:
        backlog = self.config.server.backlog
        if host.startswith(UNIX):
            path = host.removeprefix(UNIX)
            sockets = [open_unix_listener(path, backlog)]
            stack.callback(_remove_socket_file, path)
        else:
            sockets = await open_listeners(host, port, backlog, flag=flag)
        for sock in sockets:
            stack.callback(sock.close)
        return sockets

    async def _serve(
        self,
        nursery: trio.Nursery,
        listeners: list[_Listener],
        tls: TlsHandshakes | None,
        task_status: StartedStatus,
    ) -> None:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                surroundings = Surroundings(
                    self.config,
                    self.app.handle,
                    self._watchdog,
                    tls=tls if listener.serves_tls else None,
                    tls_required=listener.tls_required,
                    poller=self._poller,
                    protocol=listener.protocol,
                )
                accepting.start_soon(self._accept, listener.socket, surroundings, nursery)
            self.phase = Phase.SERVING
            self.app.begin_serving(self.statistics)
            task_status.started(self)
            await self._drain_requested.wait()
            self.phase = Phase.DRAINING
            self.app.begin_drain()
            accepting.cancel_scope.cancel()
        for listener in listeners:
            listener.socket.close()
        await self._drain_connections()

    async def _accept(self, listener: socket.socket, surroundings: Surroundings, nursery: trio.Nursery) -> None:
        def accepted(sock: socket.socket) -> None:
            self._admitted += 1
            nursery.start_soon(self._serve_socket, sock, surroundings)

        await accept_forever(listener, self._admit, accepted)

    async def _admit(self) -> None:
        """Wait until one more connection may come; those that wait stay in the kernel's backlog."""
        while self._admitted >= self.config.server.max_connections:
            await self._changed.wait()

    async def _serve_socket(self, sock: socket.socket, surroundings: Surroundings) -> None:
        try:
            await self._run(Connection(sock, surroundings, next(self._connection_ids)))
        finally:
            self._admitted -= 1

    async def serve_stream(self, stream: trio.abc.Stream, protocol: ProtocolRoute | None = None) -> None:
        """Serve one connection over a stream of the caller's, such as one half of a memory stream pair.

        The server must be running. TLS is spoken as on a port: where `tls` is configured and the client begins
        with it. Cancellation ends the connection at once.

        Args:
            protocol: one of `app.protocols` to speak instead of HTTP.
        """
        surroundings = Surroundings(
            self.config,
            self.app.handle,
            self._watchdog,
            tls=self._tls,
            tls_required=protocol is not None and protocol.tls,
            protocol=None if protocol is None else protocol.factory,
        )
        await self._run(Connection(stream, surroundings, next(self._connection_ids)))

    def adopt_stream(self, stream: trio.abc.Stream, protocol: ProtocolRoute | None = None) -> None:
        """As `serve_stream`, in a task of the server's own, which it ends with it; the server must be serving."""
        self._nursery.start_soon(self.serve_stream, stream, protocol)

    async def _run(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._accepted += 1
        token = background.current.set(self._background)
        try:
            if self.phase is Phase.SERVING:
                await connection.run()
            else:
                connection.drain()
                await connection.run()
        finally:
            background.current.reset(token)
            self._connections.discard(connection)
            changed, self._changed = self._changed, trio.Event()
            changed.set()

    async def _drain_connections(self) -> None:
        """The phased stop: ask, wait, cancel, wait a little."""
        if self._connections:
            _log.info("draining %d connections", len(self._connections))
        for connection in list(self._connections):
            connection.drain()
        self._background.drain()
        with self._stop_scope:
            with trio.move_on_after(self.config.server.graceful_timeout):
                await self.wait_until_idle()
        if not self._connections and not len(self._background):
            return
        grace = self.config.server.graceful_timeout
        if self._stop_scope.cancel_called:
            _log.info("cancelling %d open connections at once", len(self._connections))
        else:
            why = f"after server.graceful_timeout ({grace:g} s)"
            _log.warning("cancelling %d open connections %s", len(self._connections), why)
        for connection in list(self._connections):
            connection.stop()
        self._background.stop()
        with trio.move_on_after(_HARD_STOP if not self._stop_scope.cancel_called else 0):
            await self.wait_until_idle()

    async def wait_until_idle(self) -> None:
        """Wait until no connection is open. A checkpoint where it waits."""
        while self._connections:
            await self._changed.wait()
        await self._background.idle()


async def serve(
    app: App, config: Config | None = None, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve an app inside a Trio program, as one of its tasks.

    `server = await nursery.start(serve, app, config)` returns the running `Server` once its
    listeners are open. It ends after `server.drain()` or `server.stop()`; cancelling the task ends
    it at once.

    Args:
        app: what to serve.
        config: settings; the app's own where None.

    Raises:
        ConfigError: a setting cannot be used.
        StartupError: a port, a certificate or the app's lifespan is in the way.
    """
    await Server(app, config).run(task_status=task_status)


async def run_until_signal(
    app: App, config: Config | None = None, *, on_started: Callable[[Server], None] = lambda _: None
) -> int:
    """Serve until SIGINT or SIGTERM, then drain; a second one ends at once. SIGHUP reloads certificates.

    Returns:
        The exit code: 0 after a drain, 128 + the signal's number after a second signal.
    """
    server = Server(app, config)
    ended_by: list[int] = []

    async def obey(signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                server.reload_tls()
                continue
            ended_by.append(number)
            if len(ended_by) == 1:
                _log.info("%s: draining; a second one ends at once", signal.Signals(number).name)
                server.drain()
            else:
                server.stop()

    failure: EngineError | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, signals)
            try:
                await server.run(task_status=_Started(on_started))
            except EngineError as error:
                failure = error  # R8: told as itself below, not as a group of one
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return 0 if len(ended_by) < 2 else 128 + ended_by[1]


class _Started:
    """A task status that calls back."""

    def __init__(self, callback: Callable[[Server], None]) -> None:
        self._callback = callback

    def started(self, value: Server) -> None:
        self._callback(value)
