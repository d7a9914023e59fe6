"""What `python -m engine serve` serves when it is given nothing: every protocol, and a page to try them.

Written as a user would write it, with the public names only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from engine import App, Request, Response, StreamingResponse, WebSocket
from engine.demo.chat import ChatHub
from engine.demo.greeter import Greeter
from engine.errors import HTTPError

__all__ = ["app"]

_MAX_BYTES = 10_000_000
_CHUNK = bytes(64 * 1024)

_PAGE = Path(__file__).with_name("page.html").read_bytes()
_PAGE_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
}

app = App()
app.add_service(Greeter())
app.add_reflection()
app.hub("/chathub")(ChatHub)


@app.route("/")
async def page(request: Request) -> Response:
    """Chat, echo and the rest, for a browser."""
    return Response(_PAGE, headers=_PAGE_HEADERS, content_type="text/html; charset=utf-8")


@app.websocket("/echo")
async def echo(ws: WebSocket) -> None:
    """Every message back, as it came."""
    async for message in ws:
        await ws.send(message)


@app.route("/echo", methods=("POST",))
async def echo_body(request: Request) -> Response:
    """The request's body back."""
    return Response(await request.body(), content_type="application/octet-stream")


@app.route("/healthz")
async def healthz(request: Request) -> Response:
    """The process is alive."""
    return Response("ok\n")


@app.route("/readyz")
async def readyz(request: Request) -> Response:
    """Send traffic here: not before the start is over, and not while the server drains."""
    return Response("ready\n") if app.ready else Response("not ready\n", 503)


@app.route("/bytes/{count}")
async def some_bytes(request: Request) -> StreamingResponse:
    """So many bytes, produced as fast as the client takes them."""
    text = request.params["count"]
    if not (text.isascii() and text.isdigit()) or len(text) > 8 or int(text) > _MAX_BYTES:
        raise HTTPError(404, f"ask for 0 to {_MAX_BYTES} bytes")
    count = int(text)
    return StreamingResponse(_zeros(count), headers={"content-length": str(count)})


async def _zeros(count: int) -> AsyncIterator[bytes]:
    for start in range(0, count, len(_CHUNK)):
        yield _CHUNK[: count - start]
