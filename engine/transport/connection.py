"""One accepted connection: which protocol it speaks, who drives it, how it ends.

Owns: the sniff under a deadline, the TLS handshake, the choice of driver, the barrier that keeps
every error of a connection inside it (R7), and closing.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol as TypingProtocol

import trio

from engine.config import Config
from engine.errors import ConnectionClosed
from engine.transport.callbacks import ProtocolDriver, StreamProtocol
from engine.transport.exchange import Exchange, Peer
from engine.transport.http1 import Http1Driver
from engine.transport.http2 import Http2Driver
from engine.transport.poller import Poller
from engine.transport.statistics import ConnectionStatistics, ExchangeStatistics
from engine.transport.stream import ByteStream, SocketByteStream, WrappedByteStream
from engine.transport.tls import TlsHandshakes
from engine.transport.watchdog import Watchdog
from engine.wire.sniff import Protocol, sniff

_log = logging.getLogger(__name__)

_THIS_IS_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 45\r\n\r\n"
    b"this port speaks TLS; use https:// or wss://\n"
)

Handler = Callable[[Exchange], Awaitable[None]]


class Driver(TypingProtocol):
    """What moves one connection's bytes; see `Http1Driver` and `Http2Driver`."""

    async def run(self, initial: bytes = b"") -> None:
        """Serve until the connection is over."""

    def drain(self) -> None:
        """Begin the graceful end."""

    def stop(self) -> None:
        """Cancel what still runs, and end."""

    @property
    def draining(self) -> bool:
        """The end has begun."""

    @property
    def requests(self) -> int:
        """Requests so far."""

    def exchanges(self) -> list[ExchangeStatistics]:
        """What is under way."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all connections of a server share."""

    config: Config
    handler: Handler
    watchdog: Watchdog
    tls: TlsHandshakes | None = None
    tls_required: bool = False  # a port of its own: cleartext is refused
    poller: Poller | None = None  # None: each connection waits for its own socket
    protocol: Callable[[], StreamProtocol] | None = None  # not HTTP, but this from the first byte


_SPOKEN: dict[type[object], str] = {Http1Driver: "HTTP/1.1", Http2Driver: "HTTP/2", ProtocolDriver: "custom"}


class Connection:
    """One connection, from accept to close.

    Args:
        transport: a connected socket, or any Trio stream; closed at the end of `run`.
        surroundings: what the server's connections share.
        connection_id: counts up in each server; in every log record.
    """

    def __init__(
        self, transport: socket.socket | trio.abc.Stream, surroundings: Surroundings, connection_id: int
    ) -> None:
        # immutable
        self.connection_id = connection_id
        self._surroundings = surroundings
        # owned by the connection task
        server = surroundings.config.server
        self._stream: ByteStream
        if isinstance(transport, socket.socket):
            self._stream = SocketByteStream(transport, read_size=server.read_size, poller=surroundings.poller)
        else:
            self._stream = WrappedByteStream(transport, read_size=server.read_size, close_timeout=server.close_timeout)
        self._driver: Driver | None = None
        self._sniffing = trio.CancelScope()
        self._accepted_at = 0.0
        self._peer: Peer | None = None

    def statistics(self) -> ConnectionStatistics:
        """The connection as it is now."""
        driver, stream = self._driver, self._stream
        peer = self._peer or Peer(stream.peer_address, stream.local_address, self.connection_id)
        return ConnectionStatistics(
            self.connection_id,
            peer.address,
            peer.local,
            peer.tls_version,
            _SPOKEN.get(type(driver), ""),
            trio.current_time() - self._accepted_at,
            0 if driver is None else driver.requests,
            driver is not None and driver.draining,
            () if driver is None else tuple(driver.exchanges()),
        )

    async def run(self) -> None:
        """Serve the connection until it is over and closed. Only cancellation and bugs of Trio leave it."""
        self._accepted_at = trio.current_time()
        try:
            await self._serve()
        except* ConnectionClosed as lost:
            _log.debug("connection %d: %s", self.connection_id, lost.exceptions[0])
        except* Exception:
            # The barrier: whatever went wrong, it is this connection's affair alone.
            custom = self._surroundings.protocol is not None
            whose = "mend its protocol's callback" if custom else "this is a bug in the engine, please report it"
            _log.exception("connection %d failed; %s", self.connection_id, whose)
        finally:
            # R5: a shield always carries a deadline.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * self._close_timeout):
                await self._stream.aclose()

    @property
    def _close_timeout(self) -> float:
        return self._surroundings.config.server.close_timeout

    def drain(self) -> None:
        """Begin the graceful end; a connection that has said nothing yet is closed. Idempotent."""
        if self._driver is None:
            self._sniffing.cancel()
        else:
            self._driver.drain()

    def stop(self) -> None:
        """Cancel what still runs."""
        if self._driver is None:
            self._sniffing.cancel()
        else:
            self._driver.stop()

    async def _serve(self) -> None:
        surroundings = self._surroundings
        config = surroundings.config
        with self._sniffing:
            peer = Peer(self._stream.peer_address, self._stream.local_address, self.connection_id)
            if surroundings.protocol is not None:
                await self._serve_protocol(surroundings.protocol, peer)
                return
            found, initial = await self._sniff()
            negotiated: str | None = None
            if found is Protocol.TLS and surroundings.tls is not None:
                peer, negotiated = await self._start_tls(surroundings.tls, initial, peer)
                found, initial = await self._sniff()
                if found is Protocol.TLS or (found is Protocol.HTTP2) is not (negotiated == "h2"):
                    return  # what was negotiated is not what is spoken (RFC 9113 3.2)
            elif surroundings.tls_required and found is Protocol.HTTP1:
                await self._stream.send_all(_THIS_IS_TLS)
                return
            elif found is Protocol.TLS or surroundings.tls_required:
                return
            self._peer = peer
            if found is Protocol.HTTP2:
                driver: Driver = Http2Driver(
                    self._stream, config=config, peer=peer, handler=surroundings.handler, watchdog=surroundings.watchdog
                )
            elif found is Protocol.HTTP1:
                driver = Http1Driver(
                    self._stream, config=config, peer=peer, handler=surroundings.handler, watchdog=surroundings.watchdog
                )
            else:
                return  # neither HTTP: an HTTP/1.1 answer would be taken for garbage
            self._driver = driver
        if self._driver is not None:
            await self._driver.run(initial)

    async def _serve_protocol(self, factory: Callable[[], StreamProtocol], peer: Peer) -> None:
        """A port of its own: there is nothing to sniff."""
        if self._surroundings.tls_required:
            assert self._surroundings.tls is not None  # the server refuses to start without
            peer, _ = await self._start_tls(self._surroundings.tls, b"", peer)
        driver = self._driver = ProtocolDriver(
            self._stream,
            config=self._surroundings.config,
            peer=peer,
            factory=factory,
            watchdog=self._surroundings.watchdog,
        )
        await driver.run()

    async def _sniff(self) -> tuple[Protocol, bytes]:
        """Read until the first bytes tell the protocol."""
        data = b""
        with trio.move_on_after(self._surroundings.config.server.handshake_timeout):
            while True:
                found = sniff(data)
                if found is not None:
                    return found, data
                more = await self._stream.receive_some()
                if not more:
                    break
                data += more
        return Protocol.UNKNOWN, data

    async def _start_tls(self, tls: TlsHandshakes, initial: bytes, peer: Peer) -> tuple[Peer, str | None]:
        """Do the handshake and put the encrypted stream in place of the cleartext one."""
        result = await tls.handshake(self._stream, initial)
        self._stream = result.stream
        secured = Peer(
            peer.address,
            peer.local,
            peer.connection_id,
            tls=True,
            tls_version=result.version,
            client_certificate=result.client_certificate,
            tls_identity=result.identity,
        )
        return secured, result.alpn
