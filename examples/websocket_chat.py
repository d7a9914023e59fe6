"""Chat rooms: a path parameter, and one broadcast for everybody in a room.

python -m engine serve examples.websocket_chat:app
"""

from __future__ import annotations

from collections import defaultdict

from engine import App, WebSocket, broadcast

app = App()
rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)


@app.websocket("/rooms/{room}", slow_consumer="drop_oldest")
async def chat(ws: WebSocket) -> None:
    name = ws.path_params["room"]
    members = rooms[name]
    members.add(ws)
    try:
        broadcast(members, f"{len(members)} in {name}")
        async for message in ws:
            broadcast(members, message)  # encoded and compressed once; waits for nobody
    finally:
        members.discard(ws)
        if members:
            broadcast(members, f"{len(members)} in {name}")
        else:
            del rooms[name]
