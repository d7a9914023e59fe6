"""greet.Greeter/SayHello on grpclib (h2) under uvloop. Prints its port."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvloop
from greet_messages import HelloReply, HelloRequest
from grpclib.const import Cardinality, Handler
from grpclib.server import Server


class Greeter:
    async def say_hello(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(HelloReply(message=f"Hello {request.name}"))

    def __mapping__(self) -> dict[str, Handler]:
        method = Handler(self.say_hello, Cardinality.UNARY_UNARY, HelloRequest, HelloReply)
        return {"/greet.Greeter/SayHello": method}


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server([Greeter()])
    await server.start(sock=listener)
    print(listener.getsockname()[1], flush=True)
    await asyncio.Event().wait()


uvloop.run(main())
