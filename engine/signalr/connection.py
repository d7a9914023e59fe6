"""One hub connection, from the first byte of its handshake to `on_disconnected`.

Owns: the connection's state and every Close message. Never knows what carries the bytes (a
`HubTransport` does), how methods run (the `Dispatcher` does) nor what time it is (`Liveness` does).

Theory of operation. The transport calls `receive` synchronously with what arrived. The handshake,
pings, completions, cancels and closes are handled right there, whatever methods are running;
invocations go to the dispatcher. `run` is the connection's own task: it waits for the handshake,
runs `on_connected`, is the dispatcher's first slot, and runs `on_disconnected`.

It ends by the client (a Close, or a clean end of the transport: what was received before still runs,
within a short grace), by `close` (our decision: a Close message, running methods are cancelled), by
`start_draining` (the server stops: running methods finish, then Close with allowReconnect), or
because the client is lost. With stateful reconnect a lost WebSocket is no lost client: `reattached`
tells that another one took its place.

Spec: docs/specs/HubProtocol.md; HubConnectionContext.cs, HubConnectionHandler.cs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from engine.errors import ConnectionClosed, LimitExceeded, LimitKind
from engine.signalr import texts
from engine.signalr.client_results import ClientResults
from engine.signalr.dispatcher import Dispatcher, Slot
from engine.signalr.hub import Hub, HubCallerContext
from engine.signalr.liveness import Liveness
from engine.signalr.resume import ResumableTransport
from engine.signalr.sender import HubSender
from engine.signalr.state import State
from engine.wire.signalr.handshake import CANCELED, HandshakeReader, HandshakeRefused
from engine.wire.signalr.messages import (
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Malformed,
    MessageReader,
    Ping,
    SequenceStart,
    StreamInvocation,
    StreamItem,
)

if TYPE_CHECKING:
    from engine.signalr.auth import User
    from engine.signalr.runtime import HubRuntime
    from engine.signalr.transports import HubTransport
    from engine.transport.exchange import RequestHead

_log = logging.getLogger("engine.signalr")

_GRACE = 1.0  # seconds for invocations that were received before the client closed


class HubConnection(HubSender):
    """See the module.

    Attributes:
        connection_id: public.
        user: who the client is now; None for an anonymous one.
        user_id: who it was when the connection began: what `clients.user` goes by.
        groups: what it is a member of; the lifetime manager's.
    """

    context: HubCallerContext

    def __init__(
        self,
        hub: HubRuntime,
        head: RequestHead,
        connection_id: str,
        user_id: str | None,
        outbox_size: int,
        user: User | None = None,
    ) -> None:
        super().__init__(hub, outbox_size)
        # immutable
        self.head = head
        self.connection_id = connection_id
        self.user_id = user_id
        # owned by the reader
        self._reader: MessageReader | None = None
        self._handshake: HandshakeReader
        self._holds: set[object] = set()  # who wants nothing read for now
        self._results = ClientResults()
        # owned by whoever ends it
        self._error: Exception | None = None  # for on_disconnected
        self._goodbye: bytes | None = None  # a Close that waits for the dispatcher to finish
        # owned by the connection task
        self.groups: set[str] = set()
        self._dispatcher = Dispatcher(self, hub.settings)
        self._handshaken = trio.Event()
        self._scope = trio.CancelScope()
        self._liveness: Liveness
        self._resume: ResumableTransport | None = None  # once stateful reconnect is in use
        # owned by whoever authenticates
        self.user = user

    def open(self, transport: HubTransport) -> None:
        """Bytes can come from now on."""
        self.transport = transport
        self.context = HubCallerContext(self)
        self._handshake = HandshakeReader(
            self.hub.protocols, transport.formats, self.settings.max_message_size, detailed=self.hub.detailed_errors
        )
        self._liveness = Liveness(self, self.settings, transport)
        self._liveness.watch_expiry(self.user)

    @property
    def is_open(self) -> bool:
        """The handshake is done and nobody has ended the connection."""
        return self._state.sending

    @property
    def is_over(self) -> bool:
        """Somebody has ended the connection."""
        return self._state in (State.CLOSING, State.CLOSED)

    def reattached(self) -> None:
        """Another WebSocket carries on: half a message that came over the one before is discarded."""
        self._reader = self.protocol.reader(self.settings.max_message_size)
        self._liveness.heard = self.sent = trio.current_time()

    # -- the connection's task ------------------------------------------------

    async def run(self) -> None:
        """Live. Cancellation means that the client is lost: `on_disconnected` still runs, shielded."""
        try:
            await self._handshaken.wait()
            if self._state is not State.CLOSED:
                await self._serve()
            await self.transport.closed()
        finally:
            self._forget()

    async def _serve(self) -> None:
        welcomed = False
        try:
            with self._scope:
                welcomed = await self._welcome()
                if welcomed:
                    await self._dispatch()
        finally:
            self._say_goodbye()
            # R5: a shield always carries a deadline.
            if welcomed:
                with trio.move_on_after(self.settings.disconnect_timeout, shield=True):
                    await self._farewell()
            self.hub.manager.disconnected(self)

    async def _dispatch(self) -> None:
        if self._backlog is None:
            await self._dispatcher.run()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._backlog.work_off, self.transport)
            await self._dispatcher.run()
            nursery.cancel_scope.cancel()

    async def _welcome(self) -> bool:
        try:
            hub, connected = self.make_hub(None), self.hub.filters.connected
            await (hub.on_connected() if connected is None else connected(hub))
        except Exception as error:  # the invocation barrier
            self.log_error("on_connected", error)
            self.close(error, allow_reconnect=False)
            return False
        return True

    async def _farewell(self) -> None:
        try:
            hub, disconnected = self.make_hub(None), self.hub.filters.disconnected
            await (hub.on_disconnected(self._error) if disconnected is None else disconnected(hub, self._error))
        except Exception as error:  # the invocation barrier
            self.log_error("on_disconnected", error)

    def make_hub(self, slot: Slot | None) -> Hub:
        """A hub object for one invocation."""
        hub = self.hub.factory()
        hub._connection = self
        hub._turn = slot
        return hub

    def _forget(self) -> None:
        self._state = State.CLOSED
        self.hub.manager.disconnected(self)
        self._liveness.stop()
        if self._backlog is not None:
            self._backlog.clear()
        self._lose_calls()

    # -- receiving ------------------------------------------------------------

    def receive(self, chunks: list[bytes]) -> None:
        """Take what one read brought. Synchronous; never waits for a method."""
        self._begin_batch()
        if self._liveness.armed:
            self._liveness.heard = self._now()
        for chunk in chunks:
            reader = self._reader
            if reader is None:
                self._receive_handshake(chunk)
            else:
                reader.receive_data(chunk)
                self._receive_messages(reader)
        self._end_batch()

    def _receive_handshake(self, data: bytes) -> None:
        if self._state is not State.HANDSHAKE:
            return
        self._handshake.receive_data(data)
        event = self._handshake.next_event()
        if event is None:
            return
        if isinstance(event, HandshakeRefused):
            self._refuse(event)
            return
        self.transport.use_protocol(event.protocol, event.version)
        if isinstance(self.transport, ResumableTransport) and self.transport.resumable:
            self._resume = self.transport
        self._joins = self._resume is None and self._backlog is None  # which count messages by frames
        self.protocol = event.protocol
        self._reader = event.protocol.reader(self.settings.max_message_size)
        self._state = State.OPEN
        # Before the answer: who has it knows that nothing is missed from here on.
        self.hub.manager.connected(self)
        self._send_control(event.answer)
        self._liveness.handshaken()
        self._handshaken.set()
        if event.rest:
            self._reader.receive_data(event.rest)
            self._receive_messages(self._reader)

    def _refuse(self, refusal: HandshakeRefused) -> None:
        self._state = State.CLOSED
        self.transport.write_control(self.transport.frame(refusal.answer))
        self.transport.close()
        self._handshaken.set()

    def _receive_messages(self, reader: MessageReader) -> None:
        resume = self._resume
        while self._state.sending:
            message = reader.next_event()
            if message is None:
                return
            if resume is not None and not isinstance(message, Malformed) and not resume.is_new(message):
                continue
            kind = type(message)
            if kind is Invocation or kind is StreamInvocation:
                self._dispatcher.receive(message)  # type: ignore[arg-type]  # mypy cannot narrow by `kind`
            else:
                self._RECEIVE[kind](self, message)

    def _receive_ping(self, _message: Ping) -> None:
        self._liveness.pinged()

    def _receive_item(self, message: StreamItem) -> None:
        self._dispatcher.uploads.receive(message.invocation_id, message.item)

    def _receive_completion(self, message: Completion) -> None:
        if self._dispatcher.uploads.complete(message.invocation_id, message.error):
            return
        self._results.complete(message)

    def _receive_cancel(self, message: CancelInvocation) -> None:
        self._dispatcher.cancel(message.invocation_id)

    def _receive_close(self, _message: Close) -> None:
        self._goodbye = self.protocol.close()
        self._end_by_client()

    def _receive_malformed(self, message: Malformed) -> None:
        self.fail(message.error)

    def _receive_ack(self, message: Ack) -> None:
        if self._resume is not None:
            self._resume.acknowledged(message.sequence_id)

    def _receive_sequence(self, message: SequenceStart) -> None:
        error = None if self._resume is None else self._resume.start_sequence(message.sequence_id)
        if error is not None:
            self.fail(error)

    _RECEIVE: dict[type, Callable[[HubConnection, Any], None]] = {  # noqa: RUF012  # a table, never changed
        Ping: _receive_ping,
        StreamItem: _receive_item,
        Completion: _receive_completion,
        CancelInvocation: _receive_cancel,
        Close: _receive_close,
        Ack: _receive_ack,
        SequenceStart: _receive_sequence,
        Malformed: _receive_malformed,
    }

    def hold_reading(self, reason: object) -> None:
        """Read nothing more until `release_reading` for all reasons."""
        if not self._holds:
            self.transport.pause()
        self._holds.add(reason)

    def release_reading(self, reason: object) -> None:
        """This reason is gone. Idempotent."""
        if reason in self._holds:
            self._holds.remove(reason)
            if not self._holds:
                self.transport.resume()

    def start_soon(self, function: Callable[..., Awaitable[Any]], arguments: Sequence[Any] = ()) -> None:
        """Run something beside the invocations, until the connection ends."""
        self._dispatcher.start_soon(function, arguments)

    # -- client results -------------------------------------------------------

    async def invoke_client(self, call_id: str, target: str, arguments: Sequence[Any], result_type: Any) -> Any:
        """Call a method of this client and wait for its result; a late one is ignored.

        Raises:
            HubError: the client answered with an error.
            ConnectionClosed: it went away.
            LimitExceeded: it did not answer within `signalr.client_result_timeout`.
        """
        if not self._state.sending:
            raise ConnectionClosed(reason=texts.no_such_connection(self.connection_id))
        payload = self.protocol.invocation(target, arguments, call_id)
        return await self._results.ask(self, call_id, target, payload, result_type)

    def _lose_calls(self) -> None:
        self._results.lose()
        self._dispatcher.uploads.fail_all(ConnectionClosed(reason=texts.GONE))

    # -- time -----------------------------------------------------------------

    def handshake_late(self) -> None:
        """The client took too long over its handshake."""
        if self._state is State.HANDSHAKE:
            self._refuse(HandshakeRefused(CANCELED))

    def send_ping(self) -> None:
        """Nothing was sent for a while."""
        self._send_control(self.protocol.ping)

    @property
    def is_listening(self) -> bool:
        """What the client sends is read: else it is not its fault that it seems silent."""
        cut = self._resume is not None and self._resume.current is None  # which has a grace of its own
        return not (cut or self._holds)

    # -- authentication -------------------------------------------------------

    def authenticated(self, user: User | None) -> None:
        """The client showed newer credentials; its user id stays what it was."""
        self.user = user
        self._liveness.watch_expiry(user)

    async def tell_refreshed(self) -> None:
        """Call the hub's `on_authentication_refreshed`. Cancellation ends that."""
        try:
            await self.make_hub(None).on_authentication_refreshed()
        except Exception as error:  # the invocation barrier
            self.log_error("on_authentication_refreshed", error)

    def authentication_expired(self) -> None:
        """The client is to come back with new credentials."""
        if self._state is State.HANDSHAKE:
            self._refuse(HandshakeRefused(CANCELED))
        else:
            self.close(None, allow_reconnect=True)

    # -- the end --------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """End the connection for what the client sent or what cannot be sent to it."""
        self.close(error, allow_reconnect=True)

    def abort(self) -> None:
        """End the connection for good, without an error."""
        self.close(None, allow_reconnect=False)

    def close(self, error: Exception | None, *, allow_reconnect: bool) -> None:
        """Send Close, end the transport, cancel what runs. Does nothing to a connection that is ending."""
        if not self._state.sending:
            return
        text = None
        if error is not None:
            text = texts.closed_with_error(texts.detail(error, detailed=self.hub.detailed_errors))
        self._error = error
        if self._backlog is not None:
            while len(self._backlog):
                self.transport.write(self._backlog.take())
        self._send_control(self.protocol.close(text, allow_reconnect=allow_reconnect))
        self._state = State.CLOSED
        self.transport.close()
        self._stop()

    def end_of_transport(self, *, clean: bool, error: Exception | None = None) -> None:
        """The client ended the transport.

        Args:
            clean: it said so; else it is lost, or broke the transport's rules: `error` says which.
        """
        if error is None and self._reader is not None and self._state.sending:
            self._reader.receive_eof()
            error = self._reader.failure
        if clean:
            self._error = error or self._error
            self._end_by_client()
        elif self._state is not State.CLOSED:
            self._error = error
            self._state = State.CLOSED
            self._handshaken.set()
            self._stop()

    def _end_by_client(self) -> None:
        if self._state is State.HANDSHAKE:
            self._state = State.CLOSED
            self._handshaken.set()
        elif self._state.sending:
            self._state = State.CLOSING
            self._lose_calls()
            # What it sent before it closed is still run, but not for long, and whatever the driver
            # does with a connection that has ended.
            self._scope.shield = True
            self._scope.deadline = trio.current_time() + _GRACE
            self._dispatcher.finish()

    def start_draining(self) -> None:
        """The server stops: the client is told to come back elsewhere, perhaps not at once."""
        if self._state is State.HANDSHAKE:
            self._refuse(HandshakeRefused(CANCELED))
        elif self._state is State.OPEN:
            self._liveness.drain(self.hub.drain_delay)

    def leave(self) -> None:
        """What runs may finish, then the client is told to come back elsewhere."""
        if self._state is State.OPEN:
            self._state = State.DRAINING
            self._goodbye = self.protocol.close(allow_reconnect=True)
            self._dispatcher.finish()

    def _say_goodbye(self) -> None:
        """The dispatcher has finished: the Close that waited for it."""
        if self._goodbye is not None and self._state in (State.DRAINING, State.CLOSING):
            self.transport.write_control(self.transport.frame(self._goodbye))
            self.transport.close(going_away=self._state is State.DRAINING)
        self._state = State.CLOSED

    def _close_slow(self, queued: int) -> None:
        limit = self.outbox_size
        self._error = LimitExceeded("server.outbox_size", limit, queued, kind=LimitKind.CAPACITY, what="outbox")
        _log.warning("connection %s closed: %s", self.connection_id, self._error)
        self._state = State.CLOSED
        self.transport.abort()
        self._stop()

    def _stop(self) -> None:
        self._lose_calls()
        self._dispatcher.abandon()
        self._scope.cancel()

    def log_error(self, method: str, error: Exception) -> None:
        """Log what left user code, once; what a hub says to its client is not an error of the server."""
        self.hub.log_error(self.connection_id, method, error)
