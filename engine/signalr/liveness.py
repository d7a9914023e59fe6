"""All that ends or keeps a hub connection by the clock.

Owns: the handshake's time-out, keep-alive pings, the client's time-out, the end of its
authentication, and the moment when a stopping server says good-bye. Never sends or closes by
itself: it tells the connection to.

The client's time-out is armed by its first ping: a client that never pings is never too silent.
Pings keep their beat however late a timer is.

Spec: HubConnectionContext.cs (KeepAliveTick, CheckClientTimeout), HttpConnectionManager.cs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import trio

from engine.errors import LimitExceeded, LimitKind
from engine.wire.signalr.negotiate import TransportKind

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.signalr.auth import User
    from engine.signalr.transports import HubTransport
    from engine.transport.watchdog import Timer


class Living(Protocol):
    """The connection that is kept or ended by the clock.

    Attributes:
        sent: when something was written.
    """

    sent: float

    @property
    def is_open(self) -> bool:
        """The handshake is done and nobody has ended the connection."""

    @property
    def is_listening(self) -> bool:
        """What the client sends is read: else it is not its fault that it seems silent."""

    def send_ping(self) -> None:
        """Nothing was sent for a while."""

    def handshake_late(self) -> None:
        """The client took too long over its handshake."""

    def authentication_expired(self) -> None:
        """The client is to come back with new credentials."""

    def fail(self, error: Exception) -> None:
        """End the connection with an error."""

    def leave(self) -> None:
        """Finish what runs, then tell the client to come back elsewhere."""


class Liveness:
    """The timers of one hub connection.

    Attributes:
        heard: when something was received; kept once `armed`.
        armed: the client has pinged.
    """

    __slots__ = (
        "_client",
        "_connection",
        "_drain",
        "_expiry",
        "_main",
        "_settings",
        "_transport",
        "armed",
        "heard",
    )

    def __init__(self, connection: Living, settings: SignalRConfig, transport: HubTransport) -> None:
        self._connection = connection
        self._settings = settings
        self._transport = transport
        self._main = transport.timer(connection.handshake_late)  # the handshake's time-out, then keep-alive
        self._client: Timer | None = None
        self._expiry: Timer | None = None
        self._drain: Timer | None = None
        self.armed = False
        self.heard = connection.sent = trio.current_time()
        self._main.set(connection.sent + settings.handshake_timeout)

    def handshaken(self) -> None:
        """The handshake is done: pings from here on, where the transport needs them."""
        self._main.clear()
        if not self._transport.has_keep_alive:
            self._main.callback = self._keep_alive
            self._main.set(self._connection.sent + self._settings.keep_alive_interval)

    def pinged(self) -> None:
        """The client has pinged."""
        if not self.armed:
            self.armed = True
            self.heard = trio.current_time()
            self._client = self._transport.timer(self._check_client)
            self._client.set(self.heard + self._settings.client_timeout)

    def watch_expiry(self, user: User | None) -> None:
        """Close the connection when this user's authentication ends, and not before."""
        remaining = math.inf if user is None else user.remaining
        if remaining == math.inf or not self._settings.close_on_authentication_expiration:
            if self._expiry is not None:
                self._expiry.clear()
            return
        if self._expiry is None:
            self._expiry = self._transport.timer(self._connection.authentication_expired)
        self._expiry.set(trio.current_time() + max(remaining, 0.0))

    def drain(self, delay: Callable[[], float]) -> None:
        """The server stops: let the connection leave, after a delay (seconds) if that does no harm. Idempotent."""
        if self._drain is None:
            self._drain = self._transport.timer(self._connection.leave)
            # Where each request needs a connection of its own, a later one would find no server.
            seconds = delay() if self._transport.kind is TransportKind.WEB_SOCKETS else 0.0
            if seconds > 0:
                self._drain.set(trio.current_time() + seconds)
            else:
                self._connection.leave()

    def stop(self) -> None:
        """The connection is over."""
        for timer in (self._main, self._client, self._expiry, self._drain):
            if timer is not None:
                timer.clear()

    def _keep_alive(self) -> None:
        if self._connection.is_open:
            due = self._connection.sent + self._settings.keep_alive_interval
            if due <= trio.current_time():
                self._connection.send_ping()
                self._connection.sent = due  # not now: pings keep their beat however late the timer is
                due += self._settings.keep_alive_interval
            self._main.set(due)

    def _check_client(self) -> None:
        connection, timeout = self._connection, self._settings.client_timeout
        if not connection.is_open or self._client is None:
            return
        now = trio.current_time()
        if not connection.is_listening:
            self.heard = now
        if self.heard + timeout <= now:
            self._keep_alive()  # which may be due at the same moment, and then goes first
            what = "silence of the client"
            connection.fail(LimitExceeded("signalr.client_timeout", timeout, kind=LimitKind.TIMEOUT, what=what))
        else:
            self._client.set(self.heard + timeout)
