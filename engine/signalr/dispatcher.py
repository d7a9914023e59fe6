"""From messages to methods: which invocation runs when, and what its outcome tells the client.

Owns: the queue of invocations of one connection, the slots that run them, streams both ways,
cancellation, and the invocation barrier. Never reads or frames bytes.

Theory of operation. `receive` is called by the reader and never waits: it queues an invocation and
hands it a free slot, if there is one. The first slot belongs to the connection's own task, which
parks in `run` between invocations; so while one invocation at a time is allowed there is no task per
invocation, and no switch between those of one batch. A plain `def` method that finds the connection
idle runs at once, in the reader's task. With `signalr.parallel_invocations` above one, further slots
are tasks that live while there is work. Streams, and invocations with uploads, are tasks of their own
and take no slot; uploads are open from the moment their invocation arrives (`engine.signalr.uploads`).
Reading pauses while many wait, for a moment at a time where none of them starts. An
invocation that waits for a client's result gives its slot up (`Slot.release`), so that what the
client sends meanwhile is not stuck behind it.

What runs a method here is the invocation barrier, one of the four places that catch Exception.

Spec: docs/specs/HubProtocol.md, "Invocations"; DefaultHubDispatcher.cs.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import trio

from engine.errors import HubError, LimitExceeded, LimitKind, RemoteProtocolError
from engine.signalr import texts
from engine.signalr.binding import ArgumentsRejected, HubMethod
from engine.signalr.uploads import Source, Uploads
from engine.transport.mailbox import Mailbox
from engine.wire.signalr.messages import Invocation, StreamInvocation

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.signalr.hub import Hub, HubCallerContext
    from engine.signalr.runtime import HubRuntime
    from engine.signalr.transports import HubTransport
    from engine.wire.signalr.messages import HubProtocol

_PATIENCE = 0.05  # seconds; long for methods that run, short for a client that waits for its cancels
_YIELD_EVERY = 64  # stream items between two checkpoints that let other tasks run


class Owner(Source, Protocol):
    """The connection that invocations come from, and that their outcomes go to."""

    protocol: HubProtocol
    transport: HubTransport
    context: HubCallerContext
    crowded: bool  # the client has not taken what was sent to it

    @property
    def hub(self) -> HubRuntime: ...

    def make_hub(self, slot: Slot | None) -> Hub:
        """A hub object for one invocation."""

    def send(self, payload: bytes, *, more: bool = False) -> None:
        """Write hub messages to the client; ignored when it is gone."""

    async def drain(self) -> None:
        """Wait while the client takes too little; return at once where it is gone."""

    def fail(self, error: Exception) -> None:
        """End the connection for what the client sent or what cannot be sent to it."""

    def log_error(self, method: str, error: Exception) -> None:
        """Log what left user code, once."""


class Slot:
    """The right to run one invocation at a time."""

    __slots__ = ("_dispatcher", "cancelled", "released", "scope")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.released = False  # by the invocation that runs now
        self.cancelled = False  # and with it the scope, which is of no use any more
        self.scope: trio.CancelScope  # from `enter` on

    def enter(self) -> trio.CancelScope:
        """A new scope, for invocations one after the other until one of them is cancelled."""
        self.cancelled = False
        self.scope = trio.CancelScope()
        return self.scope

    def cancel(self) -> None:
        """Cancel the invocation that runs now."""
        self.cancelled = True
        self.scope.cancel()

    def release(self) -> None:
        """Let the next invocation start before this one has ended. Idempotent for an invocation."""
        if not self.released:
            self.released = True
            self._dispatcher.slot_free()


class RateLimit:
    """A bucket of invocations that fills with time."""

    __slots__ = ("_burst", "_filled", "_level", "_rate")

    def __init__(self, settings: SignalRConfig) -> None:
        self._rate = settings.invocation_rate
        self._burst = self._level = float(settings.invocation_burst)
        self._filled = 0.0  # when the level was right

    def take(self, now: float) -> LimitExceeded | None:
        """Take one, or the reason why not."""
        self._level = min(self._burst, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level < 1:
            return LimitExceeded("signalr.invocation_rate", self._rate, kind=LimitKind.RATE, what="rate of invocations")
        self._level -= 1
        return None


class Dispatcher:
    """Runs the invocations of one connection."""

    __slots__ = (
        "_cancellable",
        "_connection",
        "_filtered",
        "_finishing",
        "_idle",
        "_limit",
        "_max_pending",
        "_max_pending_size",
        "_nursery",
        "_paused",
        "_pending",
        "_rate",
        "_running",
        "_settings",
        "_streams",
        "_took",
        "_waiting_tasks",
        "_wakes",
        "_watching",
        "uploads",
    )

    def __init__(self, connection: Owner, settings: SignalRConfig) -> None:
        # immutable
        self._connection = connection
        self._settings = settings
        self._filtered = connection.hub.filters.invoke
        self._limit = settings.parallel_invocations
        self._max_pending = settings.max_pending_invocations
        self._max_pending_size = settings.max_pending_size
        self._rate = None if math.isinf(settings.invocation_rate) else RateLimit(settings)
        self.uploads = Uploads(connection, settings.stream_buffer_capacity, settings.max_upload_backlog)
        # owned by the reader and the slots, which all are synchronous towards each other
        self._pending: deque[Invocation | StreamInvocation] = deque()
        self._running = 0  # slots in use
        self._paused = False
        self._took = False  # something that was pending has started since the last look
        self._watching = False
        self._finishing = False
        self._idle = False  # the connection's task is parked
        self._wakes: Mailbox[bool] = Mailbox()  # for it; True: a slot comes with it
        self._nursery: trio.Nursery | None = None
        self._cancellable: dict[str, Slot | trio.CancelScope] = {}
        self._waiting_tasks: list[tuple[Callable[..., Awaitable[Any]], Sequence[Any]]] = []  # before `run`
        self._streams = 0  # to the client, that run

    # -- for the reader -------------------------------------------------------

    def receive(self, message: Invocation | StreamInvocation) -> None:
        """Run an invocation, now or in its turn."""
        if self._finishing or (self._rate is not None and not self._within_rate(message, self._rate)):
            return
        if message.stream_ids and not self._open_uploads(message):
            return
        if not self._pending and self._nursery is not None:
            if isinstance(message, StreamInvocation):
                self._start_stream(message)
                return
            if message.stream_ids:
                self._start_with_uploads(message)
                return
            connection = self._connection
            # A filter may wait, and so may what has no room for its result.
            if self._idle and not self._running and self._filtered is None and not connection.crowded:
                method = connection.hub.methods.find(message.target)
                if method is not None and method.is_immediate:
                    self._invoke_now(message, method)
                    return
        self._pending.append(message)
        if len(self._pending) >= self._max_pending and not self._paused:
            self._paused = True
            self._connection.hold_reading(self)
            if not self._watching:
                self._watching = True
                self.start_soon(self._watch)
        self._use_free_slot()

    def cancel(self, invocation_id: str) -> None:
        """Cancel a call or stream; unknown ids are ignored."""
        running = self._cancellable.get(invocation_id)
        if running is not None:
            running.cancel()
            return
        for message in self._pending:
            if message.invocation_id == invocation_id:
                self._pending.remove(message)
                self._took_one()
                self.uploads.close(message.stream_ids)
                self._refuse(message, texts.invocation_failed(message.target, ""))
                return

    def start_soon(self, function: Callable[..., Awaitable[Any]], arguments: Sequence[Any] = ()) -> None:
        """Run something beside the invocations, until the connection ends; nothing runs once it has ended."""
        if self._nursery is not None:
            self._nursery.start_soon(self._run_aside, function, arguments)
        elif not self._finishing:
            self._waiting_tasks.append((function, arguments))

    @property
    def more(self) -> bool:
        """Another invocation is about to write."""
        return bool(self._pending)

    def finish(self) -> None:
        """Take nothing more; `run` returns when what was received before has been run."""
        self._finishing = True
        self._resume_reading()
        self._wake(owns_slot=False)

    def abandon(self) -> None:
        """Start nothing more: the connection is gone."""
        self._pending.clear()
        self.finish()

    # -- slots ----------------------------------------------------------------

    async def run(self) -> None:
        """The first slot, in the connection's task. Returns after `finish`; streams are cancelled then.

        Cancellation ends all invocations.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._wakes = Mailbox(self._connection.transport.poller)
            for function, arguments in self._waiting_tasks:
                nursery.start_soon(self._run_aside, function, arguments)
            self._waiting_tasks.clear()
            try:
                slot = Slot(self)
                while not await self._work(slot):
                    pass  # an invocation was cancelled, and the scope with it
            finally:
                self._nursery = None
            nursery.cancel_scope.cancel()

    def slot_free(self) -> None:
        """A slot was given up in the middle of an invocation."""
        self._running -= 1
        self._use_free_slot()

    def _use_free_slot(self) -> None:
        """Hand a free slot to the parked connection task, or else to a new task."""
        if self._pending and self._running < self._limit and self._nursery is not None:
            self._running += 1
            if not self._wake(owns_slot=True):
                self._nursery.start_soon(self._work_aside)

    async def _work(self, slot: Slot) -> bool:
        """Run what is pending and park, in turns; True: finished, False: an invocation was cancelled."""
        with slot.enter():
            while not slot.cancelled:
                if self._pending and self._running < self._limit:
                    self._running += 1
                elif self._finishing and not self._pending and not self._running:
                    return True
                elif not await self._park():
                    continue
                await self._run_pending(slot)
        return False

    async def _work_aside(self) -> None:
        """A further slot: a task that ends when nothing is pending."""
        slot = Slot(self)
        while True:
            with slot.enter():
                await self._run_pending(slot)
            if not self._pending or self._running >= self._limit:
                break
            self._running += 1
        if self._finishing:
            self._wake(owns_slot=False)

    async def _run_pending(self, slot: Slot) -> None:
        """Own a slot: run one invocation after the other, then give the slot back."""
        slot.released = False
        cancellable, find = self._cancellable, self._connection.hub.methods.find
        try:
            while self._pending and not slot.released and not slot.cancelled:
                message = self._take()
                if isinstance(message, StreamInvocation):
                    self._start_stream(message)
                    continue
                if message.stream_ids:
                    self._start_with_uploads(message)
                    continue
                bound = self._bind(message, find(message.target), stream=False)
                if bound is None:
                    continue
                invocation_id = message.invocation_id
                if invocation_id is None or invocation_id in cancellable:
                    await self._call(message, *bound, slot)
                    continue
                cancellable[invocation_id] = slot
                try:
                    await self._call(message, *bound, slot)
                finally:
                    del cancellable[invocation_id]
        finally:
            if not slot.released:
                slot.released = True
                self._running -= 1

    def _take(self) -> Invocation | StreamInvocation:
        message = self._pending.popleft()
        if self._paused:
            self._took_one()
        return message

    def _took_one(self) -> None:
        self._took = True
        if len(self._pending) <= self._max_pending // 2:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._connection.release_reading(self)

    async def _watch(self) -> None:
        """While reading is paused: read on where nothing starts, for cancels are behind what waits, and pings."""
        while self._paused:  # if it was paused anew meanwhile, that is looked at as well
            self._took = False
            await trio.sleep(_PATIENCE)
            stuck = not self._took and self._paused
            if stuck and sum(memoryview(each.arguments).nbytes for each in self._pending) < self._max_pending_size:
                self._resume_reading()  # until the next that has to wait
        self._watching = False

    async def _park(self) -> bool:
        """Wait for an invocation; True: a slot comes with it."""
        self._idle = True
        try:
            return bool(await self._wakes.get())
        finally:
            self._idle = False

    def _wake(self, *, owns_slot: bool) -> bool:
        idle, self._idle = self._idle, False
        if idle:
            self._wakes.put(owns_slot)
        return idle

    # -- invocations ----------------------------------------------------------

    async def _call(self, message: Invocation, method: HubMethod, arguments: Sequence[Any], slot: Slot | None) -> None:
        """Run one call; its outcome is the completion, whatever the method raises."""
        connection = self._connection
        filtered = self._filtered
        try:
            hub = connection.make_hub(slot)
            if filtered is not None:
                result = await filtered(hub, method, arguments)
            else:
                result = method.function(hub, *arguments)
                if method.is_async:
                    result = await result
        except trio.Cancelled:
            self._refuse(message, texts.invocation_failed(method.wire_name, ""))
            raise
        except Exception as error:  # the invocation barrier
            self._fail(message, method, error)
        else:
            self._complete(message, result)
        if connection.crowded:
            await connection.drain()

    def _invoke_now(self, message: Invocation, method: HubMethod) -> None:
        """`_call` for a plain `def` method, in the reader's task."""
        bound = self._bind(message, method, stream=False)
        if bound is None:
            return
        try:
            result = method.function(self._connection.make_hub(None), *bound[1])
        except Exception as error:  # the invocation barrier
            self._fail(message, method, error)
        else:
            self._complete(message, result)

    def _bind(
        self, message: Invocation | StreamInvocation, method: HubMethod | None, *, stream: bool
    ) -> tuple[HubMethod, Sequence[Any]] | None:
        """The method that was found and its arguments, or None where the client was told why not."""
        connection = self._connection
        if method is None:
            refusal: str | None = texts.unknown_method(message.target)
        else:
            try:
                arguments: Sequence[Any] = method.bind(connection.protocol, message.arguments)
            except ArgumentsRejected as error:
                detail = f" {error}" if connection.hub.detailed_errors else ""
                refusal = texts.cannot_invoke(method.wire_name, detail)
            except RemoteProtocolError as error:
                connection.fail(error)
                return None
            else:
                if method.is_plain and not stream and not message.stream_ids:
                    return method, arguments
                refusal = self._refusal(message, method, stream=stream)
                if refusal is None:
                    if method.streams:
                        uploads = [self.uploads.find(each) for each in message.stream_ids]
                        arguments = method.with_uploads(
                            tuple(arguments), connection.protocol, [each for each in uploads if each is not None]
                        )
                    return method, arguments
        if message.stream_ids:
            self.uploads.close(message.stream_ids)
        self._refuse(message, refusal)
        return None

    def _refusal(self, message: Invocation | StreamInvocation, method: HubMethod, *, stream: bool) -> str | None:
        """Why an invocation whose arguments fit is not run; in the order of ASP.NET Core's checks."""
        name = method.wire_name
        if method.checks and not self._is_allowed(method):
            return texts.unauthorized(name)
        if method.is_stream is not stream:
            return texts.plain_method(name) if stream else texts.streaming_method(name)
        if len(message.stream_ids) != len(method.streams):
            return texts.wrong_streams(name, len(message.stream_ids), len(method.streams))
        return None

    def _is_allowed(self, method: HubMethod) -> bool:
        context = self._connection.context
        try:
            return all(check(context) for check in method.checks)
        except Exception as error:  # the invocation barrier: who cannot be checked may not
            self._connection.log_error(method.wire_name, error)
            return False

    def _complete(self, message: Invocation, result: Any) -> None:
        if message.invocation_id is None:
            return
        connection = self._connection
        try:
            payload = connection.protocol.result(message.invocation_id, result)
        except Exception as error:  # the invocation barrier: a result that has no form on the wire
            connection.log_error(message.target, error)
            connection.fail(error)
        else:
            connection.send(payload)

    def _fail(self, message: Invocation, method: HubMethod, error: Exception) -> None:
        connection = self._connection
        connection.log_error(method.wire_name, error)
        detail = texts.method_detail(error, detailed=connection.hub.detailed_errors)
        self._refuse(message, texts.invocation_failed(method.wire_name, detail))

    def _refuse(self, message: Invocation | StreamInvocation, text: str | None) -> None:
        """Answer with an error, unless nobody waits for an answer."""
        if message.invocation_id is not None and text is not None:
            connection = self._connection
            connection.send(connection.protocol.error(message.invocation_id, text))

    async def _run_aside(self, function: Callable[..., Awaitable[Any]], arguments: Sequence[Any]) -> None:
        try:
            await function(*arguments)
        except Exception as error:  # the invocation barrier: a task that an invocation left behind
            self._connection.log_error(getattr(function, "__name__", "a background task"), error)

    # -- limits ---------------------------------------------------------------

    def _within_rate(self, message: Invocation | StreamInvocation, rate: RateLimit) -> bool:
        error = rate.take(trio.current_time())
        if error is not None:
            self._refuse(message, texts.cannot_invoke(message.target, f" HubException: {error}"))
        return error is None

    def _has_room(self, message: Invocation | StreamInvocation, count: int) -> bool:
        """So many further streams may be open; else the client is told."""
        limit, observed = self._settings.max_streams, len(self.uploads) + self._streams + count
        if observed <= limit:
            return True
        error = LimitExceeded("signalr.max_streams", limit, observed, kind=LimitKind.CAPACITY, what="open streams")
        self._refuse(message, texts.cannot_invoke(message.target, f" HubException: {error}"))
        return False

    # -- streams --------------------------------------------------------------

    def _open_uploads(self, message: Invocation | StreamInvocation) -> bool:
        """Items may be behind the invocation in the same read, long before it runs."""
        if not self._has_room(message, len(message.stream_ids)):
            return False
        try:
            self.uploads.open(message.stream_ids)
        except HubError as error:
            self._refuse(message, texts.invocation_failed(message.target, texts.detail(error, detailed=False)))
            return False
        return True

    def _start_with_uploads(self, message: Invocation) -> None:
        bound = self._bind(message, self._connection.hub.methods.find(message.target), stream=False)
        if bound is None:
            return
        if self._nursery is None:
            raise AssertionError("invocations start only while the dispatcher runs")
        scope = trio.CancelScope()
        if message.invocation_id is not None:
            self._cancellable.setdefault(message.invocation_id, scope)
        self._nursery.start_soon(self._call_with_uploads, message, scope, *bound)

    async def _call_with_uploads(
        self, message: Invocation, scope: trio.CancelScope, method: HubMethod, arguments: Sequence[Any]
    ) -> None:
        """A call that reads streams: in a task of its own, and in no slot."""
        invocation_id = message.invocation_id
        try:
            with scope:
                await self._call(message, method, arguments, None)
        finally:
            if invocation_id is not None and self._cancellable.get(invocation_id) is scope:
                del self._cancellable[invocation_id]
            self.uploads.close(message.stream_ids)

    def _start_stream(self, message: StreamInvocation) -> None:
        # Synchronous up to here: an id is taken, and can be cancelled, from the moment of its arrival.
        bound = self._bind(message, self._connection.hub.methods.find(message.target), stream=True)
        if bound is None:
            return
        if message.invocation_id in self._cancellable:
            self._refuse(message, texts.id_in_use(message.invocation_id))
        elif self._has_room(message, 1):
            if self._nursery is None:
                raise AssertionError("streams start only while the dispatcher runs")
            scope = self._cancellable[message.invocation_id] = trio.CancelScope()
            self._streams += 1
            self._nursery.start_soon(self._stream, message, scope, *bound)
            return
        self.uploads.close(message.stream_ids)

    async def _stream(
        self, message: StreamInvocation, scope: trio.CancelScope, method: HubMethod, arguments: Sequence[Any]
    ) -> None:
        """Send the items of one stream; a cancelled one ends without an error."""
        connection, invocation_id = self._connection, message.invocation_id
        filtered = self._filtered
        try:
            with scope:
                hub = connection.make_hub(None)
                if filtered is not None:
                    items = await filtered(hub, method, arguments)
                else:
                    items = method.function(hub, *arguments)
                    if inspect.isawaitable(items):
                        items = await items
                await self._send_items(invocation_id, items)
        except Exception as error:  # the invocation barrier
            connection.log_error(method.wire_name, error)
            text = texts.stream_failed(texts.method_detail(error, detailed=connection.hub.detailed_errors))
            connection.send(connection.protocol.error(invocation_id, text))
        else:
            connection.send(connection.protocol.finished(invocation_id))
        finally:
            self._streams -= 1
            del self._cancellable[invocation_id]
            self.uploads.close(message.stream_ids)

    async def _send_items(self, invocation_id: str, items: AsyncIterable[Any]) -> None:
        connection, encode = self._connection, self._connection.protocol.stream_item
        operations = 0
        async with aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext():
            async for item in items:
                connection.send(encode(invocation_id, item), more=True)
                operations += 1
                if connection.crowded:
                    await connection.drain()
                if operations % _YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()
