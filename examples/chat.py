"""A chat room with names, groups and a lifespan.

python -m engine serve examples.chat:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine import App, Hub, Request, Response


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """Runs from before the first connection until after the last."""
    app.state.messages = 0
    yield


app = App(lifespan=lifespan)


@app.hub("/chathub")
class Chat(Hub):
    """Hub methods are named on the wire as clients like it: SendMessage, sendMessage, send_message."""

    async def send_message(self, user: str, message: str) -> None:
        app.state.messages += 1
        await self.clients.all.send("ReceiveMessage", user, message)

    async def join_group(self, group_name: str) -> None:
        await self.groups.add(self.context.connection_id, group_name)
        await self.clients.group(group_name).send("ReceiveMessage", "room", f"somebody joined {group_name}")

    async def leave_group(self, group_name: str) -> None:
        await self.groups.remove(self.context.connection_id, group_name)

    async def send_to_group(self, group_name: str, user: str, message: str) -> None:
        app.state.messages += 1
        await self.clients.group(group_name).send("ReceiveMessage", user, message)


@app.route("/statistics")
async def statistics(request: Request) -> Response:
    return Response.json({"messages": app.state.messages})
