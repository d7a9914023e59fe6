"""The ways of a hub client to its server: proxies, Unix sockets, certificates of other names."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

import engine
from engine import App, Config, Hub, HubConnection, serve
from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected
from engine.server import Server
from tests.websocket.client_peers import QUIET
from tests.websocket.test_client_ways import connect_proxy

TRANSPORTS = ("WebSockets", "ServerSentEvents", "LongPolling")


class EchoHub(Hub):
    def echo(self, value: str) -> str:
        return value


@asynccontextmanager
async def hub_server(config: Config = QUIET) -> AsyncIterator[Server]:
    app = App()
    app.hub("/hub")(EchoHub)
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, app, config)
        yield server
        server.stop()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_all_requests_go_through_a_proxy(transport: str) -> None:
    with trio.fail_after(15):
        async with hub_server() as server, connect_proxy() as (port, heads):
            url, proxy = f"http://{server.addresses[0]}/hub", f"http://me:p%40ss@127.0.0.1:{port}"
            async with HubConnection(url, proxy=proxy, transports=[transport]) as hub:
                assert await hub.invoke("Echo", "x" * 1000) == "x" * 1000
    assert len(heads) >= 2
    authority = server.addresses[0].encode()
    for head in heads:
        assert head.startswith(b"CONNECT %s HTTP/1.1\r\n" % authority)
        assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in head


async def test_a_proxy_comes_from_the_environment_unless_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(15):
        async with connect_proxy(b"HTTP/1.1 407 Who?\r\n\r\n") as (port, heads):
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            with pytest.raises(HandshakeRejected, match=r"proxy 127.0.0.1:.* answered CONNECT with 407"):
                await HubConnection("http://elsewhere.invalid/hub").__aenter__()
            with pytest.raises(ConnectionClosed, match=r"cannot connect to elsewhere.invalid:80"):
                await HubConnection("http://elsewhere.invalid/hub", proxy=None).__aenter__()
            async with hub_server() as server, HubConnection(f"http://{server.addresses[0]}/hub"):
                pass  # our own machine is not reached through a proxy
            assert len(heads) == 1
    with pytest.raises(ConfigError, match="SOCKS is not spoken"):
        HubConnection("http://x/hub", proxy="socks5://127.0.0.1:1")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_unix_socket_takes_the_place_of_host_and_port(transport: str, tmp_path: Path) -> None:
    path = str(tmp_path / "hub.sock")
    heads: list[bytes] = []

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            heads.append(bytes(data))
            await sink.send_all(data)
        await sink.send_eof()

    async def forward(stream: trio.SocketStream) -> None:
        try:
            async with (
                stream,
                await trio.open_tcp_stream("127.0.0.1", int(server.addresses[0].rpartition(":")[2])) as onward,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(copy, stream, onward)
                nursery.start_soon(copy, onward, stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either side left in the middle

    with trio.fail_after(15):
        async with hub_server() as server, trio.open_nursery() as nursery:
            listener = trio.socket.socket(trio.socket.AF_UNIX)
            await listener.bind(path)
            listener.listen()
            nursery.start_soon(trio.serve_listeners, forward, [trio.SocketListener(listener)])
            async with HubConnection("http://anything.invalid/hub", unix=path, transports=[transport]) as hub:
                assert await hub.invoke("Echo", "x") == "x"
            nursery.cancel_scope.cancel()
    assert b"host: anything.invalid\r\n" in b"".join(heads).lower()
    with pytest.raises(ConnectionClosed, match=r"cannot connect to .*nobody.sock"):
        await HubConnection("http://x/hub", unix=str(tmp_path / "nobody.sock")).__aenter__()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_certificate_may_be_for_another_name(transport: str, tmp_path: Path) -> None:
    ca = trustme.CA()
    pem = tmp_path / "server.pem"
    ca.issue_cert("hub.example").private_key_and_cert_chain_pem.write_to_path(pem)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    config = Config(server=QUIET.server, tls=engine.config.TlsConfig(cert_file=str(pem)))
    with trio.fail_after(15):
        async with hub_server(config) as server:
            url = f"https://{server.addresses[0]}/hub"
            options = {"tls": trusting, "transports": [transport]}
            with pytest.raises(ConnectionClosed, match="the certificate is not trusted"):
                await HubConnection(url, **options).__aenter__()
            async with HubConnection(url, server_name="hub.example", **options) as hub:
                assert await hub.invoke("Echo", "x") == "x"
