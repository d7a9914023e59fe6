"""The demo's chat: every message to everybody, and rooms."""

from __future__ import annotations

from typing import Any

from engine.signalr.hub import Hub


class ChatHub(Hub):
    """Mounted at `/chathub`; clients listen to `ReceiveMessage(user, message)`."""

    async def send_message(self, user: str, message: str) -> None:
        """Say something to everybody."""
        await self.clients.all.send("ReceiveMessage", user, message)

    async def join_group(self, group_name: str) -> None:
        """Enter a room."""
        await self.groups.add(self.context.connection_id, group_name)

    async def leave_group(self, group_name: str) -> None:
        """Leave a room."""
        await self.groups.remove(self.context.connection_id, group_name)

    async def send_to_group(self, group_name: str, user: str, message: str) -> None:
        """Say something to those in a room."""
        await self.clients.group(group_name).send("ReceiveMessage", user, message)

    async def echo(self, value: Any) -> Any:
        """Give back what came; benchmarks call it."""
        return value
