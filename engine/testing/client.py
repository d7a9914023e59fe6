"""`TestClient`: an app, its server and clients of all its protocols in one process, without a socket.

Owns: a running `Server` that has no ports, and how each of the engine's own clients gets a stream to it. The
bytes are those of a real connection, so limits, deadlines, cancellation and the drain are the real ones.
Never changes what a client or the server does.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import msgspec
import trio

from engine.app import App
from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, LocalProtocolError
from engine.grpc.channel import Channel
from engine.server import Phase, Server
from engine.signalr.client.connection import HubConnection
from engine.testing.network import MemoryStream, Network
from engine.testing.response import TestResponse, TestStream
from engine.transport.client import Address
from engine.transport.http1_client import Http1Client, Origin
from engine.transport.stream import ByteStream, WrappedByteStream
from engine.transport.tls_client import TlsClient, start_tls
from engine.websocket.client import connect_websocket

__all__ = ["TestClient"]

HeaderPairs = Mapping[str, str] | Sequence[tuple[str, str]]


class TestClient:
    """Test an app in memory, as an async context manager.

        async with TestClient(app) as client:
            response = await client.get("/healthz")
            assert response.status == 200

            async with client.websocket("/echo") as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"

            async with client.channel() as channel:
                reply = await GreeterStub(channel).say_hello(HelloRequest(name="Ada"))

            async with client.hub("/chathub") as hub:
                await hub.invoke("SendMessage", "Ada", "hello")

    The block runs the app's lifespan. Its end cancels what still runs; `client.server.drain()` before it shows a
    graceful stop. Errors of handlers are answered and logged as in production.

    Time is Trio's. Under `trio.testing.MockClock(autojump_threshold=0)` (pytest-trio's `autojump_clock`) whatever
    the app waits for passes at once: deadlines, keep-alive, back-off and the latency of the network.

    Attributes:
        app: what is tested.
        server: what serves it; see `engine.server.Server`.
        network: every connection; `network.cut()` breaks them all.
    """

    __test__ = False  # for pytest, which takes any Test… for a test case

    def __init__(
        self,
        app: App,
        config: Config | None = None,
        *,
        network: Network | None = None,
        base_url: str = "http://testserver",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """
        Args:
            app: what to test.
            config: settings; the app's own where None.
            network: how connections behave; None: perfectly.
            base_url: what paths are relative to. With `https://` the server needs `config.tls`.
            ssl_context: for https and wss; None: the system's certificate authorities.

        Raises:
            ConfigError: `base_url` is none.
        """
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError("base_url", base_url, "write http://host or https://host")
        # immutable
        self.app = app
        self.server = Server(app, config)
        self.network = network or Network()
        self.base_url = base_url
        self._ssl_context = ssl_context
        self._http = Http1Client(context=ssl_context, dial=self._dial)
        # owned by the task that entered
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    # -- its life -------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the app. Cancellation leaves nothing running.

        Raises:
            StartupError, ConfigError: as `engine.serve`.
        """
        if self._manager is not None:
            raise LocalProtocolError("a TestClient is entered once; make another one")
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        try:
            await self._nursery.start(partial(self.server.run, listen=False))
        except BaseException:
            await self._leave(None)  # noqa: ASYNC102  # all its tasks are cancelled
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the app at once and run the end of its lifespan; raises what that raises."""
        await self._http.drop_idle()  # noqa: ASYNC102  # it shields itself
        self.server.stop()
        await self._leave(value)  # noqa: ASYNC102  # ends with the server

    async def _leave(self, error: BaseException | None) -> None:
        """Close the nursery. What the block raised is never in it, and so never wrapped."""
        assert self._manager is not None  # entered
        assert self._nursery is not None  # likewise
        if error is not None:
            self._nursery.cancel_scope.cancel()
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if error is not None:
                return  # the test's own error says more
            raise (group.exceptions[0] if len(group.exceptions) == 1 else group) from None

    # -- connections ----------------------------------------------------------

    async def connect(self, protocol: int | str | None = None) -> MemoryStream:
        """A connection as it is: send the bytes that you like.

        Args:
            protocol: the address of one of the app's custom protocols, as `app.protocol` was given it.

        Raises:
            ConfigError: the app has no such protocol.
            ConnectionRefusedError: the server has begun to stop, as its ports would say.
        """
        if self._nursery is None:
            raise LocalProtocolError("the app does not run; write `async with TestClient(app) as client`")
        await trio.lowlevel.checkpoint()
        if self.server.phase is not Phase.SERVING:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"the server is {self.server.phase.value}")
        route = None
        if protocol is not None:
            routes = {each.address: each for each in self.app.protocols}
            route = routes.get(str(protocol))
            if route is None:
                known = ", ".join(routes) or "none"
                raise ConfigError("protocol", protocol, f"the app has no such protocol; known: {known}")
        ours, theirs = self.network.open()
        self.server.adopt_stream(theirs, route)
        return ours

    async def _dial(self, origin: Origin, context: ssl.SSLContext | None) -> ByteStream:
        try:
            stream: trio.abc.Stream = await self.connect()
        except OSError as error:
            raise ConnectionClosed(1006, error.strerror or "") from error
        server = self.server.config.server
        wrapped = WrappedByteStream(stream, read_size=server.read_size, peer_address=origin.authority)
        return wrapped if context is None else await start_tls(wrapped, TlsClient(context, origin.host), server)

    # -- HTTP -------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderPairs = (),
        body: bytes | str | None = None,
        json: Any = msgspec.UNSET,
    ) -> TestResponse:
        """One request over HTTP/1.1 and its whole response; redirections are not followed.

        Args:
            method: such as `GET`.
            path: with its query; or a whole URL.
            headers: further fields.
            body: text is sent as UTF-8.
            json: sent as JSON instead; all that `msgspec` encodes.

        Raises:
            ConnectionClosed: the server ended the connection without a whole response.
            RemoteProtocolError: what came is no HTTP.
        """
        async with self.stream(method, path, headers=headers, body=body, json=json) as response:
            content = await response.read()
        return TestResponse(response.status, response.headers, content)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderPairs = (),
        body: bytes | str | None = None,
        json: Any = msgspec.UNSET,
    ) -> AsyncIterator[TestStream]:
        """As `request`, but inside the block only the head has come: iterate over the rest, or leave early."""
        fields = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        content, media_type = _encode(body, json)
        if media_type is not None and all(name.lower() != "content-type" for name, _ in fields):
            fields.append(("content-type", media_type))
        async with self._http.stream(method.upper(), urljoin(self.base_url, path), fields, content) as response:
            yield TestStream(response)

    async def get(self, path: str, *, headers: HeaderPairs = ()) -> TestResponse:
        """See `request`."""
        return await self.request("GET", path, headers=headers)

    async def head(self, path: str, *, headers: HeaderPairs = ()) -> TestResponse:
        """See `request`."""
        return await self.request("HEAD", path, headers=headers)

    async def options(self, path: str, *, headers: HeaderPairs = ()) -> TestResponse:
        """See `request`."""
        return await self.request("OPTIONS", path, headers=headers)

    async def delete(self, path: str, *, headers: HeaderPairs = ()) -> TestResponse:
        """See `request`."""
        return await self.request("DELETE", path, headers=headers)

    async def post(
        self, path: str, *, headers: HeaderPairs = (), body: bytes | str | None = b"", json: Any = msgspec.UNSET
    ) -> TestResponse:
        """See `request`."""
        return await self.request("POST", path, headers=headers, body=body, json=json)

    async def put(
        self, path: str, *, headers: HeaderPairs = (), body: bytes | str | None = b"", json: Any = msgspec.UNSET
    ) -> TestResponse:
        """See `request`."""
        return await self.request("PUT", path, headers=headers, body=body, json=json)

    async def patch(
        self, path: str, *, headers: HeaderPairs = (), body: bytes | str | None = b"", json: Any = msgspec.UNSET
    ) -> TestResponse:
        """See `request`."""
        return await self.request("PATCH", path, headers=headers, body=body, json=json)

    # -- the other protocols ----------------------------------------------------

    def websocket(self, path: str, **options: Any) -> connect_websocket:
        """A WebSocket, to be entered; options are those of `engine.connect_websocket` (`http2=True` too)."""
        url = urljoin(self.base_url, path)
        if url.startswith("http"):
            url = "ws" + url.removeprefix("http")
        options.setdefault("ssl_context", self._ssl_context if url.startswith("wss:") else None)
        return connect_websocket(url, connect=self._connect_to, **options)

    def channel(self, **options: Any) -> Channel:
        """A gRPC channel, to be entered and given to stubs; options are those of `engine.Channel`."""
        authority = self.base_url.partition("://")[2].rstrip("/")
        options.setdefault("authority", authority)
        return Channel(authority, resolver=_resolve, connect=self._connect_to, **options)

    def hub(self, path: str, **options: Any) -> HubConnection:
        """A hub connection, to be entered; options are those of `engine.HubConnection`."""
        options.setdefault("tls", self._ssl_context)
        return HubConnection(urljoin(self.base_url, path), dial=self._dial, **options)

    async def _connect_to(self, *_where: object) -> MemoryStream:
        """All addresses are the app's."""
        return await self.connect()


async def _resolve() -> list[Address]:
    await trio.lowlevel.checkpoint()
    return [Address("testserver", 80)]


def _encode(body: bytes | str | None, json: Any) -> tuple[bytes | None, str | None]:
    """The body and its media type."""
    if json is not msgspec.UNSET:
        return msgspec.json.encode(json), "application/json"
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    return body, None
