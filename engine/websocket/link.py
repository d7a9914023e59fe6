"""One exchange in raw mode as a WebSocket: what arrives, and how it ends.

Owns: the way of messages from the reader into the queue in front of the handler, the queue's limits,
keep-alive pings, and the closing handshake's time-outs. What bytes mean is
`engine.wire.websocket.core`'s; what handlers call is `engine.websocket.connection`'s; how a WebSocket
begins is `engine.websocket.endpoint`'s.

Theory of operation. The driver's reader calls `_receive_data` synchronously for each read. That
answers pings, puts messages in the mailbox, and pauses the reader while the handler is behind; it
never waits for the handler. The handler writes straight into the exchange. Either side, or a timer,
may begin the closing handshake; `_finish` is the one place where it ends, and runs once. Where the
peer closes behind messages that the handler has not seen, our answer waits until it has answered them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import trio

from engine.config import WebSocketConfig
from engine.errors import ConnectionClosed, answer_for
from engine.transport.exchange import CancelReason, Exchange, Fields, Peer, RequestHead
from engine.transport.mailbox import Mailbox
from engine.wire.websocket.core import WebSocketCore
from engine.wire.websocket.deflate import Agreement
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, Frame, MessagePart, Ping, Pong
from engine.wire.websocket.frames import is_close_code
from engine.wire.websocket.raw import RawFrameCore

HIGH_WATER = 64 * 1024  # bytes queued before a sender waits; as in `engine.transport.outbox`

# Unions in isinstance are built anew at each call.
_MESSAGE = (str, bytes)
_QUEUED = (str, bytes, MessagePart, Frame)

Item = str | bytes | MessagePart | Frame
"""What can be in the mailbox; a message only, unless it was asked for otherwise."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a WebSocket ended, or is about to.

    Attributes:
        code: that of the close frame which came first, the peer's or ours; 1005 where the peer's had
            none, 1006 where there was none.
        reason: its text, or what went wrong.
        clean: the closing handshake is complete.
    """

    code: int
    reason: str
    clean: bool


class Link:
    """What `WebSocket` is made of below the methods for handlers; see the module's theory of operation."""

    __slots__ = (
        "_closed",
        "_closing",
        "_config",
        "_core",
        "_ending",
        "_exchange",
        "_finished",
        "_heard",
        "_mailbox",
        "_max_queue",
        "_max_queue_size",
        "_on_closed",
        "_on_messages",
        "_over",
        "_paused",
        "_ping_count",
        "_ping_sent",
        "_timer",
        "_waiting_size",
        "_write",
        "_write_now",
        "_write_soon",
        "head",
        "latency",
        "path_params",
        "peer",
        "state",
        "subprotocol",
    )

    def __init__(
        self,
        exchange: Exchange,
        path_params: Mapping[str, str] | None = None,
        subprotocol: str | None = None,
        *,
        config: WebSocketConfig | None = None,
        agreed: Agreement | None = None,
        frames: bool = False,
        state: SimpleNamespace | None = None,
        masking_key: Callable[[], bytes] | None = None,
        on_messages: Callable[[list[str | bytes]], None] | None = None,
        on_closed: Callable[[Closed], None] | None = None,
    ) -> None:
        """What is switched to raw bytes becomes a WebSocket.

        Args:
            config: instead of the server's settings.
            agreed: the compression that was negotiated.
            frames: hand out frames instead of messages.
            state: becomes `state`.
            masking_key: we are the client; see `engine.wire.websocket.core`.
            on_messages: for a protocol on top: called synchronously, by the reader, with the messages of
                one read. There is nothing to receive then; it must not raise or block, and whoever
                gives it pauses the exchange itself.
            on_closed: called once when the peer closed, or vanished, before we began to close.
        """
        # immutable
        self.head: RequestHead = exchange.head
        self.peer: Peer = exchange.peer
        self.path_params: Mapping[str, str] = path_params or {}
        self.subprotocol = subprotocol
        self._exchange = exchange
        self._config = config or exchange.config.websocket
        self._on_messages = on_messages
        self._on_closed = on_closed
        self._max_queue = self._config.max_queue
        self._max_queue_size = self._config.max_queue_size
        self._write: Callable[[bytes], None] = exchange.write
        self._write_now: Callable[[bytes], bool] = exchange.write_now  # `start` has better ones
        self._write_soon: Callable[[bytes], bool] = exchange.write_soon
        # owned by the reader
        self._core = (
            RawFrameCore(self._config, masking_key=masking_key)
            if frames
            else WebSocketCore(self._config, agreed, masking_key=masking_key)
        )
        self._mailbox: Mailbox[Item] = Mailbox(exchange.poller)
        self._waiting_size = 0  # of the messages in the mailbox, by len()
        self._paused = False
        self._heard = False  # anything, since the last keep-alive ping
        # owned by the timer, which is for keep-alive while open, and then for the closing handshake
        self._timer = exchange.timer(self._time_out)
        self._ping_count = 0
        self._ping_sent: float | None = None  # of the ping that waits for its pong
        self.latency: float | None = None
        # owned by the handler
        self.state = state if state is not None else SimpleNamespace()
        # owned by whoever closes
        self._closing = False  # the closing handshake was begun by us
        self._closed: Closed | None = None
        self._ending: Closed | None = None  # what `_closed` becomes once the handler has seen all messages
        self._finished = trio.Event()
        self._over = False  # the same: asking an event costs a call

    @property
    def headers(self) -> Fields:
        """The request's header fields: pairs of bytes, names in lower case."""
        return self.head.headers

    @property
    def closed(self) -> Closed | None:
        """None while messages can be sent; afterwards how it ended, or how it is being closed."""
        return self._closed

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close and wait for the peer's half, at most `websocket.close_timeout`.

        Messages that were received before can still be read, later ones are discarded. Does nothing
        but wait if it is closed already, by whichever side. A reason is cut at 123 bytes of UTF-8.

        A checkpoint. Cancellation stops the waiting, not the closing.

        Raises:
            LocalProtocolError: `code` may not be sent; 1000 and 3000 to 4999 are an application's.
        """
        self.start_closing(code, reason)
        await self._finished.wait()

    async def wait_closed(self) -> Closed:
        """Wait for the end, whichever side brings it about: for a handler that waits for something else to send.

        What the peer sends must be received meanwhile, by another task: its close frame is behind it.

        A checkpoint. Cancellation changes nothing.
        """
        await self._finished.wait()
        assert self._closed is not None  # `_finish` comes after that
        return self._closed

    def start_closing(self, code: int = 1000, reason: str = "") -> None:
        """`close` without the waiting; idempotent."""
        self._conclude()
        if self._closed is not None:
            return
        self._before_closing()
        self._core.send_close(code, reason)
        self._closing = True
        self._closed = Closed(code, reason, clean=False)
        self._mailbox.end()
        self._timer.set(trio.current_time() + self._config.close_timeout)
        self._flush_control()
        self._resume()  # the peer's close frame is behind what was held back
        self._after_closing()

    # -- for the endpoint -----------------------------------------------------

    def start(self) -> None:
        """Begin to receive. The head of the response is written; early data is taken at once."""
        exchange = self._exchange
        self._write_now, self._write_soon = exchange.writers()
        exchange.on_draining = self._drain
        self._timer.set(trio.current_time() + self._config.ping_interval)
        exchange.attach(self._receive_data)

    def fail(self, error: BaseException) -> None:
        """Close for what left the handler, and do not wait for the peer."""
        if self._finished.is_set():
            return
        exchange = self._exchange
        if isinstance(error, Exception):
            answer = answer_for(error)
            shown = answer.public or exchange.config.detailed_errors
            code = answer.websocket_code if is_close_code(answer.websocket_code) else 1011
            self.start_closing(code, str(error) if shown else "")
        elif exchange.cancel_reason is CancelReason.DEADLINE:
            self.start_closing(1008, "the time for this connection is over")
        elif exchange.cancel_reason in (None, CancelReason.SHUTDOWN):
            self.start_closing(1001, "the server is stopping")
        elif self._closed is None:
            self._closed = self._ending or Closed(1006, exchange.cancel_reason.value, clean=False)
        self._finish()

    # -- receiving ------------------------------------------------------------

    def _receive_data(self, data: bytes) -> None:
        """The sink: everything the peer sent goes through here, synchronously."""
        if self._over:
            return
        core, mailbox = self._core, self._mailbox
        self._heard = True
        if data:
            messages = core.receive_messages(data)
            if messages is not None:
                # A read that held nothing else, as nearly all do.
                if self._closing:
                    pass
                elif self._on_messages is not None:
                    self._on_messages(messages)
                else:
                    for message in messages:
                        self._waiting_size += len(message)
                    mailbox.put_all(messages)
                    if len(mailbox.items) >= self._max_queue or self._waiting_size >= self._max_queue_size:
                        self._pause()
                return
        else:
            core.receive_eof()
        if self._on_messages is not None:
            self._call_back(self._on_messages)
            return
        while (event := core.next_event()) is not None:
            if isinstance(event, _QUEUED):
                if not self._closing:
                    self._waiting_size += len(event)
                    mailbox.put(event)
            elif not isinstance(event, Ping):
                self._receive_event(event)
        self._flush_control()
        if len(mailbox.items) >= self._max_queue or self._waiting_size >= self._max_queue_size:
            self._pause()

    def _pause(self) -> None:
        """The handler is behind: read no more, for now."""
        if not self._paused and self._closed is None:
            self._paused = True
            self._exchange.pause_receiving()

    def _call_back(self, on_messages: Callable[[list[str | bytes]], None]) -> None:
        """Hand over what one read brought, in order: messages in batches between other events."""
        batch: list[str | bytes] = []
        while (event := self._core.next_event()) is not None:
            if isinstance(event, _MESSAGE):
                batch.append(event)
                continue
            assert not isinstance(event, MessagePart | Frame)  # whole messages are what is called back with
            if batch and not self._closing:
                on_messages(batch)
                batch = []
            if not isinstance(event, Ping):
                self._receive_event(event)
        if batch and not self._closing:
            on_messages(batch)
        self._flush_control()

    def _receive_event(self, event: Pong | CloseReceived | ConnectionFailed) -> None:
        if isinstance(event, Pong):
            self._receive_pong(event.payload)
            return
        if self._closed is not None:
            self._closed = Closed(self._closed.code, self._closed.reason, clean=isinstance(event, CloseReceived))
            self._finish()
            return
        lost = False
        if isinstance(event, CloseReceived):
            self._ending = Closed(event.code, event.reason, clean=True)
        elif isinstance(event.error, ConnectionClosed):
            self._ending = Closed(event.code, event.error.reason, clean=False)
            lost = True
        else:
            self._ending = Closed(event.code, str(event.error), clean=False)
        self._mailbox.end()
        if len(self._mailbox) and not lost:
            self._timer.set(trio.current_time() + self._config.close_timeout)
            return
        self._conclude()
        if lost:
            self._exchange.cancel(CancelReason.CONNECTION_LOST)

    def _conclude(self) -> None:
        """Answer the peer's close frame, or its mistake: the handler has answered what came before."""
        if self._ending is not None and self._closed is None:
            self._report_closed(self._ending)
            self._finish()

    def _report_closed(self, closed: Closed) -> None:
        self._closed = closed
        self._after_closing()
        if self._on_closed is not None:
            self._on_closed(closed)

    def _consumed(self, message: Item) -> None:
        self._waiting_size -= len(message)
        if self._paused:
            self._resume_where_room()

    def _resume_where_room(self) -> None:
        if len(self._mailbox.items) <= self._max_queue // 2 and self._waiting_size <= self._max_queue_size // 2:
            self._resume()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._exchange.resume_receiving()

    def _flush_control(self, *, held: bool = True) -> None:
        """Send the core's control frames.

        Args:
            held: while the peer reads nothing, let the core keep the pongs, of which it keeps the latest.
        """
        exchange = self._exchange
        if held and self._closed is None and exchange.queued > HIGH_WATER:
            return
        data = self._core.data_to_send(hold_answer=self._closed is None)
        if data:
            self._write(data)
            exchange.flush()

    # -- time -----------------------------------------------------------------

    def _time_out(self) -> None:
        """The timer: a ping is due, its answer is overdue, or the peer's close frame is."""
        now, config = trio.current_time(), self._config
        if self._closing:
            self._finish()
        elif self._ending is not None:
            self._conclude()
        elif self._ping_sent is None:
            self._ping_count += 1
            self._core.send_ping(self._ping_payload())
            self._flush_control(held=False)
            self._ping_sent, self._heard = now, False
            self._timer.set(now + config.ping_timeout)
        elif self._heard or self._paused or self._exchange.queued:
            # It lives: its pong may be behind a long message or behind what we do not read, or our ping
            # behind what it has not taken yet, which server.write_timeout watches.
            self._ping_sent = None
            self._timer.set(now + config.ping_interval)
        else:
            self.start_closing(1011, "no answer to a keep-alive ping")
            self._exchange.cancel(CancelReason.CONNECTION_LOST)
            self._finish()

    def _ping_payload(self) -> bytes:
        return self._ping_count.to_bytes(4, "big")

    def _receive_pong(self, payload: bytes) -> None:
        if self._ping_sent is not None and not self._closing and payload == self._ping_payload():
            now = trio.current_time()
            self.latency = now - self._ping_sent
            self._timer.set(max(now, self._ping_sent + self._config.ping_interval))
            self._ping_sent = None

    # -- the end --------------------------------------------------------------

    def _drain(self) -> None:
        self.start_closing(1001, "the server is stopping")

    def _finish(self) -> None:
        """The closing handshake is over, well or badly: nothing is received or sent from here on."""
        if self._finished.is_set():
            return
        self._finished.set()
        self._over = True
        self._after_closing()
        self._timer.clear()
        self._mailbox.end()
        self._flush_control()
        self._resume()
        self._exchange.on_draining = None
        self._exchange.close()

    def _connection_closed(self) -> ConnectionClosed:
        closed = self._closed or Closed(1006, "", clean=False)
        return ConnectionClosed(closed.code, closed.reason, clean=closed.clean)

    # -- for a subclass -------------------------------------------------------

    def _before_closing(self) -> None:
        """Our close frame is about to be written."""

    def _after_closing(self) -> None:
        """`closed` is set: no message can be sent any more."""
