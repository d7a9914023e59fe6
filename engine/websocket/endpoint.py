"""Serves WebSockets on a path: the opening handshake, then the handler.

Owns: the answer to every request for a WebSocket's path, over HTTP/1.1 (Upgrade) and HTTP/2
(extended CONNECT, RFC 8441) alike, and what the handler's return or error means for the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType

from engine.errors import ConfigError, ConnectionClosed, answer_for
from engine.http.response import server_fields
from engine.transport.exchange import Exchange
from engine.websocket.connection import WebSocket
from engine.wire.websocket.handshake import Accepted, Refusal, check_connect, check_upgrade, is_token

__all__ = ["WebSocketEndpoint"]

Handler = Callable[[WebSocket], Awaitable[None]]


class WebSocketEndpoint:
    """Runs `handler` for each WebSocket that is opened.

    Args:
        handler: returning closes the connection with 1000.
        subprotocols: those that the handler speaks, the preferred first. The first one that the
            client offers as well becomes `ws.subprotocol`; where there is none, the connection is
            accepted without, and the client decides.

    Raises:
        ConfigError: a subprotocol's name is not a token.
    """

    kind = "websocket"

    def __init__(self, handler: Handler, *, subprotocols: Sequence[str] = ()) -> None:
        for name in subprotocols:
            if not is_token(name):
                raise ConfigError("subprotocols", name, "use letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 5.6.2)")
        self.handler = handler
        self.subprotocols = tuple(subprotocols)

    async def serve(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        """Accept and run the handler, or refuse with a plain response.

        Cancellation closes the WebSocket with 1001, or 1008 where its deadline expired.
        """
        answer = self._judge(exchange)
        if isinstance(answer, Refusal):
            _respond(exchange, answer)
            await exchange.drain()
            return
        ws = self._accept(exchange, params, answer)
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
        if exchange.draining and isinstance(answer, Accepted):
            return Refusal(503, (), "The server is stopping.\n")
        return answer

    def _accept(self, exchange: Exchange, params: Mapping[str, str], answer: Accepted) -> WebSocket:
        subprotocol = next((name for name in self.subprotocols if name in answer.subprotocols), None)
        headers: list[tuple[bytes, bytes]] = []
        if answer.accept is not None:
            headers.append((b"sec-websocket-accept", answer.accept))
        if subprotocol is not None:
            headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
        exchange.switch_protocol(headers)
        exchange.flush()
        ws = WebSocket(exchange, params, subprotocol)
        ws.start()
        return ws


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
