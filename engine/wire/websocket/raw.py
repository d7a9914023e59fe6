"""A WebSocket whose frames are handed out as they are, for protocols of one's own and for test programs.

Owns: what is left of RFC 6455 where messages are somebody else's affair. Frames must be masked, have
their length in its shortest form and within `max_message_size`; control frames must be whole and short.
Pings are answered, and the closing handshake is `engine.wire.websocket.core`'s. Fragments are not put
together, text is not checked, and opcodes and RSV bits may be anything.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.config import WebSocketConfig
from engine.wire.websocket import frames
from engine.wire.websocket.core import WebSocketCore
from engine.wire.websocket.events import Frame
from engine.wire.websocket.pieces import Pieces


class RawFrameCore(WebSocketCore):
    """The core of such a connection: `Frame` events instead of messages, pings and pongs among them."""

    __slots__ = ("_first", "_payload")

    def __init__(self, config: WebSocketConfig, *, masking_key: Callable[[], bytes] | None = None) -> None:
        super().__init__(config, masking_key=masking_key)
        # the data frame under way
        self._first = 0  # of its header
        self._payload: Pieces | None = None  # of it, but for its last piece

    def receive_data(self, data: bytes) -> None:
        """Take what the peer sent, however it is cut. Never raises for it."""
        if not self._receiving:
            return
        if self._held:
            data = self._held + data
            self._held = b""
        self._receive_frames(data, 0)

    def receive_messages(self, data: bytes) -> None:
        """There are no messages here: `receive_data`."""
        self.receive_data(data)

    def _receive_frames(self, data: bytes, offset: int) -> None:
        end, masked = len(data), self._masking_key is None
        while self._receiving and offset < end:
            if self._frame_left:
                stop = min(end, offset + self._frame_left)
                self._frame_left -= stop - offset
                self._receive_payload(data[offset:stop])
                offset = stop
                continue
            header = frames.read_header(data, offset, any_opcode=True, masked=masked)
            if header is None:
                break
            start, length = header
            if header is frames.MALFORMED:
                self._refuse_header(data[offset : offset + frames.MAX_HEADER])
                return
            self._first, self._key = data[offset], data[start - 4 : start] if masked else b""
            if self._first & 0x0F >= frames.CLOSE and start + length > end:
                break
            if length > self._limit:
                self._fail_for_size(length)
                return
            stop = min(end, start + length)
            self._frame_left = start + length - stop
            self._receive_payload(data[start:stop])
            offset = stop
        if self._receiving and offset < end:
            self._held = data[offset:]

    def _receive_payload(self, piece: bytes) -> None:
        if piece and self._key:
            piece = frames.unmask(piece, self._key)
        turn = len(piece) & 3
        self._key = self._key[turn:] + self._key[:turn]
        if self._frame_left or self._payload is not None:
            if self._payload is None:
                self._payload = Pieces()
            self._payload.write(piece)
            if self._frame_left:
                return
            piece = self._payload.getvalue()
            self._payload = None
        first = self._first
        opcode = first & 0x0F
        if opcode != frames.CLOSE:
            self._events.append(Frame(opcode, piece, bool(first & frames.FIN), (first & frames.RSV) >> 4))
        if opcode in (frames.CLOSE, frames.PING, frames.PONG):
            self._receive_control(opcode, piece)
