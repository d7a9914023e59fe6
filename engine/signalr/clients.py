"""Whom to call: everybody, the caller, connections, groups, users.

Owns: the proxies that hub methods and outside code send through. Never delivers by itself: the
lifetime manager does. Names of client methods go out verbatim.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from engine.signalr.lifetime import OutgoingCall

if TYPE_CHECKING:
    from engine.signalr.lifetime import HubLifetimeManager

__all__ = ["CallerClients", "ClientProxy", "HubClients", "OutgoingMessage", "SingleClientProxy"]


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A call of a client method, before it is encoded."""

    method: str
    arguments: tuple[Any, ...]
    wants_result: bool = False
    """One client was asked, and its result is what `call` returns."""


SendNext: TypeAlias = Callable[[OutgoingMessage], Awaitable[Any]]
SendFilter: TypeAlias = Callable[[OutgoingMessage, SendNext], Awaitable[Any]]


class Turn(Protocol):
    """The right of an invocation to run while others of its connection wait."""

    def release(self) -> None:
        """Let the next one start. Idempotent."""


class ClientProxy:
    """Some receivers."""

    __slots__ = ("_deliver", "_send_filter")

    def __init__(self, deliver: Callable[[OutgoingCall], Awaitable[None]], send_filter: SendFilter | None) -> None:
        self._deliver = deliver
        self._send_filter = send_filter

    async def send(self, method: str, /, *arguments: Any) -> None:
        """Call a method of all receivers; returns when the message is in their outboxes.

        Cancellation may leave a broadcast to very many receivers half done.

        Raises:
            TypeError, ValueError: an argument cannot be encoded.
        """
        if self._send_filter is None:
            await self._deliver(OutgoingCall(method, arguments))
        else:
            await self._send_filter(OutgoingMessage(method, arguments), self._deliver_filtered)

    async def _deliver_filtered(self, message: OutgoingMessage) -> None:
        await self._deliver(OutgoingCall(message.method, message.arguments))


class SingleClientProxy(ClientProxy):
    """One connection, which can also be asked for a result."""

    __slots__ = ("_connection_id", "_manager", "_turn")

    def __init__(
        self, manager: HubLifetimeManager, send_filter: SendFilter | None, connection_id: str, turn: Turn | None
    ) -> None:
        super().__init__(lambda call: manager.send_connections(call, (connection_id,)), send_filter)
        self._manager = manager
        self._connection_id = connection_id
        self._turn = turn

    async def invoke(self, method: str, /, *arguments: Any, result_type: Any = Any) -> Any:
        """Call a method of the client and wait for what it returns, as `result_type`.

        While it waits, the caller's next invocation may start, so that no client waits for itself.
        Cancellation gives the result up; a late one is ignored.

        Raises:
            HubError: the client answered with an error.
            ConnectionClosed: it is not there, or went away.
            LimitExceeded: it did not answer within `signalr.client_result_timeout`.
        """
        if self._turn is not None:
            self._turn.release()
        if self._send_filter is None:
            return await self._manager.invoke(self._connection_id, method, arguments, result_type)

        async def ask(message: OutgoingMessage) -> Any:
            return await self._manager.invoke(self._connection_id, message.method, message.arguments, result_type)

        return await self._send_filter(OutgoingMessage(method, arguments, wants_result=True), ask)


class HubClients:
    """The receivers that can be named from anywhere."""

    __slots__ = ("_manager", "_send_filter", "_turn")

    def __init__(self, manager: HubLifetimeManager, send_filter: SendFilter | None, turn: Turn | None = None) -> None:
        self._manager = manager
        self._send_filter = send_filter
        self._turn = turn

    @property
    def all(self) -> ClientProxy:
        """Every connection."""
        return ClientProxy(self._manager.send_all, self._send_filter)

    def all_except(self, connection_ids: Iterable[str]) -> ClientProxy:
        """Every connection but these."""
        excluded, manager = _ids(connection_ids), self._manager
        return ClientProxy(lambda call: manager.send_all(call, excluded), self._send_filter)

    def client(self, connection_id: str) -> SingleClientProxy:
        """One connection."""
        return SingleClientProxy(self._manager, self._send_filter, connection_id, self._turn)

    def clients(self, connection_ids: Iterable[str]) -> ClientProxy:
        """These connections."""
        wanted, manager = _ids(connection_ids), self._manager
        return ClientProxy(lambda call: manager.send_connections(call, wanted), self._send_filter)

    def group(self, group: str) -> ClientProxy:
        """The members of a group."""
        return self.groups((group,))

    def groups(self, groups: Iterable[str]) -> ClientProxy:
        """The members of these groups; a member of several gets the message once."""
        wanted, manager = _ids(groups), self._manager
        return ClientProxy(lambda call: manager.send_groups(call, wanted), self._send_filter)

    def group_except(self, group: str, connection_ids: Iterable[str]) -> ClientProxy:
        """The members of a group but these connections."""
        excluded, manager = _ids(connection_ids), self._manager
        return ClientProxy(lambda call: manager.send_groups(call, (group,), excluded), self._send_filter)

    def user(self, user_id: str) -> ClientProxy:
        """All connections of a user."""
        return self.users((user_id,))

    def users(self, user_ids: Iterable[str]) -> ClientProxy:
        """All connections of these users."""
        wanted, manager = _ids(user_ids), self._manager
        return ClientProxy(lambda call: manager.send_users(call, wanted), self._send_filter)


class CallerClients(HubClients):
    """`self.clients` of a hub: also the receivers that are named by who calls."""

    __slots__ = ("_connection_id",)

    def __init__(
        self, manager: HubLifetimeManager, send_filter: SendFilter | None, connection_id: str, turn: Turn | None
    ) -> None:
        super().__init__(manager, send_filter, turn)
        self._connection_id = connection_id

    @property
    def caller(self) -> SingleClientProxy:
        """The calling connection."""
        return self.client(self._connection_id)

    @property
    def others(self) -> ClientProxy:
        """Every connection but the caller."""
        return self.all_except((self._connection_id,))

    def others_in_group(self, group: str) -> ClientProxy:
        """The members of a group but the caller."""
        return self.group_except(group, (self._connection_id,))


def _ids(names: Iterable[str]) -> tuple[str, ...]:
    """A mistake that Python would not notice: one string where several are asked for."""
    if isinstance(names, str):
        raise TypeError(f"give a list of names, not the string {names!r}")
    return tuple(names)
