"""One WebSocket after the other under the same hub connection: stateful reconnect.

Owns: which WebSocket carries the connection now, what is repeated on the next one, the grace between
two, and the back-pressure of a client that acknowledges nothing. What numbers mean is
`engine.wire.signalr.resume`'s.

Theory of operation. The hub connection writes here; each frame that counts is kept until the client
acknowledges it, whether a WebSocket is there or not. `attach` puts a WebSocket in the place of the
one before, which is closed if it still lives: Sequence goes out first, then what is unacknowledged,
then whatever comes next, so that order holds without a lock. `detach` begins the grace. A client
that did not ask for version 2 of its protocol has none of that: its first WebSocket is its last.

While more than `signalr.resume_buffer_size` is unacknowledged, `drain` waits, and with it whoever
sends to this client alone. Broadcasts never wait: beyond `server.outbox_size` the client is treated
as any other that takes too little.

Spec: docs/specs/HubProtocol.md, "Stateful Reconnect"; HttpConnectionContext.cs, MessageBuffer.cs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import trio

from engine.errors import ConnectionClosed, RemoteProtocolError
from engine.signalr.transports import HubTransport
from engine.signalr.transports.websockets import WebSocketTransport, framing_of
from engine.wire.signalr.messages import HubMessage, HubProtocol, TransferFormat
from engine.wire.signalr.negotiate import TransportKind
from engine.wire.signalr.resume import ACK_INTERVAL, ResumeReceiver, ResumeSender

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.transport.background import Background
    from engine.transport.watchdog import Timer

_CROWDED = 64 * 1024 + 1  # `queued` from which senders wait


class ResumableTransport(HubTransport):
    """A WebSocket at a time, or none.

    Args:
        background: whose timers outlive a WebSocket.
        settings: of the hub.
        on_lost: called when the grace is over.

    Attributes:
        resumable: the handshake allows it; a WebSocket that is lost can be replaced.
    """

    kind: ClassVar[TransportKind] = TransportKind.WEB_SOCKETS
    formats: ClassVar[frozenset[TransferFormat]] = WebSocketTransport.formats

    def __init__(self, background: Background, settings: SignalRConfig, on_lost: Callable[[], None]) -> None:
        # immutable
        self._background = background
        self._settings = settings
        # owned by the reader and whoever writes, which are synchronous towards each other
        self._current: WebSocketTransport | None = None
        self._paused = False
        self._over = False
        self._timers: list[Timer] = []
        self._grace = self.timer(on_lost)
        self._changed = trio.Event()  # replaced each time it is set: acknowledged, attached, detached
        # since the handshake
        self.resumable = False
        self._protocol: HubProtocol
        self._format = TransferFormat.TEXT
        self.framing, self._frame = framing_of(self._format)
        self._sender: ResumeSender | None = None
        self._receiver = ResumeReceiver()
        self._ack_timer = self.timer(self._send_ack)

    # -- WebSockets -----------------------------------------------------------

    @property
    def current(self) -> WebSocketTransport | None:
        """The WebSocket that carries the connection now."""
        return self._current

    def attach(self, websocket: WebSocketTransport) -> None:
        """Go on with this WebSocket; the one before is closed."""
        older, self._current = self._current, websocket
        self._grace.clear()
        self._notify()
        if older is not None:
            older.close()
        websocket.use_format(self._format)
        if self._paused:
            websocket.pause()
        if self._sender is not None:
            sequence_id, frames = self._sender.replay()
            websocket.write(self._frame(self._protocol.sequence(sequence_id)))
            for frame in frames:
                websocket.write(frame)
            websocket.flush()
            if self._receiver.has_news and not self._ack_timer.armed:
                self._send_ack()  # it was due while there was no WebSocket

    def detach(self, websocket: WebSocketTransport) -> bool:
        """A WebSocket is lost; True: it was the current one, and the client has time to open another."""
        if websocket is not self._current or self._over:
            return False
        if not self.resumable:
            return False
        self._current = None
        self._grace.set(trio.current_time() + self._settings.disconnect_timeout)
        self._notify()
        return True

    # -- numbers --------------------------------------------------------------

    def is_new(self, message: HubMessage) -> bool:
        """Count a received message; False: it is a repetition."""
        new = self._receiver.is_new(message)
        if self._receiver.has_news and not self._ack_timer.armed:
            self._ack_timer.set(trio.current_time() + ACK_INTERVAL)
        return new

    def start_sequence(self, sequence_id: int) -> RemoteProtocolError | None:
        """The client's Sequence; an error: messages of it were lost."""
        return self._receiver.start(sequence_id)

    def acknowledged(self, sequence_id: int) -> None:
        """The client's Ack."""
        if self._sender is not None:
            self._sender.acknowledged(sequence_id)
            self._notify()

    def _send_ack(self) -> None:
        current = self._current
        if current is not None and self._receiver.has_news:
            current.write(self._frame(self._protocol.ack(self._receiver.acknowledge())))
            current.flush()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # -- the transport --------------------------------------------------------

    def use_protocol(self, protocol: HubProtocol, version: int) -> None:
        self._protocol = protocol
        self._format = protocol.transfer_format
        self.framing, self._frame = framing_of(self._format)
        if self._current is not None:
            self._current.use_format(self._format)
        if version >= 2:
            self.resumable = True
            self._sender = ResumeSender(self._settings.resume_buffer_size)

    def frame(self, payload: bytes) -> bytes:
        return self._frame(payload)

    def write(self, frame: bytes) -> None:
        if self._over:
            return
        if self._sender is not None:
            self._sender.sent(frame)
        if self._current is not None:
            self._current.write(frame)

    def write_control(self, frame: bytes) -> None:
        if self._current is not None and not self._over:
            self._current.write(frame)

    def flush(self) -> None:
        if self._current is not None:
            self._current.flush()

    def flush_soon(self) -> None:
        if self._current is not None:
            self._current.flush_soon()

    @property
    def queued(self) -> int:
        queued = 0 if self._current is None else self._current.queued
        if self._sender is not None and self._sender.blocked:
            return max(queued, self._sender.size, _CROWDED)
        return queued

    async def drain(self) -> None:
        """Wait while much is unacknowledged or unsent; a cut alone is nothing to wait for."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._over:
            changed, current = self._changed, self._current
            if self._sender is not None and self._sender.blocked:
                await changed.wait()
            elif current is None or current.queued < _CROWDED:
                return
            else:
                await self._drain_current(current, changed)
        raise ConnectionClosed(1006, "the client is gone")

    async def _drain_current(self, current: WebSocketTransport, changed: trio.Event) -> None:
        """Wait for one WebSocket to have room, or not to be the current one any more."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await changed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await current.drain()
            except ConnectionClosed:
                await changed.wait()  # it is lost, and will be detached
            nursery.cancel_scope.cancel()

    def pause(self) -> None:
        self._paused = True
        if self._current is not None:
            self._current.pause()

    def resume(self) -> None:
        self._paused = False
        if self._current is not None:
            self._current.resume()

    def timer(self, callback: Callable[[], None]) -> Timer:
        timer = self._background.timer(callback)
        self._timers.append(timer)
        return timer

    def close(self, *, going_away: bool = False) -> None:
        self._finish()
        if self._current is not None:
            self._current.close(going_away=going_away)

    def abort(self) -> None:
        self._finish()
        if self._current is not None:
            self._current.abort()

    async def closed(self) -> None:
        self._finish()
        if self._current is not None:
            await self._current.released.wait()

    def abandon(self, error: BaseException) -> None:
        self._finish()
        if self._current is not None:
            self._current.abandon(error)

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._notify()
            for timer in self._timers:
                timer.clear()
