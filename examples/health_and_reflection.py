"""What load balancers and tools ask a server: grpc.health.v1, grpc.reflection, and what runs on it now.

    python -m engine serve examples.health_and_reflection:app

A drain (SIGTERM) turns every status into NOT_SERVING by itself, before the connections are told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine import App, Request, Response
from engine.demo.greeter import Greeter
from engine.grpc.health import HealthService, ServingStatus

SERVICE = "greet.Greeter"

health = HealthService()


async def warm_up() -> None:
    """What has to happen before calls make sense: models, caches, connections to others."""
    await trio.sleep(0.01)
    health.set_status(SERVICE, ServingStatus.SERVING)


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """The server listens, and says that the service is not ready until it is."""
    health.set_status(SERVICE, ServingStatus.NOT_SERVING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm_up)
        yield


app = App(lifespan=lifespan)
app.add_service(Greeter())
app.add_service(health)
app.add_reflection()


@app.route("/readyz")
async def ready(request: Request) -> Response:
    """The same for those who ask over HTTP."""
    serving = health.status(SERVICE) is ServingStatus.SERVING
    return Response("ready\n") if serving else Response("not ready\n", 503)


@app.route("/calls")
async def calls(request: Request) -> Response:
    """The live calls of every connection; the same as `Server.statistics`, where a program runs the server itself."""
    live = [(each.peer, call) for each in app.statistics().connections for call in each.exchanges]
    return Response.json([{"peer": peer, "path": call.path, "sent": call.bytes_sent} for peer, call in live])
