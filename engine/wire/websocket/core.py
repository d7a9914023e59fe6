"""One WebSocket connection after its opening handshake, on the server's side (RFC 6455 sections 5 to 7).

Owns: the order of messages, fragments and control frames, every limit on what a client sends, and the
closing handshake. The only module that imports wsproto. Never does I/O, never looks at a clock.

Theory of operation. Bytes are walked frame by frame. `frames.parse_messages` takes runs of whole
simple messages. Control frames, which may come between any two frames, are few bytes and are read
here. All other data frames (fragments, and frames of which only a part has come) are given to wsproto
as they arrive: it is the state machine of a message in progress and fails early on bad UTF-8. A
header that breaks the protocol is given to it as well, for it to say what is wrong.

So wsproto never sees the header of a frame that was not measured and found within the limits, never
holds more than a part of one frame's payload, and never sees a byte after it failed; those, and the
close codes it does not know, are where it is known to be weak.

The closing handshake is the table `_TRANSITIONS`. A close frame of the peer is answered with one, and
so is a protocol error; in both cases whatever still comes is discarded. The answer is the last thing in
`data_to_send`, unless the caller holds it back there, to answer messages that came before it first.

    core = WebSocketCore(config)
    core.receive_data(data)
    while (event := core.next_event()) is not None: ...   # str and bytes are messages
    transport.write(core.data_to_send())
    transport.write(core.send_message("hello"))
"""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from wsproto.frame_protocol import Frame, FrameProtocol, ParseFailed

from engine.config import WebSocketConfig
from engine.errors import (
    ConnectionClosed,
    LimitExceeded,
    LimitKind,
    LocalProtocolError,
    RemoteProtocolError,
    answer_for,
)
from engine.wire.websocket import frames

# "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response to previous Ping
# frame(s), the endpoint MAY elect to send a Pong frame for only the most recently processed Ping
# frame." (RFC 6455 section 5.5.3). So a flood of pings that is not read back costs 8 KiB.
_MAX_WAITING_PONGS = 64


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer pinged; the pong is in `data_to_send` already."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answered a ping of ours, or sent a pong of its own accord."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer's close frame: its code (1005 where it gave none) and reason. Terminal.

    It answers ours, or ours is the answer to it.
    """

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection ended without a closing handshake. Terminal.

    Attributes:
        code: what our close frame said, or 1006 where the peer just went away.
        error: why.
    """

    code: int
    error: RemoteProtocolError | LimitExceeded | ConnectionClosed


Event = str | bytes | Ping | Pong | CloseReceived | ConnectionFailed


class State(Enum):
    """Where the closing handshake stands."""

    OPEN = auto()
    CLOSE_SENT = auto()  # by us, and the peer has not answered
    CLOSE_RECEIVED = auto()  # and our answer is not taken from `data_to_send` yet
    CLOSED = auto()  # both close frames were sent
    FAILED = auto()  # protocol error, exceeded limit, or end of the bytes without a closing handshake


class _Step(Enum):
    SEND_CLOSE = auto()
    RECEIVE_CLOSE = auto()
    FAIL = auto()
    RECEIVE_EOF = auto()


_TRANSITIONS: dict[State, dict[_Step, State]] = {
    State.OPEN: {
        _Step.SEND_CLOSE: State.CLOSE_SENT,
        _Step.RECEIVE_CLOSE: State.CLOSE_RECEIVED,
        _Step.FAIL: State.FAILED,
        _Step.RECEIVE_EOF: State.FAILED,
    },
    State.CLOSE_SENT: {
        _Step.RECEIVE_CLOSE: State.CLOSED,
        _Step.FAIL: State.FAILED,
        _Step.RECEIVE_EOF: State.FAILED,
    },
    State.CLOSE_RECEIVED: {_Step.SEND_CLOSE: State.CLOSED, _Step.RECEIVE_EOF: State.CLOSE_RECEIVED},
    State.CLOSED: {_Step.RECEIVE_EOF: State.CLOSED},
    State.FAILED: {_Step.SEND_CLOSE: State.FAILED, _Step.RECEIVE_EOF: State.FAILED},
}
_RECEIVING = frozenset((State.OPEN, State.CLOSE_SENT))


class WebSocketCore:
    """The server's end of one WebSocket; see the module's theory of operation.

    Messages leave `next_event` as plain `str` and `bytes`, whole and in order, each at most
    `max_message_size` bytes on the wire; an object around each would cost more than parsing it.
    """

    __slots__ = (
        "_answer",
        "_binary",
        "_decoder",
        "_events",
        "_failure",
        "_fragments",
        "_frame_left",
        "_held",
        "_in_message",
        "_limit",
        "_max_fragments",
        "_message_size",
        "_output",
        "_pongs",
        "_receiving",
        "_sending",
        "_state",
        "_text",
    )

    def __init__(self, config: WebSocketConfig) -> None:
        # immutable
        self._limit = config.max_message_size
        self._max_fragments = config.max_fragments
        # the closing handshake
        self._state = State.OPEN
        self._sending = True  # no close frame of ours was taken
        self._answer = b""  # the close frame that answers the peer's, or its mistake
        self._receiving = True  # state is in _RECEIVING
        self._failure: RemoteProtocolError | LimitExceeded | ConnectionClosed | None = None
        # what was received
        self._events: deque[Event] = deque()
        self._decoder: FrameProtocol | None = None  # made at the first frame that needs it
        self._held = b""  # the start of a frame header, or of a control frame; below 140 bytes
        self._frame_left = 0  # bytes of a data frame's payload that wsproto still has to get
        self._in_message = False  # wsproto has a message in progress
        self._message_size = 0  # announced by the frames of that message so far
        self._fragments = 0  # of that message so far
        self._binary: bytearray | None = None
        self._text: io.StringIO | None = None
        # what is to be sent
        self._pongs: deque[bytes] = deque(maxlen=_MAX_WAITING_PONGS)
        self._output: list[bytes] = []

    @property
    def state(self) -> State:
        """Where the closing handshake stands."""
        return self._state

    @property
    def failure(self) -> RemoteProtocolError | LimitExceeded | ConnectionClosed | None:
        """Why the connection failed, or None."""
        return self._failure

    # -- receiving ------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take what the peer sent, however it is cut. Never raises for it."""
        if not self._receiving:
            return
        if self._held:
            data = self._held + data
            self._held = b""
        offset = 0
        if not self._in_message:
            offset = frames.parse_messages(data, 0, self._limit, self._events.append)
            if offset == len(data):
                return
        self._receive_frames(data, offset)

    def receive_eof(self) -> None:
        """The peer will send nothing more. Without a closing handshake that is a failure, code 1006."""
        if self._receiving:
            self._failure = ConnectionClosed(frames.ABNORMAL, "the peer ended the connection without a close frame")
            self._events.append(ConnectionFailed(frames.ABNORMAL, self._failure))
        self._move(_Step.RECEIVE_EOF)

    def next_event(self) -> Event | None:
        """The next message (`str` or `bytes`) or event; None where there is none yet."""
        return self._events.popleft() if self._events else None

    # -- sending --------------------------------------------------------------

    def data_to_send(self, *, hold_answer: bool = False) -> bytes:
        """The control frames that wait: pongs, pings, the close frame. Empties the queue.

        Args:
            hold_answer: leave the answer to the peer's close frame, or to its mistake, for a later
                call: until then messages can be sent.
        """
        if self._answer and not hold_answer:
            self._output.append(self._answer)
            self._answer = b""
            self._sending = False
            self._move(_Step.SEND_CLOSE)
        if not self._pongs and not self._output:
            return b""
        data = b"".join((*self._pongs, *self._output))
        self._pongs.clear()
        self._output.clear()
        return data

    def send_message(self, message: str | bytes | bytearray | memoryview) -> bytes:
        """The frame of a whole message, for the caller to write behind `data_to_send`.

        Raises:
            LocalProtocolError: a close frame was sent, or text that is not Unicode.
            TypeError: neither text nor bytes.
        """
        if not self._sending:
            raise LocalProtocolError("the WebSocket is closed; check `closed` before sending")
        if isinstance(message, bytes):
            return frames.binary_frame(message)
        if isinstance(message, str):
            try:
                return frames.text_frame(message)
            except UnicodeEncodeError as error:
                raise LocalProtocolError(f"{error}; a text message must be Unicode, send bytes instead") from None
        if isinstance(message, bytearray | memoryview):
            return frames.binary_frame(bytes(message))
        raise TypeError(f"a message is str or bytes, not {type(message).__name__}")

    def send_ping(self, payload: bytes = b"") -> None:
        """Queue a ping; the peer's pong carries the same payload.

        Raises:
            LocalProtocolError: a close frame was sent, or a payload beyond 125 bytes.
        """
        if not self._sending:
            raise LocalProtocolError("the WebSocket is closed; check `closed` before sending")
        if len(payload) > frames.MAX_CONTROL_PAYLOAD:
            raise LocalProtocolError(f"a ping of {len(payload)} bytes; give at most {frames.MAX_CONTROL_PAYLOAD}")
        self._output.append(frames.control_frame(frames.PING, payload))

    def send_close(self, code: int = 1000, reason: str = "") -> None:
        """Queue the close frame that begins the closing handshake; a long reason is cut at 123 bytes.

        Raises:
            LocalProtocolError: a close frame was sent before, or a code that may not be sent.
        """
        if self._state is not State.OPEN:
            raise LocalProtocolError("the WebSocket is closed; check `closed` before closing it")
        if not frames.is_close_code(code):
            raise LocalProtocolError(f"close code {code} may not be sent; use 1000 or one from 3000 to 4999")
        self._output.append(_close_frame(code, reason))
        self._sending = False
        self._move(_Step.SEND_CLOSE)

    # -- private --------------------------------------------------------------

    def _move(self, step: _Step) -> None:
        self._state = _TRANSITIONS[self._state][step]
        self._receiving = self._state in _RECEIVING
        if not self._receiving:
            self._held = b""
            self._decoder = self._binary = self._text = None

    def _receive_frames(self, data: bytes, offset: int) -> None:
        """Take all frames in turn, of any kind; hold back the start of one that cannot be judged yet."""
        end = len(data)
        while self._receiving and offset < end:
            if self._frame_left:
                stop = min(end, offset + self._frame_left)
                self._frame_left -= stop - offset
                self._give_to_decoder(data[offset:stop])
                offset = stop
                continue
            if not self._in_message:
                offset = frames.parse_messages(data, offset, self._limit, self._events.append)
            header = frames.read_header(data, offset)
            if header is None:
                break
            start, length = header
            if header is frames.MALFORMED:
                self._refuse_header(data[offset : offset + frames.MAX_HEADER])
                return
            if data[offset] & 0x0F >= frames.CLOSE:
                if start + length > end:
                    break
                payload = frames.unmask(data[start : start + length], data[start - 4 : start])
                self._receive_control(data[offset] & 0x0F, payload)
                offset = start + length
            elif self._admits(length):
                stop = min(end, start + length)
                self._frame_left = start + length - stop
                self._give_to_decoder(data[offset:stop])
                offset = stop
        if self._receiving and offset < end:
            self._held = data[offset:]

    def _admits(self, length: int) -> bool:
        """Count a data frame, by its header, into the message it belongs to; fail where that is too much."""
        limit, max_fragments = self._limit, self._max_fragments
        self._message_size += length
        self._fragments += 1
        self._in_message = True
        if self._message_size > limit:
            self._fail(
                LimitExceeded(
                    "websocket.max_message_size", limit, self._message_size, kind=LimitKind.MESSAGE_SIZE, what="message"
                )
            )
        elif self._fragments > max_fragments:
            self._fail(
                LimitExceeded("websocket.max_fragments", max_fragments, kind=LimitKind.MESSAGE_SIZE, what="fragments")
            )
        return self._receiving

    def _refuse_header(self, data: bytes) -> None:
        """Let wsproto say what is wrong with a header."""
        self._give_to_decoder(data)
        if self._failure is None:
            raise AssertionError(f"wsproto accepts the header {data!r}")

    def _give_to_decoder(self, data: bytes) -> None:
        """Let wsproto go on with the message in progress."""
        if self._decoder is None:
            self._decoder = FrameProtocol(client=False, extensions=[])
        self._decoder.receive_bytes(data)
        try:
            for frame in self._decoder.received_frames():
                self._collect(frame)
        except ParseFailed as error:
            # wsproto has no useful state from here on; `_fail` drops it.
            reason = "text that is not UTF-8" if error.code == 1007 else str(error)
            self._fail(RemoteProtocolError(reason, websocket_code=int(error.code)))

    def _collect(self, frame: Frame) -> None:
        """Add a piece of a message; hand the message out with its last piece."""
        piece = frame.payload
        if isinstance(piece, str):
            if self._text is None:
                if frame.message_finished:
                    self._finish_message(piece)
                    return
                self._text = io.StringIO()
            self._text.write(piece)
            if frame.message_finished:
                self._finish_message(self._text.getvalue())
        elif isinstance(piece, bytes):
            if self._binary is None:
                if frame.message_finished:
                    self._finish_message(piece)
                    return
                self._binary = bytearray()
            self._binary += piece
            if frame.message_finished:
                self._finish_message(bytes(self._binary))
        else:
            raise AssertionError("wsproto was given a control frame")

    def _finish_message(self, message: str | bytes) -> None:
        self._events.append(message)
        self._in_message = False
        self._message_size = self._fragments = 0
        self._text = self._binary = None

    def _receive_control(self, opcode: int, payload: bytes) -> None:
        if opcode == frames.PING:
            if self._sending:
                self._pongs.append(frames.control_frame(frames.PONG, payload))
            self._events.append(Ping(payload))
        elif opcode == frames.PONG:
            self._events.append(Pong(payload))
        else:
            self._receive_close(payload)

    def _receive_close(self, payload: bytes) -> None:
        try:
            close = frames.parse_close(payload)
        except UnicodeDecodeError:
            self._fail(RemoteProtocolError("the reason of a close frame is not UTF-8", websocket_code=1007))
            return
        if close is None:
            self._fail(RemoteProtocolError("a close frame with a payload that is not allowed"))
            return
        code, reason = close
        if self._sending:
            # "When sending a Close frame in response, the endpoint typically echos the status code it
            # received. It SHOULD do so as soon as practical." (RFC 6455 section 5.5.1)
            self._answer = _close_frame(code, "")
        self._move(_Step.RECEIVE_CLOSE)
        self._events.append(CloseReceived(code, reason))

    def _fail(self, error: RemoteProtocolError | LimitExceeded) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 section 7.1.7)."""
        code = answer_for(error).websocket_code
        if self._sending:
            self._answer = _close_frame(code, str(error))
        self._failure = error
        self._move(_Step.FAIL)
        self._events.append(ConnectionFailed(code, error))


def _close_frame(code: int, reason: str) -> bytes:
    return frames.control_frame(frames.CLOSE, frames.close_payload(code, reason))
