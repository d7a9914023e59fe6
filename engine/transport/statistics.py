"""What a server tells of itself while it runs: connections and the exchanges on them, as channelz does.

Owns: the shape of the answer, immutable and detached from what it describes. Never touches a connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.transport.exchange import Exchange

__all__ = ["ConnectionStatistics", "ExchangeStatistics", "ServerStatistics"]


@dataclass(frozen=True, slots=True)
class ExchangeStatistics:
    """One request that is being answered: a gRPC call, a WebSocket, a plain request."""

    method: str  # of HTTP
    path: str  # of a gRPC call: "/greet.Greeter/SayHello"
    content_type: str
    stream_id: int  # 0 on HTTP/1.1
    status: int  # of HTTP; 0 before the head is written
    bytes_sent: int
    bytes_queued: int  # that the client has not taken
    deadline: float | None  # `trio.current_time()` seconds
    cancelled: str | None  # why, once it is


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """One connection."""

    connection_id: int
    peer: str
    local: str
    tls_version: str | None
    protocol: str  # "HTTP/1.1", "HTTP/2", "custom", or "" while that is not known
    age: float  # seconds since it was accepted
    requests: int  # so far, those under way included
    draining: bool
    exchanges: tuple[ExchangeStatistics, ...]


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """One server."""

    phase: str
    accepted: int  # connections so far
    connections: tuple[ConnectionStatistics, ...]

    @property
    def calls(self) -> int:
        """Exchanges that are under way."""
        return sum(len(each.exchanges) for each in self.connections)


def describe_exchange(exchange: Exchange, stream_id: int = 0) -> ExchangeStatistics:
    """An exchange as it is now."""
    head = exchange.head
    deadline = exchange.scope.deadline
    reason = exchange.cancel_reason
    return ExchangeStatistics(
        head.method,
        head.path,
        (head.header(b"content-type") or b"").decode("latin-1"),
        stream_id,
        exchange.status,
        exchange.bytes_sent,
        exchange.queued,
        None if deadline == float("inf") else deadline,
        None if reason is None else reason.value,
    )
