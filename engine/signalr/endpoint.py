"""Serves a hub: `POST PATH/negotiate`, and PATH for its transports.

Owns: every status code and body that a hub's paths answer with, and the opening of transports.
Never speaks the hub protocol: a `HubConnection` does.

Spec: docs/specs/TransportProtocols.md; HttpConnectionDispatcher.cs. The texts are ASP.NET Core's.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from engine.config import SignalRConfig
from engine.errors import ConfigError, ConnectionClosed, LimitExceeded, answer_for
from engine.http.response import server_fields
from engine.signalr.binding import HubMethods
from engine.signalr.clients import HubClients
from engine.signalr.connection import HubConnection
from engine.signalr.groups import Groups
from engine.signalr.hub import Hub
from engine.signalr.lifetime import HubLifetimeManager, LocalLifetimeManager
from engine.signalr.runtime import HubRuntime
from engine.signalr.tokens import Ticket, Tickets
from engine.signalr.transports import WebSocketTransport
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import HubProtocol
from engine.wire.signalr.negotiate import TransportKind, negotiation, parse_negotiate, query_value
from engine.wire.websocket.handshake import Refusal, check_connect, check_upgrade

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange, Fields, RequestHead
    from engine.websocket.connection import Closed

__all__ = ["HubEndpoint"]

PROTOCOLS: Mapping[str, HubProtocol] = {"json": JsonHubProtocol()}
TRANSPORTS: tuple[TransportKind, ...] = (TransportKind.WEB_SOCKETS,)

_SETTINGS = frozenset(each.name for each in dataclasses.fields(SignalRConfig))
_TEXT: Fields = ((b"content-type", b"text/plain"),)
_NOT_CACHED: Fields = (
    # Of answers to polls, whatever they say: a cached one would be taken for a message.
    (b"cache-control", b"no-cache, no-store"),
    (b"pragma", b"no-cache"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),
)


class HubEndpoint:
    """One hub class at one path, with connections, groups and users of its own.

    Args:
        hub_class: derives from `Hub` and is made without arguments, anew for each invocation.
        path: where it is mounted; `path/negotiate` belongs to it as well.
        transports: those that clients may use, of those that exist.
        detailed_errors: None: as `detailed_errors` of the server's configuration.
        user_id: tells from the request that starts a connection who the user is.
        settings: fields of `engine.config.SignalRConfig` that differ from the server's.

    Attributes:
        clients: sends to clients from outside of the hub: an HTTP route, a gRPC handler, a task.
        groups: the same for groups.

    Raises:
        ConfigError: an unknown setting, a hub that cannot be made, methods that collide.
    """

    kind = "hub"

    def __init__(
        self,
        hub_class: type[Hub],
        path: str,
        *,
        transports: Sequence[TransportKind | str] = TRANSPORTS,
        detailed_errors: bool | None = None,
        user_id: Callable[[RequestHead], str | None] | None = None,
        **settings: Any,
    ) -> None:
        name = hub_class.__name__
        if not issubclass(hub_class, Hub):
            raise ConfigError(f"hub {name}", None, "derive it from engine.Hub")
        unknown = sorted(settings.keys() - _SETTINGS)
        if unknown:
            known = ", ".join(sorted(_SETTINGS))
            raise ConfigError(f"hub {name}", unknown[0], f"there is no such option; known: {known}")
        try:
            inspect.signature(hub_class).bind()
        except TypeError as error:
            raise ConfigError(f"hub {name}", None, f"it must be made without arguments: {error}") from None
        self.path = path.rstrip("/")
        self.transports = tuple(TransportKind(each) for each in transports)
        self._settings = settings
        self._detailed_errors = detailed_errors
        self._user_id = user_id
        self._hub_class = hub_class
        self._methods = HubMethods(hub_class, Hub)
        for method in self._methods:
            for protocol in PROTOCOLS.values():
                method.prepare(protocol)
        dataclasses.replace(SignalRConfig(), **settings)  # a bad value is an error of the start
        self._runtime: HubRuntime | None = None
        self._tickets: Tickets
        self._manager: HubLifetimeManager = LocalLifetimeManager()
        self.clients = HubClients(self._manager)
        self.groups = Groups(self._manager)

    # -- the endpoint ---------------------------------------------------------

    async def serve(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        """Answer negotiate, open a transport, or refuse. Cancellation ends the connection."""
        runtime = self._runtime or self._prepare(exchange)
        head = exchange.head
        if head.path.rstrip("/").endswith("/negotiate") and head.path.rstrip("/") != self.path:
            self._negotiate(exchange)
        elif head.protocol == "websocket" and head.method in ("GET", "CONNECT"):
            await self._serve_websocket(exchange, runtime)
        else:
            self._refuse_request(exchange)

    def fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer `error` where nothing was answered yet; an open connection has sent its close frame."""
        if exchange.status:
            return
        answer = answer_for(error)
        shown = answer.public or exchange.config.detailed_errors
        _respond(exchange, answer.http_status, str(error) if shown else "", _TEXT)

    def _prepare(self, exchange: Exchange) -> HubRuntime:
        """The server's settings are known from the first request on."""
        config = exchange.config
        settings = dataclasses.replace(config.signalr, **self._settings)
        detailed = config.detailed_errors if self._detailed_errors is None else self._detailed_errors
        self._runtime = HubRuntime(
            self._hub_class.__name__, self._hub_class, self._methods, PROTOCOLS, settings, detailed, self._manager
        )
        self._tickets = Tickets(settings.disconnect_timeout, settings.max_negotiated)
        return self._runtime

    # -- plain requests -------------------------------------------------------

    def _negotiate(self, exchange: Exchange) -> None:
        head = exchange.head
        if head.method != "POST":
            _respond(exchange, 405, "", (*_TEXT, (b"allow", b"POST")))
            return
        request = parse_negotiate(head.query)
        if isinstance(request, bytes):
            body = request
        else:
            try:
                ticket = self._tickets.issue(trio.current_time(), secret=request.version >= 1)
            except LimitExceeded as error:
                _respond(exchange, answer_for(error).http_status, str(error), _TEXT)
                return
            body = negotiation(request, ticket.connection_id, ticket.token, self.transports)
        _respond(exchange, 200, body, ((b"content-type", b"application/json"),))

    def _refuse_request(self, exchange: Exchange) -> None:
        """GET without an upgrade, POST, DELETE: those transports do not exist yet, their refusals do."""
        head = exchange.head
        events = head.method == "GET" and _accepts_events(head)
        headers = _NOT_CACHED if head.method == "GET" and not events else ()
        if head.method not in ("GET", "POST", "DELETE"):
            _respond(exchange, 405, "", (*_TEXT, (b"allow", b"GET, POST, DELETE")))
            return
        ticket = self._ticket(exchange, (*_TEXT, *headers))
        if ticket is None:
            return
        if head.method == "POST":
            status, text = 405, "POST requests are not allowed for WebSocket connections."
            headers = ((b"allow", b"GET"),)
        elif head.method == "DELETE":
            status, text = 400, "Cannot terminate this connection using the DELETE endpoint."
        elif ticket.transport is not None:
            status, text = 400, "Cannot change transports mid-connection"
        else:
            kind = TransportKind.SERVER_SENT_EVENTS if events else TransportKind.LONG_POLLING
            status, text = 404, f"{kind.value} transport not supported by this end point type"
        _respond(exchange, status, text, (*_TEXT, *headers))

    def _ticket(self, exchange: Exchange, headers: Fields) -> Ticket | None:
        """The ticket that the request's id stands for, or None where it was refused."""
        token = query_value(exchange.head.query, "id")
        if not token:
            _respond(exchange, 400, "Connection ID required", headers)
            return None
        ticket = self._tickets.find(token, trio.current_time())
        if ticket is None:
            _respond(exchange, 404, "No Connection with that ID", headers)
        return ticket

    # -- WebSockets -----------------------------------------------------------

    async def _serve_websocket(self, exchange: Exchange, runtime: HubRuntime) -> None:
        ticket = self._claim(exchange)
        if ticket is None:
            return
        head = exchange.head
        try:
            user_id = self._user_id(head) if self._user_id is not None else None
            connection = HubConnection(runtime, head, ticket.connection_id, user_id, exchange.config.server.outbox_size)

            def on_end(closed: Closed) -> None:
                error = None if closed.clean or closed.code == 1006 else ConnectionClosed(closed.code, closed.reason)
                connection.end_of_transport(clean=closed.clean, error=error)

            transport = WebSocketTransport(exchange, runtime.settings, connection.receive, on_end)
            connection.open(transport)
            transport.start()
            exchange.on_draining = connection.start_draining
            try:
                await connection.run()
            except BaseException as error:
                transport.abandon(error)
                raise
        finally:
            self._tickets.close(ticket)

    def _claim(self, exchange: Exchange) -> Ticket | None:
        """Find or make the ticket and switch the exchange, or refuse."""
        head = exchange.head
        if head.method == "CONNECT":
            accepted = check_connect(head.headers)
        else:
            accepted = check_upgrade(head.method, head.http_version, head.headers)
        if isinstance(accepted, Refusal):
            _respond(exchange, accepted.status, accepted.text, (*_TEXT, *accepted.headers))
            return None
        ticket = None
        if query_value(head.query, "id"):
            ticket = self._ticket(exchange, ())
            if ticket is None:
                return None
        if TransportKind.WEB_SOCKETS not in self.transports:
            _respond(exchange, 404, "WebSockets transport not supported by this end point type", _TEXT)
        elif exchange.draining:
            _respond(exchange, 503, "The server is stopping.", _TEXT)
        elif ticket is not None and ticket.transport is not None:
            _respond(exchange, 409, "", _TEXT)
        else:
            if ticket is None:
                ticket = self._tickets.open_new(TransportKind.WEB_SOCKETS)
            else:
                self._tickets.open(ticket, TransportKind.WEB_SOCKETS)
            exchange.switch_protocol(() if accepted.accept is None else ((b"sec-websocket-accept", accepted.accept),))
            exchange.flush()
            return ticket
        return None


def _accepts_events(head: RequestHead) -> bool:
    """`text/event-stream` stands in the Accept list by itself: no parameters, no wildcard."""
    accept = (head.header(b"accept") or b"").lower()
    return any(each.strip() == b"text/event-stream" for each in accept.split(b","))


def _respond(exchange: Exchange, status: int, body: bytes | str, headers: Fields) -> None:
    content = body.encode("utf-8", "replace") if isinstance(body, str) else body
    fields = [*server_fields(), *headers]
    if exchange.head.method != "HEAD":
        fields.append((b"content-length", b"%d" % len(content)))
    exchange.write_head(status, fields, end=not content or exchange.head.method == "HEAD")
    if content and exchange.head.method != "HEAD":
        exchange.write(content, end=True)
    exchange.flush()
