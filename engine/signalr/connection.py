"""One hub connection, from the first byte of its handshake to `on_disconnected`.

Owns: the connection's state, keep-alive, the client's time-out and every Close message. Never knows
what carries the bytes (a `HubTransport` does) nor how methods run (the `Dispatcher` does).

Theory of operation. The transport calls `receive` synchronously with what arrived. The handshake,
pings, completions, cancels and closes are handled right there, whatever methods are running;
invocations go to the dispatcher. `run` is the connection's own task: it waits for the handshake,
runs `on_connected`, is the dispatcher's first slot, and runs `on_disconnected`.

It ends by the client (a Close, or a clean end of the transport: what was received before still runs,
within a short grace), by `close` (our decision: a Close message, running methods are cancelled), by
`start_draining` (the server stops: running methods finish, then Close with allowReconnect), or
because the client is lost, which cancels `run` itself.

Spec: docs/specs/HubProtocol.md; HubConnectionContext.cs, HubConnectionHandler.cs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from engine.errors import ConnectionClosed, HubError, LimitExceeded, LimitKind, RemoteProtocolError
from engine.signalr import texts
from engine.signalr.dispatcher import Dispatcher, Slot
from engine.signalr.hub import Hub, HubContext
from engine.wire.signalr.handshake import CANCELED, HandshakeReader, HandshakeRefused
from engine.wire.signalr.messages import (
    CancelInvocation,
    Close,
    Completion,
    HubProtocol,
    Invocation,
    Malformed,
    MessageReader,
    Ping,
    StreamInvocation,
)

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.signalr.lifetime import OutgoingCall
    from engine.signalr.runtime import HubRuntime
    from engine.signalr.transports import HubTransport
    from engine.transport.exchange import RequestHead
    from engine.transport.watchdog import Timer

_log = logging.getLogger("engine.signalr")

_GRACE = 1.0  # seconds for invocations that were received before the client closed


class State(Enum):
    """Where a connection stands."""

    HANDSHAKE = auto()
    OPEN = auto()
    DRAINING = auto()  # the server stops: no new invocations, the rest goes on
    CLOSING = auto()  # the client has ended it: nothing can be sent, what was received is run
    CLOSED = auto()  # nothing is received and nothing can be sent


_SENDING = frozenset((State.OPEN, State.DRAINING))


class _ClientCall:
    """A client's result that somebody waits for."""

    __slots__ = ("completion", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.completion: Completion | None = None
        self.error: Exception | None = None


class HubConnection:
    """See the module.

    Attributes:
        connection_id: public.
        groups: what it is a member of; the lifetime manager's.
        protocol: the encoding that the handshake chose.
    """

    protocol: HubProtocol
    transport: HubTransport
    context: HubContext

    def __init__(
        self, hub: HubRuntime, head: RequestHead, connection_id: str, user_id: str | None, outbox_size: int
    ) -> None:
        # immutable
        self.hub = hub
        self.head = head
        self.connection_id = connection_id
        self.user_id = user_id
        self.settings: SignalRConfig = hub.settings
        self.outbox_size = outbox_size
        # owned by the reader
        self._state = State.HANDSHAKE
        self._reader: MessageReader | None = None
        self._handshake: HandshakeReader
        self._in_batch = False  # inside `receive`, which flushes once at its end
        self._batch_wrote = False
        self._heard = 0.0  # when something was received; kept once the client's time-out is armed
        self._sent = 0.0  # when something was written
        self._calls: dict[str, _ClientCall] = {}
        # owned by whoever ends it
        self._error: Exception | None = None  # for on_disconnected
        self._goodbye: bytes | None = None  # a Close that waits for the dispatcher to finish
        # owned by the connection task
        self.groups: set[str] = set()
        self._dispatcher = Dispatcher(self, hub.settings.parallel_invocations, hub.settings.max_pending_invocations)
        self._handshaken = trio.Event()
        self._scope = trio.CancelScope()
        self._timer: Timer  # the handshake's time-out, then keep-alive
        self._client_timer: Timer | None = None

    def open(self, transport: HubTransport) -> None:
        """Bytes can come from now on."""
        self.transport = transport
        self.context = HubContext(self)
        self._handshake = HandshakeReader(
            self.hub.protocols, transport.formats, self.settings.max_message_size, detailed=self.hub.detailed_errors
        )
        self._timer = transport.timer(self._time_out)
        self._timer.set(trio.current_time() + self.settings.handshake_timeout)

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
        manager = self.hub.manager
        await manager.connected(self)
        welcomed = False
        try:
            with self._scope:
                welcomed = await self._welcome()
                if welcomed:
                    await self._dispatcher.run()
        finally:
            self._say_goodbye()
            # R5: a shield always carries a deadline.
            if welcomed:
                with trio.move_on_after(self.settings.disconnect_timeout, shield=True):
                    await self._farewell()
            with trio.move_on_after(self.settings.disconnect_timeout, shield=True):
                await manager.disconnected(self)

    async def _welcome(self) -> bool:
        try:
            await self.make_hub(None).on_connected()
        except Exception as error:  # the invocation barrier
            self.log_error("on_connected", error)
            self.close(error, allow_reconnect=False)
            return False
        return True

    async def _farewell(self) -> None:
        try:
            await self.make_hub(None).on_disconnected(self._error)
        except Exception as error:  # the invocation barrier
            self.log_error("on_disconnected", error)

    def make_hub(self, slot: Slot | None) -> Hub:
        """A hub object for one invocation."""
        hub = self.hub.factory()
        hub._connection = self
        hub._slot = slot
        return hub

    def _forget(self) -> None:
        self._state = State.CLOSED
        self._timer.clear()
        if self._client_timer is not None:
            self._client_timer.clear()
        self._lose_calls()

    # -- receiving ------------------------------------------------------------

    def receive(self, chunks: list[bytes]) -> None:
        """Take what one read brought. Synchronous; never waits for a method."""
        self._in_batch = True
        if self._client_timer is not None:
            self._heard = trio.current_time()
        for chunk in chunks:
            reader = self._reader
            if reader is None:
                self._receive_handshake(chunk)
            else:
                reader.receive_data(chunk)
                self._receive_messages(reader)
        self._in_batch = False
        if self._batch_wrote:
            self._batch_wrote = False
            self.transport.flush()

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
        self.transport.use_format(event.protocol.transfer_format)
        self.protocol = event.protocol
        self._reader = event.protocol.reader(self.settings.max_message_size)
        self._state = State.OPEN
        self.send(event.answer)
        self._timer.set(self._sent + self.settings.keep_alive_interval)
        self._handshaken.set()
        if event.rest:
            self._reader.receive_data(event.rest)
            self._receive_messages(self._reader)

    def _refuse(self, refusal: HandshakeRefused) -> None:
        self._state = State.CLOSED
        self.transport.write(self.transport.frame(refusal.answer))
        self.transport.close()
        self._handshaken.set()

    def _receive_messages(self, reader: MessageReader) -> None:
        while self._state in _SENDING:
            message = reader.next_event()
            if message is None:
                return
            kind = type(message)
            if kind is Invocation or kind is StreamInvocation:
                self._dispatcher.receive(message)  # type: ignore[arg-type]  # mypy cannot narrow by `kind`
            else:
                self._RECEIVE.get(kind, HubConnection._ignore)(self, message)

    def _receive_ping(self, _message: Ping) -> None:
        if self._client_timer is None:
            self._heard = trio.current_time()
            self._client_timer = self.transport.timer(self._check_client)
            self._client_timer.set(self._heard + self.settings.client_timeout)

    def _receive_completion(self, message: Completion) -> None:
        call = self._calls.get(message.invocation_id)
        if call is not None:
            call.completion = message
            call.done.set()

    def _receive_cancel(self, message: CancelInvocation) -> None:
        self._dispatcher.cancel(message.invocation_id)

    def _receive_close(self, _message: Close) -> None:
        self._goodbye = self.protocol.close()
        self._end_by_client()

    def _receive_malformed(self, message: Malformed) -> None:
        self.fail(message.error)

    def _ignore(self, _message: object) -> None:
        """Items of uploads, Ack and Sequence: of nothing that we know of."""

    _RECEIVE: dict[type, Callable[[HubConnection, Any], None]] = {  # noqa: RUF012  # a table, never changed
        Ping: _receive_ping,
        Completion: _receive_completion,
        CancelInvocation: _receive_cancel,
        Close: _receive_close,
        Malformed: _receive_malformed,
    }

    # -- sending --------------------------------------------------------------

    def send(self, payload: bytes, *, more: bool = False) -> None:
        """Write hub messages to this client; ignored when it is gone.

        Args:
            payload: of `protocol`.
            more: the caller is about to write more.
        """
        if self._state not in _SENDING:
            return
        transport = self.transport
        transport.write(transport.frame(payload))
        self._sent = trio.current_time()
        if self._in_batch:
            self._batch_wrote = True
        elif more or self._dispatcher.more:
            transport.flush_soon()
        else:
            transport.flush()

    def deliver(self, call: OutgoingCall) -> int:
        """Put a call into the outbox without ever waiting.

        Returns:
            The bytes in the outbox now; more than `server.outbox_size`: the connection was closed for it.

        Raises:
            TypeError, ValueError: an argument cannot be encoded.
        """
        if self._state not in _SENDING:
            return 0
        transport = self.transport
        transport.write(call.frame(self, self.protocol))
        self._sent = trio.current_time()
        if self._in_batch:
            self._batch_wrote = True
        else:
            transport.flush()
        queued = transport.queued
        if queued > self.outbox_size:
            self._close_slow(queued)
        return queued

    async def drain(self) -> None:
        """Wait while this client takes too little; returns at once where it is gone."""
        if self._state in _SENDING:
            try:
                await self.transport.drain()
            except ConnectionClosed:
                return  # its own scope tells it

    async def invoke_client(self, call_id: str, target: str, arguments: Sequence[Any], result_type: Any) -> Any:
        """Call a method of this client and wait for its result; a late one is ignored.

        Raises:
            HubError: the client answered with an error.
            ConnectionClosed: it went away.
        """
        if self._state not in _SENDING:
            raise ConnectionClosed(reason=texts.no_such_connection(self.connection_id))
        payload = self.protocol.invocation(target, arguments, call_id)
        call = self._calls[call_id] = _ClientCall()
        try:
            self.send(payload)
            await call.done.wait()
        finally:
            self._calls.pop(call_id, None)
        if call.completion is None:
            raise ConnectionClosed(reason=texts.connection_gone(self.connection_id))
        if call.completion.error is not None:
            raise HubError(call.completion.error)
        if call.completion.result is None:
            return None
        try:
            return self.protocol.decode(call.completion.result, result_type)
        except (msgspec.ValidationError, RemoteProtocolError) as error:
            wanted = getattr(result_type, "__name__", str(result_type))
            raise HubError(f"Error trying to deserialize result to {wanted}. {error}") from None

    def _lose_calls(self) -> None:
        for call in self._calls.values():
            call.done.set()

    # -- time -----------------------------------------------------------------

    def _time_out(self) -> None:
        """The handshake is late, or it is time for a ping."""
        if self._state is State.HANDSHAKE:
            self._refuse(HandshakeRefused(CANCELED))
        elif self._state in _SENDING:
            interval = self.settings.keep_alive_interval
            due = self._sent + interval
            if due <= trio.current_time():
                self.send(self.protocol.ping)
                self._sent = due  # not now: pings keep their beat however late the timer is
                due += interval
            self._timer.set(due)

    def _check_client(self) -> None:
        if self._state not in _SENDING or self._client_timer is None:
            return
        timeout, now = self.settings.client_timeout, trio.current_time()
        if self._dispatcher.paused:
            self._heard = now  # it is we who do not read
        if self._heard + timeout <= now:
            self.close(
                LimitExceeded("signalr.client_timeout", timeout, kind=LimitKind.TIMEOUT, what="silence of the client"),
                allow_reconnect=True,
            )
        else:
            self._client_timer.set(self._heard + timeout)

    # -- the end --------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """End the connection for what the client sent or what cannot be sent to it."""
        self.close(error, allow_reconnect=True)

    def abort(self) -> None:
        """End the connection for good, without an error."""
        self.close(None, allow_reconnect=False)

    def close(self, error: Exception | None, *, allow_reconnect: bool) -> None:
        """Send Close, end the transport, cancel what runs. Does nothing to a connection that is ending."""
        if self._state not in _SENDING:
            return
        text = None
        if error is not None:
            text = texts.closed_with_error(texts.detail(error, detailed=self.hub.detailed_errors))
        self._error = error
        self.send(self.protocol.close(text, allow_reconnect=allow_reconnect))
        self._state = State.CLOSED
        self.transport.close()
        self._stop()

    def end_of_transport(self, *, clean: bool, error: Exception | None = None) -> None:
        """The client ended the transport.

        Args:
            clean: it said so; else it is lost, or broke the transport's rules.
            error: what rule.
        """
        if clean:
            if self._reader is not None and self._state in _SENDING:
                self._reader.receive_eof()
                self._error = self._reader.failure
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
        elif self._state in _SENDING:
            self._state = State.CLOSING
            self._lose_calls()
            # What it sent before it closed is still run, but not for long, and whatever the driver
            # does with a connection that has ended.
            self._scope.shield = True
            self._scope.deadline = trio.current_time() + _GRACE
            self._dispatcher.finish()

    def start_draining(self) -> None:
        """The server stops: what runs may finish, then the client is told to come back elsewhere."""
        if self._state is State.HANDSHAKE:
            self._refuse(HandshakeRefused(CANCELED))
        elif self._state is State.OPEN:
            self._state = State.DRAINING
            self._goodbye = self.protocol.close(allow_reconnect=True)
            self._dispatcher.finish()

    def _say_goodbye(self) -> None:
        """The dispatcher has finished: the Close that waited for it."""
        if self._goodbye is not None and self._state in (State.DRAINING, State.CLOSING):
            self.transport.write(self.transport.frame(self._goodbye))
            self.transport.close(going_away=self._state is State.DRAINING)
        self._state = State.CLOSED

    def _close_slow(self, queued: int) -> None:
        self._error = LimitExceeded(
            "server.outbox_size", self.outbox_size, queued, kind=LimitKind.CAPACITY, what="outbox"
        )
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
        level = logging.DEBUG if isinstance(error, HubError | ConnectionClosed) else logging.ERROR
        if _log.isEnabledFor(level):
            fields = {"hub": self.hub.name, "hub_method": method, "hub_connection": self.connection_id}
            _log.log(
                level,
                "%s.%s (hub connection %s) raised %s: %s",
                *(self.hub.name, method, self.connection_id, type(error).__name__, error),
                exc_info=error if level == logging.ERROR else None,
                extra={"fields": fields},
            )
