"""`Server.statistics`: live connections and calls, of every protocol."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine import App, CallContext, Config, Request, Response
from engine.demo.generated.greet_engine import GreeterBase, greet_pb2
from engine.server import Server
from tests.grpc.raw_client import RawClient


async def test_a_server_tells_what_runs_on_it(autojump_clock) -> None:
    app = App()
    release = trio.Event()

    class Greeter(GreeterBase):
        async def say_hello(self, request: greet_pb2.HelloRequest, context: CallContext) -> greet_pb2.HelloReply:
            await release.wait()
            return greet_pb2.HelloReply()

    app.add_service(Greeter())

    @app.route("/wait")
    async def wait(request: Request) -> Response:
        await release.wait()
        return Response("done")

    server = Server(app, Config().replace(server__port=0))
    assert server.statistics().connections == ()
    assert (app.statistics().phase, app.statistics().calls) == ("starting", 0)
    streams = [trio.testing.memory_stream_pair() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        for _, far in streams:
            nursery.start_soon(server.serve_stream, far)
            await trio.testing.wait_all_tasks_blocked()
        client = RawClient(streams[0][0])
        await client.flush()
        for timeout in (b"50S", b""):
            stream_id = await client.start("/greet.Greeter/SayHello", ((b"grpc-timeout", timeout),))
            await client.send(stream_id, b"\0\0\0\0\0", end=True)
        await streams[1][0].send_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        await trio.sleep(9)  # less than http2.settings_ack_timeout: this client reads nothing

        statistics = server.statistics()
        assert app.statistics() == statistics  # for handlers, which have no server at hand
        assert (statistics.phase, statistics.accepted, statistics.calls) == ("serving", 3, 3)
        grpc, plain, silent = statistics.connections
        assert [each.protocol for each in statistics.connections] == ["HTTP/2", "HTTP/1.1", ""]
        assert [each.connection_id for each in statistics.connections] == [1, 2, 3]
        assert (grpc.peer, grpc.tls_version, grpc.requests, grpc.draining) == ("memory", None, 2, False)
        assert grpc.age == pytest.approx(9)
        assert [(each.path, each.stream_id, each.status, each.content_type) for each in grpc.exchanges] == [
            ("/greet.Greeter/SayHello", number, 0, "application/grpc") for number in (1, 3)
        ]
        first, second = grpc.exchanges
        assert first.deadline == pytest.approx(trio.current_time() + 41)
        assert (second.deadline, second.cancelled) == (None, None)
        assert [(each.method, each.path) for each in plain.exchanges] == [("GET", "/wait")]
        assert (silent.requests, silent.exchanges) == (0, ())

        release.set()
        await client.ended(3)
        await trio.testing.wait_all_tasks_blocked()
        assert server.statistics().calls == 0
        assert server.statistics().connections[0].requests == 2
        server.stop()
    assert server.statistics().connections == ()
    assert (app.statistics().phase, app.statistics().calls) == ("stopped", 0)
    assert server.statistics().phase == "stopped"
