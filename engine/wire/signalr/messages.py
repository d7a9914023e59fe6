"""The messages of the SignalR hub protocol, and what every encoding of it must offer.

Owns: the message types and the seam between an encoding (JSON, MessagePack) and the hub. Never
encodes anything itself. Arguments, items and results arrive undecoded (`msgspec.Raw`, bytes of the
encoding): only the hub knows the types they are meant for, so they are decoded once, straight into
those types.

Spec: https://github.com/dotnet/aspnetcore/blob/main/src/SignalR/docs/specs/HubProtocol.md
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import Any, ClassVar, TypeAlias

import msgspec

from engine.errors import EngineError, LimitExceeded, RemoteProtocolError

MAX_DEPTH = 64  # nested arrays and objects of one message; System.Text.Json's default
MAX_VERSION = 2  # 1: the first; 2: knows Ack and Sequence


class MessageType(IntEnum):
    """The `type` member of a hub message."""

    INVOCATION = 1
    STREAM_ITEM = 2
    COMPLETION = 3
    STREAM_INVOCATION = 4
    CANCEL_INVOCATION = 5
    PING = 6
    CLOSE = 7
    ACK = 8
    SEQUENCE = 9


class TransferFormat(Enum):
    """What a transport must carry for an encoding; the values are those of the negotiate answer."""

    TEXT = "Text"
    BINARY = "Binary"


class Invocation(
    msgspec.Struct,
    frozen=True,
    gc=False,
    # As JSON has it: the one message that is decoded straight into its object.
    tag_field="type",
    tag=int(MessageType.INVOCATION),
    rename={"invocation_id": "invocationId", "stream_ids": "streamIds"},
):
    """Call a method; no `invocation_id`: nobody waits for an answer."""

    target: str
    arguments: msgspec.Raw
    invocation_id: str | None = None
    stream_ids: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


class StreamInvocation(msgspec.Struct, frozen=True, gc=False):
    """Call a method whose results are a stream."""

    invocation_id: str
    target: str
    arguments: msgspec.Raw
    stream_ids: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


class StreamItem(msgspec.Struct, frozen=True, gc=False):
    """One item of a stream, in either direction."""

    invocation_id: str
    item: msgspec.Raw


class Completion(msgspec.Struct, frozen=True, gc=False):
    """The end of a call or of a stream: a result, an error, or neither."""

    invocation_id: str
    result: msgspec.Raw | None = None
    error: str | None = None


class CancelInvocation(msgspec.Struct, frozen=True, gc=False):
    """The caller wants no more of this call or stream."""

    invocation_id: str


class Ping(msgspec.Struct, frozen=True, gc=False):
    """The peer is alive."""


class Close(msgspec.Struct, frozen=True, gc=False):
    """The connection ends."""

    error: str | None = None
    allow_reconnect: bool = False


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Stateful reconnect: everything up to `sequence_id` arrived."""

    sequence_id: int


class SequenceStart(msgspec.Struct, frozen=True, gc=False):
    """Stateful reconnect: the next message that counts has this `sequence_id`."""

    sequence_id: int


class Malformed(msgspec.Struct, frozen=True):
    """Terminal: the bytes were no hub message, or too large. Nothing comes after it."""

    error: RemoteProtocolError | LimitExceeded


HubMessage: TypeAlias = (
    Invocation | StreamInvocation | StreamItem | Completion | CancelInvocation | Ping | Close | Ack | SequenceStart
)


class BindingError(EngineError):
    """Arguments do not fit a method; `count` of them were sent."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} arguments do not fit")
        self.count = count


class MessageReader(ABC):
    """Bytes in, messages out; one per connection. Boundaries of `receive_data` mean nothing.

    Never raises for what the peer sent: `Malformed` is the last event, and input after it is discarded.
    """

    failure: RemoteProtocolError | LimitExceeded | None = None

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Take bytes in the order of their arrival."""

    @abstractmethod
    def receive_eof(self) -> None:
        """No more bytes will come; half a message is an error."""

    @abstractmethod
    def next_event(self) -> HubMessage | Malformed | None:
        """The next message, or None if more bytes are needed."""


class HubProtocol(ABC):
    """One encoding of hub messages. Stateless: shared by all connections."""

    name: ClassVar[str]
    transfer_format: ClassVar[TransferFormat]
    ping: ClassVar[bytes]

    @abstractmethod
    def reader(self, max_message_size: float) -> MessageReader:
        """A parser of incoming messages for one connection."""

    @abstractmethod
    def argument_decoder(self, types: Sequence[Any]) -> Callable[[msgspec.Raw], tuple[Any, ...]]:
        """A function that decodes the arguments of an invocation into these types.

        It raises BindingError where they do not fit, RemoteProtocolError where they are malformed.
        `TypeError` from this method itself: a type that cannot be decoded into.
        """

    @abstractmethod
    def decoder(self, type_: Any) -> Callable[[msgspec.Raw], Any]:
        """A function that does what `decode` does, made once for many values of one type."""

    def decode(self, value: msgspec.Raw, type_: Any = Any) -> Any:
        """Decode one value.

        Raises:
            msgspec.ValidationError: the value is not of this type.
            RemoteProtocolError: it is malformed.
        """
        return self.decoder(type_)(value)

    @abstractmethod
    def invocation(
        self,
        target: str,
        arguments: Sequence[Any],
        invocation_id: str | None = None,
        *,
        stream: bool = False,
        stream_ids: Sequence[str] = (),
    ) -> bytes:
        """A call; TypeError or ValueError where an argument cannot be encoded, as in all of these.

        Args:
            target: the method's name.
            arguments: without those that are streams.
            invocation_id: None: no answer is wanted.
            stream: the results are a stream; needs an id.
            stream_ids: of the uploads that the caller will send, in the order of the parameters.
        """

    @abstractmethod
    def result(self, invocation_id: str, value: Any) -> bytes:
        """A completion with a result, which may be None."""

    @abstractmethod
    def finished(self, invocation_id: str) -> bytes:
        """A completion without a result: a stream ended well."""

    @abstractmethod
    def error(self, invocation_id: str, text: str) -> bytes:
        """A completion with an error."""

    @abstractmethod
    def stream_item(self, invocation_id: str, item: Any) -> bytes:
        """One item of a stream."""

    @abstractmethod
    def cancel(self, invocation_id: str) -> bytes:
        """Wants no more of a call or stream."""

    @abstractmethod
    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> bytes:
        """The connection ends."""

    @abstractmethod
    def ack(self, sequence_id: int) -> bytes:
        """Stateful reconnect: everything up to this id arrived."""

    @abstractmethod
    def sequence(self, sequence_id: int) -> bytes:
        """Stateful reconnect: the next message that counts has this id."""
