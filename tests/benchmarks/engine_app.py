"""What the engine serves in the comparisons: the same handlers as the peers have."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine import App, Hub, WebSocket, broadcast
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.grpc import CallContext

app = App()


@app.websocket("/echo")
async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


everyone: set[WebSocket] = set()


@app.websocket("/broadcast")
async def to_everyone(ws: WebSocket) -> None:
    everyone.add(ws)
    try:
        async for message in ws:
            broadcast(everyone, message)
    finally:
        everyone.discard(ws)


class Greeter(GreeterBase):
    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        return HelloReply(message=f"Hello {request.name}")


app.add_service(Greeter())


@app.hub("/hub")
class EchoHub(Hub):
    async def echo(self, text: str) -> str:
        return text

    async def broadcast(self, text: str) -> None:
        await self.clients.all.send("Message", text)

    async def count(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            yield number


@app.hub("/plain")
class PlainHub(Hub):
    def echo(self, text: str) -> str:
        return text
