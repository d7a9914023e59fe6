"""The requests that open a transport, carry it, or end it: GET, CONNECT, POST and DELETE on a hub's path.

Owns: the rules of which transport a token may be used with, every status and text that they have, and
where a hub connection lives. One over a WebSocket or Server-Sent Events lives in its exchange's task.
One over Long Polling, or one that a client may resume, outlives its exchanges and is a task in the
background.

Spec: docs/specs/TransportProtocols.md; HttpConnectionDispatcher.cs. The texts are ASP.NET Core's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from engine.errors import ConnectionClosed, LimitExceeded, answer_for
from engine.signalr.answers import NOT_CACHED, TEXT, Answers
from engine.signalr.connection import HubConnection
from engine.signalr.resume import ResumableTransport
from engine.signalr.transports import HubTransport
from engine.signalr.transports.long_polling import LongPollingTransport
from engine.signalr.transports.posted import PostedTransport
from engine.signalr.transports.sse import ServerSentEventsTransport
from engine.signalr.transports.websockets import WebSocketTransport
from engine.transport import background
from engine.websocket.connection import Closed
from engine.wire.signalr.negotiate import TransportKind, query_value
from engine.wire.websocket.handshake import Accepted, Refusal, check_connect, check_upgrade

if TYPE_CHECKING:
    from engine.signalr.auth import User
    from engine.signalr.runtime import HubRuntime
    from engine.signalr.tokens import Ticket, Tickets
    from engine.transport.exchange import Exchange, Fields, RequestHead

_NO_ID = "Connection ID required"
_UNKNOWN_ID = "No Connection with that ID"
_OTHER_TRANSPORT = "Cannot change transports mid-connection"
_STOPPING = "The server is stopping."
_LOST = Closed(1006, "the exchange has ended", clean=False)


class TransportRequests:
    """Serves the transports of one mounted hub.

    Args:
        runtime: of the hub.
        tickets: the tokens that were given out.
        transports: those that clients may use.
        answers: makes responses.
        user_id: tells who the user is, where that is not what authentication says.
    """

    def __init__(
        self,
        runtime: HubRuntime,
        tickets: Tickets,
        transports: tuple[TransportKind, ...],
        answers: Answers,
        user_id: Callable[[RequestHead], str | None] | None,
    ) -> None:
        self._runtime = runtime
        self._tickets = tickets
        self._transports = transports
        self._answers = answers
        self._user_id = user_id

    async def serve(self, exchange: Exchange, user: User | None) -> None:
        """Answer one request. Cancellation ends what lives in this exchange."""
        head = exchange.head
        if head.protocol == "websocket" and head.method in ("GET", "CONNECT"):
            await self._serve_websocket(exchange, user)
        elif head.method == "GET" and _accepts_events(head):
            await self._serve_events(exchange, user)
        elif head.method == "GET":
            await self._serve_poll(exchange, user)
        elif head.method == "POST":
            await self._receive_post(exchange)
        elif head.method == "DELETE":
            self._delete(exchange)
        else:
            self._answers.respond(exchange, 405, "", (*TEXT, (b"allow", b"GET, POST, DELETE")))

    # -- what all transports share --------------------------------------------

    def find(self, exchange: Exchange, headers: Fields) -> Ticket | None:
        """The ticket that the request's id stands for, or None where it was refused."""
        token = query_value(exchange.head.query, "id")
        if not token:
            self._answers.respond(exchange, 400, _NO_ID, headers)
            return None
        ticket = self._tickets.find(token, trio.current_time())
        if ticket is None:
            self._answers.respond(exchange, 404, _UNKNOWN_ID, headers)
        return ticket

    def _refuse(self, exchange: Exchange, ticket: Ticket | None, kind: TransportKind, headers: Fields) -> bool:
        """Whether this transport cannot be used, and was told so. A second one of its kind is the caller's."""
        if kind not in self._transports:
            text = f"{kind.value} transport not supported by this end point type"
            self._answers.respond(exchange, 404, text, headers)
        elif ticket is not None and ticket.transport not in (None, kind):
            self._answers.respond(exchange, 400, _OTHER_TRANSPORT, headers)
        elif exchange.draining and (ticket is None or ticket.connection is None):
            self._answers.respond(exchange, 503, _STOPPING, headers)
        else:
            return False
        return True

    def _connect(self, exchange: Exchange, ticket: Ticket, kind: TransportKind, user: User | None) -> HubConnection:
        """A connection for a ticket that is opened by this transport."""
        head = exchange.head
        user_id = None if user is None else user.id
        if self._user_id is not None:
            user_id = self._user_id(head)
        outbox_size = exchange.config.server.outbox_size
        connection = HubConnection(self._runtime, head, ticket.connection_id, user_id, outbox_size, user)
        self._tickets.open(ticket, kind)
        ticket.connection = connection
        return connection

    async def _run(self, ticket: Ticket, connection: HubConnection, transport: HubTransport) -> None:
        """Live as the connection's task. Cancellation means that the client is lost."""
        try:
            await connection.run()
        except BaseException as error:
            transport.abandon(error)
            raise
        finally:
            self._tickets.close(ticket)

    def _run_in_background(self, ticket: Ticket, connection: HubConnection, transport: HubTransport) -> None:
        background.current.get().start(
            lambda: self._run(ticket, connection, transport), on_draining=connection.start_draining
        )

    # -- WebSockets -----------------------------------------------------------

    async def _serve_websocket(self, exchange: Exchange, user: User | None) -> None:
        head = exchange.head
        if head.method == "CONNECT":
            accepted = check_connect(head.headers)
        else:
            accepted = check_upgrade(head.method, head.http_version, head.headers)
        if isinstance(accepted, Refusal):
            self._answers.respond(exchange, accepted.status, accepted.text, (*TEXT, *accepted.headers))
            return
        ticket = None
        if query_value(head.query, "id"):
            ticket = self.find(exchange, ())
            if ticket is None:
                return
        if self._refuse(exchange, ticket, TransportKind.WEB_SOCKETS, TEXT):
            return
        if not self._answers.may_open(head):
            self._answers.respond(exchange, 403, "This origin may not use the hub; see signalr.cors_origins.", TEXT)
        elif ticket is not None and ticket.connection is not None:
            await self._serve_next_websocket(exchange, ticket, ticket.connection, accepted, user)
        elif ticket is not None and ticket.stateful:
            await self._serve_first_websocket(exchange, ticket, accepted, user)
        else:
            await self._serve_only_websocket(exchange, ticket, accepted, user)

    async def _serve_only_websocket(
        self, exchange: Exchange, ticket: Ticket | None, accepted: Accepted, user: User | None
    ) -> None:
        """The connection lives and dies with this WebSocket."""
        kind = TransportKind.WEB_SOCKETS
        if ticket is None:
            ticket = self._tickets.open_new(kind)
        connection = self._connect(exchange, ticket, kind, user)

        def on_end(closed: Closed) -> None:
            connection.end_of_transport(clean=closed.clean, error=_cause(closed))

        self._switch(exchange, accepted)
        transport = WebSocketTransport(exchange, self._runtime.settings, connection.receive, on_end)
        connection.open(transport)
        _take_early(ticket, connection)
        transport.start()
        exchange.on_draining = connection.start_draining
        await self._run(ticket, connection, transport)

    async def _serve_first_websocket(
        self, exchange: Exchange, ticket: Ticket, accepted: Accepted, user: User | None
    ) -> None:
        """The connection may go on over other WebSockets after this one."""
        connection = self._connect(exchange, ticket, TransportKind.WEB_SOCKETS, user)
        transport = ResumableTransport(
            background.current.get(),
            self._runtime.settings,
            on_lost=lambda: connection.end_of_transport(clean=False),
        )
        connection.open(transport)
        self._run_in_background(ticket, connection, transport)
        await self._carry(exchange, connection, transport, accepted, ticket)

    async def _serve_next_websocket(
        self, exchange: Exchange, ticket: Ticket, connection: HubConnection, accepted: Accepted, user: User | None
    ) -> None:
        transport = connection.transport
        if ticket.stateful and connection.is_over:
            self._answers.respond(exchange, 404, _UNKNOWN_ID, ())
        elif not isinstance(transport, ResumableTransport) or not (transport.resumable and connection.is_open):
            self._answers.respond(exchange, 409, "", TEXT)
        elif not _is_same_user(connection, user):
            self._answers.respond(exchange, 403, "", TEXT)
        else:
            if user is not None:
                connection.authenticated(user)
            await self._carry(exchange, connection, transport, accepted, ticket)

    async def _carry(
        self,
        exchange: Exchange,
        connection: HubConnection,
        transport: ResumableTransport,
        accepted: Accepted,
        ticket: Ticket,
    ) -> None:
        """Let this WebSocket carry the connection until it is lost, ended, or replaced by another."""

        def on_data(chunks: list[bytes]) -> None:
            if transport.current is websocket:
                connection.receive(chunks)

        def on_end(closed: Closed) -> None:
            if transport.current is not websocket:
                return
            error = _cause(closed)
            if closed.clean or error is not None or not connection.is_open or not transport.detach(websocket):
                connection.end_of_transport(clean=closed.clean, error=error)

        self._switch(exchange, accepted)
        websocket = WebSocketTransport(exchange, self._runtime.settings, on_data, on_end)
        if connection.is_open:
            connection.reattached()
        transport.attach(websocket)
        _take_early(ticket, connection)
        websocket.start()
        exchange.on_draining = connection.start_draining
        try:
            await websocket.over()
        except BaseException as error:
            websocket.abandon(error)
            raise
        finally:
            # However it ended: nobody may wait for it any more.
            on_end(_LOST)
            websocket.released.set()

    def _switch(self, exchange: Exchange, accepted: Accepted) -> None:
        exchange.switch_protocol(() if accepted.accept is None else ((b"sec-websocket-accept", accepted.accept),))
        exchange.flush()

    # -- Server-Sent Events ---------------------------------------------------

    async def _serve_events(self, exchange: Exchange, user: User | None) -> None:
        kind = TransportKind.SERVER_SENT_EVENTS
        ticket = self.find(exchange, TEXT)
        if ticket is None or self._refuse(exchange, ticket, kind, TEXT):
            return
        if ticket.connection is not None:
            self._answers.respond(exchange, 409, "", TEXT)
            return
        connection = self._connect(exchange, ticket, kind, user)
        transport = ServerSentEventsTransport(exchange, connection.receive, self._answers.fields(exchange.head))
        connection.open(transport)
        transport.start()
        _take_early(ticket, connection)
        exchange.on_draining = connection.start_draining
        await self._run(ticket, connection, transport)

    # -- Long Polling ---------------------------------------------------------

    async def _serve_poll(self, exchange: Exchange, user: User | None) -> None:
        headers = (*TEXT, *NOT_CACHED)
        ticket = self.find(exchange, headers)
        if ticket is None or self._refuse(exchange, ticket, TransportKind.LONG_POLLING, headers):
            return
        if ticket.connection is None:
            self._begin_polling(exchange, ticket, user)
        elif not _is_same_user(ticket.connection, user):
            self._answers.respond(exchange, 403, "", headers)
            return
        elif user is not None and user is not ticket.connection.user:
            ticket.connection.authenticated(user)
        connection = ticket.connection
        assert connection is not None  # it has begun
        transport = connection.transport
        assert isinstance(transport, LongPollingTransport)  # what the ticket's kind says
        exchange.on_draining = connection.start_draining
        await transport.poll(exchange)

    def _begin_polling(self, exchange: Exchange, ticket: Ticket, user: User | None) -> None:
        connection = self._connect(exchange, ticket, TransportKind.LONG_POLLING, user)
        transport = LongPollingTransport(
            background.current.get(),
            self._runtime.settings,
            self._answers,
            on_data=connection.receive,
            on_lost=lambda: connection.end_of_transport(clean=False),
            on_finished=lambda: self._tickets.close(ticket),
        )
        connection.open(transport)
        _take_early(ticket, connection)
        self._run_in_background(ticket, connection, transport)

    def _transport_of(self, ticket: Ticket) -> HubTransport | None:
        return None if ticket.connection is None else ticket.connection.transport

    # -- POST and DELETE ------------------------------------------------------

    async def _receive_post(self, exchange: Exchange) -> None:
        ticket = self.find(exchange, TEXT)
        if ticket is None:
            return
        if ticket.transport is TransportKind.WEB_SOCKETS:
            text = "POST requests are not allowed for WebSocket connections."
            self._answers.respond(exchange, 405, text, (*TEXT, (b"allow", b"GET")))
            return
        try:
            taken = await self._take_post(exchange, ticket)
        except ConnectionClosed:
            self._answers.respond(exchange, 400, "", TEXT)  # where anybody is left to read it
        except LimitExceeded as error:
            self._answers.respond(exchange, answer_for(error).http_status, str(error), TEXT)
        else:
            self._answers.respond(exchange, 200 if taken else 404, b"" if taken else _UNKNOWN_ID, TEXT)

    async def _take_post(self, exchange: Exchange, ticket: Ticket) -> bool:
        transport = self._transport_of(ticket)
        while not isinstance(transport, PostedTransport):
            data = await exchange.receive()
            transport = self._transport_of(ticket)  # it may have been opened meanwhile
            if isinstance(transport, PostedTransport) and ticket.connection is not None:
                ticket.connection.receive([data])
            else:
                ticket.post_early(data, self._runtime.settings.max_early_data)
            if not data:
                return True
        return not transport.ended and await transport.receive_post(exchange)

    def _delete(self, exchange: Exchange) -> None:
        ticket = self.find(exchange, TEXT)
        if ticket is None:
            return
        transport = self._transport_of(ticket)
        if ticket.connection is None or not isinstance(transport, LongPollingTransport):
            text = "Cannot terminate this connection using the DELETE endpoint."
            self._answers.respond(exchange, 400, text, TEXT)
            return
        ticket.connection.end_of_transport(clean=True)
        transport.finish()
        self._answers.respond(exchange, 202, "", TEXT)


def _cause(closed: Closed) -> ConnectionClosed | None:
    """What the client did wrong; nothing where it closed properly, or is lost."""
    return None if closed.clean or closed.code == 1006 else ConnectionClosed(closed.code, closed.reason)


def _take_early(ticket: Ticket, connection: HubConnection) -> None:
    """What was posted before a transport was open."""
    if ticket.early:
        early, ticket.early = ticket.early, []
        connection.receive(early)


def _is_same_user(connection: HubConnection, user: User | None) -> bool:
    """A token works for nobody but the user that it was first used by; anonymous requests have only the token."""
    return connection.user is None or user is None or connection.user.id == user.id


def _accepts_events(head: RequestHead) -> bool:
    """`text/event-stream` stands in the Accept list by itself: no parameters, no wildcard."""
    accept = (head.header(b"accept") or b"").lower()
    return any(each.strip() == b"text/event-stream" for each in accept.split(b","))
