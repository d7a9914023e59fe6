"""What a hub connection sends: in which order, in how many frames, and what a slow client misses.

Owns: the batch of messages that leave together, and the policy of `signalr.slow_client`. Never receives,
and decides nothing about the connection's state but that a client was too slow.

Theory of operation. What is sent while a read is worked through leaves at its end, in one frame where
nobody counts frames: a frame costs more than a message. Anything else leaves at once. A broadcast comes
by `deliver`, for each of thousands of connections: what that looks at is kept close together, for most of
its time goes into fetching it from memory.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from engine.errors import ConnectionClosed
from engine.signalr.backlog import HIGH_WATER, Backlog
from engine.signalr.state import State

if TYPE_CHECKING:
    from engine.signalr.dispatcher import Dispatcher
    from engine.signalr.lifetime import OutgoingCall
    from engine.signalr.runtime import HubRuntime
    from engine.signalr.transports import HubTransport
    from engine.wire.signalr.messages import HubProtocol

_MAX_JOINED = 16 * 1024  # bytes of messages in one frame, and one more: far below what clients accept


class HubSender:
    """The sending half of a hub connection.

    Attributes:
        protocol: the encoding that the handshake chose.
        crowded: the client has not taken what was sent to it.
        sent: when something was written.
    """

    __slots__ = (
        "_backlog",
        "_batch",
        "_batch_size",
        "_batch_wrote",
        "_careful",
        "_drops",
        "_in_batch",
        "_joins",
        "_now",
        "_state",
        "crowded",
        "hub",
        "outbox_size",
        "protocol",
        "sent",
        "settings",
        "transport",
    )

    protocol: HubProtocol
    transport: HubTransport
    _dispatcher: Dispatcher

    def __init__(self, hub: HubRuntime, outbox_size: int) -> None:
        # immutable
        self.hub = hub
        self.settings = hub.settings
        self.outbox_size = outbox_size
        self._drops = hub.settings.slow_client != "close"
        self._careful = self._drops or outbox_size < HIGH_WATER  # to be full is not only the transport's affair
        # `trio.current_time` without the way there, for what is called for each message
        self._now = trio.lowlevel.current_clock().current_time
        # owned by the reader
        self._state = State.HANDSHAKE
        self._in_batch = False  # inside `receive`, which flushes once at its end
        self._batch_wrote = False
        self._joins = False  # what is sent in a batch goes out in one frame
        self._batch: list[bytes] = []
        self._batch_size = 0
        # owned by whoever writes
        self.crowded = False
        self.sent = 0.0
        # only where broadcasts to a slow client are dropped, the oldest first
        self._backlog = Backlog(outbox_size) if hub.settings.slow_client == "drop_oldest" else None

    # -- batches --------------------------------------------------------------

    def _begin_batch(self) -> None:
        self._in_batch = True
        self.crowded = self.crowded and self.transport.queued > HIGH_WATER

    def _end_batch(self) -> None:
        self._in_batch = False
        if self._batch:
            self._write_batch()
        elif self._batch_wrote:
            self.transport.flush()
        self._batch_wrote = False

    # -- sending --------------------------------------------------------------

    def send(self, payload: bytes, *, more: bool = False) -> None:
        """Write hub messages to this client; ignored when it is gone.

        Args:
            payload: of `protocol`.
            more: the caller is about to write more.
        """
        if not self._state.sending:
            return
        if self._in_batch and self._joins:
            self._batch.append(payload)
            self._batch_size += len(payload)
            if self._batch_size > _MAX_JOINED:
                self._write_batch()
            return
        transport = self.transport
        frame = transport.frame(payload)
        self.sent = self._now()
        if self._backlog is not None and len(self._backlog):
            self._put_back(self._backlog, frame, droppable=False)
            self.crowded = True
        elif self._in_batch:
            transport.write(frame)
            self._batch_wrote = True
        elif more or self._dispatcher.more:
            self.crowded = not transport.write_soon(frame)
        else:
            self.crowded = not transport.write_now(frame)

    def _write_batch(self) -> None:
        """What was sent while a read is worked through leaves as one: a frame costs more than a message."""
        batch, transport = self._batch, self.transport
        frame = transport.frame(batch[0] if len(batch) == 1 else b"".join(batch))
        batch.clear()
        self._batch_size = 0
        self.sent = self._now()
        self._batch_wrote = self._in_batch
        self.crowded = not (transport.write_soon(frame) if self._in_batch else transport.write_now(frame))

    def _send_control(self, payload: bytes) -> None:
        """`send` for what does not count: the handshake's answer, Ping, Close."""
        transport = self.transport
        if self._batch:
            self._write_batch()
        transport.write_control(transport.frame(payload))
        self.sent = self._now()
        if self._in_batch:
            self._batch_wrote = True
        else:
            transport.flush()

    def deliver(self, call: OutgoingCall) -> int:
        """Put a call into the outbox without ever waiting.

        Beyond `server.outbox_size` the connection is closed, or else calls are dropped: see
        `signalr.slow_client`.

        Returns:
            The bytes in the outbox, if many; more than `server.outbox_size`: the connection was closed for it.

        Raises:
            TypeError, ValueError: an argument cannot be encoded.
        """
        if not self._state.sending:
            return 0
        transport = self.transport
        frame = call.frame(self.protocol, transport)
        if self._in_batch or self._careful:
            return self._deliver_with_care(frame)
        self.sent = call.made_at  # near enough, and one object for all
        if transport.write_now(frame):
            return 0
        return self._delivered(room=False)

    def _deliver_with_care(self, frame: bytes) -> int:
        transport = self.transport
        if self._batch:
            self._write_batch()
        if self._drops and transport.queued > HIGH_WATER and self._deliver_late(frame):
            return min(transport.queued, self.outbox_size)
        self.sent = self._now()
        room = (transport.write_soon if self._in_batch else transport.write_now)(frame)
        return 0 if room and self.outbox_size >= HIGH_WATER else self._delivered(room=room)

    def _delivered(self, *, room: bool) -> int:
        self.crowded, queued = not room, self.transport.queued
        if self._drops:
            return min(queued, self.outbox_size)
        if queued > self.outbox_size:
            self._close_slow(queued)
        return queued

    def _deliver_late(self, frame: bytes) -> bool:
        """A call for a client that takes too little; False: there is still room for it."""
        if self._backlog is not None:
            self._put_back(self._backlog, frame, droppable=True)
        elif self.transport.queued + len(frame) > self.outbox_size:
            self.hub.dropped += 1
        else:
            return False
        return True

    def _put_back(self, backlog: Backlog, frame: bytes, *, droppable: bool) -> None:
        self.hub.dropped += backlog.put(frame, droppable=droppable)
        if backlog.size > self.outbox_size:
            self._close_slow(backlog.size)  # it is not broadcasts that are too much

    async def drain(self) -> None:
        """Wait while this client takes too little; returns at once where it is gone."""
        if self._state.sending:
            with suppress(ConnectionClosed):  # its own scope tells it
                await self.transport.drain()
        self.crowded = False

    # -- for a subclass -------------------------------------------------------

    def _close_slow(self, queued: int) -> None:
        """The client leaves more unread than it may: end the connection."""
        raise NotImplementedError
