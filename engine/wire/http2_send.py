"""The send half of an HTTP/2 connection: what the driver asks for, and what answers the peer.

Owns: the calls that queue output, the control frames that wait, and the end of the connection. The
receive half, `engine.wire.http2`, inherits from it and supplies the streams. Knows nothing of h2.

A call that does not fit raises `LocalProtocolError`; a call for a stream that has ended meanwhile is
ignored, because the peer may reset a stream at any time.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Generic, TypeVar

from engine.config import Http2Config
from engine.errors import Http2Code, LimitExceeded, LocalProtocolError, RemoteProtocolError
from engine.wire import frame_guard
from engine.wire.flow import ConnectionCredit
from engine.wire.hpack_memo import MemoEncoder, encode_fields
from engine.wire.http2_budgets import Budgets
from engine.wire.http2_events import ConnectionFailed, Http2Event
from engine.wire.http2_fields import Fields
from engine.wire.http2_scheduler import Outgoing, Parts, Scheduler, frame_header

MAX_STREAM_ID = 2**31 - 1  # RFC 9113 5.1.1
MAX_CLOSED_STREAMS = 256  # remembered with how they ended, for frames still on their way; h2 keeps 65,536
MAX_DEBUG = 256  # bytes of text in GOAWAY

_UINT32 = struct.Struct(">L")
_UINT32_PAIR = struct.Struct(">LL")
_RESET_NO_ERROR = bytes(4)

# The debug text of GOAWAY: what operators search for; "too_many_pings" is known to gRPC clients.
_REASONS = {
    "http2.resets": b"too_many_resets",
    "http2.glitches": b"too_many_glitches",
    "http2.settings": b"too_many_settings",
    "http2.pings": b"too_many_pings",
    "http2.max_empty_data": b"too_many_empty_data",
    "http2.max_window_updates": b"too_many_window_updates",
    "http2.max_overhead": b"too_much_overhead",
    "http2.max_continuations": b"too_many_continuations",
    "http2.max_header_block": b"header_block_too_large",
    "http2.max_header_list": b"header_list_too_large",
    "http2.max_settings_entries": b"too_many_settings_entries",
    "http2.max_unread": b"too_much_unread_data",
}


class Ended(IntEnum):
    """How a stream came to its end, which decides what a late frame for it means."""

    COMPLETE = 0
    BY_US = 1
    BY_PEER = 2


S = TypeVar("S", bound=Outgoing)


class Http2Sender(ABC, Generic[S]):
    """See the module. `S` is the type of the receive half's streams."""

    def __init__(self, config: Http2Config, streams: dict[int, S], *, client: bool) -> None:
        # immutable
        self._config = config
        self._client = client
        # shared by both halves
        self._streams = streams
        self._closed: OrderedDict[int, Ended] = OrderedDict()
        self._highest_peer = 0
        self._highest_own = 0
        self._budgets = Budgets(config)
        self._credit = ConnectionCredit(config)
        self._events: deque[Http2Event] = deque()
        self._now = 0.0
        self.failure: RemoteProtocolError | LimitExceeded | None = None
        # sending
        self._encoder = MemoEncoder()
        self._scheduler = Scheduler()
        self._control: Parts = []
        self._pings: list[bytes] = []  # sent and not acknowledged
        self.control_backlog = 0  # bytes of replies that wait
        self.body_left = False  # the last `data_to_send` held DATA: some stream's queue has shrunk

    @abstractmethod
    def _open_own(self, stream_id: int, fields: Fields) -> S:
        """Client: make the stream of a new request."""

    # -- the driver's calls ---------------------------------------------------

    def next_stream_id(self) -> int:
        """Client: the id for the next request; send its headers before asking again.

        Raises:
            LocalProtocolError: all ids are used up; open another connection.
        """
        stream_id = self._highest_own + 2 if self._highest_own else 1
        if stream_id > MAX_STREAM_ID:
            raise LocalProtocolError("this connection has no stream ids left; open another")
        return stream_id

    def send_headers(self, stream_id: int, fields: Iterable[tuple[bytes, bytes]], *, end_stream: bool = False) -> None:
        """Queue a head: a response (any number of 1xx, then one other), or a client's request.

        Raises:
            LocalProtocolError: out of place, or a field that HTTP cannot carry.
        """
        fields = fields if type(fields) is tuple else tuple(fields)
        if not fields or fields[0][0] != (b":method" if self._client else b":status"):
            raise LocalProtocolError("a head begins with :status, a request's with :method")
        block = encode_fields(fields)
        stream = self._streams.get(stream_id)
        if stream is None:
            if not self._client or stream_id <= self._highest_own:
                self._ignore_if_closed(stream_id)
                return
            stream = self._open_own(stream_id, fields)
        if stream.head_queued:
            raise LocalProtocolError("a stream has one head; send_trailers sends the trailer section")
        informational = not self._client and fields[0][1][:1] == b"1"
        if informational and end_stream:
            raise LocalProtocolError("an informational head cannot end a stream")
        stream.head_queued = not informational
        stream.end_queued = end_stream
        stream.heads.append((block, informational))
        self._scheduler.queue_head(stream)

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Queue body bytes; without a bound, so look at `queued`.

        Raises:
            LocalProtocolError: before the head or after the end.
        """
        stream = self._sendable(stream_id)
        if stream is None:
            return
        if data:
            stream.chunks.append(data)
            stream.queued += len(data)
        stream.end_queued = end_stream
        if not stream.scheduled:
            self._scheduler.wake(stream)

    def send_trailers(self, stream_id: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Queue the trailer section, behind the body; it ends the stream.

        Raises:
            LocalProtocolError: before the head, after the end, or a field that HTTP cannot carry.
        """
        stream = self._sendable(stream_id)
        if stream is None:
            return
        stream.trailers = encode_fields(fields)
        stream.end_queued = True
        if not stream.scheduled:
            self._scheduler.wake(stream)

    def reset_stream(self, stream_id: int, code: int) -> None:
        """RST_STREAM; what is queued is dropped. Ignored where the stream has ended.

        NO_ERROR behind a complete response waits for it, as `finish_early`.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            self._ignore_if_closed(stream_id)
        elif code == Http2Code.NO_ERROR and stream.end_queued:
            self.finish_early(stream_id)
        else:
            unknown_to_peer = self._client and not stream.answered
            self._close(stream, Ended.BY_US)
            if not unknown_to_peer:
                self._queue_reset(stream_id, code)
            if code == Http2Code.REFUSED_STREAM:
                self._charge(self._budgets.reset)

    def refuse(self, stream_id: int) -> None:
        """RST_STREAM(REFUSED_STREAM): the request was not processed and may be repeated."""
        self.reset_stream(stream_id, Http2Code.REFUSED_STREAM)

    def finish_early(self, stream_id: int) -> None:
        """The response is complete although the request is not: RST_STREAM(NO_ERROR) behind it.

        RFC 9113 8.1: it asks the client to stop uploading "without error".
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.ended:
            self._close(stream, Ended.BY_US)
            self._queue_reset(stream_id, Http2Code.NO_ERROR)
        else:
            stream.early_end = True

    def ping(self, payload: bytes = bytes(8)) -> None:
        """Queue a PING of eight bytes; `PingAcknowledged` is its answer."""
        if len(payload) != 8:
            raise LocalProtocolError("a PING carries eight bytes")
        self._pings.append(payload)
        self._queue_control(frame_header(8, frame_guard.PING, 0, 0) + payload)

    def go_away(self, last_stream_id: int, code: int, debug: bytes = b"") -> None:
        """Queue GOAWAY. Nothing else changes: open streams go on (RFC 9113 6.8)."""
        payload = _UINT32_PAIR.pack(last_stream_id, code) + debug
        self._queue_control(frame_header(len(payload), frame_guard.GOAWAY, 0, 0) + payload)

    @property
    def traffic(self) -> Budgets:
        """What was counted so far: PINGs received, answers sent, streams opened."""
        return self._budgets

    def queued(self, stream_id: int) -> int:
        """Bytes of body that wait on a stream."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.queued

    def head_left(self, stream_id: int) -> bool:
        """The head of an open stream has been handed out by `data_to_send`."""
        stream = self._streams.get(stream_id)
        return stream is None or stream.answered

    @property
    def blocked(self) -> bool:
        """Some stream has body that waits for a window of the peer's."""
        return any(stream.queued and not stream.scheduled for stream in self._streams.values()) or (
            self._scheduler.parked
        )

    @property
    def sendable(self) -> bool:
        """`data_to_send` would return something: a reply, a head, or DATA that a window has room for."""
        return bool(self._control) or not self._scheduler.idle

    @property
    def batch_full(self) -> bool:
        """So many heads wait that `data_to_send` gains nothing by waiting for more."""
        return self._scheduler.batch_full

    def data_to_send(self, limit: int = 65_536) -> bytes:
        """The next bytes for the wire: replies, heads, then about `limit` bytes of DATA; b"" if none."""
        scheduler = self._scheduler
        parts = self._control
        self.body_left = False
        if not parts and scheduler.idle:
            return b""
        self._control = []
        self.control_backlog = 0
        scheduler.prefix += self._encoder.take_prefix()
        scheduler.take(parts, limit)
        self.body_left = bool(scheduler.data_bytes)
        if scheduler.data_bytes:
            self._budgets.answered(scheduler.data_frames, scheduler.data_bytes)
            scheduler.data_bytes = scheduler.data_frames = 0
        if scheduler.finished:
            self._finish(parts)
        if scheduler.dribbles:
            dribbles, scheduler.dribbles = scheduler.dribbles, 0
            self._charge(self._budgets.glitch, dribbles)
        return b"".join(parts)

    # -- streams and replies --------------------------------------------------

    def _sendable(self, stream_id: int) -> S | None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._ignore_if_closed(stream_id)
        elif not stream.head_queued:
            raise LocalProtocolError("send_headers comes before the body and the trailers")
        elif stream.end_queued:
            raise LocalProtocolError("the stream has been ended; nothing may follow")
        return stream

    def _is_idle(self, stream_id: int) -> bool:
        own = bool(stream_id & 1) is self._client
        return stream_id > (self._highest_own if own else self._highest_peer)

    def _ignore_if_closed(self, stream_id: int) -> None:
        if self._is_idle(stream_id):
            raise LocalProtocolError(f"stream {stream_id} has not been opened")

    def _finish(self, parts: Parts) -> None:
        """Streams whose END_STREAM is among `parts`."""
        for outgoing in self._scheduler.finished:
            stream = self._streams[outgoing.stream_id]
            if stream.is_over():
                self._close(stream, Ended.COMPLETE)
            elif stream.early_end:
                self._close(stream, Ended.BY_US)
                parts.append(frame_header(4, frame_guard.RST_STREAM, 0, stream.stream_id) + _RESET_NO_ERROR)
        self._scheduler.finished.clear()

    def _close(self, stream: S, how: Ended) -> None:
        """The stream ends now, and so does all that is kept for it but how it ended."""
        stream_id = stream.stream_id
        del self._streams[stream_id]
        closed = self._closed
        closed[stream_id] = how
        if len(closed) > MAX_CLOSED_STREAMS:
            closed.popitem(last=False)
        if how is not Ended.COMPLETE:
            self._scheduler.drop(stream)
            self._credit.forget(stream_id)

    def _queue_control(self, frame: bytes) -> None:
        self._control.append(frame)
        self.control_backlog += len(frame)

    def _queue_reset(self, stream_id: int, code: int) -> None:
        self._queue_control(frame_header(4, frame_guard.RST_STREAM, 0, stream_id) + _UINT32.pack(code))

    def _queue_window_update(self, stream_id: int, increment: int) -> None:
        self._queue_control(frame_header(4, frame_guard.WINDOW_UPDATE, 0, stream_id) + _UINT32.pack(increment))

    def _charge(self, budget: Callable[..., None], *cost: float) -> None:
        """Spend from a budget outside of `receive_data`."""
        try:
            budget(self._now, *cost)
        except LimitExceeded as error:
            self._fail(error)

    def _fail(self, error: RemoteProtocolError | LimitExceeded) -> None:
        """The connection is over; GOAWAY says why (RFC 9113 5.4.1)."""
        if self.failure is not None:
            return
        self.failure = error
        for stream in self._streams.values():
            self._scheduler.drop(stream)
        self._streams.clear()
        if isinstance(error, LimitExceeded):
            self.go_away(self._highest_peer, Http2Code.ENHANCE_YOUR_CALM, _REASONS[error.name])
        else:
            self.go_away(self._highest_peer, error.http2_code, str(error).encode()[:MAX_DEBUG])
        self._events.append(ConnectionFailed(error))
