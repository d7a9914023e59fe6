"""One WebSocket connection after its opening handshake, at either end of it (RFC 6455 sections 5 to 7).

Owns: the order of messages, fragments and control frames, every limit on what a peer sends, and the
closing handshake. The only module that imports wsproto. Never does I/O, never looks at a clock.

Theory of operation. Bytes are walked frame by frame. `frames.parse_messages` takes runs of whole
simple messages. Control frames, which may come between any two frames, are few bytes and are read
here. All other data frames (fragments, compressed frames, and frames of which only a part has come)
are measured, unmasked and inflated here as they arrive, and then given to wsproto: it is the state
machine of a message in progress and fails early on bad UTF-8. A header that breaks the protocol is
given to it as well, for it to say what is wrong.

So wsproto never sees a frame that was not measured and found within the limits, never holds any
payload, and never sees a byte after it failed; those, its compression, and the close codes it does
not know, are where it is known to be weak.

The closing handshake is the table `engine.wire.websocket.closing`. A close frame of the peer is answered with one, and
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
from collections.abc import Callable

from wsproto.frame_protocol import Frame as WsprotoFrame
from wsproto.frame_protocol import FrameProtocol, MessageDecoder, Opcode, ParseFailed

from engine.config import WebSocketConfig
from engine.errors import (
    ConnectionClosed,
    LimitExceeded,
    LimitKind,
    LocalProtocolError,
    RemoteProtocolError,
    answer_for,
)
from engine.wire.websocket import client_frames, frames
from engine.wire.websocket.closing import RECEIVING, TRANSITIONS, State, Step
from engine.wire.websocket.deflate import Agreement, Deflater, InflateError, Inflater, OutOfRoom
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, Event, MessagePart, Ping, Pong
from engine.wire.websocket.pieces import Pieces

# "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response to previous Ping
# frame(s), the endpoint MAY elect to send a Pong frame for only the most recently processed Ping
# frame." (RFC 6455 section 5.5.3). So a flood of pings that is not read back costs 8 KiB.
_MAX_WAITING_PONGS = 64

_RSV1 = 0x40  # RFC 7692 section 6: the first frame of a compressed message
_OPCODES = {0: Opcode.CONTINUATION, 1: Opcode.TEXT, 2: Opcode.BINARY}


class WebSocketCore:
    """One end of a WebSocket; see the module's theory of operation.

    Messages leave `next_event` as plain `str` and `bytes`, whole and in order, each at most
    `max_message_size` bytes after decompression; an object around each would cost more than parsing it.

    Args:
        config: limits, and how to compress.
        agreed: what was negotiated for compression; None: nothing.
        masking_key: makes this the client's end: gives four bytes that nobody can predict, anew for each
            frame (RFC 6455 section 5.3). None: the server's end.
    """

    __slots__ = (
        "_answer",
        "_binary",
        "_compress_from",
        "_compressed",
        "_decoder",
        "_deflater",
        "_events",
        "_failure",
        "_fragments",
        "_frame_fin",
        "_frame_left",
        "_frame_opcode",
        "_held",
        "_in_message",
        "_in_parts",
        "_inflated",
        "_inflater",
        "_key",
        "_limit",
        "_masking_key",
        "_max_fragments",
        "_message_size",
        "_output",
        "_parse_messages",
        "_pongs",
        "_receiving",
        "_rsv_allowed",
        "_sending",
        "_state",
        "_streaming",
        "_text",
        "masks",
    )

    def __init__(
        self,
        config: WebSocketConfig,
        agreed: Agreement | None = None,
        *,
        masking_key: Callable[[], bytes] | None = None,
    ) -> None:
        # immutable
        self._masking_key = masking_key
        self._parse_messages = frames.parse_messages if masking_key is None else client_frames.parse_messages
        self._limit = config.max_message_size
        self._max_fragments = config.max_fragments
        self._compress_from = config.compression_threshold
        self._rsv_allowed = 0 if agreed is None else _RSV1
        self._inflater: Inflater | None = None
        self._deflater: Deflater | None = None
        self.masks = masking_key is not None
        if agreed is not None:
            server = agreed.server_window_bits, agreed.server_takeover
            client = agreed.client_window_bits, agreed.client_takeover
            (theirs, their_takeover), (ours, takeover) = (client, server) if masking_key is None else (server, client)
            self._inflater = Inflater(theirs, takeover=their_takeover)
            self._deflater = Deflater(
                ours,
                takeover=takeover,
                level=config.compression_level,
                memory_level=config.compression_memory_level,
            )
        # the closing handshake
        self._state = State.OPEN
        self._sending = True  # no close frame of ours was taken
        self._answer = b""  # the close frame that answers the peer's, or its mistake
        self._receiving = True  # state is in RECEIVING
        self._failure: RemoteProtocolError | LimitExceeded | ConnectionClosed | None = None
        # what was received
        self._events: deque[Event] = deque()
        self._held = b""  # the start of a frame header, or of a control frame; below 140 bytes
        # the data frame under way
        self._frame_left = 0  # bytes of its payload that have not come
        self._frame_fin = True
        self._frame_opcode = Opcode.CONTINUATION  # from its second piece on, as wsproto has it
        self._key = b""  # turned to the next byte
        # the message under way
        self._decoder: MessageDecoder | None = None  # made at the first frame that needs it
        self._in_message = False
        self._message_size = 0  # announced by its frames so far
        self._fragments = 0  # so far
        self._compressed = False
        self._inflated = 0  # bytes so far
        self._binary: Pieces | None = None
        self._text: io.StringIO | None = None
        self._streaming = False  # hand out what is there of it after each read
        self._in_parts = False  # that was done with this one
        # what is to be sent
        self._pongs: list[bytes] = []  # the latest
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
            offset = self._parse_messages(data, 0, self._limit, self._events.append)
            if offset == len(data):
                return
        self._receive_frames(data, offset)
        if self._streaming:
            self._hand_out_part()

    def receive_messages(self, data: bytes) -> list[str | bytes] | None:
        """`receive_data` in the common case: the messages of a read that holds nothing but whole simple ones.

        None: it held something else, or something waits from before; `next_event` and `data_to_send`
        have all of it.
        """
        if self._held or self._in_message or self._events or self._pongs or self._output or not self._receiving:
            self.receive_data(data)
            return None
        messages: list[str | bytes] = []
        offset = self._parse_messages(data, 0, self._limit, messages.append)
        if offset == len(data):
            return messages
        self._events.extend(messages)
        self._receive_frames(data, offset)
        if self._streaming:
            self._hand_out_part()
        return None

    def receive_eof(self) -> None:
        """The peer will send nothing more. Without a closing handshake that is a failure, code 1006."""
        if self._receiving:
            self._failure = ConnectionClosed(frames.ABNORMAL, "the peer ended the connection without a close frame")
            self._events.append(ConnectionFailed(frames.ABNORMAL, self._failure))
        self._move(Step.RECEIVE_EOF)

    def next_event(self) -> Event | None:
        """The next message (`str` or `bytes`) or event; None where there is none yet."""
        return self._events.popleft() if self._events else None

    def stream_messages(self) -> None:
        """From now on do not wait for the end of messages: hand out a `MessagePart` after each read.

        A message that comes whole in one read is whole still. The limits stay what they are.
        """
        self._streaming = True
        self._hand_out_part()

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
            self._move(Step.SEND_CLOSE)
        if not self._pongs and not self._output:
            return b""
        waiting = (*self._pongs, *self._output)
        if self._masking_key is not None:
            waiting = tuple(client_frames.mask_control(frame, self._masking_key()) for frame in waiting)
        data = b"".join(waiting)
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
            raise _closed()
        if self._deflater is not None and len(message) >= self._compress_from:
            opcode, payload = frames.message_payload(message)
            return self._frame(frames.FIN | _RSV1 | opcode, self._deflater.compress(payload))
        if self._masking_key is not None:
            return client_frames.message_frame(message, self._masking_key())
        if isinstance(message, str):
            try:
                return frames.text_frame(message)
            except UnicodeEncodeError:
                frames.message_payload(message)  # says so
        return frames.binary_frame(message if isinstance(message, bytes) else frames.message_payload(message)[1])

    def send_large(self, message: str | bytes | bytearray | memoryview) -> tuple[bytes, bytes]:
        """`send_message` in two parts, to be written one after the other: so the payload need not be copied.

        Raises:
            LocalProtocolError: a close frame was sent, or text that is not Unicode.
            TypeError: neither text nor bytes.
        """
        if not self._sending or self._deflater is not None or self._masking_key is not None:
            return b"", self.send_message(message)
        opcode, payload = frames.message_payload(message)
        return frames.frame_header(frames.FIN | opcode, len(payload)), payload

    def send_fragment(self, data: str | bytes | bytearray | memoryview, *, first: bool) -> bytes:
        """The frame of a part of a message, of whatever size; `finish_message` ends it.

        Nothing but control frames may be sent in between.

        Raises:
            LocalProtocolError: a close frame was sent, or text that is not Unicode.
            TypeError: neither text nor bytes.
        """
        if not self._sending:
            raise _closed()
        opcode, payload = frames.message_payload(data)
        if not first:
            opcode = frames.CONTINUATION
        if self._deflater is not None:
            payload = self._deflater.compress_fragment(payload)
            opcode |= _RSV1 if first else 0
        return self._frame(opcode, payload)

    def finish_message(self) -> bytes:
        """The last, empty fragment of a message.

        Raises:
            LocalProtocolError: a close frame was sent.
        """
        if not self._sending:
            raise _closed()
        payload = b"" if self._deflater is None else self._deflater.finish()
        return self._frame(frames.FIN | frames.CONTINUATION, payload)

    def send_frame(self, opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
        """Any frame but a close frame, right or wrong.

        Raises:
            LocalProtocolError: a close frame was sent, or what no header can say.
        """
        if not self._sending:
            raise _closed()
        if not 0 <= opcode <= 15 or not 0 <= rsv <= 7:
            raise LocalProtocolError(f"opcode {opcode}, rsv {rsv}; a frame has room for 0 to 15, and 0 to 7")
        if opcode == frames.CLOSE:
            raise LocalProtocolError("a close frame begins the closing handshake; use `close`")
        return self._frame((frames.FIN if fin else 0) | rsv << 4 | opcode, payload)

    # -- sending one message to many ------------------------------------------

    def shared_kind(self, size: int) -> tuple[int, int, int] | None:
        """Which connections a message of `size` bytes is the same for: those where this is equal."""
        if self._deflater is None or size < self._compress_from:
            return None
        return self._deflater.kind

    def shared_frame(self, message: str | bytes | bytearray | memoryview) -> bytes:
        """A whole message's frame, which every connection of the same `shared_kind` may write.

        Each of them must be told so with `sent_shared`.

        Raises:
            LocalProtocolError: text that is not Unicode.
            TypeError: neither text nor bytes.
        """
        opcode, payload = frames.message_payload(message)
        if self._deflater is None or len(message) < self._compress_from:
            return self._frame(frames.FIN | opcode, payload)
        return self._frame(frames.FIN | _RSV1 | opcode, self._deflater.compress_alone(payload))

    def sent_shared(self) -> None:
        """A `shared_frame` will go out here, behind what was sent before."""
        if self._deflater is not None:
            self._deflater.forget()

    def send_ping(self, payload: bytes = b"") -> None:
        """Queue a ping; the peer's pong carries the same payload.

        Raises:
            LocalProtocolError: a close frame was sent, or a payload beyond 125 bytes.
        """
        if not self._sending:
            raise _closed()
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
        self._output.append(frames.close_frame(code, reason))
        self._sending = False
        self._move(Step.SEND_CLOSE)

    # -- private --------------------------------------------------------------

    def _move(self, step: Step) -> None:
        self._state = TRANSITIONS[self._state][step]
        self._receiving = self._state in RECEIVING
        if not self._receiving:
            self._held = b""
            self._decoder = self._binary = self._text = None

    def _receive_frames(self, data: bytes, offset: int) -> None:
        """Take all frames in turn, of any kind; hold back the start of one that cannot be judged yet."""
        end, masked = len(data), self._masking_key is None
        while self._receiving and offset < end:
            if self._frame_left:
                stop = min(end, offset + self._frame_left)
                self._frame_left -= stop - offset
                self._receive_payload(data[offset:stop])
                offset = stop
                continue
            if not self._in_message:
                offset = self._parse_messages(data, offset, self._limit, self._events.append)
            header = frames.read_header(data, offset, self._rsv_allowed, masked=masked)
            if header is None:
                break
            start, length = header
            if header is frames.MALFORMED:
                self._refuse_header(data[offset : offset + frames.MAX_HEADER])
                return
            first = data[offset]
            if first & 0x0F >= frames.CLOSE:
                if start + length > end:
                    break
                payload = data[start : start + length]
                if masked:
                    payload = frames.unmask(payload, data[start - 4 : start])
                self._receive_control(first & 0x0F, payload)
                offset = start + length
            elif self._admits(first, length):
                self._key = data[start - 4 : start] if masked else b""
                stop = min(end, start + length)
                self._frame_left = start + length - stop
                self._receive_payload(data[start:stop])
                offset = stop
        if self._receiving and offset < end:
            self._held = data[offset:]

    def _admits(self, first: int, length: int) -> bool:
        """Count a data frame, by its header, into the message it belongs to; fail where that is too much."""
        limit, max_fragments = self._limit, self._max_fragments
        if not self._in_message:
            self._in_message = True
            self._compressed = bool(first & _RSV1)
        self._frame_opcode = _OPCODES[first & 0x0F]
        self._frame_fin = bool(first & frames.FIN)
        self._message_size += length
        self._fragments += 1
        # Compressed frames may be larger than what they hold, by far where it was flushed often. None of
        # it is kept; `_inflate` counts what comes out of them.
        if self._message_size > (2 * limit + 8 * max_fragments if self._compressed else limit):
            self._fail_for_size(self._message_size)
        elif self._fragments > max_fragments:
            self._fail(
                LimitExceeded("websocket.max_fragments", max_fragments, kind=LimitKind.MESSAGE_SIZE, what="fragments")
            )
        return self._receiving

    def _fail_for_size(self, observed: int | None = None) -> None:
        kind = LimitKind.MESSAGE_SIZE
        self._fail(LimitExceeded("websocket.max_message_size", self._limit, observed, kind=kind, what="message"))

    def _refuse_header(self, data: bytes) -> None:
        """Let wsproto say what is wrong with a header."""
        decoder = FrameProtocol(client=self._masking_key is not None, extensions=[])
        decoder.receive_bytes(data)
        try:
            for _ in decoder.received_frames():
                pass
        except ParseFailed as error:
            self._fail(RemoteProtocolError(str(error), websocket_code=int(error.code)))
        else:
            raise AssertionError(f"wsproto accepts the header {data!r}")

    def _receive_payload(self, piece: bytes) -> None:
        """Take the next piece of the data frame under way, still masked."""
        frame_finished = not self._frame_left
        if piece:
            key = self._key
            if not frame_finished:
                turn = len(piece) & 3
                self._key = key[turn:] + key[:turn]
            piece = frames.unmask(piece, key) if key else piece
        elif not frame_finished:
            return
        finished = frame_finished and self._frame_fin
        # A frame that begins a message inside of another is not compressed data of it: wsproto refuses it.
        if self._compressed and (self._frame_opcode is Opcode.CONTINUATION or self._fragments == 1):
            inflated = self._inflate(piece, finished)
            if inflated is None:
                return
            piece = inflated
        if self._decoder is None:
            self._decoder = MessageDecoder()
        try:
            frame = self._decoder.process_frame(
                WsprotoFrame(self._frame_opcode, piece, frame_finished, self._frame_fin)
            )
        except ParseFailed as error:
            # wsproto has no useful state from here on; `_fail` drops it.
            reason = "text that is not UTF-8" if error.code == 1007 else str(error)
            self._fail(RemoteProtocolError(reason, websocket_code=int(error.code)))
            return
        self._frame_opcode = Opcode.CONTINUATION
        self._collect(frame.payload, finished)

    def _inflate(self, piece: bytes, finished: bool) -> bytes | None:
        """None where that failed."""
        assert self._inflater is not None  # no RSV1 without
        room = self._limit - self._inflated
        try:
            data = self._inflater.inflate(piece, room)
            if finished:
                rest = self._inflater.finish(room - len(data))
                data = data + rest if rest else data
        except OutOfRoom:
            self._fail_for_size()
            return None
        except InflateError as error:
            self._fail(RemoteProtocolError(str(error), websocket_code=1007))
            return None
        self._inflated += len(data)
        return data

    def _collect(self, piece: object, finished: bool) -> None:
        """Add a piece of a message; hand the message out with its last piece."""
        if isinstance(piece, str):
            if self._text is None:
                if finished:
                    self._finish_message(piece)
                    return
                self._text = io.StringIO()
            self._text.write(piece)
            if finished:
                self._finish_message(self._text.getvalue())
        elif isinstance(piece, bytes):
            if self._binary is None:
                if finished:
                    self._finish_message(piece)
                    return
                self._binary = Pieces()
            self._binary.write(piece)
            if finished:
                self._finish_message(self._binary.getvalue())
        else:
            raise AssertionError("wsproto made something else of a data frame")

    def _finish_message(self, message: str | bytes) -> None:
        self._events.append(MessagePart(message, finished=True) if self._in_parts else message)
        self._in_message = self._in_parts = False
        self._message_size = self._fragments = self._inflated = 0
        self._text = self._binary = None

    def _hand_out_part(self) -> None:
        """Do not wait for the end of the message under way."""
        collected = self._text or self._binary
        data = collected.getvalue() if collected is not None else b""
        if data:
            self._text = self._binary = None
            self._in_parts = True
            self._events.append(MessagePart(data, finished=False))

    def _frame(self, first: int, payload: bytes) -> bytes:
        """A frame by the first byte of its header, masked where we are the client."""
        if self._masking_key is None:
            return frames.any_frame(first, payload)
        return client_frames.masked_frame(first, payload, self._masking_key())

    def _receive_control(self, opcode: int, payload: bytes) -> None:
        if opcode == frames.PING:
            if self._sending:
                self._pongs = [*self._pongs[1 - _MAX_WAITING_PONGS :], frames.control_frame(frames.PONG, payload)]
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
            self._answer = frames.close_frame(code, "")
        self._move(Step.RECEIVE_CLOSE)
        self._events.append(CloseReceived(code, reason))

    def _fail(self, error: RemoteProtocolError | LimitExceeded) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 section 7.1.7)."""
        code = answer_for(error).websocket_code
        if self._sending:
            self._answer = frames.close_frame(code, str(error))
        self._failure = error
        self._move(Step.FAIL)
        self._events.append(ConnectionFailed(code, error))


def _closed() -> LocalProtocolError:
    return LocalProtocolError("the WebSocket is closed; check `closed` before sending")
