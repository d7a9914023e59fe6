"""The WebSocket that a handler holds.

Owns: how messages, pieces of them and frames are received and sent, and whose turn it is to send.
What arrives, and how the connection ends, is `engine.websocket.link`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from types import SimpleNamespace

import trio

from engine.config import WebSocketConfig
from engine.errors import LocalProtocolError
from engine.transport.exchange import Exchange
from engine.websocket.link import HIGH_WATER, Closed, Item, Link
from engine.wire.websocket.deflate import Agreement
from engine.wire.websocket.events import Frame, MessagePart
from engine.wire.websocket.raw import RawFrameCore

__all__ = ["Closed", "Frame", "WebSocket"]

_YIELD_EVERY = 32  # messages sent and received between two checkpoints that let other tasks run; 0.05 µs each

# What ends an iteration without an error. 1005: no code, as a browser's `close()` without arguments.
_GOOD_CODES = frozenset((1000, 1001, 1005))

_LARGE = 64 * 1024  # bytes, from which on a write more is cheaper than a copy

_NOTHING: deque[bytes] = deque(maxlen=0)  # stands for a backlog: few connections ever have one

Data = str | bytes | bytearray | memoryview


class WebSocket(Link):
    """One open WebSocket.

    `async for message in ws` gives messages as `str` (text) or `bytes` (binary), whole and in order.
    The iteration ends when the connection is closed with 1000, 1001 or no code, by either side, and
    raises `ConnectionClosed` when it ended otherwise. A peer that just vanishes cancels the
    handler's scope as well. Returning from the handler closes with 1000; an error that leaves it
    closes with 1011, or with what `engine.errors.answer_for` says.

    One task may receive; any number may send. There are three ways to receive: whole messages,
    `receive_stream` for messages in pieces, and, where the path was registered with `frames=True`,
    `frames` for the framing itself.

    Attributes:
        head: the request that opened it.
        peer: who is at the other end.
        path_params: what the path template captured.
        subprotocol: the one that was negotiated, or None.
        state: what `authorize` left there, and anything that the handler wants to keep.
        latency: seconds from the last keep-alive ping to its pong; None before the first.
        dropped: messages of `engine.broadcast` that this peer was too slow for.
    """

    __slots__ = (
        "_backlog",
        "_backlog_size",
        "_crowded",
        "_cut_off",
        "_in_pieces",
        "_occupied",
        "_operations",
        "_pieces",
        "_plain",
        "_room_expected",
        "_sending_stream",
        "_turn",
        "dropped",
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
        """See `Link`."""
        super().__init__(
            exchange,
            path_params,
            subprotocol,
            config=config,
            agreed=agreed,
            frames=frames,
            state=state,
            masking_key=masking_key,
            on_messages=on_messages,
            on_closed=on_closed,
        )
        # immutable
        self._plain = agreed is None and masking_key is None  # what is shared is the same for all of these
        # owned by the task that receives
        self._in_pieces = frames  # not everything in the mailbox is a message
        self._pieces: list[str | bytes] = []  # of a message that `receive` has not got whole yet
        self._cut_off = False  # `receive_stream` was left in the middle of a message
        # owned by whoever sends
        self._operations = 0
        self._crowded = False  # more than the high-water mark may be queued: a broadcast has to look
        self._sending_stream = False  # `send_stream` is between two fragments
        self._backlog = _NOTHING  # broadcast, and not written yet: the peer is slow
        self._backlog_size = 0
        self._room_expected = False  # the exchange will call `_room`
        self._occupied = False  # one of these two: `send` must wait for its turn
        self._turn: trio.Event | None = None  # somebody waits for it
        self.dropped = 0

    # -- receiving ------------------------------------------------------------

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        mailbox = self._mailbox
        self._operations += 1
        if not mailbox.items:
            self._operations = 0  # it lets others run while it waits
        elif self._operations % _YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()
        # Where something waits there is nothing to wait for: not even a look whether we are cancelled.
        message = mailbox.items.popleft() if mailbox.items else await mailbox.get()
        if message is None:
            self._conclude()
            if self._closed is None or self._closed.code in _GOOD_CODES:
                raise StopAsyncIteration
            raise self._connection_closed()
        self._waiting_size -= len(message)
        if self._paused:
            self._resume_where_room()
        if self._in_pieces:
            return await self._whole(message)
        return message  # type: ignore[return-value]  # a piece only where `_in_pieces`

    async def receive(self) -> str | bytes:
        """The next message.

        A checkpoint. Cancellation loses no message.

        Raises:
            ConnectionClosed: there are no more, whatever the close code.
            trio.BusyResourceError: another task is receiving.
        """
        message = await self._next()
        if self._in_pieces:
            return await self._whole(message)
        return message  # type: ignore[return-value]  # a piece only where `_in_pieces`

    def receive_stream(self) -> AsyncIterator[str | bytes]:
        """The next message in pieces, as they arrive: `async for piece in ws.receive_stream()`.

        At most about `websocket.max_queue_size` bytes of it are held at a time; whole it may have
        `websocket.max_message_size`. What is left of a message whose iteration was given up is skipped
        by whatever receives next. Cancellation loses no piece.

        Raises:
            LocalProtocolError: the path was registered with `frames=True`.
            ConnectionClosed: while iterating: no message comes, or not the rest of it.
            trio.BusyResourceError: while iterating: another task is receiving.
        """
        self._refuse_frames()
        if not self._in_pieces:
            self._in_pieces = True
            self._core.stream_messages()
            begun = self._core.next_event()
            if isinstance(begun, MessagePart):
                self._waiting_size += len(begun)
                self._mailbox.put(begun)
        return _Pieces(self)

    def frames(self) -> AsyncIterator[Frame]:
        """All frames, as they were sent, until the close frame; pings are answered all the same.

        Ends as the iteration over messages does. Cancellation loses no frame.

        Raises:
            LocalProtocolError: the path was not registered with `frames=True`.
            ConnectionClosed: while iterating: it ended with a code that is no good end.
        """
        if not isinstance(self._core, RawFrameCore):
            raise LocalProtocolError("messages are put together here; register the path with frames=True")
        return _Frames(self)

    async def _next_of_iteration(self) -> Item:
        """What is next, for an iterator."""
        item = await self._mailbox.get()
        if item is None:
            self._conclude()
            if self._closed is None or self._closed.code in _GOOD_CODES:
                raise StopAsyncIteration
            raise self._connection_closed()
        self._consumed(item)
        return item

    async def _next(self) -> Item:
        """What is next in the mailbox.

        Raises:
            ConnectionClosed: nothing.
        """
        item = await self._mailbox.get()
        if item is None:
            self._conclude()
            raise self._connection_closed()
        self._consumed(item)
        return item

    async def _whole(self, item: Item) -> str | bytes:
        """The message that `item` is, or is the first of. Cancellation loses nothing."""
        self._refuse_frames()
        while True:
            if isinstance(item, MessagePart):
                if not self._cut_off:
                    self._pieces.append(item.data)
                if item.finished and not self._cut_off:
                    pieces, self._pieces = self._pieces, []
                    return pieces[0][:0].join(pieces)  # type: ignore[arg-type]  # all are of one type
                self._cut_off = self._cut_off and not item.finished
            else:
                assert not isinstance(item, Frame)  # `_refuse_frames`
                return item
            item = await self._next()

    async def _next_message(self) -> list[str | bytes]:
        """Go to where a message begins: skip the rest of one, or give back what `receive` had of it."""
        while self._cut_off:
            item = await self._next()
            self._cut_off = isinstance(item, MessagePart) and not item.finished
        pieces, self._pieces = self._pieces, []
        self._cut_off = bool(pieces)
        return pieces

    async def _next_piece(self) -> tuple[str | bytes, bool]:
        """A piece of the message, and whether it is the last."""
        item = await self._next()
        if isinstance(item, MessagePart):
            self._cut_off = not item.finished
            return item.data, item.finished
        assert not isinstance(item, Frame)  # `_refuse_frames`
        return item, True

    def _refuse_frames(self) -> None:
        if isinstance(self._core, RawFrameCore):
            raise LocalProtocolError("frames are not put together here; read `frames()`")

    # -- sending --------------------------------------------------------------

    async def send(self, message: Data) -> None:
        """Send a whole message: text for `str`, else binary. Waits while the peer is slow.

        A checkpoint. A cancelled `send` has sent the message whole or not at all.

        Raises:
            ConnectionClosed: the connection is closed, or being closed by either side.
            LocalProtocolError: the text holds lone surrogates.
            TypeError: neither text nor bytes.
        """
        if self._closed is not None or self._occupied:
            await self._wait_for_turn()
        if len(message) < _LARGE:
            frame = self._core.send_message(message)
        else:
            header, frame = self._core.send_large(message)
            self._write(header)
        # Where messages wait, the handler is about to answer those as well: let that join the write.
        room = self._write_soon(frame) if self._mailbox.items else self._write_now(frame)
        # `_written`, once more: a call less for what is called most
        if not room:
            self._crowded = True
            await self._exchange.drain()
            self._flush_control()
            return
        self._operations += 1
        if self._operations % _YIELD_EVERY:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    def try_send(self, message: Data) -> bool:
        """Send a whole message without waiting, or not at all.

        Returns:
            False where the peer is too slow: with this message more than `websocket.max_unsent` bytes
            would wait for it, or others wait already.

        Raises:
            ConnectionClosed: the connection is closed, or being closed by either side.
            LocalProtocolError: the text holds lone surrogates.
            TypeError: neither text nor bytes.
        """
        if self._closed is not None:
            raise self._connection_closed()
        exchange = self._exchange
        queued = exchange.queued
        if self._occupied or (queued and queued + len(message) > self._config.max_unsent):
            return False
        frame = self._core.send_message(message)
        room = self._write_soon(frame) if self._mailbox.items else self._write_now(frame)
        self._crowded = self._crowded or not room
        return True

    async def send_stream(self, chunks: AsyncIterable[Data] | Iterable[Data]) -> None:
        """Send one message in fragments, one for each chunk, as they come. Waits while the peer is slow.

        All chunks are text, or all are bytes; without a chunk nothing is sent. Other messages wait
        until it is finished.

        A checkpoint. Where it is cancelled or `chunks` fails, the message cannot be taken back: the
        connection is closed with 1011.

        Raises:
            ConnectionClosed: the connection is closed, or being closed by either side.
            TypeError: a chunk that is not like the first one.
        """
        if isinstance(chunks, str | bytes | bytearray | memoryview):
            raise TypeError("one chunk is a whole message; use `send`")
        if isinstance(chunks, AsyncGenerator):
            async with aclosing(chunks):
                await self._send_chunks(chunks)
        else:
            await self._send_chunks(chunks if isinstance(chunks, AsyncIterable) else _Chunks(chunks))

    async def _send_chunks(self, chunks: AsyncIterable[Data]) -> None:
        await self._wait_for_turn()
        self._sending_stream = self._occupied = True
        begun: bool | None = None  # whether it is text
        try:
            async for chunk in chunks:
                if self._closed is not None:
                    raise self._connection_closed()
                text = isinstance(chunk, str)
                if begun not in (None, text):
                    raise TypeError("text and bytes in one message; send all chunks as one of them")
                self._write(self._core.send_fragment(chunk, first=begun is None))
                begun = text
                await self._written()
            if begun is not None:
                if self._closed is not None:
                    raise self._connection_closed()
                self._write(self._core.finish_message())
                begun = None
                await self._written()
        finally:
            self._sending_stream = False
            if begun is not None:
                self._drop_backlog()
                self.start_closing(1011, "a message was cut short")
            self._write_backlog()

    async def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        """Send any frame but a close frame, right or wrong. Waits while the peer is slow.

        A checkpoint. A cancelled `send_frame` has sent it whole or not at all.

        Raises:
            ConnectionClosed: the connection is closed, or being closed by either side.
            LocalProtocolError: a close frame, or an opcode or RSV bits beyond what a header can say.
        """
        if self._closed is not None or self._occupied:
            await self._wait_for_turn()
        self._write(self._core.send_frame(opcode, payload, fin=fin, rsv=rsv))
        await self._written()

    async def _written(self) -> None:
        """Something was: bring it on its way, and wait while the peer is slow."""
        exchange = self._exchange
        if exchange.queued > HIGH_WATER:
            self._crowded = True
            await exchange.drain()
            self._flush_control()
            return
        if self._mailbox.items:
            exchange.flush_soon()  # the handler is about to answer those as well
        else:
            exchange.flush()
        self._operations += 1
        if self._operations % _YIELD_EVERY:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    # -- for engine.websocket.broadcast ---------------------------------------

    def share(self, message: Data, made: dict[tuple[int, int, int] | None, bytes]) -> bool:
        """Send a message that goes to many, encoded once for all connections that read the same; see `offer`.

        Args:
            made: its frames so far, by `shared_kind`.
        """
        if self._closed is not None:
            return False
        if self._plain and not self._occupied and not self._crowded:
            # Beside the system call, fetching what is looked at from memory is what this costs.
            frame = made.get(None)
            if frame is None:
                frame = made[None] = self._core.shared_frame(message)
            self._crowded = not self._write_now(frame)
            return True
        core = self._core
        if core.masks:
            return self.offer(core.shared_frame(message))
        kind = core.shared_kind(len(message))
        frame = made.get(kind)
        if frame is None:
            frame = made[kind] = core.shared_frame(message)
        return self.offer(frame)

    def offer(self, frame: bytes) -> bool:
        """Send such a frame, now or later, or do what `websocket.slow_consumer` says. Never waits."""
        exchange = self._exchange
        if not self._occupied and exchange.queued <= HIGH_WATER:
            self._crowded = False
            self._core.sent_shared()
            self._write(frame)
            exchange.flush()
            return True
        config = self._config
        room = config.max_unsent - exchange.queued - self._backlog_size - len(frame)
        if room < 0:
            if config.slow_consumer == "close":
                self.dropped += 1 + len(self._backlog)
                self._drop_backlog()
                self.start_closing(1013, "too slow for what is sent")
                return False
            while room < 0 and self._backlog and config.slow_consumer == "drop_oldest":
                oldest = self._backlog.popleft()
                self._backlog_size -= len(oldest)
                room += len(oldest)
                self.dropped += 1
            if room < 0:
                self.dropped += 1
                return False
        self._occupied = True
        if self._backlog is _NOTHING:
            self._backlog = deque()
        self._backlog.append(frame)
        self._backlog_size += len(frame)
        if not self._sending_stream:
            self._expect_room()
        return True

    # -- taking turns ---------------------------------------------------------

    async def _wait_for_turn(self) -> None:
        """Wait until messages may be written.

        Raises:
            ConnectionClosed: they may not any more.
        """
        await trio.lowlevel.checkpoint()
        while self._closed is None and self._occupied:
            if self._turn is None:
                self._turn = trio.Event()
            await self._turn.wait()
        if self._closed is not None:
            raise self._connection_closed()

    def _write_backlog(self, *, all_of_it: bool = False) -> None:
        """The peer has taken something, or nothing is in the way any more: write what waits, as far as it goes."""
        exchange, backlog = self._exchange, self._backlog
        if self._closed is not None or self._sending_stream:
            return
        if backlog:
            self._core.sent_shared()
        while backlog and (all_of_it or exchange.queued <= HIGH_WATER):
            frame = backlog.popleft()
            self._backlog_size -= len(frame)
            self._write(frame)
        exchange.flush_soon()
        if backlog:
            self._expect_room()
        else:
            self._occupied = False
            self._wake_senders()

    def _expect_room(self) -> None:
        if not self._room_expected:
            self._room_expected = True
            self._exchange.call_when_writable(self._room)

    def _room(self) -> None:
        self._room_expected = False
        self._write_backlog()

    def _drop_backlog(self) -> None:
        self._backlog = _NOTHING
        self._backlog_size = 0

    def _wake_senders(self) -> None:
        if self._turn is not None:
            self._turn.set()
            self._turn = None

    def _before_closing(self) -> None:
        self._write_backlog(all_of_it=True)

    def _after_closing(self) -> None:
        self._drop_backlog()
        self._wake_senders()


class _Pieces:
    """Iterates over one message; an async generator would have to be closed by whoever gives it up."""

    __slots__ = ("_begun", "_finished", "_pieces", "_ws")

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._pieces: list[str | bytes] = []
        self._begun = self._finished = False

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> str | bytes:
        if self._finished:
            raise StopAsyncIteration
        if not self._begun:
            self._pieces = await self._ws._next_message()
            self._begun = True
        if self._pieces:
            return self._pieces.pop(0)
        piece, self._finished = await self._ws._next_piece()
        if self._finished and not piece:
            raise StopAsyncIteration
        return piece


class _Frames:
    """Iterates over frames."""

    __slots__ = ("_ws",)

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws

    def __aiter__(self) -> _Frames:
        return self

    async def __anext__(self) -> Frame:
        frame = await self._ws._next_of_iteration()
        assert isinstance(frame, Frame)  # of a RawFrameCore
        return frame


class _Chunks:
    """Iterates over what is given to `send_stream`, whichever kind of iterable that is."""

    __slots__ = ("_source",)

    def __init__(self, source: Iterable[Data]) -> None:
        self._source = iter(source)

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> Data:
        for chunk in self._source:
            return chunk
        raise StopAsyncIteration
