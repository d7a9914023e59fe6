"""Who is there: the connections of a hub, of a group, of a user, and how that changes.

Owns: the questions, and the queue of changes of each watcher. A `Directory` has the answers: the
lifetime manager is one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Self

import trio

from engine.errors import LimitExceeded, LimitKind

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Directory", "Presence", "PresenceChange", "PresenceEvent", "PresenceWatch"]

MAX_WAITING = 10_000  # changes that one watcher has not looked at; as many as connections of a worker


class PresenceChange(Enum):
    """What happened."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    JOINED = "joined"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class PresenceEvent:
    """One change; `group` is None where a connection came or went."""

    change: PresenceChange
    connection_id: str
    user_id: str | None
    group: str | None = None


class Directory(ABC):
    """Who knows the connections of one hub."""

    @abstractmethod
    async def find_connections(self, group: str | None, user_id: str | None) -> list[str]:
        """The connection ids in this group and of this user, where they are given."""

    @abstractmethod
    async def count_connections(self, group: str | None, user_id: str | None) -> int:
        """How many `find_connections` finds."""

    @abstractmethod
    async def find_users(self, group: str | None) -> list[str]:
        """The users with connections, in this group where it is given."""

    @abstractmethod
    async def groups_of(self, connection_id: str) -> list[str]:
        """What a connection is a member of."""

    @abstractmethod
    def add_watch(self, watch: PresenceWatch) -> None:
        """Offer all changes to it from now on."""

    @abstractmethod
    def remove_watch(self, watch: PresenceWatch) -> None:
        """No more."""


class Presence:
    """`self.presence` of a hub, and of a `HubContext`."""

    __slots__ = ("_directory",)

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def connections(self, *, group: str | None = None, user_id: str | None = None) -> list[str]:
        """Connection ids: all, or those in a group, or of a user, or of a user in a group."""
        return await self._directory.find_connections(group, user_id)

    async def count(self, *, group: str | None = None, user_id: str | None = None) -> int:
        """How many `connections` there are."""
        return await self._directory.count_connections(group, user_id)

    async def is_online(self, user_id: str) -> bool:
        """The user has a connection."""
        return await self._directory.count_connections(None, user_id) > 0

    async def users(self, *, group: str | None = None) -> list[str]:
        """The users that have a connection (in this group)."""
        return await self._directory.find_users(group)

    async def groups(self, connection_id: str) -> list[str]:
        """What a connection is a member of; nothing where there is none with this id."""
        return await self._directory.groups_of(connection_id)

    def watch(self, *, group: str | None = None, user_id: str | None = None) -> PresenceWatch:
        """Changes from now on; `async with` nothing, only `with`, and iterate inside.

        ```python
        with self.presence.watch(group="room") as changes:
            async for event in changes: ...
        ```

        Args:
            group: only joins and leaves of this group; None: connections that come and go.
            user_id: only of this user.
        """
        return PresenceWatch(self._directory, group, user_id)


class PresenceWatch:
    """An endless async iterator of `PresenceEvent`; see `Presence.watch`."""

    def __init__(self, directory: Directory, group: str | None, user_id: str | None) -> None:
        self._directory = directory
        self._group = group
        self._user_id = user_id
        self._events: deque[PresenceEvent] = deque()
        self._lost = False
        self._news = trio.Event()

    def __enter__(self) -> Self:
        self._directory.add_watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._directory.remove_watch(self)

    def __aiter__(self) -> PresenceWatch:
        return self

    async def __anext__(self) -> PresenceEvent:
        """The next change; cancellation loses none.

        Raises:
            LimitExceeded: the watcher was so slow that changes were lost; ask again who is there.
        """
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._lost:
                self._lost = False
                raise LimitExceeded(
                    "presence.MAX_WAITING", MAX_WAITING, kind=LimitKind.CAPACITY, what="unread presence changes"
                )
            self._news = trio.Event()
            await self._news.wait()
        return self._events.popleft()

    def offer(self, event: PresenceEvent) -> None:
        """Something changed; synchronous, never waits."""
        if event.group != self._group or (self._user_id is not None and event.user_id != self._user_id):
            return
        if len(self._events) >= MAX_WAITING:
            self._lost = True
            return
        self._events.append(event)
        self._news.set()
