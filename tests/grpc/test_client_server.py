"""Our client against our server: in memory with a virtual clock, and over real sockets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from engine.app import App
from engine.config import ChannelConfig, ClientTlsConfig, Config
from engine.demo.generated.greet_engine import GreeterStub
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import ConfigError
from engine.grpc import CallContext, Channel, ChannelState, RequestStream, RpcError, StatusCode
from engine.server import Server
from engine.transport.exchange import CancelReason
from tests.grpc.client_peer import served

ADA = HelloRequest(name="Ada")


class Service(Greeter):
    """The greeter, with names that make it wait."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.ended: list[CancelReason | None] = []
        self.deadlines: list[float | None] = []

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        self.deadlines.append(context.time_remaining())
        if request.name == "wait":
            self.started.set()
            try:
                await trio.sleep(5)
            finally:
                self.ended.append(context.cancelled)
        return await super().say_hello(request, context)

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        for _ in range(request.count):
            yield HelloReply(message="x" * 1_000)

    async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
        return HelloReply(message=str(sum([len(each.name) async for each in requests])))


def make_server(service: Service) -> Server:
    app = App()
    app.add_service(service)
    return Server(app, Config().replace(server__port=0))


async def test_all_four_kinds_reach_the_servers_handlers() -> None:
    async with served(make_server(Service())) as channel:
        stub = GreeterStub(channel)
        assert (await stub.say_hello(ADA)).message == "Hello Ada"
        async with stub.stream_hellos(StreamHellosRequest(name="Ada", count=2_000)) as stream:
            assert sum([len(each.message) async for each in stream]) == 2_000_000
        async with stub.collect_names() as upload:
            for _ in range(200):
                await upload.send(HelloRequest(name="x" * 10_000))
            assert (await upload.reply()).message == "2000000"
        async with stub.chat() as both, trio.open_nursery() as nursery:

            async def send() -> None:
                for index in range(300):
                    await both.send(HelloRequest(name=str(index)))
                await both.done_writing()

            nursery.start_soon(send)
            assert [each.message async for each in both] == [f"Hello {index}" for index in range(300)]


async def test_a_stub_of_stock_generated_code_works_on_our_channel() -> None:
    pytest.importorskip("grpc", reason="grpcio is missing; stock generated code imports it")
    from examples.stock import greet_pb2, greet_pb2_grpc

    async with served(make_server(Service())) as channel:
        stub = greet_pb2_grpc.GreeterStub(channel)
        assert (await stub.SayHello(greet_pb2.HelloRequest(name="Ada"))).message == "Hello Ada"
        async with stub.Chat() as stream:
            await stream.send(greet_pb2.HelloRequest(name="Bob"))
            assert (await stream.receive()).message == "Hello Bob"


async def test_the_scopes_deadline_is_the_handlers_deadline(autojump_clock: trio.testing.MockClock) -> None:
    service = Service()
    async with served(make_server(service)) as channel:
        stub = GreeterStub(channel)
        with trio.move_on_after(2) as scope:
            await stub.say_hello(HelloRequest(name="wait"))
        assert scope.cancelled_caught
        with pytest.raises(RpcError) as caught:
            await stub.say_hello(HelloRequest(name="wait"), timeout=3)
        assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
        assert service.deadlines == pytest.approx([2, 3])
        assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_cancelling_a_call_cancels_its_handler() -> None:
    service = Service()
    async with served(make_server(service)) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(GreeterStub(channel).say_hello, HelloRequest(name="wait"))
        await service.started.wait()
        nursery.cancel_scope.cancel()
    assert service.ended == [CancelReason.PEER_RESET]


async def test_a_draining_server_finishes_what_runs_and_the_channel_goes_idle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    service = Service()
    server = make_server(service)
    async with served(server) as channel:
        replies = []

        async def call() -> None:
            replies.append(await GreeterStub(channel).say_hello(HelloRequest(name="wait")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await service.started.wait()
            server.drain()
            await trio.sleep(1)
            assert channel.state is ChannelState.IDLE
        assert replies[0].message == "Hello wait"


# -- sockets ---------------------------------------------------------------------


@asynccontextmanager
async def listening(listener: trio.SocketListener, context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Our server behind a listener of the test's."""
    server = make_server(Service())

    async def serve(stream: trio.abc.Stream) -> None:
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError:
                return
        await server.serve_stream(stream)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            nursery.start_soon(trio.serve_listeners, serve, [listener])  # noqa: ASYNC113  # it listens already
            yield
            nursery.cancel_scope.cancel()


async def tcp_listener() -> tuple[trio.SocketListener, int]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener, listener.socket.getsockname()[1]


async def test_a_host_name_is_looked_up_and_called() -> None:
    listener, port = await tcp_listener()
    async with listening(listener), Channel(f"localhost:{port}") as channel:
        assert (await GreeterStub(channel).say_hello(ADA)).message == "Hello Ada"


async def test_a_unix_socket_is_called(tmp_path: Path) -> None:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(str(tmp_path / "s"))
    sock.listen()
    async with listening(trio.SocketListener(sock)), Channel(f"unix:{tmp_path / 's'}") as channel:
        reply = await GreeterStub(channel).say_hello.with_call(ADA)
        assert (reply.message.message, reply.peer) == ("Hello Ada", f"unix:{tmp_path / 's'}")


def server_context(authority: trustme.CA, *, alpn: str = "h2", clients: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    context.set_alpn_protocols([alpn])
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


async def test_tls_checks_the_server_and_shows_our_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    ours = tmp_path / "ours.pem"
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(ours))
    known = authority.cert_pem.bytes().decode()
    listener, port = await tcp_listener()
    async with listening(listener, server_context(authority, clients=True)):
        tls = ClientTlsConfig(ca_data=known, cert_file=str(ours))
        for target, name in ((f"127.0.0.1:{port}", None), (f"ipv4:127.0.0.1:{port}", "localhost:8443")):
            async with Channel(target, tls=tls, authority=name) as channel:
                assert (await GreeterStub(channel).say_hello(ADA)).message == "Hello Ada"


@pytest.mark.parametrize("wrong", ["authority", "name", "protocol"])
async def test_tls_that_cannot_be_trusted_is_unavailable_and_says_why(wrong: str) -> None:
    authority = trustme.CA()
    known = (trustme.CA() if wrong == "authority" else authority).cert_pem.bytes().decode()
    context = server_context(authority, alpn="http/1.1" if wrong == "protocol" else "h2")
    tls = ClientTlsConfig(ca_data=known, server_name="other.example" if wrong == "name" else None)
    listener, port = await tcp_listener()
    async with listening(listener, context), Channel(f"127.0.0.1:{port}", tls=tls) as channel:
        with pytest.raises(RpcError) as caught:
            await GreeterStub(channel).say_hello(ADA)
    assert caught.value.code is StatusCode.UNAVAILABLE
    expected = {"authority": "certificate", "name": "other.example", "protocol": "ALPN"}
    assert expected[wrong] in caught.value.message


def test_tls_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no")
    for settings in (
        {"ca_file": str(tmp_path / "missing.pem")},
        {"ca_file": str(tmp_path / "no.pem")},
        {"ca_data": "no"},
        {"cert_file": str(tmp_path / "missing.pem")},
        {"cert_file": str(tmp_path / "no.pem")},
    ):
        with pytest.raises(ConfigError, match="client_tls"):
            Channel("a:1", tls=ClientTlsConfig(**settings))
    with pytest.raises(ConfigError, match="client_tls"):
        ClientTlsConfig(key_file="a")


async def test_a_killed_connection_is_unavailable_and_the_next_call_connects_again() -> None:
    listener, port = await tcp_listener()
    killed = trio.Event()
    server = make_server(Service())
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, stream)
            if connections == 1:
                await killed.wait()
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                nursery.cancel_scope.cancel()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            async with Channel(f"127.0.0.1:{port}", config=ChannelConfig(close_timeout=0.1)) as channel:
                stub = GreeterStub(channel)
                async with stub.chat() as stream:
                    await stream.send(ADA)
                    assert await stream.receive() is not None
                    killed.set()
                    with pytest.raises(RpcError) as caught:
                        await stream.receive()
                assert caught.value.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
                assert (await stub.say_hello(ADA, wait_for_ready=True)).message == "Hello Ada"
            nursery.cancel_scope.cancel()
    assert connections == 2
