"""Groups as hub methods see them: names that connections are added to and removed from.

Names are case-sensitive; a group exists while it has members; membership ends with the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.signalr.lifetime import HubLifetimeManager

__all__ = ["Groups"]


class Groups:
    """`self.groups` of a hub, and of an endpoint for code outside of it."""

    __slots__ = ("_manager",)

    def __init__(self, manager: HubLifetimeManager) -> None:
        self._manager = manager

    async def add(self, connection_id: str, group: str) -> None:
        """Make a connection a member; idempotent, unknown ids are ignored. Took effect when it returns.

        Raises:
            LimitExceeded: the connection is in `signalr.max_groups` groups.
        """
        await self._manager.add_to_group(connection_id, group)

    async def remove(self, connection_id: str, group: str) -> None:
        """End a membership; idempotent, unknown ids are ignored. Took effect when it returns."""
        await self._manager.remove_from_group(connection_id, group)
