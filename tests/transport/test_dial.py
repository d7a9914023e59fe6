"""Outgoing connections: proxies and where they are named, TLS, and the names of failures."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected, LimitExceeded, RemoteProtocolError
from engine.transport.dial import Destination, Proxy, default_tls_context, dial, parse_proxy, proxy_from_environment
from engine.transport.stream import SocketByteStream


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy:3128", Proxy("proxy", 3128)),
        ("proxy:3128", Proxy("proxy", 3128)),
        ("http://proxy", Proxy("proxy", 80)),
        ("https://[::1]/", Proxy("::1", 443, tls=True)),
        ("http://a:b%3A@proxy:1", Proxy("proxy", 1, authorization=b"Basic YTpiOg==")),
    ],
)
def test_a_proxy_is_named_by_a_url(url: str, proxy: Proxy) -> None:
    assert parse_proxy(url) == proxy


@pytest.mark.parametrize("url", ["", "socks5://user:secret@x:1", "http://", "http://x:y", "http://x:99999"])
def test_what_names_no_http_proxy_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_proxy(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("variables", "tls", "found"),
    [
        ({}, True, None),
        ({"https_proxy": "http://a"}, True, "a"),
        ({"https_proxy": "http://a"}, False, None),
        ({"http_proxy": "http://b"}, False, "b"),
        ({"http_proxy": "http://b"}, True, None),
        ({"HTTPS_PROXY": "http://c"}, True, "c"),
        ({"all_proxy": "http://d"}, True, "d"),
        ({"all_proxy": "http://d", "http_proxy": "http://b"}, False, "b"),
        ({"all_proxy": "http://d", "no_proxy": "example.com"}, True, None),
        ({"all_proxy": "http://d", "no_proxy": ".com"}, True, None),
        ({"all_proxy": "http://d", "no_proxy": "example.com:8000"}, True, None),
        ({"all_proxy": "http://d", "no_proxy": "*"}, True, None),
        ({"all_proxy": "http://d", "no_proxy": "ample.com"}, True, "d"),
    ],
)
def test_the_environment_names_a_proxy_and_exceptions(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], tls: bool, found: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_from_environment("example.com", 8000, tls=tls)
    assert (proxy.host if proxy else None) == found
    for host in ("localhost", "127.0.0.1", "::1"):
        assert proxy_from_environment(host, 8000, tls=tls) is None


async def echo(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def listen(nursery: trio.Nursery, handler: object) -> int:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, listeners)
    return listeners[0].socket.getsockname()[1]


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and the default one of clients, which trusts it."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    default_tls_context.cache_clear()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(server)
    client = default_tls_context("http/1.1")
    default_tls_context.cache_clear()
    return server, client


async def test_a_plain_connection_is_a_raw_socket(nursery: trio.Nursery) -> None:
    with trio.fail_after(10):
        stream = await dial(Destination("127.0.0.1", await listen(nursery, echo)), Config())
        assert type(stream) is SocketByteStream
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()


async def test_a_tls_connection_through_a_proxy_that_is_reached_over_tls(
    nursery: trio.Nursery, contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = contexts
    monkeypatch.setattr("engine.transport.dial.default_tls_context", lambda _alpn: client)

    async def tls_echo(stream: trio.SocketStream) -> None:
        await echo(trio.SSLStream(stream, server, server_side=True))

    async def tls_proxy(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server, server_side=True)
        assert (await tls.receive_some()).startswith(b"CONNECT localhost:")
        await tls.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with await trio.open_tcp_stream("127.0.0.1", target) as onward:

            async def back() -> None:
                async for data in onward:
                    await tls.send_all(data)

            nursery.start_soon(back)
            async for data in tls:
                await onward.send_all(data)

    with trio.fail_after(10):
        target = await listen(nursery, tls_echo)
        proxy = Proxy("localhost", await listen(nursery, tls_proxy), tls=True)
        stream = await dial(Destination("localhost", target, tls=client, proxy=proxy), Config())
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        assert stream.peer_address == f"localhost:{target}"
        await stream.aclose()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 407 Who?\r\nproxy-authenticate: Basic\r\n\r\n", HandshakeRejected),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\nno such host", HandshakeRejected),
        (b"SOCKS\r\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", LimitExceeded),
        (b"HTTP/1.1 200 OK\r\n", ConnectionClosed),
    ],
)
async def test_a_proxy_that_does_not_tunnel_is_an_error(
    nursery: trio.Nursery, answer: bytes, error: type[Exception]
) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    proxy = Proxy("127.0.0.1", await listen(nursery, refuse))
    with trio.fail_after(10), pytest.raises(error):
        await dial(Destination("example.invalid", 80, proxy=proxy), Config())


async def test_what_comes_right_behind_the_proxys_answer_is_not_lost(nursery: trio.Nursery) -> None:
    async def eager(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nthe server speaks first")

    proxy = Proxy("127.0.0.1", await listen(nursery, eager))
    with trio.fail_after(10):
        stream = await dial(Destination("example.invalid", 80, proxy=proxy), Config())
        assert await stream.receive_some() == b"the server speaks first"
        assert await stream.receive_some() == b""
        await stream.aclose()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 this is plain\r\n\r\n"])
async def test_a_failed_tls_handshake_says_with_whom_and_why(nursery: trio.Nursery, answer: bytes) -> None:
    async def plain(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if answer:
                await stream.send_all(answer)

    port = await listen(nursery, plain)
    with trio.fail_after(10), pytest.raises(ConnectionClosed, match="TLS handshake with localhost: "):
        await dial(Destination("127.0.0.1", port, tls=default_tls_context("h2"), server_name="localhost"), Config())


async def test_a_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConnectionClosed, match=r"cannot connect to nowhere\.invalid:80: "):
        await dial(Destination("nowhere.invalid", 80), Config())
