"""The life of one connection id: from its handshake until no socket carries it any more.

Owns: the tasks that receive, send, ping and watch; the calls under way and their ids; the uploads; and
the one attempt to resume after a cut. Never reconnects with a new id: `HubConnection` does.

Theory of operation. Everything that leaves goes through `post`, synchronously and in order; one task
sends what has gathered as one payload, so cancelling a call never cuts a message in half. What arrives
is dealt with in the receiving task, which never waits for the user. With stateful reconnect a broken
socket is replaced by another, once, at once; messages posted meanwhile are kept by the session.

Spec: HubConnection.ts, HttpConnection.ts and MessageBuffer.ts of the official client.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from engine.errors import ConnectionClosed, EngineError
from engine.signalr.client.calls import Call
from engine.signalr.client.carriers import Carrier
from engine.signalr.client.session import ClientSession, HandshakeDone, SessionFailed, State
from engine.signalr.client.unread import Unread
from engine.wire.signalr.messages import (
    Close,
    Completion,
    HubProtocol,
    Invocation,
    StreamItem,
)
from engine.wire.signalr.negotiate import TransportKind
from engine.wire.signalr.resume import ACK_INTERVAL

if TYPE_CHECKING:
    from engine.signalr.client.handlers import HandlerRunner

__all__ = ["Link", "Timing"]

_log = logging.getLogger(__name__)

_HIGH_WATER = 64 * 1024  # bytes queued before calls wait; as engine.transport.outbox
CLOSE_TIMEOUT = 5.0  # seconds, for the server's half of a close that we began; ASP.NET Core's
_GOODBYE_TIMEOUT = 1.0  # the same where the server began it, or is gone
CANCELED_UPLOAD = "Stream canceled by client."
CONNECTION_GONE = "Invocation canceled due to the underlying connection being closed."
SERVER_TIMEOUT = "Server timeout elapsed without receiving a message from the server."


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    keep_alive_interval: float
    server_timeout: float
    handshake_timeout: float


class _Batch:
    """Frames that leave together."""

    __slots__ = ("error", "frames", "sent", "size")

    def __init__(self, frames: Sequence[bytes] = ()) -> None:
        self.frames = list(frames)
        self.size = 0
        self.sent = trio.Event()
        self.error: ConnectionClosed | None = None


class Link:
    """See the module.

    Args:
        carrier: the first socket.
        reopen: opens another one for the same connection id.
        upkeep: runs as long as the link does.
        on_end: called once, synchronously, when nothing can be sent any more.

    Attributes:
        error: why it ended; None for an end in order.
        may_reconnect: a new connection may be made after this one.
    """

    def __init__(
        self,
        carrier: Carrier,
        session: ClientSession,
        protocol: HubProtocol,
        timing: Timing,
        runner: HandlerRunner,
        unread: Unread,
        reopen: Callable[[], Awaitable[Carrier]],
        upkeep: Callable[[], Awaitable[None]] | None,
        connection_id: str | None,
        on_end: Callable[[], None],
    ) -> None:
        # immutable
        self.protocol = protocol
        self.connection_id = connection_id
        self._session = session
        self._timing = timing
        self._runner = runner
        self._unread = unread
        self._reopen = reopen
        self._on_end = on_end
        # owned by the receiving task
        self._carrier = carrier
        carrier.control_due = self._wake_up
        self._receiving = trio.CancelScope()
        self._lost: Exception | None = None  # why `_receiving` was cancelled
        self.error: Exception | None = None
        self.may_reconnect = True
        self._ended = False
        self._acknowledging = False
        # owned by whoever posts
        self._calls: dict[str, Call] = {}
        self._next_id = 0
        self._batch = _Batch()
        self._wake = trio.Event()
        self._room = trio.Event()  # replaced when somebody waits
        self._cut = False
        self._reading = True  # not held back by what the user's code has not taken
        self._stopping = False
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None  # while it runs
        # tasks that wait for it
        self._early: list[Callable[[], Awaitable[None]]] = [] if upkeep is None else [upkeep]
        # owned by the sending task
        self._sending = trio.CancelScope()
        self._last_sent = self._last_heard = trio.current_time()

    @property
    def transport(self) -> TransportKind:
        """What carries it."""
        return self._carrier.kind

    @property
    def over(self) -> bool:
        """Nothing is sent or received any more."""
        return self._ended

    # -- its life ---------------------------------------------------------------

    async def shake_hands(self) -> None:
        """Say which protocol we speak, and wait for the server to agree.

        Raises:
            HubError: it refuses.
            ConnectionClosed, RemoteProtocolError: it is gone, or is no hub.
        """
        with trio.move_on_after(self._timing.handshake_timeout):
            await self._carrier.send(self._session.handshake_request())
            while (event := self._session.next_event()) is None:
                data = await self._carrier.receive()
                if not data:
                    raise ConnectionClosed(reason="the server closed the connection before the handshake")
                self._session.receive_data(data)
            if isinstance(event, SessionFailed):
                raise event.error
            if not isinstance(event, HandshakeDone):
                raise AssertionError("a session begins with its handshake")
            self._last_sent = self._last_heard = trio.current_time()
            if not self._carrier.keeps_alive:
                # By itself, as the official client: it arms the server's client time-out.
                await self._carrier.send(self.protocol.ping)
            return
        raise ConnectionClosed(
            reason=f"the server did not answer the handshake within {self._timing.handshake_timeout:g} s"
        )

    async def run(self) -> None:
        """Live until it is over; `error` says why. Cancellation closes the socket at once."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._send)
                    for task in self._early:
                        nursery.start_soon(task)
                    if not self._carrier.keeps_alive:
                        nursery.start_soon(self._watch)
                    await self._receive()
                    nursery.cancel_scope.cancel()
        finally:
            self._end(self.error)
            with trio.move_on_after(CLOSE_TIMEOUT if self._stopping else _GOODBYE_TIMEOUT, shield=True):
                await self._carrier.aclose()

    def _start(self, task: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            self._early.append(task)
        else:
            self._nursery.start_soon(task)

    async def stop(self) -> None:
        """End it in order: a Close message first, as the official clients do. `run` then returns."""
        self._stopping = True
        self.may_reconnect = False
        if not self._cut and not self._ended:
            batch = self._post(self.protocol.close(), numbered=False)
            with trio.move_on_after(CLOSE_TIMEOUT):  # a server that reads nothing is not waited for
                await batch.sent.wait()
        self._end(None)

    def abandon(self, error: Exception) -> None:
        """End it at once."""
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        """It is over: whoever waits is told. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self.error = error
        lost = error or ConnectionClosed(reason=CONNECTION_GONE)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(lost)
        self._batch.error = lost if isinstance(lost, ConnectionClosed) else ConnectionClosed(reason=str(lost))
        self._batch.sent.set()
        self._room.set()
        self._scope.cancel()
        self._on_end()

    # -- receiving ----------------------------------------------------------------

    async def _receive(self) -> None:
        self._process()
        while not self.over:
            data = b""
            lost: Exception | None = None
            with trio.CancelScope() as self._receiving:
                try:
                    await self._room_to_read()
                    data = await self._carrier.receive()
                except ConnectionClosed as error:
                    lost = error
            if data:
                self._last_heard = trio.current_time()
                self._session.receive_data(data)
                self._process()
            else:
                await self._carry_on(lost)

    async def _room_to_read(self) -> None:
        if not self._unread.full:
            return
        self._reading = False
        try:
            await self._unread.room()
        finally:
            self._reading = True
            self._last_heard = trio.current_time()

    async def _carry_on(self, lost: Exception | None) -> None:
        """The socket has ended: over another one, or not at all."""
        if not self._ended and not await self._resume():
            self._end(self._lost or lost)

    def _process(self) -> None:
        """Deal with what has arrived."""
        while not self._ended and (event := self._session.next_event()) is not None:
            match event:
                case Completion():
                    call = self._calls.pop(event.invocation_id, None)
                    if call is not None:
                        call.complete(event)
                case StreamItem():
                    call = self._calls.get(event.invocation_id)
                    if call is not None:
                        call.item(event.item)
                case Invocation():
                    self._runner.receive(self, event)
                case Close():
                    self._receive_close(event)
                case SessionFailed():
                    self._end(event.error)
                case _:
                    pass  # a ping
        outgoing = self._session.outgoing
        if outgoing is not None:
            if not outgoing.blocked:
                self._room.set()
            if self._session.ack_due and not self._acknowledging and not self._ended:
                self._acknowledging = True
                self._start(self._acknowledge)

    def _receive_close(self, close: Close) -> None:
        self.may_reconnect = close.allow_reconnect
        error = None
        if close.error is not None:
            error = ConnectionClosed(1000, f"Server returned an error on close: {close.error}", clean=True)
        self._end(error)

    async def _acknowledge(self) -> None:
        """Tell the server what has arrived, at most once a second."""
        await trio.sleep(ACK_INTERVAL)
        self._acknowledging = False
        if not self._cut:  # else what comes over the next socket is the occasion
            self.post(self._session.acknowledge(), numbered=False)

    async def _resume(self) -> bool:
        """Carry on over another socket, if the connection can and did not just fail to."""
        session = self._session
        if not session.stateful or self._stopping or session.state is not State.OPEN:
            return False
        self._cut = True
        session.cut()
        self._sending.cancel()
        await self._carrier.discard()
        _log.debug("connection %s was cut; resuming", self.connection_id)
        with trio.move_on_after(self._timing.handshake_timeout):
            try:
                self._carrier = await self._reopen()
                self._carrier.control_due = self._wake_up
            except EngineError as error:
                _log.debug("connection %s cannot be resumed: %s", self.connection_id, error)
                return False
            waiting, self._batch = self._batch, _Batch(session.resume())
            waiting.sent.set()  # the session has kept what counts
            self._cut = False
            self._lost = None
            self._last_heard = trio.current_time()
            self._wake.set()
            return True
        return False

    def _wake_up(self) -> None:
        self._wake.set()

    # -- sending --------------------------------------------------------------------

    def post(self, frame: bytes, *, numbered: bool = True) -> None:
        """Send a message, in order; discarded once the connection is over."""
        self._post(frame, numbered=numbered)

    def _post(self, frame: bytes, *, numbered: bool = True) -> _Batch:
        batch = self._batch
        if self._ended:
            return batch
        outgoing = self._session.outgoing
        if numbered and outgoing is not None:
            outgoing.sent(frame)
        if not self._cut:
            batch.frames.append(frame)
            batch.size += len(frame)
            self._last_sent = trio.current_time()
            self._wake.set()
        return batch

    async def send(self, frame: bytes) -> None:
        """Send a message; returns when the transport has it, or stateful reconnect keeps it.

        Cancellation does not take it back.

        Raises:
            ConnectionClosed: the connection is over.
        """
        await self.room()
        batch = self._post(frame)
        if self._cut:
            return
        await batch.sent.wait()
        if batch.error is not None:
            raise batch.error

    async def room(self) -> None:
        """Wait until what was posted before has left, more or less.

        Raises:
            ConnectionClosed: the connection is over.
        """
        outgoing = self._session.outgoing
        while not self._ended and (self._batch.size > _HIGH_WATER or (outgoing is not None and outgoing.blocked)):
            if self._room.is_set():  # else somebody waits for it already
                self._room = trio.Event()
            await self._room.wait()
        if self._ended:
            raise ConnectionClosed(reason=str(self.error) if self.error is not None else CONNECTION_GONE)

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if self._cut:
                continue
            batch, self._batch = self._batch, _Batch()
            try:
                with trio.CancelScope() as self._sending:
                    try:
                        await self._carrier.send_control()
                        if batch.frames:
                            await self._carrier.send(b"".join(batch.frames))
                    except ConnectionClosed as error:
                        if not self._session.stateful:
                            batch.error = error
                        self._lose(error)
            finally:
                if self._ended and batch.error is None:
                    batch.error = ConnectionClosed(reason=CONNECTION_GONE)  # it was cancelled in the middle
                batch.sent.set()
                self._room.set()

    def _lose(self, error: Exception) -> None:
        """The socket is of no use: let the receiver find out."""
        if self._lost is None:
            self._lost = error
        self._receiving.cancel()

    async def _watch(self) -> None:
        """Ping when nothing was sent for a while; give up when nothing was heard."""
        timing = self._timing
        while True:
            ping_at = self._last_sent + timing.keep_alive_interval
            give_up_at = self._last_heard + timing.server_timeout
            now = trio.current_time()
            if now >= give_up_at and not self._reading:
                self._last_heard = now
            elif now >= give_up_at:
                self._last_heard = now
                self._lose(ConnectionClosed(reason=SERVER_TIMEOUT))
            elif now >= ping_at:
                self._last_sent = now
                self.post(self.protocol.ping, numbered=False)
            else:
                await trio.sleep_until(min(ping_at, give_up_at))

    # -- calling ----------------------------------------------------------------------

    def take_id(self) -> str:
        """The next id of a call or an upload: they share a counter."""
        number = self._next_id
        self._next_id += 1
        return str(number)

    def start(self, call: Call, invocation_id: str, frame: bytes) -> None:
        """Send an invocation and expect its completion."""
        self._calls[invocation_id] = call
        self.post(frame)

    def cancel(self, invocation_id: str) -> None:
        """Nobody wants the result any more."""
        call = self._calls.pop(invocation_id, None)
        if call is not None:
            self.post(self.protocol.cancel(invocation_id))
            call.stop_uploads()

    def upload(self, call: Call | None, streams: Sequence[tuple[str, AsyncIterable[Any]]]) -> None:
        """Send streams, each in a task of its own, until they or their call end."""
        for stream_id, items in streams:
            scope = trio.CancelScope()
            if call is not None:
                call.uploads.append(scope)
            self._start(partial(self._upload, stream_id, items, scope))

    async def _upload(self, stream_id: str, items: AsyncIterable[Any], scope: trio.CancelScope) -> None:
        frame = self.protocol.error(stream_id, CANCELED_UPLOAD)
        with scope:
            frame = await self._upload_items(stream_id, items)
        self.post(frame)

    async def _upload_items(self, stream_id: str, items: AsyncIterable[Any]) -> bytes:
        """Send all items; the frame that ends the stream."""
        try:
            async with AsyncExitStack() as stack:
                if isinstance(items, AsyncGenerator):
                    await stack.enter_async_context(aclosing(items))
                async for item in items:
                    await self.send(self.protocol.stream_item(stream_id, item))
        except Exception as error:  # the invocation barrier: the user's generator
            if isinstance(error, ConnectionClosed) and self.over:
                return b""  # nobody is left to be told
            _log.error("an upload failed", exc_info=error)
            return self.protocol.error(stream_id, str(error) or type(error).__name__)
        return self.protocol.finished(stream_id)
