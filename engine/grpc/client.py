"""What a user of a service holds: the methods of a stub, and the streams of a call.

Owns the shape of the four kinds of call. How a call gets through is `engine.grpc.call`'s.

    reply = await stub.say_hello(HelloRequest(name="Ada"), timeout=1.0)
    async with stub.stream_hellos(request) as stream:
        async for reply in stream: ...
    async with stub.collect_names() as stream:
        await stream.send(HelloRequest(name="Ada"))
        reply = await stream.reply()
    async with stub.chat() as stream:
        await stream.send(request); reply = await stream.receive(); await stream.done_writing()

The deadline of a call is that of the enclosing Trio scopes, or `timeout`, whichever is first: where a
scope's passes, Trio's own exceptions say so, where `timeout` does, an `RpcError` with DEADLINE_EXCEEDED.
Cancelling a call, or leaving the block of a stream before its end, resets its HTTP/2 stream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from engine.errors import StatusCode
from engine.grpc.attempt import Attempt
from engine.grpc.call import Call, CallDetails, ClientMethod
from engine.grpc.channel_interface import ChannelInterface
from engine.grpc.credentials import CallCredentials
from engine.grpc.stream_call import StreamCall, decode_reply
from engine.wire.grpc.metadata import Metadata, MetadataLike

if TYPE_CHECKING:
    from engine.grpc.methods import MethodSpec, ServiceSpec

__all__ = [
    "BidiMethod",
    "BidiStream",
    "ClientInterceptor",
    "ClientStream",
    "ClientStreamMethod",
    "Reply",
    "ServerStream",
    "ServerStreamMethod",
    "StreamCall",
    "StubBase",
    "UnaryMethod",
]

Req = TypeVar("Req")
Res = TypeVar("Res")


class Reply(Generic[Res]):
    """The reply of a call with a single response, and what came with it."""

    __slots__ = ("_attempt", "message")

    def __init__(self, message: Res, attempt: Attempt) -> None:
        self.message = message
        self._attempt = attempt

    @property
    def initial_metadata(self) -> Metadata:
        """What the server sent before the message."""
        return self._attempt.initial_metadata()

    @property
    def trailing_metadata(self) -> Metadata:
        """What it sent with the status."""
        return self._attempt.trailing_metadata()

    @property
    def peer(self) -> str:
        """The address that answered."""
        return self._attempt.connection.peer_address


class ClientInterceptor:
    """Sees every call of a channel; derive and override. The first one of a channel is the outermost.

    `details` may be replaced (`dataclasses.replace`), `proceed` called more than once or not at all.
    """

    async def intercept_unary(
        self,
        details: CallDetails,
        request: Any,
        proceed: Callable[[CallDetails, Any], Awaitable[Reply[Any]]],
    ) -> Reply[Any]:
        """A call with one request and one response."""
        return await proceed(details, request)

    def intercept_stream(
        self, details: CallDetails, proceed: Callable[[CallDetails], StreamCall[Any, Any]]
    ) -> StreamCall[Any, Any]:
        """A call that streams, before it is entered."""
        return proceed(details)


# -- unary --------------------------------------------------------------------


async def call_unary(channel: ChannelInterface, details: CallDetails, request: Any) -> Reply[Any]:
    """One call, all of its attempts. Cancelling it cancels the call."""
    call = Call(channel, details)
    try:
        framed = call.frame(request)
        while True:
            attempt = await call.start()
            if call.hedge is not None:
                call.hedge.begin(attempt)
                call.hedge.send(framed, end=True)
                attempt = await call.hedge.decided()
            else:
                connection = attempt.connection
                connection.send(attempt.stream_id, framed, end=True)
                connection.flush()
            await attempt.wait_finished()
            if attempt.code is StatusCode.OK:
                break
            await call.failed(attempt, replayable=call.hedge is None)
    except BaseException:
        call.close()
        raise
    call.succeeded()
    assert attempt.payload is not None  # else the status is not OK
    return Reply(decode_reply(details.method, attempt.payload), attempt)


class StubChannel(ChannelInterface, Protocol):
    """What stubs ask of their channel: to make calls, through its interceptors."""

    async def call_unary(self, details: CallDetails, request: Any) -> Reply[Any]:
        """A call with one request and one response."""

    def call_stream(self, details: CallDetails, make: Callable[[CallDetails], Any]) -> Any:
        """A call that streams; `make` makes it, with the details that the interceptors leave."""


class UnaryMethod(Generic[Req, Res]):
    """A method with one request and one response: `reply = await stub.method(request)`."""

    __slots__ = ("_channel", "_method")

    def __init__(self, channel: StubChannel, method: ClientMethod) -> None:
        self._channel = channel
        self._method = method

    async def __call__(
        self,
        request: Req,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # it goes to the server; scopes work as well
        metadata: MetadataLike = (),
        wait_for_ready: bool | None = None,
        compression: str | None = None,
        credentials: CallCredentials | None = None,
    ) -> Res:
        """Call, and wait for the reply. Cancellation resets the call.

        Args:
            timeout: seconds; the enclosing scope's deadline holds as well.
            metadata: sent with the request.
            wait_for_ready: True: wait where no server can be reached, instead of failing.
            compression: of the request: "gzip", "deflate", "zstd" or "identity".
            credentials: give metadata for this call alone.

        Raises:
            RpcError: the call ended with a status other than OK.
        """
        details = CallDetails(self._method, timeout, metadata, wait_for_ready, compression, credentials)
        reply = await self._channel.call_unary(details, request)
        message: Res = reply.message
        return message

    async def with_call(
        self,
        request: Req,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
        metadata: MetadataLike = (),
        wait_for_ready: bool | None = None,
        compression: str | None = None,
        credentials: CallCredentials | None = None,
    ) -> Reply[Res]:
        """As a plain call, but with the metadata of the response."""
        details = CallDetails(self._method, timeout, metadata, wait_for_ready, compression, credentials)
        return await self._channel.call_unary(details, request)


# -- streams ------------------------------------------------------------------


class ServerStream(StreamCall[Any, Res]):
    """One request, many responses: `async for response in stream`."""

    def __init__(self, channel: ChannelInterface, details: CallDetails, request: Any) -> None:
        super().__init__(channel, details)
        self._request = request

    def _begin(self, attempt: Attempt) -> None:
        assert self._call is not None  # entered
        framed = self._call.frame(self._request)
        self._request = None
        self._half_closed = True
        if self._hedge is not None:
            self._hedge.send(framed, end=True)
            return
        self._keep(attempt, framed)
        attempt.connection.send(attempt.stream_id, framed, end=True)
        attempt.connection.flush()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Res:
        message = await self._receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> Res | None:
        """The next response; None at the end. Cancellation loses nothing.

        Raises:
            RpcError: the call ended with a status other than OK.
        """
        return await self._receive()


class ClientStream(StreamCall[Req, Res]):
    """Many requests, one response."""

    async def send(self, message: Req, *, compress: bool = True) -> None:
        """Send one request; waits while the server reads slowly. Cancellation never cuts a message.

        Args:
            compress: False: this message goes out as it is, where the call has a compression.

        Raises:
            RpcError: the call ended with a status other than OK.
            ConnectionClosed: the server has replied already; `reply` has it.
        """
        await self._send(message, compress=compress)

    async def done_writing(self) -> None:
        """There are no more requests."""
        await self._done_writing()

    async def reply(self) -> Res:
        """End the requests, and wait for the response. Cancellation leaves the call as it is.

        Raises:
            RpcError: the call ended with a status other than OK.
        """
        return await self._reply()


class BidiStream(StreamCall[Req, Res]):
    """Many requests, many responses, in any order; one task may send while another receives."""

    async def send(self, message: Req, *, compress: bool = True) -> None:
        """See `ClientStream.send`."""
        await self._send(message, compress=compress)

    async def done_writing(self) -> None:
        """There are no more requests."""
        await self._done_writing()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Res:
        message = await self._receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> Res | None:
        """See `ServerStream.receive`."""
        return await self._receive()


class _StreamMethod:
    __slots__ = ("_channel", "_method")

    def __init__(self, channel: StubChannel, method: ClientMethod) -> None:
        self._channel = channel
        self._method = method


class ServerStreamMethod(_StreamMethod, Generic[Req, Res]):
    """A method with one request and many responses."""

    __slots__ = ()

    def __call__(
        self,
        request: Req,
        *,
        timeout: float | None = None,
        metadata: MetadataLike = (),
        wait_for_ready: bool | None = None,
        compression: str | None = None,
        credentials: CallCredentials | None = None,
    ) -> ServerStream[Res]:
        """A call to be entered; the arguments are those of `UnaryMethod`."""
        details = CallDetails(self._method, timeout, metadata, wait_for_ready, compression, credentials)
        channel = self._channel
        stream: ServerStream[Res] = channel.call_stream(details, lambda final: ServerStream(channel, final, request))
        return stream


class ClientStreamMethod(_StreamMethod, Generic[Req, Res]):
    """A method with many requests and one response."""

    __slots__ = ()

    def __call__(
        self,
        *,
        timeout: float | None = None,
        metadata: MetadataLike = (),
        wait_for_ready: bool | None = None,
        compression: str | None = None,
        credentials: CallCredentials | None = None,
    ) -> ClientStream[Req, Res]:
        """A call to be entered; the arguments are those of `UnaryMethod`."""
        details = CallDetails(self._method, timeout, metadata, wait_for_ready, compression, credentials)
        channel = self._channel
        stream: ClientStream[Req, Res] = channel.call_stream(details, lambda final: ClientStream(channel, final))
        return stream


class BidiMethod(_StreamMethod, Generic[Req, Res]):
    """A method with many requests and many responses."""

    __slots__ = ()

    def __call__(
        self,
        *,
        timeout: float | None = None,
        metadata: MetadataLike = (),
        wait_for_ready: bool | None = None,
        compression: str | None = None,
        credentials: CallCredentials | None = None,
    ) -> BidiStream[Req, Res]:
        """A call to be entered; the arguments are those of `UnaryMethod`."""
        details = CallDetails(self._method, timeout, metadata, wait_for_ready, compression, credentials)
        channel = self._channel
        stream: BidiStream[Req, Res] = channel.call_stream(details, lambda final: BidiStream(channel, final))
        return stream


# -- stubs --------------------------------------------------------------------


class StubBase:
    """The base of every generated stub."""

    def __init__(self, channel: StubChannel) -> None:
        self._engine_channel = channel

    def _method(self, service: ServiceSpec, index: int) -> tuple[StubChannel, ClientMethod]:
        """For generated code: what a method object is made of."""
        return self._engine_channel, client_method(service.methods[index])


def client_method(spec: MethodSpec) -> ClientMethod:
    """What a client needs of a method's specification."""
    return ClientMethod(spec.path, spec.kind, spec.request_type.SerializeToString, spec.response_type.FromString)
