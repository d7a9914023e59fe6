"""What the engine serves in the comparisons: the same handlers as the peers have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar

from engine import App, Hub, WebSocket, WebSocketProtocol, broadcast
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.grpc import CallContext, MethodKind, MethodSpec, RequestStream, ServiceBase, ServiceSpec
from tests.benchmarks.peers.stream_messages import Chunk, FloodRequest

app = App()


@app.websocket("/echo")
async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Echo(WebSocketProtocol):
    def message_received(self, message: str | bytes) -> None:
        self.connection.write(message)


app.protocol("/callback", Echo)

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


class Streams(ServiceBase):
    __service__: ClassVar[ServiceSpec] = ServiceSpec(
        name="benchmark.Streams",
        methods=(
            MethodSpec("/benchmark.Streams/Flood", MethodKind.SERVER_STREAMING, FloodRequest, Chunk, "flood"),
            MethodSpec("/benchmark.Streams/Echo", MethodKind.BIDIRECTIONAL, Chunk, Chunk, "echo"),
        ),
    )

    async def flood(self, request: Any, context: CallContext) -> AsyncIterator[Any]:
        chunk = Chunk(data=bytes(request.size))
        for _ in range(request.count):
            yield chunk

    async def echo(self, requests: RequestStream[Any], context: CallContext) -> AsyncIterator[Any]:
        async for request in requests:
            yield request


app.add_service(Streams())


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
