from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HangRequest(_message.Message):
    __slots__ = ("key", "hold_ms", "messages", "chunk_size")
    KEY_FIELD_NUMBER: _ClassVar[int]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    key: str
    hold_ms: int
    messages: int
    chunk_size: int
    def __init__(self, key: _Optional[str] = ..., hold_ms: _Optional[int] = ..., messages: _Optional[int] = ..., chunk_size: _Optional[int] = ...) -> None: ...

class HangReply(_message.Message):
    __slots__ = ("key", "held_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    HELD_MS_FIELD_NUMBER: _ClassVar[int]
    key: str
    held_ms: int
    def __init__(self, key: _Optional[str] = ..., held_ms: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data", "key", "hold_ms")
    DATA_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    key: str
    hold_ms: int
    def __init__(self, data: _Optional[bytes] = ..., key: _Optional[str] = ..., hold_ms: _Optional[int] = ...) -> None: ...

class FloodRequest(_message.Message):
    __slots__ = ("key", "chunk_size", "count")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    key: str
    chunk_size: int
    count: int
    def __init__(self, key: _Optional[str] = ..., chunk_size: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class InputReply(_message.Message):
    __slots__ = ("messages", "bytes")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    bytes: int
    def __init__(self, messages: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class OutcomeRequest(_message.Message):
    __slots__ = ("key", "wait_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    key: str
    wait_ms: int
    def __init__(self, key: _Optional[str] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class OutcomeReply(_message.Message):
    __slots__ = ("state", "sent", "received", "running_now", "running_peak")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[OutcomeReply.State]
        RUNNING: _ClassVar[OutcomeReply.State]
        FINISHED: _ClassVar[OutcomeReply.State]
        CANCELLED: _ClassVar[OutcomeReply.State]
        FAILED: _ClassVar[OutcomeReply.State]
    UNKNOWN: OutcomeReply.State
    RUNNING: OutcomeReply.State
    FINISHED: OutcomeReply.State
    CANCELLED: OutcomeReply.State
    FAILED: OutcomeReply.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_NOW_FIELD_NUMBER: _ClassVar[int]
    RUNNING_PEAK_FIELD_NUMBER: _ClassVar[int]
    state: OutcomeReply.State
    sent: int
    received: int
    running_now: int
    running_peak: int
    def __init__(self, state: _Optional[_Union[OutcomeReply.State, str]] = ..., sent: _Optional[int] = ..., received: _Optional[int] = ..., running_now: _Optional[int] = ..., running_peak: _Optional[int] = ...) -> None: ...

class MetadataEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class MetadataReply(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[MetadataEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[MetadataEntry, _Mapping[str, object]]]] = ...) -> None: ...

class Nothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeadlineReply(_message.Message):
    __slots__ = ("has_deadline", "remaining_us")
    HAS_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    REMAINING_US_FIELD_NUMBER: _ClassVar[int]
    has_deadline: bool
    remaining_us: int
    def __init__(self, has_deadline: _Optional[bool] = ..., remaining_us: _Optional[int] = ...) -> None: ...

class FailRequest(_message.Message):
    __slots__ = ("kind", "text", "code")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RAISE: _ClassVar[FailRequest.Kind]
        RICH: _ClassVar[FailRequest.Kind]
        AFTER_MESSAGE: _ClassVar[FailRequest.Kind]
    RAISE: FailRequest.Kind
    RICH: FailRequest.Kind
    AFTER_MESSAGE: FailRequest.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    kind: FailRequest.Kind
    text: str
    code: int
    def __init__(self, kind: _Optional[_Union[FailRequest.Kind, str]] = ..., text: _Optional[str] = ..., code: _Optional[int] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ("service", "status")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    service: str
    status: int
    def __init__(self, service: _Optional[str] = ..., status: _Optional[int] = ...) -> None: ...
