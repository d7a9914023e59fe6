"""The in-memory test client: every protocol, the app's life, and its errors."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from engine import App, CallContext, Config, Hub, Request, Response, StreamingResponse, StreamProtocol, WebSocket
from engine.config import TlsConfig
from engine.demo.generated.greet_engine import GreeterBase, GreeterStub, greet_pb2
from engine.errors import ConfigError, ConnectionClosed, LocalProtocolError, StartupError
from engine.grpc import RpcError, StatusCode
from engine.server import Phase
from engine.testing import Network, TestClient

if TYPE_CHECKING:
    from trio.testing import MockClock


class Greeter(GreeterBase):
    async def say_hello(self, request: greet_pb2.HelloRequest, context: CallContext) -> greet_pb2.HelloReply:
        return greet_pb2.HelloReply(message=f"Hello {request.name}")


class Calculator(Hub):
    async def add(self, a: int, b: int) -> int:
        return a + b


class Shout(StreamProtocol):
    def data_received(self, data: bytes) -> None:
        self.connection.write(data.upper())


def make_app() -> App:
    app = App()
    app.state.cancelled = trio.Event()
    app.add_service(Greeter())
    app.hub("/calculator")(Calculator)
    app.protocol(4000, Shout)

    @app.route("/json", methods=("POST", "PUT", "PATCH", "DELETE"))
    async def mirror(request: Request) -> Response:
        return Response.json({
            "method": request.method,
            "type": request.headers.get("content-type"),
            "body": await request.text(),
            "query": dict(request.query),
        })  # fmt: skip

    @app.route("/ticks")
    async def ticks(request: Request) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for number in range(3):
                await trio.sleep(600)
                yield b"%d\n" % number

        return StreamingResponse(body())

    @app.route("/hang")
    async def hang(request: Request) -> Response:
        try:
            await trio.sleep_forever()
        finally:
            app.state.cancelled.set()

    @app.route("/fail")
    async def fail(request: Request) -> Response:
        raise ValueError("secret")

    @app.websocket("/echo", subprotocols=("a",))
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    return app


async def test_requests_and_their_responses() -> None:
    async with TestClient(make_app()) as client:
        response = await client.post("/json?x=1", json={"a": [1, 2]})
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == {
            "method": "POST", "type": "application/json", "body": '{"a":[1,2]}', "query": {"x": "1"}
        }  # fmt: skip
        assert (await client.put("/json", body="über")).json()["type"] == "text/plain; charset=utf-8"
        assert (await client.patch("/json", body=b"x", headers={"Content-Type": "a/b"})).json()["type"] == "a/b"
        assert (await client.delete("/json")).json()["method"] == "DELETE"
        missing = await client.get("/nothing")
        assert (missing.status, missing.text) == (404, "Not Found\n")
        head = await client.head("/json")
        assert (head.status, head.body) == (405, b"")
        assert (await client.options("/json")).headers["allow"]
        assert len(client.network.links) == 1  # kept alive between requests


async def test_a_response_is_read_while_it_is_made(autojump_clock: MockClock) -> None:
    async with TestClient(make_app()) as client:
        began = trio.current_time()
        async with client.stream("GET", "/ticks") as response:
            times = [trio.current_time() - began async for _ in response]
        assert times == [600, 1200, 1800]


async def test_leaving_a_response_cancels_its_handler(autojump_clock: MockClock) -> None:
    app = make_app()
    async with TestClient(app) as client:
        with trio.move_on_after(5):
            await client.get("/hang")
        await app.state.cancelled.wait()


@pytest.mark.parametrize("http2", [False, True])
async def test_websockets(http2: bool) -> None:
    async with TestClient(make_app()) as client, client.websocket("/echo", http2=http2, subprotocols=["a"]) as ws:
        assert ws.subprotocol == "a"
        await ws.send("x" * 300_000)
        assert await ws.receive() == "x" * 300_000


async def test_grpc() -> None:
    async with TestClient(make_app()) as client, client.channel() as channel:
        reply = await GreeterStub(channel).say_hello(greet_pb2.HelloRequest(name="Ada"))
        assert reply.message == "Hello Ada"


@pytest.mark.parametrize("transport", ["WebSockets", "ServerSentEvents", "LongPolling"])
async def test_hubs(transport: str) -> None:
    async with TestClient(make_app()) as client, client.hub("/calculator", transports=[transport]) as hub:
        assert await hub.invoke("Add", 1, 2) == 3
        assert hub.transport.value == transport


async def test_custom_protocols_and_bytes_as_they_are() -> None:
    async with TestClient(make_app()) as client:
        stream = await client.connect(4000)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"HELLO"
        raw = await client.connect()
        await raw.send_all(b"GET /nothing HTTP/1.0\r\n\r\n")
        assert (await raw.receive_some()).startswith(b"HTTP/1.1 404 ")
        with pytest.raises(ConfigError, match="known: 4000"):
            await client.connect(4001)


async def test_the_lifespan_is_around_the_block_and_handlers_end_before_it() -> None:
    steps = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        steps.append("start")
        yield
        steps.append("end")

    app = App(lifespan=lifespan)
    started = trio.Event()

    @app.websocket("/wait")
    async def wait(ws: WebSocket) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            steps.append("cancelled")

    async with TestClient(app) as client:
        assert app.ready
        steps.append("block")
        stream = await client.connect()
        await stream.send_all(
            b"GET /wait HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await started.wait()
    assert steps == ["start", "block", "cancelled", "end"]
    assert client.server.phase is Phase.STOPPED


@pytest.mark.parametrize("half", ["start-up", "clean-up"])
async def test_a_failing_lifespan_is_told_as_itself(half: str) -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        if half == "start-up":
            raise OSError("no database")
        yield
        raise OSError("no database")

    with pytest.raises(StartupError, match=f"no database; mend its {half} code"):
        async with TestClient(App(lifespan=lifespan)):
            pass


async def test_what_the_block_raises_is_not_wrapped() -> None:
    async def fail() -> None:
        async with TestClient(make_app()) as client:
            await client.get("/nothing")
            raise KeyError("of the test")

    with pytest.raises(KeyError, match="of the test"):
        await fail()


async def test_a_handler_that_fails_is_answered_as_in_production(caplog: pytest.LogCaptureFixture) -> None:
    async with TestClient(make_app()) as client:
        response = await client.get("/fail")
        assert response.status == 500
        assert "secret" not in response.text
    assert "ValueError: secret" in caplog.text


async def test_a_stopping_server_refuses_what_is_new_and_finishes_what_runs(autojump_clock: MockClock) -> None:
    async with TestClient(make_app()) as client, client.websocket("/echo") as ws:
        client.server.drain()
        with pytest.raises(ConnectionClosed, match="1001"):
            await ws.receive()
        with pytest.raises(ConnectionClosed):
            await client.get("/nothing")
        with pytest.raises(ConnectionClosed):
            async with client.websocket("/echo"):
                pass
        async with client.channel() as channel:
            with pytest.raises(RpcError) as caught:
                await GreeterStub(channel).say_hello(greet_pb2.HelloRequest())
        assert caught.value.code is StatusCode.UNAVAILABLE


async def test_everything_over_tls(tmp_path: pytest.TempPathFactory) -> None:
    authority = trustme.CA()
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = authority.issue_cert("testserver")
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    config = Config(tls=TlsConfig(str(certificate), str(key)))
    contexts = {}
    for alpn in ("http/1.1", "h2"):
        contexts[alpn] = ssl.create_default_context()
        authority.configure_trust(contexts[alpn])
        contexts[alpn].set_alpn_protocols([alpn])
    app = make_app()
    async with TestClient(app, config, base_url="https://testserver", ssl_context=contexts["http/1.1"]) as client:
        assert (await client.get("/nothing")).status == 404
        async with client.websocket("/echo") as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        async with client.channel(tls=contexts["h2"]) as channel:
            assert (await GreeterStub(channel).say_hello(greet_pb2.HelloRequest(name="x"))).message == "Hello x"
        async with client.hub("/calculator") as hub:
            assert await hub.invoke("Add", 2, 2) == 4


async def test_mistakes_of_the_caller() -> None:
    client = TestClient(make_app())
    with pytest.raises(LocalProtocolError, match="async with"):
        await client.connect()
    async with client:
        with pytest.raises(LocalProtocolError, match="once"):
            await client.__aenter__()
    with pytest.raises(ConfigError, match="base_url"):
        TestClient(App(), base_url="testserver")


async def test_a_lost_network_is_a_lost_connection(autojump_clock: MockClock) -> None:
    network = Network()
    async with TestClient(make_app(), network=network) as client, client.websocket("/echo") as ws:
        network.cut()
        with pytest.raises(ConnectionClosed):
            await ws.receive()


async def test_a_peer_that_falls_silent_is_noticed_by_pings(autojump_clock: MockClock) -> None:
    network = Network()
    async with TestClient(make_app(), network=network) as client:
        began = trio.current_time()
        async with client.websocket("/echo") as ws:
            network.freeze()
            with pytest.raises(ConnectionClosed):
                await ws.receive()
        assert 20 <= trio.current_time() - began <= 60  # websocket.ping_interval and ping_timeout
