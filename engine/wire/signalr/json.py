"""The JSON hub protocol: UTF-8 objects, each ended by the record separator 0x1E.

Owns: framing, parsing and the exact member order that ASP.NET Core writes. Never binds arguments to
methods by itself: it hands out decoders that turn raw arguments straight into the types wanted.

Theory of operation. `receive_data` cuts its input at 0x1E; whatever is incomplete waits as a list of
chunks, so that a message that trickles in is copied once. Each record is decoded by one `msgspec`
call into an envelope that holds the members of all message types, with arguments, items and results
left as raw bytes. Members come in any order, unknown members are skipped, the last of duplicates
wins, unknown message types are ignored. Invalid UTF-8 inside strings becomes U+FFFD, as
`System.Text.Json` has it. Invocations as all clients write them, with their type first or last, go
straight into an `Invocation` instead; what does not fit there is decoded the general way.

Spec: docs/specs/HubProtocol.md, "JSON Encoding"; JsonHubProtocol.cs.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, time
from typing import Any, ClassVar, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from engine.errors import LimitExceeded, LimitKind, RemoteProtocolError
from engine.wire.signalr.messages import (
    MAX_DEPTH,
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
from engine.wire.signalr.models import decode_model_of_text, encode_model

RECORD_SEPARATOR = b"\x1e"

_PING = Ping()
_PLAIN = frozenset({str, int, float, bool, type(None), bytes})  # results that hold no datetime
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
_NEVER_TOO_DEEP = 2 * MAX_DEPTH  # bytes: each level has two brackets
# A fraction of six digits that ends in zero: msgspec writes all six, System.Text.Json drops the zeros.
_LONG_FRACTION = re.compile(rb'\.\d{5}0(?:Z|[+-]\d\d:\d\d)?"')


class _Envelope(msgspec.Struct, gc=False):
    """All members of all message types."""

    type: int
    invocationId: str | None = None  # the names of the wire
    target: str | None = None
    arguments: Raw | UnsetType = UNSET
    streamIds: list[str] | None = None
    headers: dict[str, str] | None = None
    item: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: str | None = None
    allowReconnect: bool | None = None
    sequenceId: int | None = None


class _Head(msgspec.Struct, gc=False):
    type: int


_decode_invocation = msgspec.json.Decoder(Invocation).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode  # does not look into strings, so it cannot fail on them
_encode_plain = msgspec.json.Encoder(decimal_format="number", enc_hook=encode_model).encode


# -- parsing -------------------------------------------------------------------


class JsonMessageReader(MessageReader):
    """The incoming half of one connection."""

    __slots__ = ("_chunks", "_events", "_limit", "_size", "failure")

    def __init__(self, max_message_size: float) -> None:
        self._limit = max_message_size  # of a record with its separator
        self._chunks: list[bytes] = []  # of the record that is incomplete
        self._size = 0
        self._events: deque[HubMessage | Malformed] = deque()
        self.failure = None

    def receive_data(self, data: bytes) -> None:
        if self.failure is not None:
            return
        if RECORD_SEPARATOR not in data:
            self._keep(data)
            return
        if self._chunks:
            data = b"".join((*self._chunks, data))
            self._chunks.clear()
            self._size = 0
        *records, rest = data.split(RECORD_SEPARATOR)
        for record in records:
            if len(record) >= self._limit:
                self._fail(self._too_large(len(record) + 1))
                return
            try:
                message = parse_record(record)
            except RemoteProtocolError as error:
                self._fail(error)
                return
            if message is not None:
                self._events.append(message)
        if rest:
            self._keep(rest)

    def receive_eof(self) -> None:
        if self._size and self.failure is None:
            self._fail(RemoteProtocolError("Connection terminated while reading a message."))

    def next_event(self) -> HubMessage | Malformed | None:
        return self._events.popleft() if self._events else None

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._fail(self._too_large(self._size))
        else:
            self._chunks.append(data)

    def _too_large(self, size: int) -> LimitExceeded:
        return LimitExceeded("signalr.max_message_size", self._limit, size, kind=LimitKind.MESSAGE_SIZE)

    def _fail(self, error: RemoteProtocolError | LimitExceeded) -> None:
        self.failure = error
        self._chunks.clear()
        self._size = 0
        self._events.append(Malformed(error))


def parse_record(record: bytes) -> HubMessage | None:
    """One message without its separator; None: of a type that we do not know.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    if len(record) > _NEVER_TOO_DEEP and _too_deep(record):
        raise RemoteProtocolError(f"a hub message is nested deeper than {MAX_DEPTH}")
    # Nothing but a member of the record itself can be at these places, if the record is JSON at all.
    if record.endswith(b',"type":1}') or record.startswith(b'{"type":1,'):
        try:
            invocation = _decode_invocation(record)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # `parse_envelope` says what is wrong with it, if anything is
        else:
            if bytes(invocation.arguments)[:1] == b"[" and invocation.invocation_id != "":
                return invocation
    return parse_envelope(record)


def parse_envelope(record: bytes) -> HubMessage | None:
    """`parse_record` for all that is written in any way, once its depth is known."""
    try:
        envelope = _decode_envelope(record)
    except UnicodeDecodeError:
        return parse_envelope(_replace_invalid(record))
    except msgspec.DecodeError as error:
        if isinstance(error, msgspec.ValidationError) and _is_of_unknown_type(record):
            return None  # members that we know by name may mean something else in it
        raise RemoteProtocolError(f"malformed hub message: {error}") from None
    build = _BUILD.get(envelope.type)
    return build(envelope) if build is not None else None


def _is_of_unknown_type(record: bytes) -> bool:
    try:
        return _decode_head(record).type not in _BUILD
    except msgspec.DecodeError:
        return False


def _too_deep(record: bytes) -> bool:
    """Nested deeper than MAX_DEPTH; records that are no JSON may give either answer."""
    if record.count(b"[") + record.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", record).translate(_ONE_KIND, _NO_BRACKET)
    for _ in range(MAX_DEPTH):  # each round peels the innermost level
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _replace_invalid(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode()


def _require_id(envelope: _Envelope) -> str:
    if not envelope.invocationId:
        raise RemoteProtocolError(f"a hub message of type {envelope.type} lacks its invocationId")
    return envelope.invocationId


def _target_and_arguments(envelope: _Envelope) -> tuple[str, Raw]:
    target, arguments = envelope.target, envelope.arguments
    if target is None:
        raise RemoteProtocolError("an invocation lacks its target")
    if arguments is UNSET or not bytes(arguments)[:1] == b"[":
        raise RemoteProtocolError("an invocation needs a list of arguments")
    return target, arguments


def _invocation(envelope: _Envelope) -> Invocation:
    target, arguments = _target_and_arguments(envelope)
    streams = envelope.streamIds
    # An empty id is none: nobody waits for an answer.
    return Invocation(
        target, arguments, envelope.invocationId or None, tuple(streams) if streams else (), envelope.headers
    )


def _stream_invocation(envelope: _Envelope) -> StreamInvocation:
    target, arguments = _target_and_arguments(envelope)
    return StreamInvocation(_require_id(envelope), target, arguments, tuple(envelope.streamIds or ()), envelope.headers)


def _stream_item(envelope: _Envelope) -> StreamItem:
    if isinstance(envelope.item, UnsetType):
        raise RemoteProtocolError("a stream item lacks its item")
    return StreamItem(_require_id(envelope), envelope.item)


def _completion(envelope: _Envelope) -> Completion:
    result = None if isinstance(envelope.result, UnsetType) else envelope.result
    if result is not None and envelope.error is not None:
        raise RemoteProtocolError("a completion has either a result or an error, not both")
    return Completion(_require_id(envelope), result, envelope.error)


def _cancel(envelope: _Envelope) -> CancelInvocation:
    return CancelInvocation(_require_id(envelope))


def _close(envelope: _Envelope) -> Close:
    return Close(envelope.error, bool(envelope.allowReconnect))


def _ack(envelope: _Envelope) -> Ack:
    return Ack(_require_sequence(envelope))


def _sequence(envelope: _Envelope) -> SequenceStart:
    return SequenceStart(_require_sequence(envelope))


def _require_sequence(envelope: _Envelope) -> int:
    if envelope.sequenceId is None:
        raise RemoteProtocolError(f"a hub message of type {envelope.type} lacks its sequenceId")
    return envelope.sequenceId


def _ping(_envelope: _Envelope) -> Ping:
    return _PING


_BUILD: dict[int, Callable[[_Envelope], HubMessage]] = {
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


# -- writing -------------------------------------------------------------------


def encode_value(value: Any) -> bytes:
    """One value as JSON: datetimes as ISO 8601 without trailing zeros, bytes as base64.

    Raises:
        TypeError: a type that has no JSON form.
        ValueError: a string that is no Unicode text.
    """
    encoded = _encode_plain(value)
    if type(value) not in _PLAIN and _LONG_FRACTION.search(encoded) is not None:
        plain = msgspec.to_builtins(value, builtin_types=(datetime, time, bytes), str_keys=True, enc_hook=encode_model)
        encoded = _encode_plain(_shorten_times(plain))
    return encoded


def _shorten_times(value: Any) -> Any:
    match value:
        case dict():
            return {key: _shorten_times(item) for key, item in value.items()}
        case list() | tuple():
            return [_shorten_times(item) for item in value]
        case datetime() | time() if value.microsecond:
            head, _, tail = value.isoformat().partition(".")
            zone = tail[6:].replace("+00:00", "Z")
            return f"{head}.{tail[:6].rstrip('0')}{zone}"
        case _:
            return value


class JsonHubProtocol(HubProtocol):
    """See the module."""

    name: ClassVar[str] = "json"
    transfer_format: ClassVar[TransferFormat] = TransferFormat.TEXT
    ping: ClassVar[bytes] = b'{"type":6}\x1e'

    def reader(self, max_message_size: float) -> JsonMessageReader:
        return JsonMessageReader(max_message_size)

    def argument_decoder(self, types: Sequence[Any]) -> Callable[[Raw], tuple[Any, ...]]:
        wanted: Any = tuple.__class_getitem__(tuple(types))  # a type made at run time
        decode = msgspec.json.Decoder(wanted, dec_hook=decode_model_of_text).decode

        def decode_arguments(raw: Raw) -> tuple[Any, ...]:
            try:
                return cast("tuple[Any, ...]", decode(raw))
            except UnicodeDecodeError:
                return decode_arguments(Raw(_replace_invalid(bytes(raw))))
            except msgspec.ValidationError:
                raise BindingError(len(_decode_items(raw))) from None
            except msgspec.DecodeError as error:
                raise RemoteProtocolError(f"malformed arguments: {error}") from None

        return decode_arguments

    def decoder(self, type_: Any) -> Callable[[Raw], Any]:
        decode = msgspec.json.Decoder(type_, dec_hook=decode_model_of_text).decode

        def decode_value(raw: Raw) -> Any:
            try:
                return decode(raw)
            except UnicodeDecodeError:
                return decode_value(Raw(_replace_invalid(bytes(raw))))
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError as error:
                raise RemoteProtocolError(f"malformed value: {error}") from None

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
        head = b'{"type":4,' if stream else b'{"type":1,'
        if invocation_id is not None:
            head += b'"invocationId":%b,' % _encode_plain(invocation_id)
        tail = b',"streamIds":%b' % _encode_plain(list(stream_ids)) if stream_ids else b""
        encoded = encode_value(list(arguments))
        return b'%b"target":%b,"arguments":%b%b}\x1e' % (head, _encode_plain(target), encoded, tail)

    def result(self, invocation_id: str, value: Any) -> bytes:
        return b'{"type":3,"invocationId":%b,"result":%b}\x1e' % (_encode_plain(invocation_id), encode_value(value))

    def finished(self, invocation_id: str) -> bytes:
        return b'{"type":3,"invocationId":%b}\x1e' % _encode_plain(invocation_id)

    def error(self, invocation_id: str, text: str) -> bytes:
        return b'{"type":3,"invocationId":%b,"error":%b}\x1e' % (_encode_plain(invocation_id), _encode_text(text))

    def stream_item(self, invocation_id: str, item: Any) -> bytes:
        return b'{"type":2,"invocationId":%b,"item":%b}\x1e' % (_encode_plain(invocation_id), encode_value(item))

    def cancel(self, invocation_id: str) -> bytes:
        return b'{"type":5,"invocationId":%b}\x1e' % _encode_plain(invocation_id)

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
        text = b"" if error is None else b',"error":%b' % _encode_text(error)
        return b'{"type":7%b%b}\x1e' % (text, b',"allowReconnect":true' if allow_reconnect else b"")

    def ack(self, sequence_id: int) -> bytes:
        return b'{"type":8,"sequenceId":%d}\x1e' % sequence_id

    def sequence(self, sequence_id: int) -> bytes:
        return b'{"type":9,"sequenceId":%d}\x1e' % sequence_id


def _encode_text(text: str) -> bytes:
    """Text of an error, which must always be writable: lone surrogates become question marks."""
    return _encode_plain(text.encode("utf-8", "replace").decode())
