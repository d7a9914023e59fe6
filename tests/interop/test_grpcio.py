"""A stock grpcio client against our server: all four kinds, errors, deadlines, cancellation."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.app import App
from engine.config import Config
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import StatusCode
from engine.grpc import CallContext, RequestStream
from engine.server import Server
from engine.transport.exchange import CancelReason

pytestmark = pytest.mark.interop
pytest.importorskip("grpc", reason="grpcio is missing; install it to run its client")

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds for one run of the client, a cold start included


class Service(Greeter):
    """The greeter, with names that make it fail or hang."""

    def __init__(self) -> None:
        self.reasons: list[tuple[str, CancelReason | None]] = []
        self.cancelled = trio.Event()

    async def hang(self, where: str, context: CallContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.reasons.append((where, context.cancelled))
            if where == "chat":
                self.cancelled.set()

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        if request.name == "abort":
            context.set_trailing_metadata({"x-why": "asked", "x-why-bin": b"\x01"})
            context.abort(StatusCode.FAILED_PRECONDITION, "no ☺\n")
        if request.name == "raise":
            raise ValueError("secret")
        if request.name == "hang":
            await self.hang("say", context)
        values = [pair for pair in context.metadata if pair[0].startswith("x-")]
        if values:
            await context.send_initial_metadata([(f"{key}", value) for key, value in values])
            context.set_trailing_metadata([("x-trailing", "t"), ("x-trailing-bin", b"\xab\xab\xab")])
        return await super().say_hello(request, context)

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        async for reply in super().stream_hellos(request, context):
            yield reply
        if request.name == "abort":
            context.abort(StatusCode.ABORTED, "after messages")

    async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> AsyncIterator[HelloReply]:
        async for request in requests:
            yield HelloReply(message=f"Hello {request.name}")
            if request.name == "hang":
                await self.hang("chat", context)


@pytest.mark.parametrize("mode", ["sync", "aio"])
async def test_a_grpcio_client_gets_what_it_should(mode: str) -> None:
    service = Service()
    app = App()
    app.add_service(service)
    server = Server(app, Config().replace(server__port=0))
    command = [sys.executable, "-m", "tests.interop.grpcio_client", mode]
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            done = await trio.run_process([*command, server.addresses[0]], capture_stdout=True, cwd=ROOT)
            await service.cancelled.wait()
            server.stop()
    check(json.loads(done.stdout))
    assert service.reasons[-1] == ("chat", CancelReason.PEER_RESET)
    assert [where for where, _ in service.reasons] == ["say", "chat"]


def check(results: dict[str, Any]) -> None:
    unary = results["unary"]
    assert unary["reply"] == "Hello Ada"
    sent = [["x-a", "1"], ["x-a", "2"], ["x-bin", "00ff"]]
    assert [pair for pair in unary["initial"] if pair[0].startswith("x-")] == sent
    assert unary["trailing"] == [["x-trailing", "t"], ["x-trailing-bin", "ababab"]]
    assert results["server_stream"] == {"replies": ["Hello Ada"] * 3}
    assert results["client_stream"] == {"reply": "Hello Ada and Bob"}
    assert results["bidi"] == {"replies": ["Hello Ada", "Hello Bob"]}

    abort = results["abort"]
    assert (abort["code"], abort["details"]) == ("FAILED_PRECONDITION", "no ☺\n")
    assert abort["trailing"] == [["x-why", "asked"], ["x-why-bin", "01"]]
    assert (results["raise"]["code"], results["raise"]["details"]) == ("UNKNOWN", "")
    assert results["hang"]["code"] == "DEADLINE_EXCEEDED"
    assert (results["stream_abort"]["code"], results["stream_abort"]["details"]) == ("ABORTED", "after messages")
    assert results["unknown"]["code"] == "UNIMPLEMENTED"
    assert results["large"] == {"size": 3_000_006}
    assert results["too_large"]["code"] == "RESOURCE_EXHAUSTED"
    assert "grpc.max_receive_message_size" in results["too_large"]["details"]
    if "side_by_side" in results:
        assert results["side_by_side"] == {"replies": [f"Hello {index}" for index in range(300)]}
    assert results["cancel"]["first"] == "Hello hang"
    assert results["cancel"]["code"] == "CANCELLED"
