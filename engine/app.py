"""The application: what is served where, and the exchange barrier.

Owns: `App`, which collects routes, WebSockets, gRPC services and hubs, and whose `handle` the
drivers run once for each exchange. Never does I/O of its own: `engine.server` brings the bytes.

`handle` is one of the four places that catch `Exception`: what a handler raises is logged once, with
the ids of connection and exchange, and answered in its protocol's words; it goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, answer_for
from engine.grpc.endpoint import GrpcEndpoint
from engine.grpc.service import ServiceBase
from engine.http.endpoint import HttpEndpoint
from engine.http.response import Response, refuse
from engine.observe.log import printable
from engine.routing import Endpoint, RouteInfo, Router
from engine.signalr.endpoint import HubEndpoint
from engine.websocket.endpoint import WebSocketEndpoint

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange

__all__ = ["App"]

Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]
_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_HubClass = TypeVar("_HubClass", bound=type)

_access_log = logging.getLogger("engine.access")
_error_log = logging.getLogger("engine.error")

_METHOD_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class _NotFound:
    """Answers what no route matches; the connection stays usable."""

    kind = "http"

    async def serve(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        """404, or 204 to `OPTIONS *` (RFC 9110 9.3.7), which asks about the server as a whole."""
        if exchange.head.method == "OPTIONS" and exchange.head.path == "*":
            await Response(status=204).send(exchange)
        else:
            await Response("Not Found\n", status=404).send(exchange)

    def fail(self, exchange: Exchange, error: Exception) -> None:
        refuse(exchange, answer_for(error).http_status, "Not Found")


class App:
    """What one server serves, over every protocol at once.

    Attributes:
        config: the settings that `serve` uses where it is given none of its own.
        state: anything the application wants to share between its handlers and its lifespan.
        ready: True between the end of start-up and the begin of a drain; `/readyz` should tell it.
    """

    def __init__(self, config: Config | None = None, lifespan: Lifespan | None = None) -> None:
        """
        Args:
            config: settings; the defaults where it is None.
            lifespan: makes the async context manager that is entered before the first connection is
                accepted and left after the last one has ended. An error in its first half stops the start.
        """
        self.config = config or Config()
        self.state = SimpleNamespace()
        self.ready = False
        self._lifespan = lifespan
        self._router = Router(HttpEndpoint, _NotFound())
        self._grpc = GrpcEndpoint()
        self._exchange_ids = count(1)

    # -- what is served -------------------------------------------------------

    def route(self, path: str, methods: Sequence[str] = ("GET",)) -> Callable[[_Handler], _Handler]:
        """Decorate `async def handler(request: Request) -> Response` for plain HTTP.

        HEAD is answered from GET, OPTIONS and 405 by themselves. `{name}` in the path is one segment
        and `{name:path}` the rest of it; both arrive in `request.params`.

        Raises:
            ConfigError: another handler has the path and method, or the path or a method is malformed.
        """
        if isinstance(methods, str) or not methods:
            raise ConfigError("methods", methods, 'give a sequence of methods, such as ("GET", "POST")')
        upper = tuple(method.upper() for method in methods)
        for method in upper:
            if not method or not _METHOD_CHARACTERS.issuperset(method):
                raise ConfigError("methods", method, "that is no HTTP method")

        def register(handler: _Handler) -> _Handler:
            self._router.add_http(path, upper, handler, _name(handler))
            return handler

        return register

    def websocket(
        self, path: str, *, subprotocols: Sequence[str] = (), **options: Any
    ) -> Callable[[_Handler], _Handler]:
        """Decorate `async def handler(ws: WebSocket) -> None`; returning closes the connection.

        Args:
            path: a path template, see `route`.
            subprotocols: those that the handler speaks, the preferred first.
            options: `authorize`, `origins` and `frames` of `WebSocketEndpoint`, and `websocket` settings for this path.

        Raises:
            ConfigError: the path has a WebSocket or a hub already, or is malformed, or an option is unknown.
        """

        def register(handler: _Handler) -> _Handler:
            endpoint = WebSocketEndpoint(handler, subprotocols=tuple(subprotocols), **options)
            self._router.add_websocket(path, endpoint, _name(handler), " ".join(subprotocols))
            return handler

        return register

    def hub(self, path: str, **options: Any) -> Callable[[_HubClass], _HubClass]:
        """Decorate a `Hub` class; options override the `signalr` settings for this path.

        Raises:
            ConfigError: the path is taken, an option is unknown, or two methods have the same name on the wire.
        """

        def register(hub_class: _HubClass) -> _HubClass:
            if not isinstance(hub_class, type):
                raise ConfigError("hub", _name(hub_class), "give a class that derives from engine.Hub")
            endpoint = HubEndpoint(hub_class, path, **options)
            self._router.add_hub(path, endpoint, _name(hub_class))
            return hub_class

        return register

    def add_service(self, service: ServiceBase) -> None:
        """Serve a gRPC service: an instance of a class that derives from a generated base.

        Raises:
            ConfigError: it is no service or was added before, or another route has the path of one of its methods.
        """
        spec = self._grpc.add(service)
        names = [(method.path, f"{type(service).__name__}.{method.name}", method.kind.value) for method in spec.methods]
        self._router.add_grpc(self._grpc, names)

    def routes(self) -> list[RouteInfo]:
        """All that is served, in the order in which it was added."""
        return self._router.routes()

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """A fresh context manager of the app's start-up and clean-up, for the server to enter."""
        return nullcontext() if self._lifespan is None else self._lifespan(self)

    # -- the exchange barrier -------------------------------------------------

    async def handle(self, exchange: Exchange) -> None:
        """Serve one exchange; nothing a handler raises leaves it, except cancellation.

        Cancellation ends the handler; the access log is written all the same.
        """
        exchange_id = next(self._exchange_ids)
        endpoint, params = self._router.resolve(exchange.head)
        started = trio.current_time() if _access_log.isEnabledFor(logging.INFO) else None
        try:
            await endpoint.serve(exchange, params)
        except Exception as error:  # the exchange barrier
            _log_error(exchange, exchange_id, endpoint, error)
            endpoint.fail(exchange, error)
        except BaseExceptionGroup as group:
            # A handler's nursery was cancelled, and something in it failed over its clean-up.
            errors, rest = group.split(Exception)
            if errors is not None:
                _log_error(exchange, exchange_id, endpoint, errors)
                endpoint.fail(exchange, errors)
            if rest is not None:
                raise rest from None
        finally:
            if started is not None:
                _log_access(exchange, exchange_id, endpoint, trio.current_time() - started)


def _name(handler: Any) -> str:
    return str(getattr(handler, "__qualname__", None) or type(handler).__qualname__)


def _is_loss(error: BaseException) -> bool:
    """Nothing but lost connections, also when a handler's nursery wrapped them."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_loss(each) for each in error.exceptions)
    return isinstance(error, ConnectionClosed)


def _log_error(exchange: Exchange, exchange_id: int, endpoint: Endpoint, error: Exception) -> None:
    head, peer = exchange.head, exchange.peer
    level = logging.DEBUG if _is_loss(error) else logging.ERROR
    if not _error_log.isEnabledFor(level):
        return
    fields = {
        "connection": peer.connection_id,
        "exchange": exchange_id,
        "peer": peer.address,
        "kind": endpoint.kind,
        "method": head.method,
        "path": printable(head.path),
        "error": type(error).__name__,
    }
    _error_log.log(
        level,
        "%s %s (connection %d, exchange %d) ended with %s: %s",
        *(head.method, fields["path"], peer.connection_id, exchange_id, fields["error"], printable(str(error))),
        exc_info=error if level == logging.ERROR else None,
        extra={"fields": fields},
    )


def _log_access(exchange: Exchange, exchange_id: int, endpoint: Endpoint, seconds: float) -> None:
    # The query stays out: browsers can send access tokens nowhere else (SignalR's access_token).
    head, peer = exchange.head, exchange.peer
    fields = {
        "connection": peer.connection_id,
        "exchange": exchange_id,
        "peer": peer.address,
        "kind": endpoint.kind,
        "method": head.method,
        "path": printable(head.path),
        "protocol": f"HTTP/{head.http_version}",
        "status": exchange.status,
        "bytes": exchange.bytes_sent,
        "seconds": round(seconds, 6),
    }
    _access_log.info(
        "%s %s %s %s %d %d bytes %.1f ms",
        *(peer.address, fields["method"], fields["path"], fields["protocol"]),
        *(exchange.status, exchange.bytes_sent, seconds * 1000),
        extra={"fields": fields},
    )
