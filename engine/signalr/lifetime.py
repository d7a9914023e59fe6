"""The registry of connections, groups and users, behind a seam for other processes and machines.

Owns: who is connected, who is in which group, and delivery to them. Never waits for a slow client in
a broadcast: a message is encoded once for each kind of receiver, the same bytes go into every outbox,
and whoever has let its outbox fill up is closed (`LocalLifetimeManager.slow_closed` counts them).

`HubLifetimeManager` is the seam: a backplane implements the same calls over many processes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import trio

from engine.errors import ConnectionClosed, LimitExceeded, LimitKind
from engine.signalr.presence import Directory, PresenceChange, PresenceEvent
from engine.signalr.texts import no_such_connection

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.signalr.presence import PresenceWatch
    from engine.signalr.transports import HubTransport
    from engine.wire.signalr.messages import HubProtocol

_NOBODY: frozenset[str] = frozenset()
_HIGH_WATER = 64 * 1024  # bytes in one outbox; as in `engine.transport.outbox`
_YIELD_EVERY = 256  # deliveries of a broadcast between two looks at what else wants to run; about 1 ms


class OutgoingCall:
    """A call of a client method that is encoded once for each kind of receiver.

    Attributes:
        made_at: by Trio's clock.
    """

    __slots__ = ("_frame", "_frames", "_framing", "_protocol", "arguments", "made_at", "target")

    def __init__(self, target: str, arguments: Sequence[Any]) -> None:
        self.target = target
        self.arguments = arguments
        self.made_at = trio.current_time()
        self._frames: dict[tuple[str, str], bytes] = {}
        # the latest: nearly all receivers are of one kind
        self._frame = b""
        self._framing = ""
        self._protocol: HubProtocol | None = None

    def frame(self, protocol: HubProtocol, transport: HubTransport) -> bytes:
        """The bytes for connections with this protocol and this kind of transport.

        Raises:
            TypeError, ValueError: an argument cannot be encoded.
        """
        framing = transport.framing
        if protocol is self._protocol and framing is self._framing:
            return self._frame
        key = (protocol.name, framing)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = transport.frame(protocol.invocation(self.target, self.arguments))
        self._protocol, self._framing, self._frame = protocol, framing, frame
        return frame


class Member(Protocol):
    """A connection as the registry sees it."""

    settings: SignalRConfig
    outbox_size: int
    groups: set[str]

    @property
    def connection_id(self) -> str: ...

    @property
    def user_id(self) -> str | None: ...

    def deliver(self, call: OutgoingCall) -> int:
        """Put a call into the outbox without ever waiting; how many bytes are in it now."""

    async def drain(self) -> None:
        """Wait while the client takes too little; return at once where it is gone."""

    async def invoke_client(self, call_id: str, target: str, arguments: Sequence[Any], result_type: Any) -> Any:
        """Call a method of the client and wait for its result."""


class HubLifetimeManager(Directory):
    """Delivery to connections, groups and users of one hub. Unknown receivers are no error."""

    @abstractmethod
    def connected(self, connection: Member) -> None:
        """Deliver to it from now on: its client is about to be told that the handshake is done."""

    @abstractmethod
    def disconnected(self, connection: Member) -> None:
        """A connection is gone; it leaves all its groups. Idempotent."""

    @abstractmethod
    async def send_all(self, call: OutgoingCall, excluded: Collection[str] = _NOBODY) -> None:
        """To everybody but the excluded connection ids."""

    @abstractmethod
    async def send_connections(self, call: OutgoingCall, connection_ids: Iterable[str]) -> None:
        """To these connections; with only one it waits for that client's outbox to have room."""

    @abstractmethod
    async def send_groups(self, call: OutgoingCall, groups: Iterable[str], excluded: Collection[str] = _NOBODY) -> None:
        """To the members of these groups, once each."""

    @abstractmethod
    async def send_users(self, call: OutgoingCall, user_ids: Iterable[str]) -> None:
        """To all connections of these users."""

    @abstractmethod
    async def invoke(self, connection_id: str, target: str, arguments: Sequence[Any], result_type: Any) -> Any:
        """Call one client and wait for its result.

        Raises:
            HubError: the client answered with an error.
            ConnectionClosed: it is not there, or went away.
        """

    @abstractmethod
    async def add_to_group(self, connection_id: str, group: str) -> None:
        """Idempotent.

        Raises:
            LimitExceeded: it is in `signalr.max_groups` groups.
        """

    @abstractmethod
    async def remove_from_group(self, connection_id: str, group: str) -> None:
        """Idempotent."""


class LocalLifetimeManager(HubLifetimeManager):
    """All connections live in this process."""

    def __init__(self) -> None:
        self._connections: dict[str, Member] = {}
        self._groups: dict[str, dict[str, Member]] = {}
        self._users: dict[str, dict[str, Member]] = {}
        self._call_ids = count(1)
        self._watches: set[PresenceWatch] = set()
        self.slow_closed = 0  # connections that were closed because they took too little

    def __len__(self) -> int:
        """Connections."""
        return len(self._connections)

    def connected(self, connection: Member) -> None:
        self._connections[connection.connection_id] = connection
        if connection.user_id is not None:
            self._users.setdefault(connection.user_id, {})[connection.connection_id] = connection
        self._tell(PresenceChange.CONNECTED, connection)

    def disconnected(self, connection: Member) -> None:
        connection_id = connection.connection_id
        if self._connections.pop(connection_id, None) is None:
            return
        if connection.user_id is not None:
            _discard(self._users, connection.user_id, connection_id)
        for group in connection.groups:
            _discard(self._groups, group, connection_id)
            self._tell(PresenceChange.LEFT, connection, group)
        connection.groups.clear()
        self._tell(PresenceChange.DISCONNECTED, connection)

    async def send_all(self, call: OutgoingCall, excluded: Collection[str] = _NOBODY) -> None:
        await self._deliver(call, self._connections, excluded)

    async def send_connections(self, call: OutgoingCall, connection_ids: Iterable[str]) -> None:
        wanted = {each: self._connections[each] for each in connection_ids if each in self._connections}
        await self._deliver(call, wanted)
        if len(wanted) == 1:
            for connection in wanted.values():
                await connection.drain()

    async def send_groups(self, call: OutgoingCall, groups: Iterable[str], excluded: Collection[str] = _NOBODY) -> None:
        members = [self._groups[each] for each in dict.fromkeys(groups) if each in self._groups]
        if len(members) == 1:
            await self._deliver(call, members[0], excluded)
            return
        everybody: dict[str, Member] = {}
        for each in members:
            everybody |= each
        await self._deliver(call, everybody, excluded)

    async def send_users(self, call: OutgoingCall, user_ids: Iterable[str]) -> None:
        everybody: dict[str, Member] = {}
        for user_id in user_ids:
            everybody |= self._users.get(user_id, {})
        await self._deliver(call, everybody)

    async def invoke(self, connection_id: str, target: str, arguments: Sequence[Any], result_type: Any) -> Any:
        connection = self._connections.get(connection_id)
        if connection is None:
            raise ConnectionClosed(reason=no_such_connection(connection_id))
        # Ids count over the server and have a letter, so they never meet the ids that clients choose.
        return await connection.invoke_client(f"s{next(self._call_ids)}", target, arguments, result_type)

    async def add_to_group(self, connection_id: str, group: str) -> None:
        connection = self._connections.get(connection_id)
        if connection is None or group in connection.groups:
            return
        limit = connection.settings.max_groups
        if len(connection.groups) >= limit:
            raise LimitExceeded(
                "signalr.max_groups", limit, len(connection.groups) + 1, kind=LimitKind.CAPACITY, what="groups"
            )
        connection.groups.add(group)
        self._groups.setdefault(group, {})[connection_id] = connection
        self._tell(PresenceChange.JOINED, connection, group)

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        connection = self._connections.get(connection_id)
        if connection is not None and group in connection.groups:
            connection.groups.discard(group)
            _discard(self._groups, group, connection_id)
            self._tell(PresenceChange.LEFT, connection, group)

    async def find_connections(self, group: str | None, user_id: str | None) -> list[str]:
        found = self._find(group, user_id)
        return list(found)

    async def count_connections(self, group: str | None, user_id: str | None) -> int:
        return len(self._find(group, user_id))

    async def find_users(self, group: str | None) -> list[str]:
        if group is None:
            return list(self._users)
        members = self._groups.get(group, {}).values()
        return list(dict.fromkeys(each.user_id for each in members if each.user_id is not None))

    async def groups_of(self, connection_id: str) -> list[str]:
        connection = self._connections.get(connection_id)
        return [] if connection is None else sorted(connection.groups)

    def add_watch(self, watch: PresenceWatch) -> None:
        self._watches.add(watch)

    def remove_watch(self, watch: PresenceWatch) -> None:
        self._watches.discard(watch)

    def _find(self, group: str | None, user_id: str | None) -> Mapping[str, Member]:
        if user_id is None:
            return self._connections if group is None else self._groups.get(group, {})
        of_user = self._users.get(user_id, {})
        if group is None:
            return of_user
        return {key: connection for key, connection in of_user.items() if group in connection.groups}

    def _tell(self, change: PresenceChange, connection: Member, group: str | None = None) -> None:
        if self._watches:
            event = PresenceEvent(change, connection.connection_id, connection.user_id, group)
            for watch in self._watches:
                watch.offer(event)

    async def _deliver(
        self, call: OutgoingCall, receivers: dict[str, Member], excluded: Collection[str] = _NOBODY
    ) -> None:
        crowded = False
        # A copy: connections come and go while a long broadcast yields.
        if excluded:
            chosen = [each for connection_id, each in receivers.items() if connection_id not in excluded]
        else:
            chosen = list(receivers.values())
        for number, connection in enumerate(chosen, 1):
            queued = connection.deliver(call)
            if queued > _HIGH_WATER:
                crowded = True
                self.slow_closed += queued > connection.outbox_size
            if number % _YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()
        if crowded:
            # Not to wait for anybody: so that a burst of broadcasts does not outrun clients that read,
            # only because the tasks that write to them never ran.
            await trio.lowlevel.checkpoint()


def _discard(table: dict[str, dict[str, Member]], key: str, connection_id: str) -> None:
    members = table.get(key)
    if members is not None:
        members.pop(connection_id, None)
        if not members:
            del table[key]
