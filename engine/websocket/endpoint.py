"""Serves WebSockets on a path: the opening handshake, then the handler.

Owns: the answer to every request for a WebSocket's path, over HTTP/1.1 (Upgrade) and HTTP/2
(extended CONNECT, RFC 8441) alike, and what the handler's return or error means for the connection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from engine.config import WebSocketConfig
from engine.errors import ConfigError, ConnectionClosed, HTTPError, answer_for
from engine.http.response import Response, server_fields
from engine.transport.exchange import Exchange
from engine.websocket.connection import WebSocket
from engine.websocket.handshake import Handshake, check_origins, is_origin_allowed
from engine.wire.websocket.deflate import negotiate
from engine.wire.websocket.handshake import Accepted, Refusal, check_connect, check_upgrade, is_token

__all__ = ["WebSocketEndpoint"]

Handler = Callable[[WebSocket], Awaitable[None]]
Authorize = Callable[[Handshake], Awaitable[Response | None]]

_STOPPING = Refusal(503, (), "The server is stopping.\n")
_SETTINGS = frozenset(each.name for each in dataclasses.fields(WebSocketConfig))


class WebSocketEndpoint:
    """Runs `handler` for each WebSocket that is opened.

    Args:
        handler: returning closes the connection with 1000.
        subprotocols: those that the handler speaks, the preferred first. The first one that the
            client offers as well becomes `ws.subprotocol`; where there is none, the connection is
            accepted without, and the client decides.
        authorize: awaited before a connection is accepted. It refuses by returning a `Response`, of
            any status from 300 on, or raising `HTTPError`; it may choose the subprotocol and add headers.
        origins: those of the web pages that may connect, such as "https://example.com", or
            "same-origin"; others get 403. None: all. Requests without an Origin are no browser's and pass.
        frames: the handler reads `ws.frames()` instead of messages; there is no compression.
        settings: fields of `engine.config.WebSocketConfig` that differ from the server's.

    Raises:
        ConfigError: a subprotocol's name is not a token, an entry of `origins` is none, or an unknown or bad setting.
    """

    kind = "websocket"

    def __init__(
        self,
        handler: Handler,
        *,
        subprotocols: Sequence[str] = (),
        authorize: Authorize | None = None,
        origins: Collection[str] | str | None = None,
        frames: bool = False,
        **settings: Any,
    ) -> None:
        for name in subprotocols:
            if not is_token(name):
                raise ConfigError("subprotocols", name, "use letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 5.6.2)")
        unknown = sorted(settings.keys() - _SETTINGS)
        if unknown:
            raise ConfigError(
                "websocket", unknown[0], f"no such option; known settings: {', '.join(sorted(_SETTINGS))}"
            )
        dataclasses.replace(WebSocketConfig(), **settings)  # a bad value is an error of the start
        self.handler = handler
        self.subprotocols = tuple(subprotocols)
        self._authorize = authorize
        self._origins = check_origins(origins)
        self._frames = frames
        self._settings = settings
        self._config: tuple[WebSocketConfig, WebSocketConfig] | None = None  # the server's, and this path's

    async def serve(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        """Accept and run the handler, or refuse with a plain response.

        Cancellation closes the WebSocket with 1001, or 1008 where its deadline expired.
        """
        answer = self._judge(exchange)
        if isinstance(answer, Refusal):
            _respond(exchange, answer)
            await exchange.drain()
            return
        preferred = next((name for name in self.subprotocols if name in answer.subprotocols), None)
        handshake = Handshake(exchange.head, exchange.peer, params, answer.subprotocols, preferred)
        if self._authorize is not None:
            refusal = await self._ask(self._authorize, handshake)
            if refusal is not None:
                await refusal.send(exchange)
                return
            if exchange.draining:
                _respond(exchange, _STOPPING)
                return
        ws = self._accept(exchange, handshake, answer)
        with _Lifetime(ws):
            with _ClosureIsNoError(ws, exchange):
                await self.handler(ws)
            await ws.close()

    def fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer `error` where the WebSocket was not open yet; else its close frame has left already."""
        if exchange.status:
            return
        answer = answer_for(error)
        shown = answer.public or exchange.config.detailed_errors
        _respond(exchange, Refusal(answer.http_status, (), f"{error}\n" if shown else "Internal Server Error\n"))

    def _judge(self, exchange: Exchange) -> Accepted | Refusal:
        head = exchange.head
        if head.http_version == "2" and head.method == "CONNECT" and head.protocol == "websocket":
            answer = check_connect(head.headers)
        else:
            answer = check_upgrade(head.method, head.http_version, head.headers)
        if isinstance(answer, Accepted):
            if exchange.draining:
                return _STOPPING
            if not is_origin_allowed(head, self._origins):
                return Refusal(403, (), "Pages of this origin may not connect.\n")
        return answer

    async def _ask(self, authorize: Authorize, handshake: Handshake) -> Response | None:
        """What the application refuses with, or None."""
        try:
            refusal = await authorize(handshake)
        except HTTPError as error:
            return Response(f"{error}\n", error.status, error.headers)
        if refusal is not None and refusal.status < 300:
            # RFC 6455 section 4.1: to a client, any status but 101 is a refusal; to an HTTP/2 client 2xx is none.
            raise ConfigError("authorize", refusal.status, "refuse with a status from 300 on, or return None to accept")
        return refusal

    def _accept(self, exchange: Exchange, handshake: Handshake, answer: Accepted) -> WebSocket:
        config = self._config_for(exchange.config.websocket)
        agreed = None if self._frames else negotiate(answer.extensions, config)
        headers: list[tuple[bytes, bytes]] = []
        if answer.accept is not None:
            headers.append((b"sec-websocket-accept", answer.accept))
        if handshake.subprotocol is not None:
            headers.append((b"sec-websocket-protocol", handshake.subprotocol.encode("ascii")))
        if agreed is not None:
            headers.append((b"sec-websocket-extensions", agreed[1].encode("ascii")))
        ws = self._new_socket(
            exchange,
            path_params=handshake.path_params,
            subprotocol=handshake.subprotocol,
            config=config,
            agreed=agreed[0] if agreed is not None else None,
            frames=self._frames,
            state=handshake.state,
        )
        exchange.switch_protocol(headers + handshake.response_fields)
        exchange.flush()
        ws.start()
        return ws

    def _new_socket(self, exchange: Exchange, **options: Any) -> WebSocket:
        """Make what the handler gets; an error of it is still answered as plain HTTP."""
        return WebSocket(exchange, **options)

    def _config_for(self, general: WebSocketConfig) -> WebSocketConfig:
        if not self._settings:
            return general
        if self._config is None or self._config[0] is not general:
            self._config = general, dataclasses.replace(general, **self._settings)
        return self._config[1]


class _Lifetime:
    """From the switch to the end of `serve`: whatever is raised in between closes the connection for it."""

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._ws.fail(error)


class _ClosureIsNoError:
    """What the end of this very connection raises in its handler is nobody's mistake."""

    def __init__(self, ws: WebSocket, exchange: Exchange) -> None:
        self._ws = ws
        self._exchange = exchange

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        if error is None or not _is_closure(error):
            return False
        return self._ws.closed is not None or self._exchange.cancel_reason is not None


def _is_closure(error: BaseException) -> bool:
    """Nothing but ConnectionClosed, also when the handler's nursery wrapped it."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_closure(each) for each in error.exceptions)
    return isinstance(error, ConnectionClosed)


def _respond(exchange: Exchange, refusal: Refusal) -> None:
    body = refusal.text.encode("utf-8", "replace")
    headers = (
        *server_fields(),
        *refusal.headers,
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode("ascii")),
    )
    exchange.write_head(refusal.status, headers)
    exchange.write(body, end=True)
    exchange.flush()
