"""A hub for people who have signed in: JSON Web Tokens, claims, and new tokens without a new connection.

    python -m engine serve examples.auth_jwt:app

POST /login with a name gives a token. It goes to the hub as `Authorization: Bearer TOKEN`, or from
browsers as `?access_token=TOKEN`; in JavaScript:

    new HubConnectionBuilder().withUrl("/vault", { accessTokenFactory: () => token }).build()

A connection whose token expires is closed, unless POST /vault/refresh?id=CONNECTION_TOKEN has brought
another one in time.
"""

from __future__ import annotations

import os
import time

import jwt

from engine import App, Hub, Request, Response
from engine.errors import HTTPError, HubError
from engine.signalr.auth import JwtAuthenticator

KEY = os.environ.get("VAULT_KEY", "for development only, at least 32 bytes long")
LIFETIME = 600  # seconds
ADMINS = {"ada"}

app = App()


@app.route("/login", methods=("POST",))
async def login(request: Request) -> Response:
    name = (await request.body()).decode("utf-8", "replace").strip()
    if not name.isidentifier():
        raise HTTPError(400, "send your name; a real application would ask for a password as well")
    claims = {"sub": name, "role": "admin" if name in ADMINS else "guest", "exp": time.time() + LIFETIME}
    return Response(jwt.encode(claims, KEY, algorithm="HS256"))


@app.hub(
    "/vault",
    authenticator=JwtAuthenticator(KEY, ["HS256"]),
    require_user=True,
    close_on_authentication_expiration=True,
    authentication_refresh=True,
)
class Vault(Hub):
    async def who_am_i(self) -> str | None:
        return self.context.user_id

    async def open_door(self) -> str:
        if self.context.user is None or self.context.user.claims.get("role") != "admin":
            raise HubError("only admins have the key")
        await self.clients.others.send("DoorOpened", self.context.user_id)
        return "open"

    async def whisper(self, to: str, text: str) -> None:
        await self.clients.user(to).send("Whispered", self.context.user_id, text)
