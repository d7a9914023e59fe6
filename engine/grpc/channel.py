"""`Channel`: calls to the servers of one target.

Owns: the tasks of its connections, the waiting of calls for one, the service config and the interceptors.
How connections come about is `engine.grpc.balancing`'s, how a call gets through `engine.grpc.call`'s.

    async with Channel("localhost:50051") as channel:
        reply = await GreeterStub(channel).say_hello(HelloRequest(name="Ada"))

A channel is a nursery: nothing of it outlives the block, calls of other tasks end with CANCELLED.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import Any, Self

import trio

from engine.config import ChannelConfig, ClientTlsConfig
from engine.errors import CallCause, ConfigError, ConnectionClosed, LocalProtocolError, RpcError, StatusCode
from engine.grpc import client
from engine.grpc.balancing import Balancer, ChannelState, Connector, PickFirst, RoundRobin
from engine.grpc.call import CallDetails, ClientMethod, known_compression
from engine.grpc.credentials import CallCredentials
from engine.grpc.methods import MethodKind
from engine.grpc.resolver import Resolver, host_of, parse_target
from engine.grpc.retry import MethodConfig, RetryThrottle, ServiceConfig
from engine.transport.client import Address, dial
from engine.transport.http2_client import Http2ClientConnection
from engine.transport.stream import ByteStream, WrappedByteStream
from engine.transport.tls_client import TlsClient, client_context, start_tls
from engine.transport.watchdog import Watchdog
from engine.wire.grpc import compression as wire_compression

__all__ = ["Channel", "ChannelState"]

_BALANCERS: dict[str, type[Balancer]] = {"pick_first": PickFirst, "round_robin": RoundRobin}
_Fields = tuple[tuple[bytes, bytes], ...]


class Channel:
    """See the module.

    Args:
        target: where the servers are; see `engine.grpc.resolver` for the forms.
        tls: None: cleartext; True: the system's authorities; a `ClientTlsConfig`, or an `ssl.SSLContext`.
        config: limits and times.
        service_config: JSON text or what that decodes to; see `engine.grpc.retry`.
        load_balancing: "pick_first" or "round_robin"; None: the service config's, else the former.
        compression: of requests: "gzip", "deflate" or "zstd"; a call may say otherwise.
        credentials: give metadata for each call.
        insecure_credentials: send them without TLS, too.
        interceptors: the first one is the outermost.
        wait_for_ready: calls wait where no server can be reached, instead of failing.
        authority: for `:authority` and for TLS, instead of the target's.
        user_agent: put before our own.
        resolver: gives the addresses instead of the target.
        connect: gives a stream for an address instead of a socket, for tests and tunnels.
        seed: of the jitter, for tests.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: bool | ClientTlsConfig | ssl.SSLContext | None = None,
        config: ChannelConfig | None = None,
        service_config: str | Mapping[str, Any] | None = None,
        load_balancing: str | None = None,
        compression: str | None = None,
        credentials: CallCredentials | None = None,
        insecure_credentials: bool = False,
        interceptors: Sequence[client.ClientInterceptor] = (),
        wait_for_ready: bool = False,
        authority: str | None = None,
        user_agent: str = "",
        resolver: Resolver | None = None,
        connect: Callable[[Address], Awaitable[trio.abc.Stream]] | None = None,
        seed: int | None = None,
    ) -> None:
        parsed = parse_target(target)
        # immutable
        self.target = target
        self.config = config or ChannelConfig()
        self.authority = authority or parsed.authority
        self._tls = _tls_client(tls, host_of(authority) if authority else parsed.host)
        self.secure = self._tls is not None or insecure_credentials
        self.call_credentials = credentials
        self.compression = known_compression(compression)
        self._services = ServiceConfig.parse(service_config) if service_config is not None else ServiceConfig()
        self._policy = load_balancing or self._services.load_balancing or "pick_first"
        if self._policy not in _BALANCERS:
            raise ConfigError("load_balancing", self._policy, f"give one of {', '.join(_BALANCERS)}")
        self._interceptors = tuple(interceptors)
        self._wait_for_ready = wait_for_ready
        version = getattr(sys.modules["engine"], "__version__", "")
        self._user_agent = f"{user_agent} grpc-python-engine/{version}".strip().encode("ascii", "replace")
        self._resolve = resolver or parsed.resolve
        self._connect = connect
        self.random = Random(seed)
        self.watchdog = Watchdog()
        throttling = self._services.throttling
        self.throttle = RetryThrottle(*throttling) if throttling is not None else None
        # owned by the task that entered
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._connector: Connector | None = None
        self._balancer: Balancer | None = None
        self._closed = False
        self._changed = trio.lowlevel.ParkingLot()
        self._heads: dict[tuple[str, str | None], _Fields] = {}
        self._methods: dict[str, MethodConfig] = {}

    # -- its life -------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start its tasks; nothing is connected before the first call or `connect`."""
        if self._manager is not None:
            raise LocalProtocolError("a channel cannot be entered twice; make another one")
        self._manager = trio.open_nursery()
        nursery = self._nursery = await self._manager.__aenter__()
        self._connector = Connector(nursery, self.watchdog, self.config, self._dial, self.random)
        self._balancer = _BALANCERS[self._policy](self._connector, self._resolve, self._on_change)
        self._balancing = trio.CancelScope()
        nursery.start_soon(self._run_balancer)
        nursery.start_soon(self._run_watchdog)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel the calls of other tasks, and close the connections in order, for `close_timeout` at most."""
        assert self._manager is not None  # entered
        assert self._nursery is not None  # likewise
        assert self._connector is not None  # likewise
        self._closed = True
        self._balancing.cancel()
        self._changed.unpark_all()
        try:
            for connection in list(self._connector.connections):
                connection.close()
            with trio.move_on_after(self.config.close_timeout * 2):
                while self._connector.connections:
                    await self._connector.ended.wait()  # noqa: ASYNC102  # cancelled means: no goodbye
        finally:
            self._nursery.cancel_scope.cancel()
            # The nursery's own tasks raise nothing, and what the block raised is not wrapped by it.
            try:
                await self._manager.__aexit__(None, None, None)  # noqa: ASYNC102  # its tasks are cancelled
            except trio.Cancelled:  # noqa: ASYNC103  # what the block raised goes on instead
                if value is None:
                    raise

    async def _run_balancer(self) -> None:
        assert self._balancer is not None  # set before
        with self._balancing:
            await self._balancer.run()

    async def _run_watchdog(self) -> None:
        await self.watchdog.run()

    # -- connections ----------------------------------------------------------

    @property
    def state(self) -> ChannelState:
        """What the channel is at; see `state_changed`."""
        if self._closed or self._balancer is None:
            return ChannelState.SHUTDOWN if self._closed else ChannelState.IDLE
        return self._balancer.state

    async def state_changed(self, last: ChannelState) -> ChannelState:
        """Wait until the state is another one than `last`, and return it."""
        await trio.lowlevel.checkpoint()
        while self.state is last:
            await self._changed.park()
        return self.state

    def connect(self) -> None:
        """Begin to connect, as the first call would."""
        self._entered().connect()

    async def ready(self) -> None:
        """Connect, and wait until a server can be called, however long it takes."""
        self.connect()
        while self.state is not ChannelState.READY:
            await self.state_changed(self.state)
            self.connect()

    def pick(self) -> Http2ClientConnection | None:
        """For calls: a connection, if there is one now."""
        return None if self._balancer is None or self._closed else self._balancer.pick()

    async def connection(self, *, wait_for_ready: bool | None) -> Http2ClientConnection:
        """For calls: wait for a connection.

        Raises:
            RpcError: UNAVAILABLE where no server can be reached, and the call does not want to wait for one.
        """
        balancer = self._entered()
        waits = self._wait_for_ready if wait_for_ready is None else wait_for_ready
        while True:
            connection = balancer.pick()
            if connection is not None:
                return connection
            if balancer.state is ChannelState.TRANSIENT_FAILURE and not waits:
                error = RpcError(StatusCode.UNAVAILABLE, f"cannot connect to {self.target}: {balancer.trouble}")
                error.causes = tuple(CallCause(address, 1, why) for address, why in balancer.failures.items())
                await trio.lowlevel.checkpoint()
                raise error
            balancer.connect()
            await self._changed.park()
            self._entered()

    def start_soon(self, function: Callable[[], Awaitable[None]]) -> None:
        """For calls: run a task that ends with the channel."""
        assert self._nursery is not None  # a call has begun
        self._nursery.start_soon(function)

    @property
    def why_not_ready(self) -> str:
        """The state in words, for errors."""
        if self._balancer is None or self._balancer.state is ChannelState.READY:
            return "all streams that the server allows are in use"
        text = f"the channel to {self.target} is {self._balancer.state.value}"
        return f"{text} ({self._balancer.trouble})" if self._balancer.failures else text

    def _entered(self) -> Balancer:
        if self._closed:
            raise RpcError(StatusCode.CANCELLED, "the channel is closed; make calls inside of its block")
        if self._balancer is None:
            raise LocalProtocolError("the channel has not been entered; write `async with Channel(...) as channel`")
        return self._balancer

    def _on_change(self) -> None:
        self._changed.unpark_all()

    async def _dial(self, address: Address) -> ByteStream:
        if self._connect is None:
            return await dial(address, self._tls, self.config.server)
        try:
            stream = await self._connect(address)
        except (OSError, trio.BrokenResourceError) as error:
            raise ConnectionClosed(1006, str(error) or type(error).__name__) from error
        server = self.config.server
        wrapped = WrappedByteStream(stream, read_size=server.read_size, peer_address=str(address))
        return wrapped if self._tls is None else await start_tls(wrapped, self._tls, server)

    # -- calls ----------------------------------------------------------------

    def method_config(self, path: str) -> MethodConfig:
        """What the service config says about a method."""
        found = self._methods.get(path)
        if found is None:
            found = self._methods[path] = self._services.for_method(path)
        return found

    def head(self, path: str, encoding: str | None) -> _Fields:
        """The fields that every request of a method begins with; the first five come before `grpc-timeout`."""
        head = self._heads.get((path, encoding))
        if head is None:
            head = self._heads[path, encoding] = (
                (b":method", b"POST"),
                (b":scheme", b"https" if self._tls is not None else b"http"),
                (b":path", path.encode("ascii")),
                (b":authority", self.authority.encode("idna" if not self.authority.isascii() else "ascii")),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                *(((b"grpc-encoding", encoding.encode("ascii")),) if encoding else ()),
                (b"grpc-accept-encoding", wire_compression.listed(wire_compression.ENCODINGS)),
                (b"user-agent", self._user_agent),
            )
        return head

    async def call_unary(self, details: CallDetails, request: Any) -> client.Reply[Any]:
        """For stubs: a call with one request and one response, through the interceptors."""
        if not self._interceptors:
            return await client.call_unary(self, details, request)

        async def proceed(index: int, details: CallDetails, request: Any) -> client.Reply[Any]:
            if index == len(self._interceptors):
                return await client.call_unary(self, details, request)
            return await self._interceptors[index].intercept_unary(
                details, request, lambda details, request: proceed(index + 1, details, request)
            )

        return await proceed(0, details, request)

    def call_stream(self, details: CallDetails, make: Callable[[CallDetails], Any]) -> Any:
        """For stubs: a call that streams, through the interceptors."""

        def proceed(index: int, details: CallDetails) -> Any:
            if index == len(self._interceptors):
                return make(details)
            return self._interceptors[index].intercept_stream(details, lambda details: proceed(index + 1, details))

        return proceed(0, details)

    # -- for stubs of stock grpcio code -----------------------------------------

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> client.UnaryMethod[Any, Any]:
        """A method by its path; what the stubs of a stock `*_pb2_grpc.py` ask their channel for."""
        made = _any_method(method, MethodKind.UNARY, request_serializer, response_deserializer)
        return client.UnaryMethod(self, made)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> client.ServerStreamMethod[Any, Any]:
        """As `unary_unary`; the call is a `ServerStream`."""
        made = _any_method(method, MethodKind.SERVER_STREAMING, request_serializer, response_deserializer)
        return client.ServerStreamMethod(self, made)

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> client.ClientStreamMethod[Any, Any]:
        """As `unary_unary`; the call is a `ClientStream`."""
        made = _any_method(method, MethodKind.CLIENT_STREAMING, request_serializer, response_deserializer)
        return client.ClientStreamMethod(self, made)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> client.BidiMethod[Any, Any]:
        """As `unary_unary`; the call is a `BidiStream`."""
        made = _any_method(method, MethodKind.BIDIRECTIONAL, request_serializer, response_deserializer)
        return client.BidiMethod(self, made)


def _any_method(
    path: str, kind: MethodKind, encode: Callable[[Any], bytes] | None, decode: Callable[[bytes], Any] | None
) -> ClientMethod:
    return ClientMethod(path, kind, encode or bytes, decode or bytes)


def _tls_client(tls: bool | ClientTlsConfig | ssl.SSLContext | None, host: str) -> TlsClient | None:
    if tls is None or tls is False:
        return None
    name = host
    if isinstance(tls, ssl.SSLContext):
        context = tls
    else:
        settings = ClientTlsConfig() if tls is True else tls
        context = client_context(settings, ("h2",))
        name = settings.server_name or host
    return TlsClient(context, name, "h2")
