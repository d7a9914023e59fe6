"""Whom to call: everybody, the caller, connections, groups, users.

Owns: the proxies that hub methods and outside code send through. Never delivers by itself: the
lifetime manager does. Names of client methods go out verbatim.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from engine.signalr.filters import FilterChain, OutgoingMessage
from engine.signalr.lifetime import OutgoingCall

if TYPE_CHECKING:
    from engine.signalr.connection import HubConnection
    from engine.signalr.dispatcher import Slot
    from engine.signalr.lifetime import HubLifetimeManager

__all__ = ["CallerClients", "ClientProxy", "HubClients", "SingleClientProxy"]


class ClientProxy:
    """Some receivers."""

    __slots__ = ("_deliver", "_filters")

    def __init__(self, deliver: Callable[[OutgoingCall], Awaitable[None]], filters: FilterChain) -> None:
        self._deliver = deliver
        self._filters = filters

    async def send(self, method: str, /, *arguments: Any) -> None:
        """Call a method of all receivers; returns when the message is in their outboxes.

        Cancellation may leave a broadcast to very many receivers half done.

        Raises:
            TypeError, ValueError: an argument cannot be encoded.
        """
        if self._filters.send is None:
            await self._deliver(OutgoingCall(method, arguments))
        else:
            await self._filters.send(OutgoingMessage(method, arguments), self._deliver_filtered)

    async def _deliver_filtered(self, message: OutgoingMessage) -> None:
        await self._deliver(OutgoingCall(message.method, message.arguments))


class SingleClientProxy(ClientProxy):
    """One connection, which can also be asked for a result."""

    __slots__ = ("_connection_id", "_manager", "_slot")

    def __init__(
        self, manager: HubLifetimeManager, filters: FilterChain, connection_id: str, slot: Slot | None
    ) -> None:
        super().__init__(lambda call: manager.send_connections(call, (connection_id,)), filters)
        self._manager = manager
        self._connection_id = connection_id
        self._slot = slot

    async def invoke(self, method: str, /, *arguments: Any, result_type: Any = Any) -> Any:
        """Call a method of the client and wait for what it returns, as `result_type`.

        While it waits, the caller's next invocation may start, so that no client waits for itself.
        Cancellation gives the result up; a late one is ignored.

        Raises:
            HubError: the client answered with an error.
            ConnectionClosed: it is not there, or went away.
            LimitExceeded: it did not answer within `signalr.client_result_timeout`.
        """
        if self._slot is not None:
            self._slot.release()
        if self._filters.send is None:
            return await self._manager.invoke(self._connection_id, method, arguments, result_type)

        async def ask(message: OutgoingMessage) -> Any:
            return await self._manager.invoke(self._connection_id, message.method, message.arguments, result_type)

        return await self._filters.send(OutgoingMessage(method, arguments, wants_result=True), ask)


class HubClients:
    """The receivers that can be named from anywhere."""

    __slots__ = ("_filters", "_manager", "_slot")

    def __init__(self, manager: HubLifetimeManager, filters: FilterChain, slot: Slot | None = None) -> None:
        self._manager = manager
        self._filters = filters
        self._slot = slot

    @property
    def all(self) -> ClientProxy:
        """Every connection."""
        return ClientProxy(self._manager.send_all, self._filters)

    def all_except(self, connection_ids: Iterable[str]) -> ClientProxy:
        """Every connection but these."""
        excluded, manager = _ids(connection_ids), self._manager
        return ClientProxy(lambda call: manager.send_all(call, excluded), self._filters)

    def client(self, connection_id: str) -> SingleClientProxy:
        """One connection."""
        return SingleClientProxy(self._manager, self._filters, connection_id, self._slot)

    def clients(self, connection_ids: Iterable[str]) -> ClientProxy:
        """These connections."""
        wanted, manager = _ids(connection_ids), self._manager
        return ClientProxy(lambda call: manager.send_connections(call, wanted), self._filters)

    def group(self, group: str) -> ClientProxy:
        """The members of a group."""
        return self.groups((group,))

    def groups(self, groups: Iterable[str]) -> ClientProxy:
        """The members of these groups; a member of several gets the message once."""
        wanted, manager = _ids(groups), self._manager
        return ClientProxy(lambda call: manager.send_groups(call, wanted), self._filters)

    def group_except(self, group: str, connection_ids: Iterable[str]) -> ClientProxy:
        """The members of a group but these connections."""
        excluded, manager = _ids(connection_ids), self._manager
        return ClientProxy(lambda call: manager.send_groups(call, (group,), excluded), self._filters)

    def user(self, user_id: str) -> ClientProxy:
        """All connections of a user."""
        return self.users((user_id,))

    def users(self, user_ids: Iterable[str]) -> ClientProxy:
        """All connections of these users."""
        wanted, manager = _ids(user_ids), self._manager
        return ClientProxy(lambda call: manager.send_users(call, wanted), self._filters)


class CallerClients(HubClients):
    """`self.clients` of a hub: also the receivers that are named by who calls."""

    __slots__ = ("_connection",)

    def __init__(self, connection: HubConnection, slot: Slot | None) -> None:
        super().__init__(connection.hub.manager, connection.hub.filters, slot)
        self._connection = connection

    @property
    def caller(self) -> SingleClientProxy:
        """The calling connection."""
        return self.client(self._connection.connection_id)

    @property
    def others(self) -> ClientProxy:
        """Every connection but the caller."""
        return self.all_except((self._connection.connection_id,))

    def others_in_group(self, group: str) -> ClientProxy:
        """The members of a group but the caller."""
        return self.group_except(group, (self._connection.connection_id,))


def _ids(names: Iterable[str]) -> tuple[str, ...]:
    """A mistake that Python would not notice: one string where several are asked for."""
    if isinstance(names, str):
        raise TypeError(f"give a list of names, not the string {names!r}")
    return tuple(names)
