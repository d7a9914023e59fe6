"""Stock servicers of grpcio's generated code on our server: for grpc.aio and for threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is missing; stock generated code imports it")

import grpc
import trio
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from engine import App, Config
from engine.errors import ConfigError, RpcError
from engine.server import Server
from examples.stock import greet_pb2, greet_pb2_grpc

LIMIT = 20
Hello = greet_pb2.HelloReply


class AioGreeter(greet_pb2_grpc.GreeterServicer):
    """As for grpc.aio, with Trio in the place of asyncio."""

    def __init__(self) -> None:
        self.ended: list[Any] = []

    async def SayHello(self, request: Any, context: Any) -> Any:  # the name of the .proto file
        context.add_done_callback(self.ended.append)
        if request.name == "abort":
            await context.abort(grpc.StatusCode.ABORTED, "so", trailing_metadata=(("x-t", "1"),))
        if request.name == "swallowed":
            with contextlib.suppress(RpcError):
                await context.abort(grpc.StatusCode.OK, "no success")
        if request.name == "rich":
            detail = any_pb2.Any()
            detail.Pack(greet_pb2.HelloRequest(name="detail"))
            status = status_pb2.Status(code=9, message="rich", details=[detail])
            await context.abort_with_status(rpc_status.to_status(status))
        if request.name == "code":
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("nobody")
            assert (context.code(), context.details()) == (5, "nobody")
        if request.name == "raise":
            context.set_code(grpc.StatusCode.DATA_LOSS)
            raise ValueError("told by its code")
        if request.name == "meta":
            await context.send_initial_metadata((("x-i", "i"), ("x-i-bin", b"\xff")))
            context.set_trailing_metadata((("x-t", context.peer()[:10]),))
            (value,) = [item.value for item in context.invocation_metadata() if item.key == "x-sent"]
            return Hello(message=f"{value} {context.time_remaining() > 5} {context.auth_context()}")
        return Hello(message=f"Hello {request.name}")

    async def StreamHellos(self, request: Any, context: Any) -> Any:
        context.set_compression(grpc.Compression.Gzip)
        for _ in range(request.count):
            await trio.lowlevel.checkpoint()
            yield Hello(message=request.name)
        if request.name == "late":
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "after the messages")

    async def Chat(self, request_iterator: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(Hello(message=request.name))


class SyncGreeter(greet_pb2_grpc.GreeterServicer):
    """As for grpc.server, in threads."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def SayHello(self, request: Any, context: grpc.ServicerContext) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        if request.name == "abort":
            context.abort(grpc.StatusCode.ABORTED, "so")
        if request.name == "hang":
            while context.is_active():
                self.over.wait(0.01)
            self.over.set()
        context.send_initial_metadata((("x-i", "i"),))
        return Hello(message=f"Hello {request.name} {context.time_remaining() > 5}")

    def StreamHellos(self, request: Any, context: Any) -> Iterator[Any]:
        for index in range(request.count):
            yield Hello(message=str(index))

    def CollectNames(self, request_iterator: Any, context: Any) -> Any:
        return Hello(message=",".join(each.name for each in request_iterator))

    def Chat(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        for request in request_iterator:
            yield Hello(message=request.name)


async def playing(app: App, play: Any) -> None:
    """Serve the app over a socket, and let a stock client play in a thread."""

    def run() -> None:
        with grpc.insecure_channel(server.addresses[0]) as channel:
            play(greet_pb2_grpc.GreeterStub(channel))

    server = Server(app, Config().replace(server__port=0))
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await trio.to_thread.run_sync(run)
            server.stop()


def hosting(servicer: Any) -> App:
    app = App()
    greet_pb2_grpc.add_GreeterServicer_to_server(servicer, app)
    return app


def say(stub: Any, name: str, **options: Any) -> Any:
    return stub.SayHello(greet_pb2.HelloRequest(name=name), timeout=LIMIT, **options)


def refusal(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def names(*each: str) -> Iterator[Any]:
    return iter([greet_pb2.HelloRequest(name=name) for name in each])


async def test_a_servicer_for_grpc_aio_answers_a_stock_client() -> None:
    servicer = AioGreeter()

    def play(stub: Any) -> None:
        assert say(stub, "Ada").message == "Hello Ada"
        replies = stub.StreamHellos(greet_pb2.StreamHellosRequest(name="Ada", count=3), timeout=LIMIT)
        assert [each.message for each in replies] == ["Ada"] * 3
        assert [each.message for each in stub.Chat(names("a", "b"), timeout=LIMIT)] == ["a", "b"]
        reply, call = stub.SayHello.with_call(
            greet_pb2.HelloRequest(name="meta"), timeout=LIMIT, metadata=(("x-sent", "s"),)
        )
        assert reply.message == "s True {}"
        assert {("x-i", "i"), ("x-i-bin", b"\xff")} <= {tuple(each) for each in call.initial_metadata()}
        assert [tuple(each) for each in call.trailing_metadata()] == [("x-t", "ipv4:127.0")]

    await playing(hosting(servicer), play)
    assert [type(each).__name__ for each in servicer.ended] == ["AioServicerContext"] * 2


async def test_statuses_of_a_servicer_reach_the_client(caplog: pytest.LogCaptureFixture) -> None:
    def play(stub: Any) -> None:
        aborted = refusal(lambda: say(stub, "abort"))
        assert (aborted.code(), aborted.details()) == (grpc.StatusCode.ABORTED, "so")
        assert [tuple(each) for each in aborted.trailing_metadata()] == [("x-t", "1")]
        swallowed = refusal(lambda: say(stub, "swallowed"))  # an abort ends the call whatever becomes of its exception
        assert (swallowed.code(), swallowed.details()) == (grpc.StatusCode.UNKNOWN, "no success")
        rich = rpc_status.from_call(refusal(lambda: say(stub, "rich")))
        assert (rich.code, rich.message, len(rich.details)) == (9, "rich", 1)
        found = refusal(lambda: say(stub, "code"))
        assert (found.code(), found.details()) == (grpc.StatusCode.NOT_FOUND, "nobody")
        raised = refusal(lambda: say(stub, "raise"))
        assert (raised.code(), raised.details()) == (grpc.StatusCode.DATA_LOSS, "")
        late = stub.StreamHellos(greet_pb2.StreamHellosRequest(name="late", count=1), timeout=LIMIT)
        assert next(late).message == "late"
        assert refusal(lambda: next(late)).code() is grpc.StatusCode.OUT_OF_RANGE
        missing = refusal(lambda: stub.CollectNames(names("a"), timeout=LIMIT))
        assert (missing.code(), missing.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")

    await playing(hosting(AioGreeter()), play)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "/greet.Greeter/SayHello raised with a status set"
    ]


async def test_a_synchronous_servicer_runs_in_threads() -> None:
    servicer = SyncGreeter()

    def play(stub: Any) -> None:
        reply, call = stub.SayHello.with_call(greet_pb2.HelloRequest(name="Ada"), timeout=LIMIT)
        assert reply.message == "Hello Ada True"
        assert ("x-i", "i") in [tuple(each) for each in call.initial_metadata()]
        replies = stub.StreamHellos(greet_pb2.StreamHellosRequest(count=3), timeout=LIMIT)
        assert [each.message for each in replies] == ["0", "1", "2"]
        assert stub.CollectNames(names("a", "b"), timeout=LIMIT).message == "a,b"
        assert [each.message for each in stub.Chat(names("a", "b"), timeout=LIMIT)] == ["a", "b"]
        assert refusal(lambda: say(stub, "abort")).code() is grpc.StatusCode.ABORTED
        hanging = stub.SayHello.future(greet_pb2.HelloRequest(name="hang"), timeout=0.2)
        assert hanging.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert servicer.over.wait(LIMIT)  # the thread learned of it

    await playing(hosting(servicer), play)


async def test_handlers_of_older_generated_code_are_asked_for_each_path() -> None:
    app = App()
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request[::-1])  # bytes in, bytes out
    app.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("old.Service", {"Turn": handler}),))

    def run() -> None:
        with grpc.insecure_channel(server.addresses[0]) as channel:
            assert channel.unary_unary("/old.Service/Turn")(b"abc", timeout=LIMIT) == b"cba"
            unknown = refusal(lambda: channel.unary_unary("/old.Service/Other")(b"", timeout=LIMIT))
            assert unknown.code() is grpc.StatusCode.UNIMPLEMENTED

    server = Server(app, Config().replace(server__port=0))
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await trio.to_thread.run_sync(run)
            server.stop()


def test_a_hosted_service_is_listed_and_reflected_as_any_other() -> None:
    app = hosting(AioGreeter())
    (spec,) = app.services
    assert (spec.name, spec.file, len(spec.methods)) == ("greet.Greeter", "greet.proto", 4)
    assert spec.methods[0].request_type.DESCRIPTOR.full_name == "greet.HelloRequest"
    assert spec.methods[0].response_type.DESCRIPTOR.full_name == "greet.HelloReply"
    with pytest.raises(ConfigError, match="added before"):
        greet_pb2_grpc.add_GreeterServicer_to_server(AioGreeter(), app)
