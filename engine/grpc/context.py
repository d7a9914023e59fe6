"""`CallContext`: what a handler holds of its call beside the request.

Owns: the response's metadata and the order of its parts (head, messages, status). How they look on the
wire is the codec's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

import trio

from engine.errors import Http2Code, LocalProtocolError, RpcError, StatusCode
from engine.grpc.error_details import check_code
from engine.transport.exchange import CancelReason
from engine.wire.grpc import compression
from engine.wire.grpc import metadata as wire_metadata
from engine.wire.grpc.metadata import Metadata, MetadataLike

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from engine.grpc.codec import Codec
    from engine.grpc.methods import BoundMethod, MethodSpec
    from engine.grpc.requests import RequestStream
    from engine.transport.exchange import Exchange, Fields, Peer, TlsIdentity
    from engine.wire.grpc.framing import MessageParser

__all__ = ["CallContext"]

_SENDS_BETWEEN_CHECKPOINTS = 32  # a checkpoint costs what two small messages cost

_SMALL_QUEUE = 1024  # bytes of a stream's queue that nobody needs to look at more closely

_LARGE_REPLY = 64 * 1024  # bytes; smaller ones are queued whole and the handler's task ends

_ON_CANCELLED = {
    CancelReason.DEADLINE: (StatusCode.DEADLINE_EXCEEDED, "the deadline expired on the server"),
    CancelReason.SHUTDOWN: (StatusCode.UNAVAILABLE, "the server is stopping"),
}


class CallContext:
    """One call, as its handler sees it."""

    __slots__ = ("_codec", "_exchange", "_metadata", "_method", "_requests", "_sent", "_trailing", "parser")

    def __init__(self, exchange: Exchange, method: BoundMethod, codec: Codec) -> None:
        # immutable
        self._exchange = exchange
        self._method = method
        # owned by the exchange task
        self._codec = codec
        self.parser: MessageParser | None = None  # of the request; the endpoint's
        self._requests: RequestStream[object] | None = None  # of a bidirectional call
        self._metadata: Metadata | None = None
        self._trailing: Fields = ()
        self._sent = 0

    # -- the call -------------------------------------------------------------

    @property
    def method(self) -> MethodSpec:
        """The method that was called."""
        return self._method.spec

    @property
    def metadata(self) -> Metadata:
        """The client's metadata in order of arrival, duplicates kept; `-bin` values are bytes."""
        if self._metadata is None:
            decoded = wire_metadata.decode(self._exchange.head.headers)
            if isinstance(decoded, RpcError):
                raise decoded
            self._metadata = decoded
        return self._metadata

    @property
    def peer(self) -> Peer:
        """Address, TLS version and client certificate of the other end."""
        return self._exchange.peer

    @property
    def tls_identity(self) -> TlsIdentity | None:
        """Who the client is by its verified certificate; None without one (see tls.client_ca_file)."""
        return self._exchange.peer.tls_identity

    @property
    def deadline(self) -> float | None:
        """When the call ends by itself (`trio.current_time()` seconds), or None."""
        deadline = self._exchange.scope.deadline
        return None if deadline == math.inf else deadline

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, never below 0; None without a deadline."""
        deadline = self.deadline
        return None if deadline is None else max(0.0, deadline - trio.current_time())

    @property
    def cancelled(self) -> CancelReason | None:
        """Why the handler is being cancelled, or None: for clean-up code that wants to know.

        The expiry of the deadline is recorded after the handler has ended; see `time_remaining`.
        """
        return self._exchange.cancel_reason

    @property
    def draining(self) -> bool:
        """The server wants to stop: long-lived streams should end soon."""
        return self._exchange.draining

    def on_draining(self, callback: Callable[[], None]) -> None:
        """Call back once, synchronously, when `draining` becomes true; instead of what was set before."""
        self._exchange.on_draining = callback

    @property
    def request_compressed(self) -> bool:
        """The request message that was read last had arrived compressed."""
        return self.parser is not None and self.parser.compressed

    # -- answering ------------------------------------------------------------

    def set_compression(self, encoding: str | None) -> bool:
        """Compress the response's messages; to be called before the first of them, and before the head.

        Nothing is compressed unless a handler asks for it, nor for a client that does not accept it.

        Args:
            encoding: "gzip", "deflate" (not over Connect), "zstd" (with the extra `zstd`, or on Python 3.14), or None
                for no compression.

        Returns:
            Whether the client accepts it; else messages leave uncompressed.

        Raises:
            LocalProtocolError: there is no such encoding, or the head was sent before.
        """
        if self._exchange.status:
            raise LocalProtocolError("the response head was sent before; set the compression first")
        if encoding is None or encoding == compression.IDENTITY:
            self._codec = self._codec.compressing(None)
            return True
        if encoding not in compression.ENCODINGS:
            raise LocalProtocolError(f"there is no compression {encoding!r}; {compression.advice()}")
        codec = self._codec
        accepted = self._exchange.head.header(codec.accept_encoding)
        if encoding not in codec.encodings or not compression.accepts(accepted, encoding):
            return False
        self._codec = codec.compressing(encoding)
        return True

    def disable_next_message_compression(self) -> None:
        """Send the next message uncompressed, whatever `set_compression` said."""
        if self._codec.encoding is not None:
            self._codec.plain_next = True

    async def send_initial_metadata(self, metadata: MetadataLike = ()) -> None:
        """Send the response head now, before any message.

        Cancellation leaves it queued.

        Raises:
            LocalProtocolError: the head, or a message, was sent before; or the metadata is not valid.
        """
        if self._exchange.status:
            raise LocalProtocolError("initial metadata was sent before; send it once, before the first message")
        self._codec.write_head(self._exchange, wire_metadata.encode(metadata))
        await self._exchange.drain()

    def set_trailing_metadata(self, metadata: MetadataLike) -> None:
        """Metadata to send after the last message, with the status; replaces what was set before.

        Raises:
            LocalProtocolError: the metadata is not valid.
        """
        self._trailing = tuple(wire_metadata.encode(metadata))

    def trailing_metadata(self) -> Metadata:
        """What `set_trailing_metadata` has set."""
        decoded = wire_metadata.decode(self._trailing)
        return decoded if isinstance(decoded, Metadata) else Metadata(())

    def abort(self, code: StatusCode, message: str = "", *, details: bytes | None = None) -> NoReturn:
        """End the call with this status.

        Args:
            details: a serialised `google.rpc.Status` of the same code; `grpc.rich_error` makes one.

        Raises:
            RpcError: always.
            LocalProtocolError: the code is OK, or not that of the details.
        """
        if code is StatusCode.OK:
            raise LocalProtocolError("abort needs a status other than OK; return from the handler instead")
        if details is not None:
            check_code(code, details)
        raise RpcError(code, message, details)

    async def send(self, message: Message) -> None:
        """Send one message of a streaming response; waits while the client reads slowly.

        Small messages that follow each other leave in one write. Cancellation never cuts a message.

        Raises:
            LocalProtocolError: the method's response is not a stream.
            ConnectionClosed: the response cannot arrive any more.
        """
        if not self._method.response_streaming:
            raise LocalProtocolError(f"{self.method.path} has one response: return it from the handler")
        payload = self._method.encode(message)
        exchange = self._exchange
        if not exchange.status:
            self._codec.write_head(exchange)
        self._codec.write_message(exchange, payload)
        self._sent += 1
        queued = exchange.queued
        if queued > _SMALL_QUEUE and queued > exchange.high_water // 2:
            await exchange.drain()
        elif self._requests is not None and not self._requests.has_message:
            exchange.flush()  # the client may be waiting for this before it goes on
        else:
            exchange.flush_soon()
        if self._sent % _SENDS_BETWEEN_CHECKPOINTS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    # -- for the endpoint -----------------------------------------------------

    def attach_requests(self, requests: RequestStream[object]) -> None:
        """A bidirectional call: its replies leave at once where no further request waits."""
        self._requests = requests

    def finish(self) -> None:
        """Queue status OK and put everything on the wire."""
        exchange = self._exchange
        if not exchange.status:
            self._codec.write_head(exchange)
        self._codec.write_status(exchange, StatusCode.OK, metadata=self._trailing)
        exchange.flush()

    async def finish_with(self, payload: bytes) -> None:
        """Send the only message of a response and status OK."""
        exchange = self._exchange
        if len(payload) < _LARGE_REPLY:
            self._codec.write_reply(exchange, payload, self._trailing)
            exchange.flush()
            return
        if not self._codec.is_stream:
            self._codec.write_reply(exchange, payload, self._trailing)
            await exchange.drain()
            return
        # The deadline guards a large reply until the client has taken it.
        if not exchange.status:
            self._codec.write_head(exchange)
        self._codec.write_message(exchange, payload)
        await exchange.drain()
        self.finish()

    def fail(self, error: RpcError) -> None:
        """End the call with the status of `error`."""
        exchange = self._exchange
        if exchange.response_ended:
            return
        trailing = (*self._trailing, *wire_metadata.encode(error.trailers)) if error.trailers else self._trailing
        if self.parser is not None and self.parser.failure is not None:
            exchange.give_up_body()
        # An error without a status is a contradiction; a client must not take it for success.
        code = StatusCode.UNKNOWN if error.code is StatusCode.OK else error.code
        self._codec.write_status(exchange, code, error.message, details=error.details, metadata=trailing)
        exchange.flush()

    def on_cancelled(self, reason: CancelReason) -> None:
        """Tell a client that still listens why its call has ended."""
        exchange = self._exchange
        answer = _ON_CANCELLED.get(reason)
        if answer is None or exchange.response_ended:
            return
        self._codec.write_status(exchange, *answer, metadata=self._trailing)
        exchange.flush()
        exchange.reset(Http2Code.NO_ERROR)
