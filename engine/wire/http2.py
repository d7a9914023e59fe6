"""HTTP/2 without I/O (RFC 9113): bytes in, events out; calls in, bytes out.

Owns: one connection's streams, their states, credit in both directions and what answers the peer.
Never reads a clock, never starts anything, never raises for what a peer did.

Theory of operation. Received bytes pass the frame guard, which hands over one whole, bounded frame
at a time. Each frame has one method here. The states of streams and the values of settings are
h2's: every HEADERS, DATA and RST_STREAM goes through the transition tables of its stream state
machine (`http2_phases` remembers where they lead), every SETTINGS through its connection. What is not
h2's is the way there and back: h2 builds a frame object, a list and several events for each frame,
validates with a connection error, clears everything on GOAWAY, walks all open streams for each
request, and answers without a bound. So blocks are decoded by `hpack_memo`, field lists judged by
`http2_fields`, credit is kept by `flow`, frames are written by `http2_scheduler`, floods are counted by
`http2_budgets`.

Three kinds of trouble: a *stream error* resets one stream (RST_STREAM, and `StreamReset` where the
driver knows the stream); a *connection error* or a flood ends the connection (GOAWAY and
`ConnectionFailed`, after the events of all good frames before it); a call of ours that does not fit
raises `LocalProtocolError`. Calls for streams that have ended meanwhile are ignored: the peer may
reset a stream at any time, and its driver learns of it one event later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import FlowControlError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.windows import WindowManager
from hyperframe.frame import SettingsFrame

from engine.config import Http2Config
from engine.errors import Http2Code, LimitExceeded, LimitKind, LocalProtocolError, RemoteProtocolError
from engine.wire import frame_guard, http2_phases
from engine.wire.frame_guard import ACK, END_STREAM, PREFACE, SELF_DEPENDENT, FrameGuard
from engine.wire.hpack_memo import FieldBlock, MemoDecoder
from engine.wire.http2_budgets import IN_FLIGHT_COST, PREMATURE_RESET
from engine.wire.http2_events import (
    ConnectionFailed,
    DataReceived,
    GoAwayReceived,
    Http2Event,
    PeerSettingsChanged,
    PingAcknowledged,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SettingsAcknowledged,
    StreamReset,
    TrailersReceived,
)
from engine.wire.http2_fields import (
    Fields,
    RequestFields,
    malformed,
    request_fields,
    response_fields,
    speaks_grpc,
    trailer_fields,
)
from engine.wire.http2_phases import (
    RECEIVE_DATA,
    RECEIVE_END,
    RECEIVE_HEADERS,
    RECEIVE_INFORMATIONAL,
    RECEIVE_RESET,
    SEND_END,
    SEND_HEADERS,
    SEND_INFORMATIONAL,
)
from engine.wire.http2_scheduler import Outgoing, frame_header
from engine.wire.http2_send import MAX_STREAM_ID, Ended, Http2Sender

__all__ = [
    "ConnectionFailed",
    "DataReceived",
    "Fields",
    "GoAwayReceived",
    "Http2Core",
    "Http2Event",
    "PeerSettingsChanged",
    "PingAcknowledged",
    "RequestFields",
    "RequestReceived",
    "RequestRefused",
    "ResponseReceived",
    "SettingsAcknowledged",
    "StreamReset",
    "TrailersReceived",
]

MAX_WINDOW = 2**31 - 1  # RFC 9113 6.9.1
FREE_GOAWAYS = 2  # a graceful end has two
NO_RFC7540_PRIORITIES = 0x9  # RFC 9218 2.1

_UINT32 = struct.Struct(">L")
_UINT32_PAIR = struct.Struct(">LL")
_SETTING = struct.Struct(">HL")
_SETTINGS_ACK = frame_header(0, frame_guard.SETTINGS, ACK, 0)


class _Stream(Outgoing):
    """A stream: what it has to send, and what we know of what the peer sends on it."""

    __slots__ = (
        "announced",
        "content_length",
        "ignoring",
        "inbound",
        "max_outbound_frame_size",
        "opened",
        "phase",
        "received",
        "to_head_request",
    )

    def __init__(self, stream_id: int, inbound: int, outbound: int) -> None:
        super().__init__(stream_id, outbound)
        self.phase = http2_phases.IDLE
        self.inbound = WindowManager(inbound)
        self.opened = 0.0  # when
        self.content_length: int | None = None  # of what we receive
        self.received = 0  # bytes of body
        self.announced = False  # the driver got an event for it
        self.ignoring = False  # the driver wants no more of its body
        self.to_head_request = False  # client: a response has no body whatever its content-length
        self.max_outbound_frame_size = 0  # h2 writes it; the scheduler's quantum fits every peer

    def head_sent(self, *, informational: bool) -> None:
        self.phase = self.phase.after(SEND_INFORMATIONAL if informational else SEND_HEADERS)

    def end_sent(self, *, trailers: bool) -> None:
        phase = self.phase
        if trailers:
            phase = phase.after(SEND_HEADERS)
        self.phase = phase.after(SEND_END)

    def is_over(self) -> bool:
        return self.phase.closed


class Http2Core(Http2Sender[_Stream]):
    """One HTTP/2 connection.

    Args:
        config: the limits.
        client: which side we are.
        enable_connect_protocol: server: offer extended CONNECT (RFC 8441).
    """

    def __init__(self, config: Http2Config, *, client: bool = False, enable_connect_protocol: bool = False) -> None:
        self._extended_connect = enable_connect_protocol and not client  # immutable
        self._h2 = H2Connection(H2Configuration(client_side=client))  # SETTINGS alone go through it
        self._h2.streams = {}  # filled by us alone; SETTINGS change their windows there
        super().__init__(config, self._h2.streams, client=client)  # type: ignore[arg-type]  # all are _Stream
        self._h2.encoder = self._encoder  # type: ignore[assignment]  # has the two members that h2 uses
        self._decoder = self._h2.decoder = MemoDecoder(config)
        self._h2.local_settings = Settings(client=client, initial_values=self._local_settings())
        self._guard = FrameGuard(config, self._budgets, client=client)
        self._outbound_window = self._h2.remote_settings.initial_window_size  # of a new stream
        self._goaways = 0
        self._settings_unacknowledged = 0
        self.settings_acknowledged = False

    # -- receiving ------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Take received bytes; what they mean is in `next_event`. Ignored after a failure."""
        if self.failure is not None:
            return
        self._now = now
        guard = self._guard
        try:
            guard.feed(data if type(data) is bytes else bytes(data))
            frame = guard.next_frame(now)
            while frame is not None:
                kind, flags, stream_id, payload, length = frame
                _RECEIVE[kind](self, flags, stream_id, payload, length)
                frame = guard.next_frame(now)
        except (RemoteProtocolError, LimitExceeded) as error:
            self._fail(error)
        except ProtocolError as error:
            self._fail(_from_h2(error))
        else:
            self._give_connection_credit()

    def receive_eof(self) -> None:
        """The peer sends nothing more. A failure, without GOAWAY, if it stopped inside a frame."""
        if self.failure is None and self._guard.incomplete:
            self.failure = RemoteProtocolError("the connection ended inside a frame; send whole frames")
            self._events.append(ConnectionFailed(self.failure))

    def next_event(self) -> Http2Event | None:
        """The next event, or None."""
        return self._events.popleft() if self._events else None

    @property
    def preface_complete(self) -> bool:
        """The peer's preface and its first SETTINGS have come."""
        return self._guard.settings_seen

    @property
    def peer_takes_extended_connect(self) -> bool:
        """Client: the server's SETTINGS offer extended CONNECT (RFC 8441 section 3)."""
        return bool(self._h2.remote_settings.enable_connect_protocol)

    @property
    def header_block_open(self) -> bool:
        """The peer has begun a header block and not finished it."""
        return self._guard.header_block_open

    @property
    def last_peer_stream_id(self) -> int:
        """The highest stream of the peer that was processed: what GOAWAY must name."""
        return self._highest_peer

    @property
    def peer_max_streams(self) -> int:
        """How many streams of ours the peer allows at once (SETTINGS_MAX_CONCURRENT_STREAMS)."""
        return self._h2.remote_settings.max_concurrent_streams

    @property
    def peer_max_header_list(self) -> int | None:
        """Bytes of fields that the peer wants to see at most (SETTINGS_MAX_HEADER_LIST_SIZE); None: it did not say."""
        return self._h2.remote_settings.max_header_list_size

    @property
    def open_streams(self) -> int:
        """Streams that have not ended on both sides."""
        return len(self._streams)

    def consumed(self, stream_id: int, flow_length: int) -> None:
        """So many bytes of `DataReceived` were used: credit for as many goes back, in batches."""
        if not flow_length or not self._credit.consumed(stream_id, flow_length):
            return
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.phase.peer_ended:
            self._give_stream_credit(stream, flow_length)
        self._give_connection_credit()

    def ignore_body(self, stream_id: int) -> None:
        """Drop what else comes of a body: no events, no credit for the stream.

        For a response that is complete before its request: a client that gets RST_STREAM in one read
        with the response may miss the response (curl 7.88 does), so call this at once and `finish_early`
        a moment later, if the stream is still open then. Small bodies end by themselves meanwhile.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.ignoring = True
            self._credit.forget(stream_id)
            self._give_connection_credit()

    # -- sending --------------------------------------------------------------

    def initiate(self) -> None:
        """Queue what begins the connection: (preface,) SETTINGS and a larger connection window."""
        entries = {int(code): value for code, value in self._local_settings().items()}
        if self._client:
            self._queue_control(PREFACE)
            del entries[SettingCodes.MAX_CONCURRENT_STREAMS], entries[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        else:
            del entries[SettingCodes.ENABLE_PUSH]
            if not self._extended_connect:
                del entries[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        entries[NO_RFC7540_PRIORITIES] = 1
        payload = b"".join([_SETTING.pack(code, value) for code, value in entries.items()])
        self._queue_control(frame_header(len(payload), frame_guard.SETTINGS, 0, 0) + payload)
        self._settings_unacknowledged += 1
        if self._credit.initial_increment:
            self._queue_window_update(0, self._credit.initial_increment)

    # -- received frames ------------------------------------------------------

    def _on_headers(self, flags: int, stream_id: int, block: bytes, length: int) -> None:
        decoded = self._decoder.decode_block(block)
        stream = self._streams.get(stream_id)
        if stream is not None:
            if self._client and not stream.phase.headers_received:
                self._on_response(stream, decoded, flags)
            else:
                self._on_trailers(stream, decoded, flags)
            return
        if stream_id <= self._highest_peer or self._client or not stream_id & 1:
            self._headers_out_of_place(stream_id)
            return
        # RFC 9113 5.1.1: all lower ids that were idle are closed now.
        self._highest_peer = stream_id
        stream = self._new_stream(stream_id)
        stream.phase = stream.phase.after(RECEIVE_HEADERS)
        end_stream = flags & END_STREAM == END_STREAM
        if end_stream:
            stream.phase = stream.phase.after(RECEIVE_END)
        refusal = self._refusal(decoded)
        if refusal is not None:
            stream.announced = True
            self._events.append(RequestRefused(stream_id, refusal, end_stream, grpc=speaks_grpc(decoded.fields)))
            return
        head = decoded.request
        if head is None:
            head = decoded.request = self._judge(decoded)
        if type(head) is not RequestFields or (end_stream and head.content_length) or flags & SELF_DEPENDENT:
            self._stream_error(stream, Http2Code.PROTOCOL_ERROR)
            return
        stream.content_length = head.content_length
        stream.announced = True
        self._events.append(RequestReceived(stream_id, head, end_stream))

    def _judge(self, decoded: FieldBlock) -> RequestFields | RemoteProtocolError:
        try:
            return request_fields(decoded.fields, extended_connect=self._extended_connect)
        except RemoteProtocolError as error:
            return error

    def _refusal(self, decoded: FieldBlock) -> LimitExceeded | None:
        """A field list that is too large for a handler, although HPACK has coped with it."""
        config = self._config
        if decoded.size > config.max_header_list:
            name, limit, observed, what = "max_header_list", config.max_header_list, decoded.size, "a header list"
        elif len(decoded.fields) > config.max_fields and not speaks_grpc(decoded.fields):  # which counts bytes alone
            name, limit, observed, what = "max_fields", config.max_fields, len(decoded.fields), "a number of fields"
        else:
            return None
        return LimitExceeded(f"http2.{name}", limit, observed, kind=LimitKind.HEAD_SIZE, what=what)

    def _headers_out_of_place(self, stream_id: int) -> None:
        """HEADERS that open no stream: RFC 9113 5.1 and 5.1.1."""
        ended = self._closed.get(stream_id)
        if ended is None:
            raise _connection_error("HEADERS on a stream that the peer cannot open")
        if ended is Ended.COMPLETE:
            raise _connection_error("HEADERS on a stream that has ended", Http2Code.STREAM_CLOSED)
        self._frame_after_reset(stream_id, ended)

    def _on_response(self, stream: _Stream, decoded: FieldBlock, flags: int) -> None:
        """Client: a head, informational or final."""
        end_stream = bool(flags & END_STREAM)
        try:
            if decoded.response is None:
                decoded.response = response_fields(decoded.fields)
            status, headers, content_length = decoded.response
            if status < 200 and end_stream:
                raise malformed("an informational response that ends the stream")
        except RemoteProtocolError:
            self._stream_error(stream, Http2Code.PROTOCOL_ERROR)
            return
        if status < 200:
            stream.phase = stream.phase.after(RECEIVE_INFORMATIONAL)
        else:
            stream.phase = stream.phase.after(RECEIVE_HEADERS)
            if not stream.to_head_request and status not in (204, 304):
                stream.content_length = content_length
            if end_stream:
                if stream.content_length:
                    self._stream_error(stream, Http2Code.PROTOCOL_ERROR)
                    return
                self._peer_ended(stream)
        self._events.append(ResponseReceived(stream.stream_id, status, headers, end_stream))

    def _on_trailers(self, stream: _Stream, decoded: FieldBlock, flags: int) -> None:
        if stream.phase.peer_ended:
            self._stream_error(stream, Http2Code.STREAM_CLOSED)
            return
        expected = stream.content_length
        try:
            if not flags & END_STREAM:
                raise malformed("trailers that do not end the stream")
            if expected is not None and stream.received != expected and not stream.ignoring:
                raise malformed("a body that is not as long as content-length")
            headers = decoded.trailers
            if headers is None:
                headers = decoded.trailers = trailer_fields(decoded.fields)
        except RemoteProtocolError:
            self._stream_error(stream, Http2Code.PROTOCOL_ERROR)
            return
        if self._refusal(decoded) is not None:
            self._stream_error(stream, Http2Code.ENHANCE_YOUR_CALM)
            return
        stream.phase = stream.phase.after(RECEIVE_HEADERS)
        self._peer_ended(stream)
        if not stream.ignoring:
            self._events.append(TrailersReceived(stream.stream_id, headers))

    def _on_data(self, flags: int, stream_id: int, data: bytes, length: int) -> None:
        credit = self._credit
        credit.arrived(length)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._data_out_of_place(stream_id)
            return
        phase = stream.phase
        if phase.peer_ended:
            # RFC 9113 5.1: "it MUST respond with a stream error of type STREAM_CLOSED".
            self._stream_error(stream, Http2Code.STREAM_CLOSED)
            return
        if not phase.headers_received:
            self._stream_error(stream, Http2Code.PROTOCOL_ERROR)
            return
        stream.phase = phase.after(RECEIVE_DATA)
        try:
            stream.inbound.window_consumed(length)
        except FlowControlError:
            reason = "DATA overran its stream's window; wait for WINDOW_UPDATE"
            raise RemoteProtocolError(reason, http2_code=Http2Code.FLOW_CONTROL_ERROR) from None
        end_stream = flags & END_STREAM == END_STREAM
        if stream.ignoring:
            if end_stream:
                self._peer_ended(stream)
            return
        received = stream.received = stream.received + len(data)
        expected = stream.content_length
        if expected is not None and (received > expected or (end_stream and received < expected)):
            self._stream_error(stream, Http2Code.PROTOCOL_ERROR)
            return
        if end_stream:
            self._peer_ended(stream)
        elif not data:
            if length:
                self._give_stream_credit(stream, length)
            return
        if length:
            credit.hold(stream_id, length)
        self._events.append(DataReceived(stream_id, data, length, end_stream))

    def _data_out_of_place(self, stream_id: int) -> None:
        """DATA for no stream; the connection's credit for it goes back all the same."""
        if self._is_idle(stream_id):
            raise _connection_error("DATA on an idle stream")
        ended = self._closed.get(stream_id, Ended.BY_US)
        self._frame_after_reset(stream_id, ended)

    def _frame_after_reset(self, stream_id: int, ended: Ended) -> None:
        """A frame for a stream that is over: answered once, then only counted."""
        if ended is Ended.BY_US:
            # RFC 9113 5.1: after RST_STREAM "MUST be prepared to receive any frames" and ignore them.
            self._budgets.glitch(self._now, IN_FLIGHT_COST)
            return
        self._closed[stream_id] = Ended.BY_US
        self._queue_reset(stream_id, Http2Code.STREAM_CLOSED)
        if ended is Ended.BY_PEER:
            # .NET's client ends a call in the middle of a write so; its reset is counted already.
            self._budgets.glitch(self._now, IN_FLIGHT_COST)
        else:
            self._budgets.reset(self._now)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes, length: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._late_frame(stream_id, "RST_STREAM")
            return
        code = _UINT32.unpack(payload)[0]
        stream.phase = stream.phase.after(RECEIVE_RESET)
        self._close(stream, Ended.BY_PEER)
        if stream.announced:
            self._events.append(StreamReset(stream_id, code, by_peer=True))
        # What was open for a while costs the client time, and us no more than other calls: no rapid reset.
        if not self._client and not stream.answered and self._now < stream.opened + PREMATURE_RESET:
            self._budgets.reset(self._now)

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes, length: int) -> None:
        increment = _UINT32.unpack(payload)[0] & MAX_WINDOW
        scheduler = self._scheduler
        if not stream_id:
            if not increment:
                raise _connection_error("WINDOW_UPDATE by nothing")
            if scheduler.window + increment > MAX_WINDOW:
                raise _connection_error("a connection window above 2^31-1", Http2Code.FLOW_CONTROL_ERROR)
            scheduler.open_connection(increment)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._late_frame(stream_id, "WINDOW_UPDATE")
        elif not increment:
            self._stream_error(stream, Http2Code.PROTOCOL_ERROR)
        elif stream.outbound_flow_control_window + increment > MAX_WINDOW:
            self._stream_error(stream, Http2Code.FLOW_CONTROL_ERROR)
        else:
            stream.outbound_flow_control_window += increment
            if not stream.scheduled:
                scheduler.wake(stream)

    def _late_frame(self, stream_id: int, name: str) -> None:
        """RST_STREAM or WINDOW_UPDATE without a stream: RFC 9113 5.1 for idle and for closed ones."""
        if self._is_idle(stream_id):
            raise _connection_error(f"{name} on an idle stream")
        self._budgets.late(self._now)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes, length: int) -> None:
        if flags & ACK:
            if not self._settings_unacknowledged:
                self._budgets.glitch(self._now)
                return
            self._settings_unacknowledged -= 1
            self.settings_acknowledged = True
            self._decoder.max_allowed_table_size = self._config.header_table_size
            self._events.append(SettingsAcknowledged())
            return
        frame = SettingsFrame(0)
        frame.settings = dict(_SETTING.iter_unpack(payload))
        self._h2._receive_settings_frame(frame)
        self._outbound_window = self._h2.remote_settings.initial_window_size
        self._queue_control(_SETTINGS_ACK)
        for stream in self._streams.values():
            self._scheduler.wake(stream)
        self._events.append(PeerSettingsChanged())

    def _on_ping(self, flags: int, stream_id: int, payload: bytes, length: int) -> None:
        if not flags & ACK:
            self._queue_control(frame_header(8, frame_guard.PING, ACK, 0) + payload)
        elif payload in self._pings:
            self._pings.remove(payload)
            self._events.append(PingAcknowledged(payload))
        else:
            self._budgets.glitch(self._now)

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes, length: int) -> None:
        # Not h2's: it would close the state machine, and drop the responses that are still queued.
        self._goaways += 1
        if self._goaways > FREE_GOAWAYS:
            self._budgets.glitch(self._now)
        last_stream_id, code = _UINT32_PAIR.unpack_from(payload)
        self._events.append(GoAwayReceived(last_stream_id & MAX_STREAM_ID, code, payload[8:]))

    # -- streams --------------------------------------------------------------

    def _new_stream(self, stream_id: int) -> _Stream:
        stream = self._streams[stream_id] = _Stream(stream_id, self._config.stream_window, self._outbound_window)
        stream.opened = self._now
        return stream

    def _open_own(self, stream_id: int, fields: Fields) -> _Stream:
        if not stream_id & 1 or stream_id > MAX_STREAM_ID:
            raise LocalProtocolError(f"a client cannot open stream {stream_id}; ask next_stream_id")
        self._highest_own = stream_id
        self._budgets.streams += 1
        stream = self._new_stream(stream_id)
        stream.announced = True
        stream.to_head_request = fields[0][1] == b"HEAD"
        return stream

    def _peer_ended(self, stream: _Stream) -> None:
        phase = stream.phase = stream.phase.after(RECEIVE_END)
        if phase.closed:
            self._close(stream, Ended.COMPLETE)

    def _stream_error(self, stream: _Stream, code: Http2Code) -> None:
        """The peer broke a rule of one stream (RFC 9113 5.4.2); counted, for CVE-2025-8671."""
        self._close(stream, Ended.BY_US)
        self._queue_reset(stream.stream_id, code)
        if stream.announced:
            self._events.append(StreamReset(stream.stream_id, code, by_peer=False))
        self._budgets.reset(self._now)

    # -- replies and credit ---------------------------------------------------

    def _give_stream_credit(self, stream: _Stream, length: int) -> None:
        increment = stream.inbound.process_bytes(length)
        if increment:
            self._queue_window_update(stream.stream_id, increment)

    def _give_connection_credit(self) -> None:
        increment = self._credit.due()
        if increment and self.failure is None:
            self._queue_window_update(0, increment)

    def _local_settings(self) -> dict[SettingCodes, int]:
        config = self._config
        return {
            SettingCodes.HEADER_TABLE_SIZE: config.header_table_size,
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.MAX_CONCURRENT_STREAMS: config.max_concurrent_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: config.stream_window,
            SettingCodes.MAX_FRAME_SIZE: config.max_frame_size,
            SettingCodes.MAX_HEADER_LIST_SIZE: config.max_header_list,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: int(self._extended_connect),
        }


def _connection_error(reason: str, code: Http2Code = Http2Code.PROTOCOL_ERROR) -> RemoteProtocolError:
    return RemoteProtocolError(f"{reason} (RFC 9113); speak HTTP/2", http2_code=code)


def _from_h2(error: ProtocolError) -> RemoteProtocolError:
    return RemoteProtocolError(f"{error}; speak HTTP/2 (RFC 9113)", http2_code=Http2Code(int(error.error_code)))


_RECEIVE: dict[int, Callable[[Http2Core, int, int, bytes, int], None]] = {
    frame_guard.DATA: Http2Core._on_data,
    frame_guard.HEADERS: Http2Core._on_headers,
    frame_guard.RST_STREAM: Http2Core._on_rst_stream,
    frame_guard.SETTINGS: Http2Core._on_settings,
    frame_guard.PING: Http2Core._on_ping,
    frame_guard.GOAWAY: Http2Core._on_goaway,
    frame_guard.WINDOW_UPDATE: Http2Core._on_window_update,
}
