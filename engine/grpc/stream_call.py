"""A call that streams: attempts at it, what was sent kept for the next one, and who waits for what.

Owns `StreamCall`, on which the streams that users hold (`engine.grpc.client`) are built. Never retries by
itself: that is decided by `engine.grpc.call` and `engine.grpc.hedging`.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import trio
from google.protobuf.message import DecodeError

from engine.errors import ConnectionClosed, LocalProtocolError, RpcError, StatusCode
from engine.grpc.attempt import Attempt
from engine.grpc.call import Call, CallDetails, ClientMethod
from engine.grpc.hedging import Hedge
from engine.wire.grpc.metadata import Metadata

if TYPE_CHECKING:
    from engine.grpc.channel_interface import ChannelInterface

__all__ = ["StreamCall", "decode_reply"]

Req = TypeVar("Req")
Res = TypeVar("Res")

_SENDS_BETWEEN_CHECKPOINTS = 32  # a checkpoint costs what two small messages cost


def decode_reply(method: ClientMethod, payload: bytes) -> Any:
    """The message object.

    Raises:
        RpcError: INTERNAL where the bytes are no such message, as in the official implementations.
    """
    try:
        return method.decode(payload)
    except DecodeError as error:
        raise RpcError(StatusCode.INTERNAL, f"the response of {method.path} does not parse as its type") from error


class StreamCall(Generic[Req, Res]):
    """A call that streams, as an async context manager: the call begins and ends with the block.

    What was sent is kept until the server begins to answer, within `channel.retry_buffer_size`, so that an
    attempt which a server did not take is repeated unseen.
    """

    def __init__(self, channel: ChannelInterface, details: CallDetails) -> None:
        self._channel = channel
        self._details = details
        self._call: Call | None = None
        self._attempt: Attempt | None = None
        self._hedge: Hedge | None = None  # while no attempt counts yet
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
            self._attempt = attempt = await call.start()
            if call.hedge is not None:
                self._hedge, self._replayable = call.hedge, False
                self._hedge.begin(attempt)
            self._begin(attempt)
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
            attempt = await self._decided() if self._hedge is not None else self._current()
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
        attempt = self._current()
        if self._hedge is not None:
            self._hedge.cancel()
        attempt.cancel()

    # -- sending --------------------------------------------------------------

    async def _send(self, message: Req, *, compress: bool = True) -> None:
        if self._half_closed:
            raise LocalProtocolError("send after done_writing; send everything first")
        attempt = self._current()
        assert self._call is not None  # entered
        framed = self._call.frame(message, compress=compress)
        if self._hedge is not None:
            if self._hedge.winner is None:
                self._hedge.send(framed)
                await trio.lowlevel.checkpoint()
                return
            attempt = await self._decided()
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
            if self._hedge is not None and self._hedge.winner is None:
                self._hedge.send(b"", end=True)
            else:
                attempt = await self._decided() if self._hedge is not None else attempt
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
        if self._hedge is not None:
            await self._decided()
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
        if self._hedge is not None:
            await self._decided()
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

    async def _decided(self) -> Attempt:
        """Of a hedged call: wait for the attempt that counts."""
        hedge = self._hedge
        if hedge is not None:
            self._attempt = await hedge.decided()
            self._hedge = None
        return self._current()

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
