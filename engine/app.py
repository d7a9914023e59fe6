"""The application: what is served where, and the exchange barrier.

Owns: `App`, which collects routes, WebSockets, gRPC services and hubs, and whose `handle` the
drivers run once for each exchange. Never does I/O of its own: `engine.server` brings the bytes.

`handle` is one of the four places that catch `Exception`: what a handler raises is logged once, with
the ids of connection and exchange, and answered in its protocol's words; it goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from engine.config import Config
from engine.errors import ConfigError, ConnectionClosed, answer_for
from engine.grpc.endpoint import GrpcEndpoint
from engine.grpc.hosting import generic_resolver, host
from engine.grpc.interceptors import MethodOptions, ServerInterceptor
from engine.grpc.methods import ServiceSpec
from engine.grpc.reflection import reflection_services
from engine.grpc.service import ServiceBase
from engine.http.endpoint import HttpEndpoint
from engine.http.response import Response, refuse
from engine.observe.log import printable
from engine.routing import Endpoint, ProtocolRoute, RouteInfo, Router, protocol_route
from engine.signalr.endpoint import HubEndpoint
from engine.signalr.hub import Hub, HubContext
from engine.transport.statistics import ServerStatistics
from engine.websocket.callbacks import CallbackEndpoint, WebSocketProtocol
from engine.websocket.endpoint import WebSocketEndpoint

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange

__all__ = ["App"]

Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]
_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_HubClass = TypeVar("_HubClass", bound=type)
_Factory = TypeVar("_Factory", bound=Callable[[], Any])

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
        protocols: the custom protocols that have listeners of their own.
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
        self.protocols: list[ProtocolRoute] = []
        self._lifespan = lifespan
        self._router = Router(HttpEndpoint, _NotFound())
        self._grpc = GrpcEndpoint()
        self._hubs: list[tuple[str, type, HubContext]] = []
        self._statistics: Callable[[], ServerStatistics] = _no_server
        self._exchange_ids = count(1)
        self._grpc_services: list[ServiceBase] = []

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
            self._hubs.append((path, hub_class, endpoint.context))
            return hub_class

        return register

    def hubs(self) -> list[tuple[str, type[Hub]]]:
        """Paths and classes of all hubs, in the order of their registration."""
        return [(path, hub_class) for path, hub_class, _ in self._hubs]

    def hub_context(self, hub: type | str) -> HubContext:
        """Send to a hub's clients from outside of it: an HTTP route, a gRPC handler, a background task.

        Args:
            hub: the class, or the path where it is mounted more than once.

        Raises:
            ConfigError: there is no such hub, or more than one.
        """
        found = [(path, context) for path, hub_class, context in self._hubs if hub in (path, hub_class)]
        if len(found) == 1:
            return found[0][1]
        if found:
            raise ConfigError(
                "hub", _name(hub), f"it is mounted at {', '.join(path for path, _ in found)}; give a path"
            )
        known = ", ".join(path for path, _, _ in self._hubs) or "none"
        raise ConfigError("hub", hub if isinstance(hub, str) else _name(hub), f"it is not mounted; known: {known}")

    def protocol(self, address: int | str, factory: _Factory, *, tls: bool = False, **options: Any) -> _Factory:
        """Serve a protocol of your own as synchronous callbacks, which the driver runs with no task switch.

        On a port or Unix socket of its own, beside HTTP, it gets the bytes; on the path of a WebSocket it
        gets messages or frames. Either way it shares the server's limits, TLS, drain and logging.

        Args:
            address: a port (on `server.host`; 0 picks a free one), `"host:port"`, `"unix:/path"`, or a
                path template, which begins with a slash (see `route`).
            factory: makes a `StreamProtocol`, or for a path a `WebSocketProtocol`, for each connection; the
                class itself will do.
            tls: on a port of its own: speak TLS with the server's certificate, and nothing else.
            options: on a path: as for `websocket`.

        Raises:
            ConfigError: the address is malformed or taken, or does not go with the factory, or an option is
                unknown.
        """
        if isinstance(address, str) and address.startswith("/"):
            if tls:
                raise ConfigError("tls", tls, "a path is served where the server's HTTP is; leave it out")
            self._router.add_websocket(address, CallbackEndpoint(factory, **options), _name(factory), "callbacks")
            return factory
        if options:
            raise ConfigError("options", sorted(options)[0], "only the path of a WebSocket has options")
        _refuse_websocket_protocol(address, factory)
        route = protocol_route(address, factory, tls=tls)
        if any(each.address == route.address and route.port != 0 for each in self.protocols):
            raise ConfigError("address", address, "another protocol of this app has it; choose another")
        self.protocols.append(route)
        return factory

    def add_service(
        self,
        service: ServiceBase,
        *,
        interceptors: Sequence[ServerInterceptor] = (),
        options: MethodOptions | None = None,
        method_options: Mapping[str, MethodOptions] | None = None,
    ) -> None:
        """Serve a gRPC service: an instance of a class that derives from a generated base.

        Args:
            service: the instance; all calls share it.
            interceptors: run around every call of it, the first one outermost.
            options: time-out and limits of each of its methods.
            method_options: by a handler's name ("say_hello"): used instead of `options`.

        Raises:
            ConfigError: it is no service or was added before, another route has the path of one of its methods,
                or an option names no method of it.
        """
        spec = self._grpc.add(service, interceptors=interceptors, options=options, method_options=method_options)
        self._grpc_services.append(service)
        names = [(method.path, f"{type(service).__name__}.{method.name}", method.kind.value) for method in spec.methods]
        self._router.add_grpc(self._grpc, names)

    @property
    def services(self) -> tuple[ServiceSpec, ...]:
        """The gRPC services that are served, in the order in which they were added."""
        return self._grpc.services

    def add_reflection(self) -> None:
        """Serve gRPC server reflection (v1 and v1alpha): tools may ask for all services and their types."""
        for service in reflection_services(self):
            self.add_service(service)

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Called by grpcio's generated `add_XServicer_to_server(servicer, app)`; see `engine.grpc.hosting`."""
        self._grpc.add_resolver(generic_resolver(handlers))
        self._router.add_grpc(self._grpc, ())

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Called by grpcio's generated `add_XServicer_to_server(servicer, app)`; see `engine.grpc.hosting`.

        Raises:
            ConfigError: as `add_service`.
        """
        self.add_service(host(service_name, method_handlers))

    def statistics(self) -> ServerStatistics:
        """Live connections and the calls on them, as channelz has them: of the server that began last to serve this."""
        return self._statistics()

    def begin_serving(self, statistics: Callable[[], ServerStatistics] | None = None) -> None:
        """Tell the services that a server has begun to serve; the server calls it.

        Args:
            statistics: what the server tells of itself.
        """
        self.ready = True
        if statistics is not None:
            self._statistics = statistics
        for service in self._grpc_services:
            service.__serve__()

    def begin_drain(self) -> None:
        """Tell the services that the server begins to stop; the server calls it."""
        self.ready = False
        for service in self._grpc_services:
            service.__drain__()

    def routes(self) -> list[RouteInfo]:
        """All that is served, in the order in which it was added; custom protocols last."""
        custom = [
            RouteInfo("protocol", route.address, (), _name(route.factory), "tls" if route.tls else "")
            for route in self.protocols
        ]
        return [*self._router.routes(), *custom]

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


def _no_server() -> ServerStatistics:
    return ServerStatistics("starting", 0, ())


def _name(handler: Any) -> str:
    return str(getattr(handler, "__qualname__", None) or type(handler).__qualname__)


def _refuse_websocket_protocol(address: int | str, factory: Any) -> None:
    if isinstance(factory, type) and issubclass(factory, WebSocketProtocol):
        raise ConfigError("address", address, "a WebSocketProtocol is served on a path, such as /ticks")


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
