"""Hub connections over Long Polling: each GET waits for what there is to say, POST for the other way.

Owns: what waits for a poll, the poll that waits for it, and the time between two polls. The first
poll is answered at once and empty, which tells the client that the connection exists. A newer poll
sends the older one home with 204; what was waiting stays for the newer one. When the connection has
ended, what is left is still fetched; the poll after that gets 204, and then the token is worth nothing.

Spec: docs/specs/TransportProtocols.md, "Long Polling"; LongPollingServerTransport.cs,
HttpConnectionDispatcher.cs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import trio

from engine.errors import ConnectionClosed
from engine.signalr.answers import BYTES, NOT_CACHED, TEXT, Answers
from engine.signalr.transports.posted import PostedTransport
from engine.wire.signalr.messages import HubProtocol, TransferFormat
from engine.wire.signalr.negotiate import TRANSFER_FORMATS, TransportKind

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.transport.background import Background
    from engine.transport.exchange import Exchange
    from engine.transport.watchdog import Timer

_HIGH_WATER = 64 * 1024  # bytes that wait before senders do; TransportMaxBufferSize
_LAST_POLL = 1.0  # seconds in which a client may fetch the last words of a server that stops


class LongPollingTransport(PostedTransport):
    """Polls, one after the other.

    Args:
        background: whose tasks and timers outlive a poll.
        settings: of the hub.
        answers: makes responses.
        on_data: called synchronously with the chunks of one POST.
        on_lost: called when no poll has come for `signalr.disconnect_timeout`.
        on_finished: called once when there will be no more answers.
    """

    kind: ClassVar[TransportKind] = TransportKind.LONG_POLLING
    formats: ClassVar[frozenset[TransferFormat]] = frozenset(TRANSFER_FORMATS[TransportKind.LONG_POLLING])
    framing = "bytes"
    has_keep_alive = True

    def __init__(
        self,
        background: Background,
        settings: SignalRConfig,
        answers: Answers,
        on_data: Callable[[list[bytes]], None],
        on_lost: Callable[[], None],
        on_finished: Callable[[], None],
    ) -> None:
        super().__init__(on_data)
        # immutable
        self._background = background
        self._settings = settings
        self._respond = answers.respond
        self._on_lost = on_lost
        self._on_finished = on_finished
        # owned by whoever writes
        self._chunks: list[bytes] = []
        self._size = 0
        self._room = trio.Event()  # replaced each time it is set: a poll has taken what waited
        self._closing = False
        self._going_away = False  # nobody will be there for a further poll
        self._finished = trio.Event()
        # owned by the polls
        self._poll: trio.Event | None = None  # of the poll that waits, or was just woken
        self._polled = False  # the first poll was answered
        self._timers: list[Timer] = []
        self._idle = self.timer(self._no_poll)

    # -- polls ----------------------------------------------------------------

    async def poll(self, exchange: Exchange) -> None:
        """Answer one GET. Cancellation takes nothing of what waits."""
        older, poll = self._poll, trio.Event()
        self._poll = poll
        self._idle.clear()
        if older is not None:
            older.set()
        try:
            if self._polled and not self._size and not self._closing:
                with trio.move_on_after(self._settings.long_poll_timeout):
                    await poll.wait()
            self._answer(exchange, poll)
        finally:
            if self._poll is poll:
                self._poll = None
                if not self._finished.is_set():
                    self._idle.set(trio.current_time() + self._settings.disconnect_timeout)

    def _answer(self, exchange: Exchange, poll: trio.Event) -> None:
        if self._poll is not poll:
            self._respond(exchange, 204, b"", (*TEXT, *NOT_CACHED))
        elif not self._polled:
            self._polled = True  # empty, even where there is something to say already: clients wait for it first
            self._respond(exchange, 200, b"", (*BYTES, *NOT_CACHED))
        elif self._size:
            body = b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
            room, self._room = self._room, trio.Event()
            room.set()
            self._respond(exchange, 200, body, (*BYTES, *NOT_CACHED))
            if self._going_away:
                self.finish()
        elif self._closing:
            self.finish()
            self._respond(exchange, 204, b"", (*TEXT, *NOT_CACHED))
        else:
            self._respond(exchange, 200, b"", (*TEXT, *NOT_CACHED))  # nothing to say in all that time

    def _no_poll(self) -> None:
        if not self._closing:
            self._on_lost()
        self.finish()

    def finish(self) -> None:
        """There is nothing more to fetch; a poll that waits is told so. Idempotent."""
        if self._finished.is_set():
            return
        self._closing = True
        self._finished.set()
        self._chunks.clear()
        self._size = 0
        self._room.set()
        for timer in self._timers:
            timer.clear()
        self.resume()
        self._wake()
        self._on_finished()

    def _wake(self) -> None:
        if self._poll is not None:
            self._poll.set()

    # -- the transport --------------------------------------------------------

    @property
    def ended(self) -> bool:
        return self._closing

    def use_protocol(self, protocol: HubProtocol, version: int) -> None:
        pass

    def frame(self, payload: bytes) -> bytes:
        return payload

    def write(self, frame: bytes) -> None:
        if not self._closing:
            self._chunks.append(frame)
            self._size += len(frame)

    def flush(self) -> None:
        if self._size:
            self._wake()  # it answers with all that is there when its task runs

    flush_soon = flush

    @property
    def queued(self) -> int:
        return self._size

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._size > _HIGH_WATER:
            await self._room.wait()
        if self._finished.is_set():
            raise ConnectionClosed(1006, "the client polls no more")

    def timer(self, callback: Callable[[], None]) -> Timer:
        timer = self._background.timer(callback)
        self._timers.append(timer)
        return timer

    def close(self, *, going_away: bool = False) -> None:
        if self._closing:
            return
        self._closing = True
        self._going_away = going_away
        self.resume()
        self._wake()
        if going_away and self._poll is None:
            self._idle.set(trio.current_time() + _LAST_POLL)

    def abort(self) -> None:
        self.finish()

    async def closed(self) -> None:
        await self._finished.wait()

    def abandon(self, error: BaseException) -> None:
        self.finish()
