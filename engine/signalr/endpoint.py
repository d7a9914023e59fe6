"""Serves a hub: `POST PATH/negotiate`, `POST PATH/refresh`, and PATH for its transports.

Owns: what is mounted with which options, who gets in, and the two paths beside the hub's own. The
hub's own path is `engine.signalr.requests`'. Never speaks the hub protocol: a `HubConnection` does.

Spec: docs/specs/TransportProtocols.md; HttpConnectionDispatcher.cs. The texts are ASP.NET Core's.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from engine.config import SignalRConfig
from engine.errors import ConfigError, LimitExceeded, answer_for
from engine.signalr.answers import JSON, TEXT, Answers
from engine.signalr.auth import Access, Authenticator, Denied, User
from engine.signalr.binding import HubMethods
from engine.signalr.filters import FilterChain, HubFilter
from engine.signalr.hub import Hub, HubContext
from engine.signalr.lifetime import HubLifetimeManager, LocalLifetimeManager
from engine.signalr.requests import TransportRequests
from engine.signalr.runtime import HubRuntime
from engine.signalr.tokens import Ticket, Tickets
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import HubProtocol
from engine.wire.signalr.msgpack import MsgpackHubProtocol
from engine.wire.signalr.negotiate import (
    TransportKind,
    negotiation,
    parse_negotiate,
    query_value,
    redirection,
    refresh_refusal,
    refreshed,
)

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange, Fields, RequestHead

__all__ = ["HubEndpoint", "Redirect"]

PROTOCOLS: Mapping[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MsgpackHubProtocol()}
TRANSPORTS: tuple[TransportKind, ...] = tuple(TransportKind)

_SETTINGS = frozenset(each.name for each in dataclasses.fields(SignalRConfig))


@dataclasses.dataclass(frozen=True, slots=True)
class Redirect:
    """Where a client is to negotiate instead.

    Attributes:
        url: of a hub; the client adds `/negotiate`.
        access_token: what it shows there instead of its own; None: nothing.
    """

    url: str
    access_token: str | None = None


class HubEndpoint:
    """One hub class at one path, with connections, groups and users of its own.

    Args:
        hub_class: derives from `Hub` and is made without arguments, anew for each invocation.
        path: where it is mounted; `path/negotiate` and `path/refresh` belong to it as well.
        transports: those that clients may use: WebSockets, ServerSentEvents, LongPolling.
        detailed_errors: None: as `detailed_errors` of the server's configuration.
        filters: code around the hub's methods and what it sends, the outermost first.
        authenticator: tells from a request who the user is; see `engine.signalr.auth`.
        require_user: anonymous callers get 401.
        authorize: who may use the hub at all; others get 403.
        user_id: tells from the request that starts a connection how `clients.user` addresses it,
            where that is not the id of the authenticated user.
        redirect: sends clients that negotiate elsewhere; None from it: not this one.
        settings: fields of `engine.config.SignalRConfig` that differ from the server's.

    Attributes:
        context: sends to clients from outside of the hub: an HTTP route, a gRPC handler, a task.

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
        authenticator: Authenticator | None = None,
        require_user: bool = False,
        authorize: Callable[[User | None], bool] | None = None,
        user_id: Callable[[RequestHead], str | None] | None = None,
        redirect: Callable[[RequestHead], Redirect | str | None] | None = None,
        filters: Sequence[HubFilter] = (),
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
        self._access = Access(authenticator, require_user, authorize)
        self._user_id = user_id
        self._redirect = redirect
        self._hub_class = hub_class
        self._methods = HubMethods(hub_class, Hub)
        for method in self._methods:
            for protocol in PROTOCOLS.values():
                method.prepare(protocol)
        dataclasses.replace(SignalRConfig(), **settings)  # a bad value is an error of the start
        # known from the first request on
        self._runtime: HubRuntime | None = None
        self._tickets: Tickets
        self._answers = Answers()
        self._requests: TransportRequests
        self._manager: HubLifetimeManager = LocalLifetimeManager()
        self._filters = FilterChain(filters)
        self.context = HubContext(self._manager, self._filters.send)

    @property
    def dropped(self) -> int:
        """Broadcasts that slow clients did not get, where `signalr.slow_client` drops them."""
        return 0 if self._runtime is None else self._runtime.dropped

    # -- the endpoint ---------------------------------------------------------

    async def serve(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        """Answer negotiate or refresh, serve a transport, or refuse. Cancellation ends what lives here."""
        runtime = self._runtime or self._prepare(exchange)
        if self._answers.answer_preflight(exchange):
            return
        path = exchange.head.path.rstrip("/")
        if path != self.path and path.endswith("/refresh"):
            await self._refresh(exchange, runtime)
            return
        user = await self._access.judge(exchange.head)
        if isinstance(user, Denied):
            self._answers.respond(exchange, user.status, "", user.fields)
        elif path != self.path and path.endswith("/negotiate"):
            self._negotiate(exchange, runtime, user)
        else:
            await self._requests.serve(exchange, user)

    def fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer `error` where nothing was answered yet; an open connection has sent its close frame."""
        if exchange.status:
            return
        answer = answer_for(error)
        shown = answer.public or exchange.config.detailed_errors
        self._answers.respond(exchange, answer.http_status, str(error) if shown else "", TEXT)

    def _prepare(self, exchange: Exchange) -> HubRuntime:
        """The server's settings are known from the first request on."""
        config = exchange.config
        settings = dataclasses.replace(config.signalr, **self._settings)
        detailed = config.detailed_errors if self._detailed_errors is None else self._detailed_errors
        runtime = self._runtime = HubRuntime(
            self._hub_class.__name__,
            self._hub_class,
            self._methods,
            PROTOCOLS,
            settings,
            detailed,
            self._manager,
            self._filters,
            drain_window=config.server.graceful_timeout / 2,
        )
        self._tickets = Tickets(settings.disconnect_timeout, settings.max_negotiated)
        self._answers = Answers(settings.cors_origins)
        self._requests = TransportRequests(runtime, self._tickets, self.transports, self._answers, self._user_id)
        return runtime

    # -- negotiate ------------------------------------------------------------

    def _negotiate(self, exchange: Exchange, runtime: HubRuntime, user: User | None) -> None:
        head, settings = exchange.head, runtime.settings
        if head.method != "POST":
            self._answers.respond(exchange, 405, "", (*TEXT, (b"allow", b"POST")))
            return
        request = parse_negotiate(head.query, minimum_version=settings.minimum_negotiate_version)
        elsewhere = self._redirect(head) if self._redirect is not None else None
        if isinstance(request, bytes):
            body = request
        elif elsewhere is not None:
            to = Redirect(elsewhere) if isinstance(elsewhere, str) else elsewhere
            body = redirection(to.url, to.access_token)
        else:
            stateful = settings.stateful_reconnect and request.stateful_reconnect
            try:
                ticket = self._tickets.issue(trio.current_time(), secret=request.version >= 1, stateful=stateful)
            except LimitExceeded as error:
                self._answers.respond(exchange, answer_for(error).http_status, str(error), TEXT)
                return
            lifetime = user.lifetime if user is not None and settings.authentication_refresh else None
            body = negotiation(
                request,
                ticket.connection_id,
                ticket.token,
                self.transports,
                stateful_reconnect=stateful,
                token_lifetime=lifetime,
            )
        self._answers.respond(exchange, 200, body, JSON)

    # -- refresh --------------------------------------------------------------

    async def _refresh(self, exchange: Exchange, runtime: HubRuntime) -> None:
        """New credentials for a connection that lives; it keeps its user id and its groups."""
        refuse = partial(self._refuse_refresh, exchange)
        if exchange.head.method != "POST":
            self._answers.respond(exchange, 405, "", (*TEXT, (b"allow", b"POST")))
            return
        if not runtime.settings.authentication_refresh:
            refuse(404, "refresh_disabled", "Auth refresh is not enabled for this endpoint.")
            return
        token = query_value(exchange.head.query, "id")
        if not token:
            refuse(400, "missing_connection_token", "The 'id' query string parameter is required.")
            return
        ticket = self._tickets.find(token, trio.current_time())
        if ticket is None:
            refuse(404, "connection_not_found", "No active connection with the specified ID.")
            return
        user = await self._access.judge(exchange.head)
        if user is None or isinstance(user, Denied):
            status, fields = (401, ()) if user is None else (user.status, user.fields)
            refuse(status, "invalid_token", "The credentials are missing, malformed, expired or not enough.", fields)
            return
        if not self._renew(ticket, user):
            refuse(403, "user_mismatch", "The credentials are those of another user.")
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._answers.respond(exchange, 200, refreshed(ticket.connection_id, now, user.lifetime), JSON)
        if ticket.connection is not None:
            await ticket.connection.tell_refreshed()

    def _renew(self, ticket: Ticket, user: User) -> bool:
        """Give the connection its new credentials; False: it belongs to somebody else."""
        connection = ticket.connection
        if connection is None:
            return True  # the transport that will open it shows its own
        if connection.user is None or connection.user.id != user.id:
            return False
        connection.authenticated(user)
        return True

    def _refuse_refresh(
        self, exchange: Exchange, status: int, error: str, description: str, fields: Fields = ()
    ) -> None:
        self._answers.respond(exchange, status, refresh_refusal(error, description), (*JSON, *fields))
