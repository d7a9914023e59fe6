"""The class that users derive their hubs from, and what its methods see of the connection.

Owns: `Hub`, the context of its caller, `HubContext` for code outside of hubs, `@hub_method` and
`@authorize`. A hub object lives for one invocation; state that must
outlive it goes to `self.context.items`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine.errors import LocalProtocolError
from engine.signalr.binding import rename, restrict
from engine.signalr.clients import CallerClients, HubClients
from engine.signalr.groups import Groups
from engine.signalr.presence import Presence

if TYPE_CHECKING:
    from engine.signalr.auth import User
    from engine.signalr.clients import SendFilter, Turn
    from engine.signalr.lifetime import HubLifetimeManager
    from engine.signalr.transports import HubTransport
    from engine.transport.exchange import RequestHead

__all__ = ["Hub", "HubCallerContext", "HubContext", "authorize", "hub_method"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Mount(Protocol):
    """What the hubs of one mount share."""

    manager: HubLifetimeManager
    groups: Groups
    presence: Presence
    send_filter: SendFilter | None


class Caller(Protocol):
    """The connection that a hub is called by."""

    transport: HubTransport
    context: HubCallerContext
    user: User | None

    @property
    def hub(self) -> Mount: ...

    @property
    def head(self) -> RequestHead: ...

    @property
    def connection_id(self) -> str: ...

    @property
    def user_id(self) -> str | None: ...

    def start_soon(self, function: Callable[..., Awaitable[Any]], arguments: Sequence[Any] = ()) -> None:
        """Run something until the connection ends."""

    def abort(self) -> None:
        """End the connection for good."""


def hub_method(*, name: str) -> Callable[[F], F]:
    """Give a hub method another name on the wire than its own."""

    def decorate(function: F) -> F:
        rename(function, name)
        return function

    return decorate


def authorize(check: Callable[[HubCallerContext], bool]) -> Callable[[T], T]:
    """Only callers for whom `check` is true may call this method, or any method of this hub class.

    Others are told that they are unauthorized. Several checks must all be true. A check must not wait;
    an exception in it is logged and refuses the call.

    ```python
    @authorize(lambda context: context.user_id is not None)
    async def rename(self, name: str) -> None: ...
    ```
    """

    def decorate(target: T) -> T:
        restrict(target, check)
        return target

    return decorate


class HubContext:
    """A mounted hub as code outside of it sees it: an HTTP route, a gRPC handler, a background task.

    `app.hub_context(ChatHub)` gives it.
    """

    __slots__ = ("clients", "groups", "presence")

    def __init__(self, manager: HubLifetimeManager, send_filter: SendFilter | None = None) -> None:
        self.clients = HubClients(manager, send_filter)
        """Whom to send to."""
        self.groups = Groups(manager)
        """Add connections to groups and remove them."""
        self.presence = Presence(manager)
        """Who is connected."""


class HubCallerContext:
    """The connection that an invocation came from; one object for its whole life."""

    __slots__ = ("_connection", "connection_id", "items", "request", "transport", "user_id")

    def __init__(self, connection: Caller) -> None:
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
        """`WebSockets`, `ServerSentEvents` or `LongPolling`."""

    @property
    def user(self) -> User | None:
        """Who the client is by its latest credentials, with its claims; None for an anonymous one."""
        return self._connection.user

    def start_soon(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Run something in the background for as long as the connection lives; then it is cancelled.

        What it raises is logged and ends nothing else. A hub object works only during its invocation:
        send with `app.hub_context`, or with proxies taken from `self.clients` before.
        """
        self._connection.start_soon(function, arguments)

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
    annotation, results by `msgspec`; a parameter annotated as `AsyncIterator[T]` is a stream that the
    client sends, to be read with `async for`. Raise `HubError` for a text that the client may read.
    """

    _connection: Caller | None = None
    _turn: Turn | None = None

    @property
    def context(self) -> HubCallerContext:
        """The calling connection."""
        return self._bound().context

    @property
    def clients(self) -> CallerClients:
        """Whom to send to."""
        connection = self._bound()
        mount = connection.hub
        return CallerClients(mount.manager, mount.send_filter, connection.connection_id, self._turn)

    @property
    def groups(self) -> Groups:
        """Add connections to groups and remove them."""
        return self._bound().hub.groups

    @property
    def presence(self) -> Presence:
        """Who is connected."""
        return self._bound().hub.presence

    async def on_connected(self) -> None:
        """Called once after the handshake, before any invocation; an exception closes the connection."""

    async def on_disconnected(self, error: Exception | None) -> None:
        """Called once for each connection whose `on_connected` succeeded; `error` is None for a clean end.

        The client is gone: sending to the caller does nothing. Its groups still exist. It is
        cancelled after `signalr.disconnect_timeout`.
        """

    async def on_authentication_refreshed(self) -> None:
        """Called when the client has shown new credentials in time (`signalr.authentication_refresh`)."""

    def _bound(self) -> Caller:
        if self._connection is None:
            raise LocalProtocolError("a hub object works only while the engine calls it; do not make one yourself")
        return self._connection
