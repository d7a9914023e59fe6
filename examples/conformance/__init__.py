"""The app that test programs of other implementations are run against.

    python -m engine serve examples.conformance:app

A few routes with nothing in them but their protocol, and limits that the test programs know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine import App, Config, Request, Response, StreamingResponse, WebSocket
from engine.demo.chat import ChatHub
from engine.demo.greeter import Greeter
from engine.errors import HTTPError
from engine.grpc.health import HealthService

from .hub import mount_all
from .interop import TestService
from .probe import Probe

MAX_BYTES = 10_000_000
CHUNK = bytes(64 * 1024)

config = Config().replace(
    websocket__max_message_size=16 * 1024 * 1024,
    websocket__compression_threshold=1,  # whoever agrees on compression sees it
    http1__head_timeout=10.0,
    http2__max_concurrent_streams=1000,
    grpc__cors_origins=("*",),
)
app = App(config)
health = HealthService("grpc.testing.TestService", "conformance.v1.Probe")
for service in (Greeter(), TestService(), Probe(health), health):
    app.add_service(service)
app.add_reflection()
app.hub("/chathub")(ChatHub)
mount_all(app)


@app.route("/")
async def index(request: Request) -> Response:
    return Response("engine conformance app\n")


@app.route("/", methods=("POST",))
@app.route("/echo", methods=("POST",))
async def echo_body(request: Request) -> Response:
    return Response(await request.body(), content_type="application/octet-stream")


# Autobahn takes a ping for the end of a case, and on a slow machine some cases last longer than 20 s.
@app.websocket("/echo", subprotocols=("a", "b"), ping_interval=60.0)
async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@app.route("/healthz")
async def healthz(request: Request) -> Response:
    return Response("ok\n")


@app.route("/readyz")
async def readyz(request: Request) -> Response:
    return Response("ready\n") if app.ready else Response("not ready\n", 503)


@app.route("/bytes/{count}")
async def some_bytes(request: Request) -> StreamingResponse:
    text = request.params["count"]
    if not (text.isascii() and text.isdigit()) or len(text) > 8 or int(text) > MAX_BYTES:
        raise HTTPError(404, f"ask for 0 to {MAX_BYTES} bytes")
    return StreamingResponse(zeros(int(text)), headers={"content-length": text.lstrip("0") or "0"})


async def zeros(count: int) -> AsyncIterator[bytes]:
    for start in range(0, count, len(CHUNK)):
        yield CHUNK[: count - start]
