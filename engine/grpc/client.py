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
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import trio
from google.protobuf.message import DecodeError

from engine.errors import ConnectionClosed, LocalProtocolError, RpcError, StatusCode
from engine.grpc.attempt import Attempt
from engine.grpc.call import Call, CallDetails, ClientMethod
from engine.grpc.credentials import CallCredentials
from engine.wire.grpc.metadata import Metadata, MetadataLike

if TYPE_CHECKING:
    from engine.grpc.channel import Channel
    from engine.grpc.service import MethodSpec, ServiceSpec

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

_SENDS_BETWEEN_CHECKPOINTS = 32  # a checkpoint costs what two small messages cost


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


def decode_reply(method: ClientMethod, payload: bytes) -> Any:
    """The message object.

    Raises:
        RpcError: INTERNAL where the bytes are no such message, as in the official implementations.
    """
    try:
        return method.decode(payload)
    except DecodeError as error:
        raise RpcError(StatusCode.INTERNAL, f"the response of {method.path} does not parse as its type") from error


# -- unary --------------------------------------------------------------------


async def call_unary(channel: Channel, details: CallDetails, request: Any) -> Reply[Any]:
    """One call, all of its attempts. Cancelling it cancels the call."""
    call = Call(channel, details)
    try:
        framed = call.frame(request)
        while True:
            attempt = await call.start()
            connection = attempt.connection
            connection.send(attempt.stream_id, framed, end=True)
            connection.flush()
            await attempt.wait_finished()
            if attempt.code is StatusCode.OK:
                break
            await call.failed(attempt)
    except BaseException:
        call.close()
        raise
    call.succeeded()
    assert attempt.payload is not None  # else the status is not OK
    return Reply(decode_reply(details.method, attempt.payload), attempt)


class UnaryMethod(Generic[Req, Res]):
    """A method with one request and one response: `reply = await stub.method(request)`."""

    __slots__ = ("_channel", "_method")

    def __init__(self, channel: Channel, method: ClientMethod) -> None:
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
            compression: of the request: "gzip", "deflate" or "identity".
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


class StreamCall(Generic[Req, Res]):
    """A call that streams, as an async context manager: the call begins and ends with the block.

    What was sent is kept until the server begins to answer, within `channel.retry_buffer_size`, so that an
    attempt which a server did not take is repeated unseen.
    """

    def __init__(self, channel: Channel, details: CallDetails) -> None:
        self._channel = channel
        self._details = details
        self._call: Call | None = None
        self._attempt: Attempt | None = None
        self._recovery = trio.Lock()
        self._sent: list[bytes] = []  # for another attempt
        self._sent_size = 0
        self._replayable = True
        self._half_closed = False
        self._error: RpcError | None = None
        self._sends = 0

    async def __aenter__(self) -> Self:
        """Begin the call; waits for a connection, not for the server."""
        if self._call is not None:
            raise LocalProtocolError("a call cannot be entered twice; make another one")
        self._call = call = Call(self._channel, self._details)
        try:
            self._attempt = await call.start()
            self._begin(self._attempt)
        except BaseException:
            call.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the call: what has not ended is cancelled. Never waits."""
        assert self._call is not None  # entered
        self._call.close()

    def _begin(self, attempt: Attempt) -> None:
        """The head is queued."""
        attempt.connection.flush()

    # -- what is known of the response ----------------------------------------

    async def initial_metadata(self) -> Metadata:
        """Wait for what the server sends before its first message.

        Raises:
            RpcError: the call has failed.
        """
        while True:
            attempt = self._current()
            if attempt.committed:
                return attempt.initial_metadata()
            if attempt.finished:
                if attempt.code is StatusCode.OK:
                    return attempt.initial_metadata()
                await self._recover(attempt)
            else:
                await attempt.changed()

    @property
    def trailing_metadata(self) -> Metadata:
        """What came with the status; empty until the response has ended."""
        return self._current().trailing_metadata()

    @property
    def peer(self) -> str:
        """The address that the call goes to."""
        return self._current().connection.peer_address

    def cancel(self) -> None:
        """Reset the call: whoever waits for it gets an `RpcError` with CANCELLED."""
        self._current().cancel()

    # -- sending --------------------------------------------------------------

    async def _send(self, message: Req, *, compress: bool = True) -> None:
        if self._half_closed:
            raise LocalProtocolError("send after done_writing; send everything first")
        attempt = self._current()
        assert self._call is not None  # entered
        framed = self._call.frame(message, compress=compress)
        while attempt.finished:
            attempt = await self._recover(attempt)
        self._keep(attempt, framed)
        connection, stream_id = attempt.connection, attempt.stream_id
        connection.send(stream_id, framed)
        connection.flush()
        self._sends += 1
        limit = self._channel.config.http2.send_buffer
        while connection.queued(stream_id) > limit and not attempt.over():
            connection.notify_when_writable(stream_id)
            await attempt.changed()
        if attempt.over() and attempt.code is not StatusCode.OK:
            await self._recover(attempt)  # what was sent is part of the replay
        elif self._sends % _SENDS_BETWEEN_CHECKPOINTS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def _done_writing(self) -> None:
        if not self._half_closed:
            self._half_closed = True
            attempt = self._current()
            if not attempt.finished:
                attempt.connection.send(attempt.stream_id, b"", end=True)
                attempt.connection.flush()
        await trio.lowlevel.checkpoint()

    def _keep(self, attempt: Attempt, framed: bytes) -> None:
        """Remember a request while the call can be repeated."""
        if not self._replayable:
            return
        self._sent_size += len(framed)
        if attempt.committed or self._sent_size > self._channel.config.retry_buffer_size:
            self._replayable = False
            self._sent.clear()
        else:
            self._sent.append(framed)

    # -- receiving ------------------------------------------------------------

    async def _receive(self) -> Res | None:
        """The next response; None at the end of a call that ended with OK. Cancellation loses nothing."""
        waited = False
        while True:
            attempt = self._current()
            payload = attempt.take()
            if payload is not None:
                if not waited:
                    await trio.lowlevel.checkpoint_if_cancelled()
                message: Res = decode_reply(self._details.method, payload)
                return message
            if not attempt.finished:
                await attempt.changed()
                waited = True
            elif attempt.code is StatusCode.OK:
                assert self._call is not None  # entered
                self._call.succeeded()
                if not waited:
                    await trio.lowlevel.checkpoint()
                return None
            else:
                await self._recover(attempt)

    async def _reply(self) -> Res:
        await self._done_writing()
        while True:
            attempt = self._current()
            if not attempt.finished:
                await attempt.changed()
            elif attempt.code is StatusCode.OK:
                assert self._call is not None  # entered
                self._call.succeeded()
                assert attempt.payload is not None  # else the status is not OK
                reply: Res = decode_reply(self._details.method, attempt.payload)
                return reply
            else:
                await self._recover(attempt)

    # -- attempts -------------------------------------------------------------

    def _current(self) -> Attempt:
        if self._attempt is None:
            raise LocalProtocolError("the call has not begun; use it in `async with`")
        return self._attempt

    async def _recover(self, attempt: Attempt) -> Attempt:
        """The attempt has ended and somebody wants to go on: with another one, or not at all.

        Raises:
            RpcError: the call has failed.
            ConnectionClosed: a request was to be sent, but the server has ended the call with OK.
        """
        async with self._recovery:
            call = self._call
            assert call is not None  # entered
            if self._attempt is not attempt:
                return self._current()
            if self._error is not None:
                raise self._error.with_traceback(None)
            if attempt.code is StatusCode.OK:
                raise ConnectionClosed(1000, "the server has ended the call with OK; receive what it sent", clean=True)
            try:
                await call.failed(attempt, replayable=self._replayable)
                self._attempt = attempt = await call.start()
            except RpcError as error:
                self._error = error
                raise
            for framed in self._sent:
                attempt.connection.send(attempt.stream_id, framed)
            if self._half_closed:
                attempt.connection.send(attempt.stream_id, b"", end=True)
            attempt.connection.flush()
            return attempt


class ServerStream(StreamCall[Any, Res]):
    """One request, many responses: `async for response in stream`."""

    def __init__(self, channel: Channel, details: CallDetails, request: Any) -> None:
        super().__init__(channel, details)
        self._request = request

    def _begin(self, attempt: Attempt) -> None:
        assert self._call is not None  # entered
        framed = self._call.frame(self._request)
        self._request = None
        self._keep(attempt, framed)
        self._half_closed = True
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

    def __init__(self, channel: Channel, method: ClientMethod) -> None:
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

    def __init__(self, channel: Channel) -> None:
        self._engine_channel = channel

    def _method(self, service: ServiceSpec, index: int) -> tuple[Channel, ClientMethod]:
        """For generated code: what a method object is made of."""
        return self._engine_channel, client_method(service.methods[index])


def client_method(spec: MethodSpec) -> ClientMethod:
    """What a client needs of a method's specification."""
    return ClientMethod(spec.path, spec.kind, spec.request_type.SerializeToString, spec.response_type.FromString)
