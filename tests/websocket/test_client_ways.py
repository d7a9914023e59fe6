"""The ways of a client to its server: redirects and proxies."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import engine
from engine import App, Config, Response, serve
from engine.errors import (
    ConnectionClosed,
    HandshakeRejected,
    RemoteProtocolError,
)
from engine.server import Server
from tests.websocket.client_peers import QUIET, attempt, echo_app, echo_server, scripted, url_of

# -- redirects ------------------------------------------------------------


def redirecting(app: App, path: str, location: str, status: int = 302) -> None:
    @app.route(path)
    async def redirect(request: object) -> Response:
        return Response(b"", status, [("location", location)])


async def test_redirects_are_followed_within_a_limit_and_relative_to_each_other() -> None:
    app = echo_app()
    redirecting(app, "/one", "two", 301)
    redirecting(app, "/two", "/echo", 307)
    redirecting(app, "/loop", "/loop", 308)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(serve, app, QUIET)
            async with engine.connect_websocket(url_of(server, "/one")) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"
                assert ws.head.path == "/echo"
            with pytest.raises(HandshakeRejected, match="after 3 redirects") as rejected:
                async with engine.connect_websocket(url_of(server, "/loop"), max_redirects=3):
                    pass
            assert rejected.value.status == 308
            with pytest.raises(HandshakeRejected, match="301"):
                async with engine.connect_websocket(url_of(server, "/one"), max_redirects=0):
                    pass
            server.stop()


async def test_credentials_stay_with_the_server_they_were_for() -> None:
    async with echo_server() as server:
        heads: list[bytes] = []

        async def leads_away(stream: trio.SocketStream, head: bytes) -> None:
            heads.append(head)
            target = url_of(server, "/head").replace("ws:", "http:")
            await stream.send_all(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: %s\r\n\r\n" % target.encode())

        async with scripted(leads_away) as port:
            with trio.fail_after(10):
                url = f"ws://user:secret@127.0.0.1:{port}/"
                async with engine.connect_websocket(url, headers={"Cookie": "secret", "X": "y"}) as ws:
                    got = [line async for line in ws]
    assert b"secret" in heads[0]
    assert b"authorization" in heads[0]
    assert "x: y" in got
    assert not [line for line in got if line.startswith(("authorization", "cookie"))]


# -- proxies --------------------------------------------------------------


@asynccontextmanager
async def connect_proxy(answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> AsyncIterator[tuple[int, list[bytes]]]:
    """An HTTP proxy that can only CONNECT; yields its port and the heads it has got."""
    heads: list[bytes] = []

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError:
            pass

    async def tunnel(stream: trio.SocketStream, head: bytes) -> None:
        heads.append(head)
        await stream.send_all(answer)
        if b" 200 " not in answer:
            return
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as onward, trio.open_nursery() as nursery:
            nursery.start_soon(copy, stream, onward)
            nursery.start_soon(copy, onward, stream)

    async with scripted(tunnel) as port:
        yield port, heads


async def test_through_a_proxy_with_credentials() -> None:
    with trio.fail_after(10):
        async with echo_server() as server, connect_proxy() as (port, heads):
            proxy = f"http://me:p%40ss@127.0.0.1:{port}"
            async with engine.connect_websocket(url_of(server), proxy=proxy) as ws:
                await ws.send("x" * 1000)
                assert await ws.receive() == "x" * 1000
            assert ws.closed is not None
            assert ws.closed.clean
    authority = url_of(server, "").removeprefix("ws://").encode()
    assert heads == [
        b"CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n\r\n" % (authority, authority)
    ]


async def test_through_a_proxy_with_tls_to_the_server(tmp_path: Path) -> None:
    ca = trustme.CA()
    pem = tmp_path / "server.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    config = Config(server=QUIET.server, tls=engine.config.TlsConfig(cert_file=str(pem)))
    with trio.fail_after(10):
        async with echo_server(config) as server, connect_proxy() as (port, _):
            url = url_of(server, scheme="wss")
            proxy = f"http://127.0.0.1:{port}"
            async with engine.connect_websocket(url, proxy=proxy, ssl_context=trusting) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


async def test_a_proxy_comes_from_the_environment_and_not_for_what_is_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(10):
        async with connect_proxy(b"HTTP/1.1 407 Who?\r\n\r\n") as (port, heads):
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("no_proxy", "excepted.invalid")
            with pytest.raises(HandshakeRejected, match=r"proxy 127.0.0.1:.* answered CONNECT with 407") as refused:
                async with engine.connect_websocket("ws://elsewhere.invalid/"):
                    pass
            assert refused.value.status == 407
            assert heads[0].startswith(b"CONNECT elsewhere.invalid:80 HTTP/1.1\r\n")
            for url, proxy in (("ws://excepted.invalid/", True), ("ws://elsewhere.invalid/", None)):
                with pytest.raises(ConnectionClosed, match="cannot connect"):
                    async with engine.connect_websocket(url, proxy=proxy):
                        pass
            async with echo_server() as server, engine.connect_websocket(url_of(server)):
                pass  # our own machine is not reached through a proxy
            assert len(heads) == 1


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n"])
async def test_a_proxy_that_is_none_is_named(answer: bytes) -> None:
    async with connect_proxy(answer) as (port, _):
        with pytest.raises((ConnectionClosed, RemoteProtocolError), match="the proxy"):
            await attempt(1, proxy=f"http://127.0.0.1:{port}")
