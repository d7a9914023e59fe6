"""One request and its response: the duplex that every endpoint is written against.

Owns the vocabulary between the drivers (HTTP/1.1 and HTTP/2) and the endpoints (plain HTTP, gRPC,
WebSocket, SignalR). An endpoint cannot tell which driver it is on, except by `head.http_version`.

Sending is synchronous and queues (`write_*`); `flush` puts what is queued on the wire in one write;
`drain` also waits while the peer is slow. The `send_*` coroutines are `write_*` and `drain`.
Header fields are pairs of bytes, names in lower case, pseudo-header fields already taken out.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from engine.errors import Http2Code
from engine.transport.outbox import HIGH_WATER

if TYPE_CHECKING:
    import trio

    from engine.config import Config
    from engine.transport.poller import Poller
    from engine.transport.watchdog import Timer

Fields = Sequence[tuple[bytes, bytes]]


class CancelReason(Enum):
    """Why an exchange's scope was cancelled before its handler returned."""

    PEER_RESET = "the peer reset the stream"
    CONNECTION_LOST = "the connection was lost"
    DEADLINE = "the deadline expired"
    SHUTDOWN = "the server is stopping"


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Who a client is, by its certificate, which one of our authorities has signed."""

    certificate: bytes  # DER
    common_names: tuple[str, ...] = ()  # of the subject
    alternative_names: tuple[str, ...] = ()  # DNS names, URIs (SPIFFE), mail and IP addresses

    @property
    def pem(self) -> str:
        """The certificate as text."""
        return ssl.DER_cert_to_PEM_cert(self.certificate)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of the connection."""

    address: str  # "127.0.0.1:54321", "[::1]:54321", or "unix" / "memory"
    local: str  # our own end
    connection_id: int  # counts up from 1 in each server; in every log record of the connection
    tls: bool = False
    tls_version: str | None = None
    client_certificate: bytes | None = None  # DER, verified
    tls_identity: TlsIdentity | None = None  # the same, read


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What the request asks for."""

    method: str
    path: str  # percent-decoded, without the query; "*" for OPTIONS *
    query: str  # raw, without the question mark
    scheme: str  # "http" or "https"
    authority: str  # Host or :authority; may be empty
    headers: Fields
    http_version: str  # "1.0", "1.1" or "2"
    protocol: str | None = None  # "websocket": HTTP/1.1 Upgrade or RFC 8441 :protocol, lower case
    raw_path: bytes = b""  # the path as sent
    _index: dict[bytes, bytes] = field(default_factory=dict, compare=False, repr=False)

    def header(self, name: bytes) -> bytes | None:
        """The value of a field by its lower-case name; repeated fields are joined with `, ` (RFC 9110 5.3)."""
        index = self._index
        if not index and self.headers:
            for key, value in self.headers:
                index[key] = index[key] + b", " + value if key in index else value
        return index.get(name)


class Exchange(ABC):
    """One request/response duplex, identical over HTTP/1.1 and HTTP/2.

    The handler's task runs inside `scope`: setting `scope.deadline` is the exchange's time-out,
    and a lost peer cancels it with `cancel_reason` set.
    """

    __slots__ = (
        "cancel_reason",
        "config",
        "draining",
        "head",
        "max_body",
        "min_body_rate",
        "on_cancelled",
        "on_draining",
        "peer",
        "response_ended",
        "scope",
        "status",
    )

    # immutable
    head: RequestHead
    peer: Peer
    config: Config
    poller: Poller | None = None
    """What reads the connection's socket together with others, for `engine.transport.mailbox`; or None."""

    # owned by the driver
    scope: trio.CancelScope
    cancel_reason: CancelReason | None
    status: int  # of the response head; 0 before it is written
    response_ended: bool
    draining: bool  # the server wants to stop: long-lived handlers should end soon

    # owned by the endpoint
    on_cancelled: Callable[[CancelReason], None] | None
    """Called after the scope was cancelled and the handler is gone, while the response can still be
    written (synchronously): gRPC sends its DEADLINE_EXCEEDED trailers here. What it leaves
    unfinished is reset."""

    on_draining: Callable[[], None] | None
    """Called once, synchronously, when the server begins to drain: WebSocket sends 1001 here."""

    # -- receiving ------------------------------------------------------------

    @abstractmethod
    async def receive(self) -> bytes:
        """The next bytes of the request body, `b""` at its end.

        A checkpoint. Credit goes back to the peer for what is returned.

        Raises:
            ConnectionClosed: the body can no longer arrive whole.
            LimitExceeded: it is larger than `max_body` allows.
        """

    @abstractmethod
    def receive_nowait(self) -> bytes | None:
        """What `receive` would return at once (`b""` at the end), or None where it would wait."""

    max_body: float
    """Bytes of request body that are accepted; endpoints that stream set `math.inf`.
    Starts as `http1.max_body_size` or `http2.max_body_size`."""

    min_body_rate: float
    """Bytes a second below which the request body is given up (408); endpoints that stream set 0."""

    @abstractmethod
    def attach(self, sink: Callable[[bytes], None]) -> None:
        """From now on hand received bytes to `sink` as they arrive, synchronously; `b""` is the end.

        What had arrived before is handed over at once. The sink must not block and must not raise
        for what the peer sent. Credit goes back on arrival, unless `pause_receiving` was called.
        """

    @abstractmethod
    def pause_receiving(self) -> None:
        """Give no more credit and read no more than is already on its way. Idempotent."""

    @abstractmethod
    def resume_receiving(self) -> None:
        """Undo `pause_receiving`. Idempotent."""

    def give_up_body(self) -> None:  # noqa: B027  # nothing to do where a request is a stream of its own
        """The rest of the request will not be read; to be called before `write_head`.

        HTTP/1.1 says `Connection: close` in the response, where the request is not complete: a client
        would use the connection again, and lose its next request.
        """

    # -- sending --------------------------------------------------------------

    @abstractmethod
    def write_head(self, status: int, headers: Fields = (), *, end: bool = False) -> None:
        """Queue the response head. `end=True`: there is no body.

        HTTP/1.1 framing (Content-Length, chunked, Connection) is the driver's: give content-length
        where it is known and leave transfer-encoding and connection alone.

        Raises:
            LocalProtocolError: a head was written before.
        """

    @abstractmethod
    def write_informational(self, status: int, headers: Fields = ()) -> None:
        """Queue a 1xx head (103 Early Hints); 100 and 101 are the driver's."""

    @abstractmethod
    def write(self, data: bytes, *, end: bool = False) -> None:
        """Queue response body. Never waits: whoever writes much without `drain` keeps it in memory."""

    @abstractmethod
    def write_trailers(self, headers: Fields) -> None:
        """Queue the trailer section, which ends the response."""

    @abstractmethod
    def switch_protocol(self, headers: Fields = ()) -> None:
        """Accept a WebSocket: 101 on HTTP/1.1, 200 on an extended CONNECT. Bytes are raw from here on.

        On HTTP/1.1 the driver adds `upgrade` and `connection`.
        """

    @property
    @abstractmethod
    def queued(self) -> int:
        """Bytes that were written and that the peer's window or socket has not taken."""

    @property
    def high_water(self) -> int:
        """Bytes in `queued` above which `drain` waits, now."""
        return self.config.http2.send_buffer

    @abstractmethod
    def flush(self) -> None:
        """Put what is queued on the wire as far as it goes now, or soon where more is likely to
        join the same write. Never waits."""

    @abstractmethod
    def flush_soon(self) -> None:
        """`flush` before the event loop waits for anything: for a caller that knows it will write more."""

    @property
    @abstractmethod
    def bytes_sent(self) -> int:
        """Of the response's body, or since `switch_protocol`."""

    def writers(self) -> tuple[Callable[[bytes], bool], Callable[[bytes], bool]]:
        """`write_now` and `write_soon` for after `switch_protocol`, at the least cost.

        They need not look whether the exchange is over: who has called `close` or `reset` calls them no more.
        """
        return self.write_now, self.write_soon

    def write_now(self, data: bytes) -> bool:
        """`write` and `flush`: a call less for what is called most.

        Returns:
            False where `queued` is above its high-water mark: time to `drain`.
        """
        self.write(data)
        self.flush()
        return self.queued <= HIGH_WATER

    def write_soon(self, data: bytes) -> bool:
        """`write` and `flush_soon`; see `write_now`."""
        self.write(data)
        self.flush_soon()
        return self.queued <= HIGH_WATER

    @abstractmethod
    async def drain(self) -> None:
        """`flush`, then wait until `queued` is below its high-water mark.

        A checkpoint when it waits, else only a cancellation point. Cancellation leaves what is
        queued in the queue.

        Raises:
            ConnectionClosed: the response cannot arrive any more.
        """

    @abstractmethod
    def call_when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once, synchronously, when `queued` has fallen below its high-water mark, or the
        peer is lost: for what is written by no task. The callback may write and `flush_soon`; it must
        not `flush`, for a write may be under way. There is one callback at a time."""

    async def send_head(self, status: int, headers: Fields = (), *, end: bool = False) -> None:
        """`write_head` and `drain`."""
        self.write_head(status, headers, end=end)
        await self.drain()

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """`write` and `drain`."""
        self.write(data, end=end)
        await self.drain()

    async def send_trailers(self, headers: Fields) -> None:
        """`write_trailers` and `drain`."""
        self.write_trailers(headers)
        await self.drain()

    # -- time -----------------------------------------------------------------

    @abstractmethod
    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer that calls back synchronously, until the exchange ends."""

    # -- ending ---------------------------------------------------------------

    @abstractmethod
    def reset(self, code: Http2Code = Http2Code.CANCEL) -> None:
        """Give the exchange up: RST_STREAM with this code, or on HTTP/1.1 an end of the connection
        before the response is complete. Idempotent; nothing after the end of a response on HTTP/2
        but RST_STREAM(NO_ERROR), which the driver sends by itself where the request is unfinished."""

    @abstractmethod
    def close(self) -> None:
        """End a switched protocol: END_STREAM, or on HTTP/1.1 flush, send EOF and close the connection."""

    def cancel(self, reason: CancelReason) -> None:
        """Cancel the handler's scope, once, with a reason."""
        if self.cancel_reason is None:
            self.cancel_reason = reason
            self.scope.cancel()
