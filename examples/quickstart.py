from engine import App, CallContext, Hub, WebSocket
from engine.demo.generated.greet_engine import GreeterBase, greet_pb2

app = App()


@app.websocket("/echo")
async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Greeter(GreeterBase):
    async def say_hello(self, request: greet_pb2.HelloRequest, context: CallContext) -> greet_pb2.HelloReply:
        return greet_pb2.HelloReply(message=f"Hello {request.name}")


app.add_service(Greeter())


@app.hub("/chathub")
class ChatHub(Hub):
    async def send_message(self, user: str, message: str) -> None:
        await self.clients.all.send("ReceiveMessage", user, message)
