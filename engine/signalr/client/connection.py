"""`HubConnection`: a client of SignalR hubs, of ours and of ASP.NET Core's.

Owns: the public face, the states, and reconnection with a new connection id. Never wraps an error in an
ExceptionGroup, never outlives its block.

    DISCONNECTED ──► CONNECTING ──► CONNECTED ◄──► RECONNECTING
         ▲                              │               │
         └──────── DISCONNECTING ◄──────┴───────────────┘

Spec: HubConnection.ts of the official client, whose behaviour on the wire this is.
"""

from __future__ import annotations

import inspect
import logging
import math
import ssl
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from engine.errors import ConfigError, ConnectionClosed, EngineError, LocalProtocolError
from engine.signalr.client.calls import ItemStream, PendingCall
from engine.signalr.client.handlers import HandlerRunner, Handlers
from engine.signalr.client.link import CLOSE_TIMEOUT, Link, Timing
from engine.signalr.client.negotiate import asks_for_stateful_reconnect
from engine.signalr.client.requests import AccessToken, HubRequests
from engine.signalr.client.retry import ReconnectPolicy, RetryContext, after_delays
from engine.signalr.client.session import ClientSession
from engine.signalr.client.transports import Wanted, open_transport
from engine.signalr.client.unread import Unread
from engine.transport.dial import parse_proxy
from engine.transport.http1_client import Dial, Http1Client, dialer, split_url
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import HubProtocol
from engine.wire.signalr.msgpack import MsgpackHubProtocol
from engine.wire.signalr.negotiate import TransportKind

__all__ = ["HubConnection", "HubConnectionState"]

_log = logging.getLogger(__name__)

_PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MsgpackHubProtocol()}
_STATEFUL_BUFFER = 100_000  # bytes; the official clients'
_MAX_MESSAGE = 16 * 1024 * 1024  # bytes; official clients have no limit, a client of anybody's server needs one
_MAX_WAITING = 16 * 1024 * 1024  # bytes that may wait for the user's code

F = TypeVar("F", bound=Callable[..., Any])
ErrorCallback = Callable[[Exception | None], Any]


class HubConnectionState(Enum):
    """Where a connection stands; the names are the official clients'."""

    DISCONNECTED = "Disconnected"
    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    RECONNECTING = "Reconnecting"
    DISCONNECTING = "Disconnecting"


class HubConnection:
    """A connection to a hub, as an async context manager.

    ```python
    async with engine.HubConnection("http://localhost:8000/chathub", automatic_reconnect=True) as hub:
        hub.on("ReceiveMessage", print)
        await hub.invoke("SendMessage", "Ada", "hello")
    ```

    Entering connects, and raises where that fails; leaving says goodbye. A connection that is lost within
    the block does not end the block: calls raise ConnectionClosed until it is back.

    Args:
        url: of the hub, `http://` or `https://`; its query goes along with every request.
        protocol: `json` or `messagepack`.
        transports: those that may be used, `WebSockets`, `ServerSentEvents`, `LongPolling`; they are tried
            in the order in which the server offers them.
        skip_negotiation: open a WebSocket without asking first; needs `transports=["WebSockets"]`.
        headers: added to every request.
        access_token: a bearer token, or a function (sync or async) that makes one; it is called for each
            connection, again when the server answers 401, and before the token expires where the server
            takes a new one for a connection that is open.
        automatic_reconnect: come again after 0, 2, 10 and 30 seconds when the connection is lost.
        reconnect_policy: another policy, see `engine.signalr.client.retry`; implies automatic_reconnect.
        stateful_reconnect: ask the server to keep the connection over a cut (WebSockets only).
        keep_alive_interval: seconds without a message of ours before a ping.
        server_timeout: seconds without a message from the server before it counts as lost.
        handshake_timeout: seconds for the hub handshake.
        max_message_size: bytes of one message from the server.
        buffer_size: bytes that may wait for the user's code, of streams and of calls of handlers; beyond them
            the connection is not read, so that the server waits.
        tls: for https, instead of a context that trusts what the system trusts.
        server_name: whom the certificate must be for, where that is not the host of the URL.
        proxy: the URL of an HTTP proxy; True: what `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` say;
            None: none.
        unix: the path of a Unix socket to connect to, whatever host the URL names; it has no proxy.
        dial: how to connect, instead of all that; see `engine.transport.http1_client.Dial`.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: str = "json",
        transports: Sequence[TransportKind | str] = tuple(TransportKind),
        skip_negotiation: bool = False,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        access_token: AccessToken | None = None,
        automatic_reconnect: bool = False,
        reconnect_policy: ReconnectPolicy | None = None,
        stateful_reconnect: bool = False,
        keep_alive_interval: float = 15.0,
        server_timeout: float = 30.0,
        handshake_timeout: float = 15.0,
        max_message_size: float = _MAX_MESSAGE,
        buffer_size: float = _MAX_WAITING,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        proxy: str | bool | None = True,
        unix: str | None = None,
        dial: Dial | None = None,
    ) -> None:
        encoding = _PROTOCOLS.get(protocol)
        if encoding is None:
            raise ConfigError("protocol", protocol, f"give one of {', '.join(_PROTOCOLS)}")
        split_url(url)  # raises where it is none
        # immutable
        self.url = url
        self._protocol = encoding
        self._timing = _timing(keep_alive_interval, server_timeout, handshake_timeout)
        kinds = _kinds(transports)
        if skip_negotiation and kinds != {TransportKind.WEB_SOCKETS}:
            raise ConfigError(
                "skip_negotiation", True, "negotiation can only be skipped with transports=['WebSockets']"
            )
        self._wanted = Wanted(
            url.partition("#")[0],
            kinds,
            encoding.transfer_format,
            skip_negotiation,
            stateful_reconnect or asks_for_stateful_reconnect(url),
            max_message_size,
        )
        self._policy = reconnect_policy or (after_delays() if automatic_reconnect else None)
        self._buffer_size = buffer_size
        self._handlers = Handlers(encoding)
        connect = dial or dialer(
            proxy=parse_proxy(proxy) if isinstance(proxy, str) else None,
            proxy_from_environment=proxy is True,
            unix=unix,
            server_name=server_name,
        )
        self._requests = HubRequests(Http1Client(context=tls, dial=connect), headers, access_token)
        self._reconnecting_callbacks: list[ErrorCallback] = []
        self._reconnected_callbacks: list[Callable[[str | None], Any]] = []
        self._closed_callbacks: list[ErrorCallback] = []
        # owned by the supervising task
        self._state = HubConnectionState.DISCONNECTED
        self._changed = trio.Event()  # replaced each time it is set
        self._link: Link | None = None
        self._pause = trio.CancelScope()  # around a reconnection
        self._over = trio.Event()
        self.close_error: Exception | None = None
        """Why the connection was lost; None while it is not, and after an end in order."""
        # owned by the block
        self._stopping = False
        self._unread: Unread
        self._runner: HandlerRunner
        self._events: deque[Callable[[], Any]] = deque()
        self._has_events = trio.Event()
        self._events_done = trio.Event()
        self._manager: Any = None  # trio's nursery manager has no public type
        self._nursery: trio.Nursery

    # -- what can be seen ----------------------------------------------------------

    @property
    def state(self) -> HubConnectionState:
        """Where it stands."""
        return self._state

    @property
    def connection_id(self) -> str | None:
        """The public id, None while there is no connection or where the negotiation was skipped."""
        return None if self._link is None else self._link.connection_id

    @property
    def transport(self) -> TransportKind | None:
        """What carries it."""
        return None if self._link is None else self._link.transport

    async def wait_state(self, *states: HubConnectionState) -> HubConnectionState:
        """Wait until it is in one of these states, and return it. Cancellation changes nothing."""
        while self._state not in states:
            await self._changed.wait()
        return self._state

    # -- its life --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect. Cancellation leaves nothing open.

        Raises:
            HandshakeRejected: the server answered with a status; see its `status` and `body`.
            HubError: the server says why there is no connection.
            ConnectionClosed: it cannot be reached.
            RemoteProtocolError: what is there is no hub.
        """
        if self._state is not HubConnectionState.DISCONNECTED or self._manager is not None:
            raise LocalProtocolError("a HubConnection is entered once at a time; make another one")
        self._stopping = False
        self.close_error = None
        self._over, self._events_done = trio.Event(), trio.Event()
        self._unread = Unread(self._buffer_size)
        self._runner = HandlerRunner(self._handlers, self._unread)
        self._move(HubConnectionState.CONNECTING)
        try:
            link = await self._open()
        except BaseException:
            self._move(HubConnectionState.DISCONNECTED)
            await self._requests.http.drop_idle()  # noqa: ASYNC102  it shields itself
            raise
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._connected(link)
        self._nursery.start_soon(self._supervise, link)
        self._nursery.start_soon(self._runner.run)
        self._nursery.start_soon(self._tell)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Say goodbye and close; takes 5 seconds at most, also when cancelled."""
        try:
            # R5: a shield always carries a deadline.
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self.stop()
            await self._events_done.wait()  # noqa: ASYNC102  who is cancelled need not wait for callbacks
        finally:
            self._nursery.cancel_scope.cancel()
            try:
                swallowed = await self._leave(kind, error, trace)  # noqa: ASYNC102  all its tasks are cancelled
            finally:
                self._link = None
                self._move(HubConnectionState.DISCONNECTED)
                await self._requests.http.drop_idle()  # noqa: ASYNC102  it shields itself
        return swallowed

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Close the nursery; what left the block leaves it as it was, not in a group."""
        manager, self._manager = self._manager, None
        try:
            return bool(await manager.__aexit__(kind, error, trace))
        except BaseExceptionGroup as group:
            alone = group.exceptions[0] if len(group.exceptions) == 1 else group
            if alone is error:
                return False
            raise alone from None

    async def stop(self) -> None:
        """End the connection: calls under way fail, handlers of calls that came before still run.

        Cancellation leaves the closing to the end of the block.
        """
        self._stopping = True
        if self._state in (HubConnectionState.CONNECTED, HubConnectionState.RECONNECTING):
            self._move(HubConnectionState.DISCONNECTING)
        self._pause.cancel()
        if self._link is not None:
            await self._link.stop()
        if self._manager is not None:
            await self._over.wait()

    async def _open(self) -> Link:
        await self._requests.http.drop_idle()  # they are as old as the connection that was lost
        opened = await open_transport(self._requests, self._wanted)
        try:
            session = ClientSession(
                self._protocol,
                max_message_size=self._wanted.max_message_size,
                buffer_size=_STATEFUL_BUFFER if opened.stateful_reconnect else None,
            )
            link = Link(
                opened.carrier,
                session,
                self._protocol,
                self._timing,
                self._runner,
                self._unread,
                opened.reopen,
                opened.upkeep,
                opened.connection_id,
                self._link_ended,
            )
            await link.shake_hands()
        except BaseException:
            await opened.carrier.discard()  # noqa: ASYNC102  it shields itself
            raise
        return link

    async def _supervise(self, link: Link) -> None:
        """One link after the other, until there is to be none."""
        error: Exception | None
        current: Link | None = link
        try:
            while current is not None:
                await current.run()
                self._link = None
                error = current.error
                may_reconnect = current.may_reconnect and not self._stopping and self._policy is not None
                current = None
                if may_reconnect:
                    with trio.CancelScope() as self._pause:
                        current, error = await self._reconnect(error)
                self.close_error = error
                if current is not None:
                    self.close_error = None
                    self._connected(current)
                    self._notify_reconnected(current.connection_id)
        finally:
            self._move(HubConnectionState.DISCONNECTED)
            self._notify(self._closed_callbacks, self.close_error)
            self._over.set()
            self._has_events.set()

    async def _reconnect(self, error: Exception | None) -> tuple[Link | None, Exception | None]:
        """Try as the policy says; without a link, the error is why not."""
        began = trio.current_time()
        delay = self._delay(RetryContext(0, 0.0, error))
        if delay is None:
            return None, error
        self._move(HubConnectionState.RECONNECTING)
        self._notify(self._reconnecting_callbacks, error)
        attempts = 0
        while delay is not None:
            _log.info("%s: attempt %d to reconnect in %g s", self.url, attempts + 1, delay)
            await trio.sleep(delay)
            try:
                return await self._open(), None
            except EngineError as failure:
                error = failure
            attempts += 1
            delay = self._delay(RetryContext(attempts, trio.current_time() - began, error))
        return None, error

    def _delay(self, context: RetryContext) -> float | None:
        """What the policy says; one that fails gives up, as with the official clients."""
        if self._policy is None:
            return None
        try:
            return self._policy(context)
        except Exception as error:  # the invocation barrier: it is the user's
            _log.error("the reconnect policy failed; there will be no more attempts", exc_info=error)
            return None

    def _connected(self, link: Link) -> None:
        self._link = link
        self._move(HubConnectionState.CONNECTED)

    def _link_ended(self) -> None:
        """At once, so that nobody takes the connection for connected while its socket is being closed."""
        if self._link is not None and self._state is HubConnectionState.CONNECTED:
            again = self._link.may_reconnect and self._policy is not None
            self._move(HubConnectionState.RECONNECTING if again else HubConnectionState.DISCONNECTING)

    def _move(self, state: HubConnectionState) -> None:
        if state is not self._state:
            self._state = state
            changed, self._changed = self._changed, trio.Event()
            changed.set()

    # -- what the server calls ---------------------------------------------------------

    def on(self, name: str, handler: F) -> F:
        """Call `handler(*arguments)` when the server calls the client method `name`, whatever its case.

        Arguments are converted by the handler's annotations; more than it takes are dropped. Sync or async;
        what it returns is the result where the server wants one. Handlers of calls without a result run one
        after another. A handler that raises ends nothing: it is logged, and the server gets the error where
        it wants a result.

        Raises:
            ConfigError: an annotation that nothing can be decoded into.
        """
        self._handlers.add(name, handler)
        return handler

    def off(self, name: str, handler: Callable[..., Any] | None = None) -> None:
        """Remove a handler, or all of that name."""
        self._handlers.remove(name, handler)

    def on_reconnecting(self, callback: ErrorCallback) -> None:
        """Call it, sync or async, with the reason when the connection is lost and will be tried again."""
        self._reconnecting_callbacks.append(callback)

    def on_reconnected(self, callback: Callable[[str | None], Any]) -> None:
        """Call it, sync or async, with the new connection id; groups have to be joined anew."""
        self._reconnected_callbacks.append(callback)

    def on_closed(self, callback: ErrorCallback) -> None:
        """Call it, sync or async, when the connection has ended for good; the error is None in order."""
        self._closed_callbacks.append(callback)

    def _notify(self, callbacks: Sequence[ErrorCallback], error: Exception | None) -> None:
        self._events.extend(partial(each, error) for each in callbacks)
        self._has_events.set()

    def _notify_reconnected(self, connection_id: str | None) -> None:
        self._events.extend(partial(each, connection_id) for each in self._reconnected_callbacks)
        self._has_events.set()

    async def _tell(self) -> None:
        """Run the callbacks in order; those of the end are the last."""
        while True:
            while self._events:
                callback = self._events.popleft()
                try:
                    result = callback()
                    if inspect.isawaitable(result):
                        await result
                except Exception as error:  # the invocation barrier
                    _log.error("a callback of a HubConnection failed", exc_info=error)
            if self._over.is_set():
                self._events_done.set()
                return
            self._has_events = trio.Event()
            await self._has_events.wait()

    # -- calling the server --------------------------------------------------------------

    async def invoke(self, method: str, /, *arguments: Any, result_type: Any = Any) -> Any:
        """Call a hub method and wait for its result, as `result_type`.

        Arguments that are async iterables are sent as streams. Cancellation tells the server.

        Raises:
            HubError: the method failed, or is not there.
            ConnectionClosed: there is no connection, or it was lost meanwhile.
            RemoteProtocolError: the result is not of that type.
            TypeError, ValueError: an argument cannot be encoded.
        """
        link = await self._ready()
        plain, streams = _split(link, arguments)
        call = PendingCall(link.protocol, method, result_type, self._unread)
        invocation_id = link.take_id()
        frame = link.protocol.invocation(
            method, plain, invocation_id, stream_ids=[stream_id for stream_id, _ in streams]
        )
        link.start(call, invocation_id, frame)
        link.upload(call, streams)
        try:
            return await call.wait()
        finally:
            link.cancel(invocation_id)

    async def send(self, method: str, /, *arguments: Any) -> None:
        """Call a hub method without waiting for it; returns when the message has left.

        Cancellation does not take it back. Streams go on after it returned.

        Raises:
            ConnectionClosed, TypeError, ValueError: as `invoke`.
        """
        link = await self._ready()
        plain, streams = _split(link, arguments)
        frame = link.protocol.invocation(method, plain, stream_ids=[stream_id for stream_id, _ in streams])
        await link.send(frame)
        link.upload(None, streams)

    @asynccontextmanager
    async def stream(self, method: str, /, *arguments: Any, item_type: Any = Any) -> AsyncIterator[ItemStream]:
        """Call a hub method whose results are a stream, each item as `item_type`.

        ```python
        async with hub.stream("Counter", 10) as numbers:
            async for number in numbers: ...
        ```

        Leaving the block before the end tells the server to stop. Raises as `invoke`, from the iteration.
        """
        link = await self._ready()
        plain, streams = _split(link, arguments)
        invocation_id = link.take_id()
        items = ItemStream(link.protocol, item_type, self._unread, lambda: link.cancel(invocation_id))
        frame = link.protocol.invocation(
            method, plain, invocation_id, stream=True, stream_ids=[stream_id for stream_id, _ in streams]
        )
        link.start(items, invocation_id, frame)
        link.upload(items, streams)
        try:
            yield items
        finally:
            items.cancel()

    async def _ready(self) -> Link:
        """The link, with room for a message."""
        link = self._link
        if link is None or self._state is not HubConnectionState.CONNECTED:
            raise ConnectionClosed(
                reason=f"the hub connection is {self._state.value}; "
                "wait for hub.wait_state(HubConnectionState.CONNECTED)"
            )
        await link.room()
        return link


def _split(link: Link, arguments: Sequence[Any]) -> tuple[list[Any], list[tuple[str, AsyncIterable[Any]]]]:
    """Arguments apart from streams, which get their ids here."""
    plain: list[Any] = []
    streams: list[tuple[str, AsyncIterable[Any]]] = []
    for argument in arguments:
        if isinstance(argument, AsyncIterable):
            streams.append((link.take_id(), argument))
        else:
            plain.append(argument)
    return plain, streams


def _kinds(transports: Sequence[TransportKind | str]) -> frozenset[TransportKind]:
    try:
        kinds = frozenset(TransportKind(each) for each in transports)
    except ValueError as error:
        known = ", ".join(each.value for each in TransportKind)
        raise ConfigError("transports", None, f"{error}; known: {known}") from None
    if not kinds or isinstance(transports, str):
        raise ConfigError("transports", transports, "give a list of at least one")
    return kinds


def _timing(keep_alive_interval: float, server_timeout: float, handshake_timeout: float) -> Timing:
    for name, value in (
        ("keep_alive_interval", keep_alive_interval),
        ("server_timeout", server_timeout),
        ("handshake_timeout", handshake_timeout),
    ):
        if not value > 0 or math.isnan(value):
            raise ConfigError(name, value, "give seconds, more than 0")
    return Timing(keep_alive_interval, server_timeout, handshake_timeout)
