"""Plain HTTP: the handlers of one path, by method.

Owns: what follows from the set of handlers alone (405 with Allow, 501, OPTIONS, HEAD from GET) and what
becomes of the errors that mean an answer. Any other error leaves `serve`, is logged by the exchange
barrier, and comes back to `fail`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from engine.errors import ConfigError, HTTPError, LimitExceeded, answer_for
from engine.http.request import Request
from engine.http.response import Response, StreamingResponse, refuse

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange

__all__ = ["Handler", "HttpEndpoint"]

Handler = Callable[[Request], Awaitable[Response | StreamingResponse]]

# RFC 9110 9 and RFC 5789. Anything else is no method that this server knows: 501, unless a route has it.
_KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))


class HttpEndpoint:
    """Serves one path over plain HTTP.

    Args:
        handlers: by method, upper case.

    Raises:
        ConfigError: there is none.
    """

    kind = "http"

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        if not handlers:
            raise ConfigError("methods", None, "give at least one handler")
        self._handlers = dict(handlers)
        allowed = set(handlers) | {"OPTIONS"} | ({"HEAD"} if "GET" in handlers else set())
        self._allow = {"allow": ", ".join(sorted(allowed))}

    async def serve(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        """Run the handler for the method and send what it returns.

        Cancellation ends the handler; the driver says what becomes of the response.
        """
        method = exchange.head.method
        handler = self._handlers.get(method)
        if handler is None and method == "HEAD":
            handler = self._handlers.get("GET")
        if handler is None:
            await self._without_handler(method).send(exchange)
            return
        try:
            response = await handler(Request(exchange, params))
        except (HTTPError, LimitExceeded) as error:
            self._answer(exchange, error)
            return
        await response.send(exchange)

    def fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer an unexpected error: 500, or an end in the middle where the response has begun."""
        answer = answer_for(error)
        if answer.public or exchange.config.detailed_errors:
            text = str(error) or type(error).__name__
        else:
            text = "Internal Server Error"
        refuse(exchange, answer.http_status, text)

    def _without_handler(self, method: str) -> Response:
        if method == "OPTIONS":
            return Response(status=204, headers=self._allow)
        if method in _KNOWN_METHODS:
            return Response(f"{method} is not allowed here; see Allow\n", 405, self._allow)
        return Response("the method is not implemented; use one of RFC 9110\n", 501, self._allow)

    def _answer(self, exchange: Exchange, error: HTTPError | LimitExceeded) -> None:
        headers = error.headers if isinstance(error, HTTPError) else ()
        refuse(exchange, answer_for(error).http_status, str(error), headers)
