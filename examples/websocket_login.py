"""A WebSocket for those who are known, from pages of this server only.

python -m engine serve examples.websocket_login:app
"""

from __future__ import annotations

import hmac

from engine import App, Response, WebSocket
from engine.websocket.handshake import Handshake

app = App()
TOKENS = {"ada": "lovelace", "grace": "hopper"}  # yours are in a database, and hashed


async def authorize(handshake: Handshake) -> Response | None:
    """Asked before the connection is accepted; a response refuses it."""
    scheme, _, token = (handshake.head.header(b"authorization") or b"").decode("latin-1").partition(" ")
    user, _, secret = token.partition(":")
    known = scheme.lower() == "bearer" and user in TOKENS
    if not known or not hmac.compare_digest(secret.encode(), TOKENS[user].encode()):
        return Response("Log in first.\n", 401, {"www-authenticate": "Bearer"})
    handshake.state.user = user
    handshake.add_header("x-user", user)
    return None


@app.websocket("/private", authorize=authorize, origins="same-origin")
async def private(ws: WebSocket) -> None:
    await ws.send(f"hello {ws.state.user}")
    async for message in ws:
        await ws.send(f"{ws.state.user}: {message!s}")
