"""The connections of one hub by the secret that addresses them.

Owns: tokens, their life, and who may claim one. A token is not the public connection id: whoever
knows only the id cannot take the connection over. What was negotiated and never opened is forgotten
after `signalr.disconnect_timeout`, and there are at most `signalr.max_negotiated` of those.
"""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import LimitExceeded, LimitKind
from engine.wire.signalr.negotiate import TransportKind

if TYPE_CHECKING:
    from engine.signalr.connection import HubConnection


def make_id() -> str:
    """16 random bytes as base64url without padding: 22 characters, as ASP.NET Core's."""
    return base64.urlsafe_b64encode(secrets.token_bytes(16))[:22].decode("ascii")


@dataclass(slots=True)
class Ticket:
    """One negotiated connection."""

    connection_id: str
    token: str
    expires: float
    stateful: bool = False  # stateful reconnect was agreed on
    transport: TransportKind | None = None  # once one was opened
    connection: HubConnection | None = None  # the same
    early: list[bytes] = field(default_factory=list)  # what was posted before

    def post_early(self, data: bytes, limit: int) -> None:
        """Keep what the client sends before there is a connection.

        Raises:
            LimitExceeded: it is too much.
        """
        size = sum(map(len, self.early)) + len(data)
        if size > limit:
            what = "data posted before a transport is open"
            raise LimitExceeded("signalr.max_early_data", limit, size, kind=LimitKind.MESSAGE_SIZE, what=what)
        if data:
            self.early.append(data)


class Tickets:
    """All tickets of one hub; `now` is given, in seconds of one clock."""

    def __init__(self, lifetime: float, limit: int) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._waiting: OrderedDict[str, Ticket] = OrderedDict()  # in the order of their expiry
        self._open: dict[str, Ticket] = {}

    def __len__(self) -> int:
        """Those that wait and those that are open."""
        return len(self._waiting) + len(self._open)

    def issue(self, now: float, *, secret: bool, stateful: bool = False) -> Ticket:
        """A ticket for a client that negotiates; its token is `secret`, or else the connection id.

        Raises:
            LimitExceeded: too many wait.
        """
        self._expire(now)
        if len(self._waiting) >= self._limit:
            raise LimitExceeded(
                "signalr.max_negotiated", self._limit, kind=LimitKind.CAPACITY, what="negotiated connections"
            )
        connection_id = make_id()
        token = make_id() if secret else connection_id
        ticket = Ticket(connection_id, token, now + self._lifetime, stateful)
        self._waiting[ticket.token] = ticket
        return ticket

    def find(self, token: str, now: float) -> Ticket | None:
        """The ticket that a token stands for."""
        self._expire(now)
        return self._open.get(token) or self._waiting.get(token)

    def open(self, ticket: Ticket, transport: TransportKind) -> None:
        """A transport claims the ticket."""
        self._waiting.pop(ticket.token, None)
        ticket.transport = transport
        self._open[ticket.token] = ticket

    def open_new(self, transport: TransportKind) -> Ticket:
        """A ticket for a client that skipped the negotiation."""
        connection_id = make_id()
        ticket = Ticket(connection_id, make_id(), 0.0)
        self.open(ticket, transport)
        return ticket

    def close(self, ticket: Ticket) -> None:
        """The connection has ended: its token is worth nothing now."""
        self._open.pop(ticket.token, None)

    def _expire(self, now: float) -> None:
        while self._waiting:
            token, ticket = next(iter(self._waiting.items()))
            if ticket.expires > now:
                return
            del self._waiting[token]
