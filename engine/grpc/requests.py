"""The messages of a request, taken from an exchange.

Owns: the way from body bytes to messages that a handler holds. Whoever reads gets each message,
then either a clean end or an error: a request that was cut off never looks complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from google.protobuf.message import DecodeError

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.framing import MessageParser

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange

__all__ = ["RequestStream"]

M = TypeVar("M")


class RequestStream(AsyncIterator[M], Generic[M]):
    """The requests of a streaming call: `async for request in requests`.

    The iteration ends when the client has finished its side. It raises `RpcError` where the client
    broke the framing, sent too large a message or one that does not parse, and `ConnectionClosed`
    where the request can no longer arrive whole. A cancelled wait loses no message.
    """

    __slots__ = ("_decode", "_exchange", "_parser")

    def __init__(self, exchange: Exchange, parser: MessageParser, decode: Callable[[bytes], M]) -> None:
        self._exchange = exchange
        self._parser = parser
        self._decode = decode

    def __aiter__(self) -> RequestStream[M]:
        return self

    async def __anext__(self) -> M:
        """The next request."""
        payload = self._parser.next_message()
        if payload is None:
            payload = await read_message(self._exchange, self._parser)
            if payload is None:
                raise StopAsyncIteration
        return decode_message(self._decode, payload)

    @property
    def has_message(self) -> bool:
        """A request is here: the next step of the iteration will not wait."""
        return self._parser.has_message


async def read_message(exchange: Exchange, parser: MessageParser) -> bytes | None:
    """The next message, None at the end. Cancellation loses nothing.

    Raises:
        RpcError: the peer broke the framing, also by ending inside a message.
        ConnectionClosed: the request was aborted.
    """
    while True:
        payload = parser.next_message()
        if payload is not None:
            return payload
        if parser.failure is not None:
            raise RpcError(parser.failure.code, parser.failure.message)
        if parser.ended:
            return None
        data = await exchange.receive()
        if data:
            parser.receive_data(data)
        else:
            parser.receive_eof()


def read_single_nowait(exchange: Exchange, parser: MessageParser) -> bytes | None:
    """The only message of a request that is already here as a whole and in one piece.

    None: it is not, and the parser has what was taken.
    """
    data = exchange.receive_nowait()
    if not data:
        if data is not None:
            parser.receive_eof()
        return None
    end = exchange.receive_nowait()
    if end == b"":
        payload = parser.parse_single(data)
        if payload is not None:
            return payload
    parser.receive_data(data)
    if end:
        parser.receive_data(end)
    elif end is not None:
        parser.receive_eof()
    return None


async def read_single(exchange: Exchange, parser: MessageParser) -> bytes:
    """The only message of a request, once the request is complete.

    Raises:
        RpcError: UNIMPLEMENTED for none or more than one (doc/statuscodes.md: "client-side streaming
            cardinality violation"), else as `read_message`.
    """
    payload = await read_message(exchange, parser)
    if payload is None:
        raise RpcError(StatusCode.UNIMPLEMENTED, "the request has no message; this method takes exactly one")
    if await read_message(exchange, parser) is not None:
        raise RpcError(StatusCode.UNIMPLEMENTED, "the request has several messages; this method takes exactly one")
    return payload


def decode_message(decode: Callable[[bytes], M], payload: bytes) -> M:
    """The message object.

    Raises:
        RpcError: INTERNAL where the bytes are no such message, as in the official implementations.
    """
    try:
        return decode(payload)
    except DecodeError as error:
        raise RpcError(StatusCode.INTERNAL, "the request does not parse as the message type of this method") from error
