"""One process, two protocols: a gRPC call, an HTTP request and a background task reach hub clients.

python -m engine serve examples.grpc_to_hub:app
"""

from __future__ import annotations

from engine import App, CallContext, Hub, Request, Response
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.errors import ConnectionClosed, HubError, LimitExceeded

app = App()


@app.hub("/news")
class News(Hub):
    def my_id(self) -> str:
        return self.context.connection_id


class Greeter(GreeterBase):
    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        await app.hub_context(News).clients.all.send("Greeted", request.name)
        return HelloReply(message=f"Hello {request.name}")


app.add_service(Greeter())


@app.route("/ask/{connection_id}", methods=("POST",))
async def ask(request: Request) -> Response:
    """Call a client and answer with its result."""
    client = app.hub_context(News).clients.client(request.params["connection_id"])
    try:
        return Response.json(await client.invoke("HowAreYou", result_type=str))
    except (HubError, ConnectionClosed, LimitExceeded) as error:
        return Response(str(error), 502)
