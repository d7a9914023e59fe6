"""WebSocket clients: `connect_websocket`.

Owns: the life of a client's connection: its nursery, which lives as long as the `async with` block, and
how it ends. How it begins is `engine.websocket.opening`'s; what goes over it is the same `WebSocket`
that a server's handler holds.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import trio

from engine.config import Config
from engine.errors import ConfigError
from engine.transport.dial import Connect, parse_proxy
from engine.transport.exchange import Fields
from engine.transport.websocket_client import ClientConnection, masking_keys
from engine.websocket.address import Address, parse_address
from engine.websocket.connection import WebSocket
from engine.websocket.opening import (
    HeaderPairs,
    Open,
    Options,
    check_max_redirects,
    field_pairs,
    offer,
    open_connection,
)

__all__ = ["ClientWebSocket", "connect_websocket"]

_AGENT = (b"user-agent", b"engine")


class ClientWebSocket(WebSocket):
    """A `WebSocket` at the client's end; `head` is the request that we sent.

    A server that just vanishes cancels nothing here: `send` and `receive` raise `ConnectionClosed`.

    Attributes:
        response_headers: the fields of the server's answer: pairs of bytes, names in lower case.
    """

    __slots__ = ("response_headers",)

    response_headers: Fields


class connect_websocket:
    """Connect to a WebSocket server, as an async context manager.

        async with engine.connect_websocket("ws://localhost:8000/echo") as ws:
            await ws.send("hello")
            print(await ws.receive())

    Leaving the block closes with 1000 and waits for the server's half, at most `websocket.close_timeout`;
    an error that leaves it closes with 1011, and a cancellation with 1001, without waiting. No task
    outlives the block, and no error of it is put in an ExceptionGroup.

    Time-outs are Trio's: `with trio.fail_after(10):` around the block, or around a call in it.

    Args:
        url: ws, wss (http and https mean the same), or `ws+unix:///run/app.sock:/path`. A user and
            password in it become an Authorization field.
        headers: further fields of the request, such as Origin or Authorization.
        subprotocols: to offer, the preferred first; `ws.subprotocol` is what the server chose.
        compression: offer permessage-deflate; None: as `websocket.compression` says.
        proxy: the URL of an HTTP proxy; True: what `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`
            say; None: none. Unix sockets have no proxy.
        ssl_context: for wss, instead of one that trusts what the system trusts. With `http2` it must
            offer h2: `context.set_alpn_protocols(["h2"])`.
        server_name: whom the certificate must be for, where that is not the host of the URL.
        unix: the path of a Unix socket to connect to, whatever host the URL names.
        http2: connect by an extended CONNECT (RFC 8441) on an HTTP/2 connection.
        max_redirects: how many to follow. Authorization and Cookie stay with the server they were for;
            from wss to ws none is followed.
        frames: read `ws.frames()` instead of messages; there is no compression.
        connect: gives a stream for a host and port instead of a TCP connection, for tests and tunnels; what the
            environment says of proxies is not asked then.
        config: limits and time-outs; the sections server, http1, http2 and websocket are used.
        entropy: where masking keys and nonces come from; for tests.
        settings: fields of `engine.config.WebSocketConfig` that differ from the config's.

    Raises:
        HandshakeRejected: (on entering) the server answered with another status; it has the status,
            the headers and the beginning of the body. A proxy's refusal as well.
        ConnectionClosed: (on entering) the server cannot be reached; the cause is the original error.
        RemoteProtocolError, LimitExceeded: (on entering) the answer breaks the protocol, or a limit.
        ConfigError, LocalProtocolError: (at once) arguments that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: HeaderPairs = (),
        subprotocols: Sequence[str] = (),
        compression: bool | None = None,
        proxy: str | bool | None = True,
        ssl_context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        unix: str | None = None,
        http2: bool = False,
        max_redirects: int = 5,
        frames: bool = False,
        connect: Connect | None = None,
        config: Config | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        **settings: Any,
    ) -> None:
        config = _with_settings(config or Config(), settings)
        compress = config.websocket.compression if compression is None else compression
        if compress and not config.websocket.compression:
            config = _with_settings(config, {"compression": True})
        fields = field_pairs(headers)
        if all(name != b"user-agent" for name, _ in fields):
            fields = (*fields, _AGENT)
        self._address: Address = parse_address(url, unix)
        self._frames = frames
        self._options = Options(
            headers=fields,
            subprotocols=tuple(subprotocols),
            compression=compress and not frames,
            proxy=parse_proxy(proxy) if isinstance(proxy, str) else None,
            proxy_from_environment=proxy is True,
            ssl_context=ssl_context,
            server_name=server_name,
            http2=http2,
            max_redirects=check_max_redirects(max_redirects),
            config=config,
            entropy=entropy,
            connect=connect,
        )
        offer(self._address, fields, self._options)  # what may not be sent is an error now
        self._running: _Running | None = None

    async def open(self) -> None:
        """The part of entering that takes time, for a time-out that is not to be for the block too.

        Enter at once afterwards: nothing looks after the connection yet, or closes it. Cancellation
        closes what was opened.
        """
        if self._running is not None:
            raise RuntimeError("a connection is opened once; call connect_websocket for another")
        opened = await open_connection(self._address, self._options)
        self._running = _Running(opened, self._options, frames=self._frames)

    async def __aenter__(self) -> ClientWebSocket:
        if self._running is None or self._running.started:
            await self.open()
        assert self._running is not None  # `open` has made it
        return await self._running.start()

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        assert self._running is not None  # it was entered
        await self._running.finish(error)  # noqa: ASYNC102  # it shields what must be, and cancels the rest


class _Running:
    """An open connection and its tasks.

    The nursery is opened in `start` and closed in `finish`, both by the task of the block, and never
    gets to see the block's own error: so that error is not wrapped.
    """

    def __init__(self, opened: Open, options: Options, *, frames: bool) -> None:
        self._connection: ClientConnection = opened.connection
        self._close_timeout = options.config.server.close_timeout
        self._manager: AbstractAsyncContextManager[trio.Nursery] = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self.ws = ClientWebSocket(
            opened.connection.exchange,
            None,
            opened.answer.subprotocol,
            agreed=opened.answer.agreed,
            frames=frames,
            masking_key=masking_keys(options.entropy),
        )
        self.ws.response_headers = opened.answer.headers

    @property
    def started(self) -> bool:
        """The block was entered."""
        return self._nursery is not None

    async def start(self) -> ClientWebSocket:
        self._nursery = await self._manager.__aenter__()
        self._connection.start(self._nursery)
        self.ws.start()
        return self.ws

    async def finish(self, error: BaseException | None) -> None:
        """Close, and end the tasks. What the block raised goes on by itself."""
        try:
            if error is None:
                await self.ws.close()
                await self._connection.over.wait()
            else:
                self.ws.start_closing(1011 if isinstance(error, Exception) else 1001)
                # R5: the last frame gets its chance to leave, also while the block is being cancelled.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self._close_timeout):
                    await self._connection.sent()
        finally:
            assert self._nursery is not None  # `start` has opened it
            # The tasks are cancelled by us alone, or they would bring home the cancellation of whoever
            # encloses the block in place of its own error.
            self._nursery.cancel_scope.shield = True
            self._nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)  # noqa: ASYNC102  # all its tasks are cancelled


def _with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """Raises ConfigError for an unknown or bad setting."""
    known = {each.name for each in dataclasses.fields(config.websocket)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ConfigError("websocket", unknown[0], f"no such option; known settings: {', '.join(sorted(known))}")
    return dataclasses.replace(config, websocket=dataclasses.replace(config.websocket, **settings))
