"""Who is in which room: ask, count, and watch people come and go.

python -m engine serve examples.presence:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine import App, Hub, Request, Response
from engine.errors import HubError

app = App()


@app.hub("/rooms", user_id=lambda head: (head.header(b"x-user") or b"").decode() or None, max_groups=10)
class Rooms(Hub):
    async def enter(self, room: str) -> list[str]:
        """Join and learn who is there."""
        if await self.presence.count(group=room) >= 100:
            raise HubError(f"{room} is full")
        await self.groups.add(self.context.connection_id, room)
        return await self.presence.users(group=room)

    async def leave(self, room: str) -> None:
        await self.groups.remove(self.context.connection_id, room)

    async def watch(self, room: str) -> AsyncIterator[tuple[str, str | None]]:
        """A stream of who joined and who left, also by losing the connection."""
        with self.presence.watch(group=room) as changes:
            async for event in changes:
                yield event.change.value, event.user_id  # noqa: ASYNC119  # a hub closes its streams


@app.route("/rooms/{room}/users")
async def users(request: Request) -> Response:
    presence = app.hub_context(Rooms).presence
    return Response.json(await presence.users(group=request.params["room"]))
