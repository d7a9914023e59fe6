"""The class that users derive their hubs from, and what its methods see of the connection.

Owns: `Hub`, its context, and `@hub_method`. A hub object lives for one invocation; state that must
outlive it goes to `self.context.items`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import LocalProtocolError
from engine.signalr.binding import rename
from engine.signalr.clients import CallerClients

if TYPE_CHECKING:
    from engine.signalr.connection import HubConnection
    from engine.signalr.dispatcher import Slot
    from engine.signalr.groups import Groups
    from engine.transport.exchange import RequestHead

__all__ = ["Hub", "HubContext", "hub_method"]

F = TypeVar("F", bound=Callable[..., Any])


def hub_method(*, name: str) -> Callable[[F], F]:
    """Give a hub method another name on the wire than its own."""

    def decorate(function: F) -> F:
        rename(function, name)
        return function

    return decorate


class HubContext:
    """The connection that an invocation came from; one object for its whole life."""

    __slots__ = ("_connection", "connection_id", "items", "request", "transport", "user_id")

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self.connection_id = connection.connection_id
        """The public id; it addresses the connection in `clients` and `groups`, and in nothing else."""
        self.user_id = connection.user_id
        """Who the user is, or None."""
        self.items: dict[Any, Any] = {}
        """Whatever the hub keeps with the connection."""
        self.request: RequestHead = connection.head
        """The HTTP request that started the connection."""
        self.transport: str = connection.transport.kind.value
        """`WebSockets`."""

    def abort(self) -> None:
        """End the connection for good: clients do not reconnect by themselves."""
        self._connection.abort()


class Hub:
    """Derive from it; public methods are what clients may call.

    ```python
    class ChatHub(Hub):
        async def send_message(self, user: str, message: str) -> None:       # wire: SendMessage
            await self.clients.all.send("ReceiveMessage", user, message)
    ```

    A coroutine method runs in the connection's task; a plain method runs at once, without a task
    switch, so it must not block; an async generator is a stream. Arguments are converted by
    annotation, results by `msgspec`. Raise `HubError` for a text that the client may read.
    """

    _connection: HubConnection | None = None
    _slot: Slot | None = None

    @property
    def context(self) -> HubContext:
        """The calling connection."""
        return self._bound().context

    @property
    def clients(self) -> CallerClients:
        """Whom to send to."""
        return CallerClients(self._bound(), self._slot)

    @property
    def groups(self) -> Groups:
        """Add connections to groups and remove them."""
        return self._bound().hub.groups

    async def on_connected(self) -> None:
        """Called once after the handshake, before any invocation; an exception closes the connection."""

    async def on_disconnected(self, error: Exception | None) -> None:
        """Called once for each connection whose `on_connected` succeeded; `error` is None for a clean end.

        The client is gone: sending to the caller does nothing. Its groups still exist. It is
        cancelled after `signalr.disconnect_timeout`.
        """

    def _bound(self) -> HubConnection:
        if self._connection is None:
            raise LocalProtocolError("a hub object works only while the engine calls it; do not make one yourself")
        return self._connection
