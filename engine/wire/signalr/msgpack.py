"""The MessagePack hub protocol: arrays, each behind its length as a VarInt of one to five bytes.

Owns: framing, parsing, and the exact array that ASP.NET Core writes for each message. Never binds
arguments to methods by itself: it hands out decoders that turn raw arguments straight into the types
wanted.

Theory of operation. A message that is complete in one read is sliced out of it; an incomplete one
waits as a list of chunks, joined once when all of it is there, and is refused from its length already
where it is too large. The second byte tells the type, which chooses one typed `msgspec` decoder for
the whole array: items beyond those known are skipped, as are bytes behind the array; unknown types
are ignored; arguments, items and results stay raw. Too few items of an invocation, or arguments that
are no array, are left to the binding, which answers them; anything else that is wrong is terminal.
Invalid UTF-8 inside strings becomes U+FFFD, as .NET has it.

Datetimes are the timestamp extension (type -1), in UTC; integers have 64 bits; records are maps.

Spec: docs/specs/HubProtocol.md, "MessagePack Encoding"; MessagePackHubProtocolWorker.cs;
https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from engine.errors import LimitExceeded, LimitKind, RemoteProtocolError
from engine.wire.signalr.messages import (
    Ack,
    BindingError,
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    HubProtocol,
    Invocation,
    Malformed,
    MessageReader,
    MessageType,
    Ping,
    SequenceStart,
    StreamInvocation,
    StreamItem,
    TransferFormat,
)
from engine.wire.signalr.models import decode_model, encode_model

T = TypeVar("T")

_PING = Ping()
_NO_ARGUMENTS = Raw(b"")  # of an invocation that ends before them: no decoder takes it
_MAX_VARINT = 5  # bytes of a length
_MAX_LENGTH = 2**31 - 1  # .NET: "Messages over 2GB in size are not supported."
_ERROR, _VOID, _VALUE = 1, 2, 3  # what kind of completion it is
_TRAILING = "trailing"  # in msgspec's text for bytes behind a value


class _Head(msgspec.Struct, array_like=True, gc=False):
    type: int


class _Invocation(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str | None
    target: str
    arguments: Raw | UnsetType = UNSET
    stream_ids: Raw | UnsetType = UNSET  # not before the arguments fit: what stands there is not looked at then


class _Item(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str
    item: Raw


class _Completion(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str
    kind: int
    value: Raw | UnsetType = UNSET


class _Cancel(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str


class _Close(msgspec.Struct, array_like=True, gc=False):
    type: int
    error: str | None
    allow_reconnect: bool = False


class _Number(msgspec.Struct, array_like=True, gc=False):
    type: int
    sequence_id: int


_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_invocation = msgspec.msgpack.Decoder(_Invocation).decode
_decode_item = msgspec.msgpack.Decoder(_Item).decode
_decode_completion = msgspec.msgpack.Decoder(_Completion).decode
_decode_cancel = msgspec.msgpack.Decoder(_Cancel).decode
_decode_close = msgspec.msgpack.Decoder(_Close).decode
_decode_number = msgspec.msgpack.Decoder(_Number).decode
_decode_strings = msgspec.msgpack.Decoder(list[str]).decode
_decode_text = msgspec.msgpack.Decoder(str | None).decode
_encode_plain = msgspec.msgpack.Encoder(decimal_format="number", enc_hook=encode_model).encode


# -- parsing -------------------------------------------------------------------


class MsgpackMessageReader(MessageReader):
    """The incoming half of one connection."""

    __slots__ = ("_chunks", "_events", "_limit", "_missing", "_size", "failure")

    def __init__(self, max_message_size: float) -> None:
        self._limit = max_message_size  # of a message with its length
        self._chunks: list[bytes] = []  # of the message that is incomplete
        self._size = 0
        self._missing = 0  # bytes without which another look at the chunks is of no use
        self._events: deque[HubMessage | Malformed] = deque()
        self.failure = None

    def receive_data(self, data: bytes) -> None:
        if self.failure is not None or not data:
            return
        if self._chunks:
            self._chunks.append(data)
            self._size += len(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
        try:
            self._parse(data)
        except (RemoteProtocolError, LimitExceeded) as error:
            self.failure = error
            self._chunks.clear()
            self._size = 0
            self._events.append(Malformed(error))

    def receive_eof(self) -> None:
        if self._size and self.failure is None:
            self.failure = RemoteProtocolError("Connection terminated while reading a message.")
            self._chunks.clear()
            self._size = 0
            self._events.append(Malformed(self.failure))

    def next_event(self) -> HubMessage | Malformed | None:
        return self._events.popleft() if self._events else None

    def _parse(self, data: bytes) -> None:
        start, end = 0, len(data)
        while start < end:
            size, body = data[start], start + 1
            if size & 0x80:
                size, body = _read_varint(data, start)
            if body - start + size > self._limit:
                raise LimitExceeded(
                    "signalr.max_message_size", self._limit, body - start + size, kind=LimitKind.MESSAGE_SIZE
                )
            stop = body + size
            if body > end or stop > end:
                rest = data[start:] if start else data
                self._chunks.append(rest)
                self._size = len(rest)
                self._missing = stop - end
                return
            message = parse_message(data[body:stop])
            if message is not None:
                self._events.append(message)
            start = stop


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """The length that starts there and where it ends; beyond the data where it is incomplete."""
    value = 0
    for index in range(_MAX_VARINT):
        position = start + index
        if position >= len(data):
            return 0, position + 1
        value |= (data[position] & 0x7F) << (7 * index)
        if data[position] < 0x80:
            if value > _MAX_LENGTH:
                break
            return value, position + 1
    raise RemoteProtocolError("the length of a hub message is malformed: at most five bytes and 2 GiB")


def parse_message(message: bytes) -> HubMessage | None:
    """One message without its length; None: of a type that we do not know.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    # A short array whose first item is a small integer, as all senders write it; else the long way.
    known = len(message) > 1 and message[0] & 0xF0 == 0x90 and message[1] < 0x80
    kind = message[1] if known else _decoded(_decode_head, message).type
    build = _BUILD.get(kind)
    return build(message) if build is not None else None


def _decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    """Decode, and mend what is no error: bytes behind the value, invalid UTF-8."""
    try:
        return decode(data)
    except UnicodeDecodeError:
        return _decoded(decode, _replace_invalid(data))
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"malformed hub message: {error}") from None
    except msgspec.DecodeError as error:
        if _TRAILING in str(error):
            end = _end_of_value(data)
            if end < len(data):
                return _decoded(decode, data[:end])
        raise RemoteProtocolError(f"malformed hub message: {error}") from None
    except RecursionError:
        raise RemoteProtocolError("a hub message is nested too deep") from None


def _parts(message: bytes) -> tuple[_Invocation, Raw, tuple[str, ...]]:
    parts = _decoded(_decode_invocation, message)
    arguments, stream_ids = parts.arguments, parts.stream_ids
    if isinstance(arguments, UnsetType) or _array_length(bytes(arguments)) is None:
        return parts, _NO_ARGUMENTS, ()
    if isinstance(stream_ids, UnsetType) or bytes(stream_ids) == b"\x90":
        return parts, arguments, ()
    return parts, arguments, tuple(_decoded(_decode_strings, bytes(stream_ids)))


def _invocation(message: bytes) -> Invocation:
    parts, arguments, stream_ids = _parts(message)
    # An empty id is none: nobody waits for an answer.
    return Invocation(parts.target, arguments, parts.invocation_id or None, stream_ids, parts.headers or None)


def _stream_invocation(message: bytes) -> StreamInvocation:
    parts, arguments, stream_ids = _parts(message)
    if not parts.invocation_id:
        raise RemoteProtocolError("a hub message of type 4 lacks its invocationId")
    return StreamInvocation(parts.invocation_id, parts.target, arguments, stream_ids, parts.headers or None)


def _stream_item(message: bytes) -> StreamItem:
    parts = _decoded(_decode_item, message)
    return StreamItem(parts.invocation_id, parts.item)


def _completion(message: bytes) -> Completion:
    parts = _decoded(_decode_completion, message)
    value = parts.value
    if parts.kind == _VOID:
        return Completion(parts.invocation_id)
    if isinstance(value, UnsetType) or parts.kind not in (_ERROR, _VALUE):
        raise RemoteProtocolError(f"a completion of kind {parts.kind} with too few items, or of no known kind")
    if parts.kind == _VALUE:
        return Completion(parts.invocation_id, value)
    return Completion(parts.invocation_id, error=_decoded(_decode_text, bytes(value)))


def _cancel(message: bytes) -> CancelInvocation:
    return CancelInvocation(_decoded(_decode_cancel, message).invocation_id)


def _ping(_message: bytes) -> Ping:
    return _PING


def _close(message: bytes) -> Close:
    parts = _decoded(_decode_close, message)
    return Close(parts.error, parts.allow_reconnect)


def _ack(message: bytes) -> Ack:
    return Ack(_decoded(_decode_number, message).sequence_id)


def _sequence(message: bytes) -> SequenceStart:
    return SequenceStart(_decoded(_decode_number, message).sequence_id)


_BUILD: dict[int, Callable[[bytes], HubMessage]] = {
    MessageType.INVOCATION: _invocation,
    MessageType.STREAM_ITEM: _stream_item,
    MessageType.COMPLETION: _completion,
    MessageType.STREAM_INVOCATION: _stream_invocation,
    MessageType.CANCEL_INVOCATION: _cancel,
    MessageType.PING: _ping,
    MessageType.CLOSE: _close,
    MessageType.ACK: _ack,
    MessageType.SEQUENCE: _sequence,
}


# -- the slow way over a value ---------------------------------------------------

# First bytes from 0xc0 on: how many bytes of length follow, and how many bytes beside that length.
_BIN, _STR, _ARRAY, _MAP = (0xC4, 0xC5, 0xC6), (0xD9, 0xDA, 0xDB), (0xDC, 0xDD), (0xDE, 0xDF)
_LENGTH_BYTES = {
    **dict(zip(_BIN, (1, 2, 4), strict=True)),
    **dict(zip((0xC7, 0xC8, 0xC9), (1, 2, 4), strict=True)),  # ext
    **dict(zip(_STR, (1, 2, 4), strict=True)),
    **dict(zip(_ARRAY, (2, 4), strict=True)),
    **dict(zip(_MAP, (2, 4), strict=True)),
}
_FIXED_BYTES = {
    **{0xC7: 1, 0xC8: 1, 0xC9: 1},  # the type of an ext
    **{0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8},
    **{0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17},  # fixext with its type
}


def _tokens(data: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """Walk over one value: where each item starts, its payload starts and ends, and whether it is text.

    Raises:
        RemoteProtocolError: the value is truncated.
    """
    position, wanted = 0, 1
    while wanted:
        wanted -= 1
        if position >= len(data):
            raise RemoteProtocolError("malformed hub message: truncated")
        start, first = position, data[position]
        position += 1
        payload, is_text = 0, False
        if 0x80 <= first < 0x90:
            wanted += 2 * (first & 0x0F)
        elif 0x90 <= first < 0xA0:
            wanted += first & 0x0F
        elif 0xA0 <= first < 0xC0:
            payload, is_text = first & 0x1F, True
        elif 0xC0 <= first < 0xE0:
            width = _LENGTH_BYTES.get(first, 0)
            length = int.from_bytes(data[position : position + width], "big")
            position += width
            if first in _ARRAY or first in _MAP:
                wanted += length * (2 if first in _MAP else 1)
            else:
                payload, is_text = length + _FIXED_BYTES.get(first, 0), first in _STR
        yield start, position, position + payload, is_text
        position += payload


def _end_of_value(data: bytes) -> int:
    return max(end for _, _, end, _ in _tokens(data))


def _replace_invalid(data: bytes) -> bytes:
    """The value with U+FFFD for what is no UTF-8 in its strings; bytes behind the value are dropped."""
    pieces = []
    for start, payload, end, is_text in _tokens(data):
        if end > len(data):
            raise RemoteProtocolError("malformed hub message: truncated")
        if is_text:
            pieces.append(_encode_plain(data[payload:end].decode("utf-8", "replace")))
        else:
            pieces.append(data[start:end])
    return b"".join(pieces)


def _array_length(data: bytes) -> int | None:
    """How many items an array has; None: it is no array."""
    first = data[0] if data else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first in _ARRAY:
        return int.from_bytes(data[1 : 1 + _LENGTH_BYTES[first]], "big")
    return None


# -- writing -------------------------------------------------------------------

_SHORT_LENGTH = [bytes((length,)) for length in range(0x80)]
_HEADERS: dict[str, str] = {}
_PLAIN = frozenset({str, int, float, bool, type(None), bytes})  # values that hold no datetime
# A datetime without a zone, which msgspec writes as text (19 characters, or 26 with a fraction).
_NAIVE = re.compile(rb"[\xb3\xba]\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def _framed(message: Sequence[Any], value: Any = None) -> bytes:
    """A message behind its length; `value` is what of it came from user code.

    Raises:
        TypeError: a type that has no MessagePack form.
        ValueError: text that is no Unicode, or a number of more than 64 bits.
    """
    try:
        encoded = _encode_plain(message)
        if type(value) not in _PLAIN and _NAIVE.search(encoded) is not None:
            encoded = _encode_plain(
                _with_zones(msgspec.to_builtins(message, builtin_types=_KEPT, enc_hook=encode_model))
            )
    except OverflowError as error:
        raise ValueError(str(error)) from None
    size = len(encoded)
    if size < 0x80:
        return _SHORT_LENGTH[size] + encoded
    return _varint(size) + encoded


_KEPT = (datetime, bytes, bytearray, memoryview, msgspec.msgpack.Ext, Raw)


def _with_zones(value: Any) -> Any:
    """Datetimes without a zone are UTC, as .NET takes them."""
    match value:
        case dict():
            return {key: _with_zones(item) for key, item in value.items()}
        case list() | tuple():
            return [_with_zones(item) for item in value]
        case datetime() if value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        case _:
            return value


def _varint(size: int) -> bytes:
    octets = bytearray()
    while size >= 0x80:
        octets.append(size & 0x7F | 0x80)
        size >>= 7
    octets.append(size)
    return bytes(octets)


class MsgpackHubProtocol(HubProtocol):
    """See the module."""

    name: ClassVar[str] = "messagepack"
    transfer_format: ClassVar[TransferFormat] = TransferFormat.BINARY
    ping: ClassVar[bytes] = b"\x02\x91\x06"

    def reader(self, max_message_size: float) -> MsgpackMessageReader:
        return MsgpackMessageReader(max_message_size)

    def argument_decoder(self, types: Sequence[Any]) -> Callable[[Raw], tuple[Any, ...]]:
        wanted: Any = tuple.__class_getitem__(tuple(types))  # a type made at run time
        decode = msgspec.msgpack.Decoder(wanted, dec_hook=decode_model).decode

        def decode_arguments(raw: Raw) -> tuple[Any, ...]:
            try:
                return cast("tuple[Any, ...]", decode(raw))
            except UnicodeDecodeError:
                return decode_arguments(Raw(_replace_invalid(bytes(raw))))
            except msgspec.ValidationError:
                raise BindingError(_array_length(bytes(raw)) or 0) from None
            except msgspec.DecodeError as error:
                if not bytes(raw):
                    raise BindingError(0) from None
                raise RemoteProtocolError(f"malformed arguments: {error}") from None
            except RecursionError:
                raise RemoteProtocolError("arguments are nested too deep") from None

        return decode_arguments

    def decoder(self, type_: Any) -> Callable[[Raw], Any]:
        decode = msgspec.msgpack.Decoder(type_, dec_hook=decode_model).decode

        def decode_value(raw: Raw) -> Any:
            try:
                return decode(raw)
            except UnicodeDecodeError:
                return decode_value(Raw(_replace_invalid(bytes(raw))))
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError as error:
                raise RemoteProtocolError(f"malformed value: {error}") from None
            except RecursionError:
                raise RemoteProtocolError("a value is nested too deep") from None

        return decode_value

    def invocation(
        self,
        target: str,
        arguments: Sequence[Any],
        invocation_id: str | None = None,
        *,
        stream: bool = False,
        stream_ids: Sequence[str] = (),
    ) -> bytes:
        return _framed((4 if stream else 1, _HEADERS, invocation_id, target, arguments, stream_ids), arguments)

    def result(self, invocation_id: str, value: Any) -> bytes:
        return _framed((3, _HEADERS, invocation_id, _VALUE, value), value)

    def finished(self, invocation_id: str) -> bytes:
        return _framed((3, _HEADERS, invocation_id, _VOID))

    def error(self, invocation_id: str, text: str) -> bytes:
        return _framed((3, _HEADERS, invocation_id, _ERROR, _printable(text)))

    def stream_item(self, invocation_id: str, item: Any) -> bytes:
        return _framed((2, _HEADERS, invocation_id, item), item)

    def cancel(self, invocation_id: str) -> bytes:
        return _framed((5, _HEADERS, invocation_id))

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
        return _framed((7, None if error is None else _printable(error), allow_reconnect))

    def ack(self, sequence_id: int) -> bytes:
        return _framed((8, sequence_id))

    def sequence(self, sequence_id: int) -> bytes:
        return _framed((9, sequence_id))


def _printable(text: str) -> str:
    """Text of an error, which must always be writable: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()
