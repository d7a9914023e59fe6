"""How the bytes of a hub connection travel: the seam between a `HubConnection` and what carries it.

A transport owns the framing of hub messages and its own end. It never parses hub messages.
`websockets`, `sse` and `long_polling` are the three that clients know; `resume` puts one WebSocket
after the other under the same connection.

Spec: docs/specs/TransportProtocols.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from engine.transport.outbox import HIGH_WATER
from engine.wire.signalr.messages import HubProtocol, TransferFormat
from engine.wire.signalr.negotiate import TransportKind

if TYPE_CHECKING:
    from engine.transport.poller import Poller
    from engine.transport.watchdog import Timer


class HubTransport(ABC):
    """One transport of one hub connection."""

    kind: ClassVar[TransportKind]
    formats: ClassVar[frozenset[TransferFormat]]

    has_keep_alive: ClassVar[bool] = False
    """The transport shows by itself that it lives: no pings."""

    poller: Poller | None = None
    """Reads the socket that messages come from, where whoever waits for them can do that in its place."""

    framing: str
    """Two transports with equal `framing` make the same frame of the same payload."""

    @abstractmethod
    def use_protocol(self, protocol: HubProtocol, version: int) -> None:
        """The handshake chose an encoding and its version."""

    @abstractmethod
    def frame(self, payload: bytes) -> bytes:
        """Hub messages as they travel; pure, so that a broadcast frames once."""

    @abstractmethod
    def write(self, frame: bytes) -> None:
        """Queue the frame of a message that counts; ignored once the transport is closing."""

    def write_control(self, frame: bytes) -> None:
        """Queue what does not count: the handshake's answer, Ping, Close, Ack, Sequence."""
        self.write(frame)

    @abstractmethod
    def flush(self) -> None:
        """Send what is queued as far as it goes now."""

    @abstractmethod
    def flush_soon(self) -> None:
        """Send what is queued before the event loop waits."""

    def write_now(self, frame: bytes) -> bool:
        """`write` and `flush`: a call less for what is called most. False where it is time to `drain`."""
        self.write(frame)
        self.flush()
        return self.queued <= HIGH_WATER

    def write_soon(self, frame: bytes) -> bool:
        """`write` and `flush_soon`; see `write_now`."""
        self.write(frame)
        self.flush_soon()
        return self.queued <= HIGH_WATER

    @property
    @abstractmethod
    def queued(self) -> int:
        """Bytes that the client has not taken."""

    @abstractmethod
    async def drain(self) -> None:
        """Wait while much is queued. Cancellation loses nothing.

        Raises:
            ConnectionClosed: the client is gone.
        """

    @abstractmethod
    def pause(self) -> None:
        """Read no more for now."""

    @abstractmethod
    def resume(self) -> None:
        """Read on."""

    @abstractmethod
    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer until the transport ends."""

    @abstractmethod
    def close(self, *, going_away: bool = False) -> None:
        """End the transport well, behind what is queued. Idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """End the transport now; what is queued is lost."""

    @abstractmethod
    async def closed(self) -> None:
        """Wait for the end, within the transport's own time limit."""

    @abstractmethod
    def abandon(self, error: BaseException) -> None:
        """The connection's task ends with `error`: end the transport as it allows, and do not wait."""
