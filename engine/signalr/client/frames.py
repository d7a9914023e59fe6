"""WebSocket frames as a client sends and receives them (RFC 6455 section 5).

Owns: masking on the way out, and what a hub's client needs on the way in: the payload of data frames,
whose boundaries mean nothing to a hub, and control frames. Sans I/O.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from engine.errors import RemoteProtocolError
from engine.wire.websocket.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    MASKED,
    MAX_CONTROL_PAYLOAD,
    NO_STATUS,
    PING,
    PONG,
    RSV,
    TEXT,
    parse_close,
    unmask,
)

__all__ = ["CloseFrame", "PingFrame", "ServerFrameReader", "client_frame"]


@dataclass(frozen=True, slots=True)
class PingFrame:
    """To be answered with a pong."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseFrame:
    """Terminal: the server closes; 1005 where it gave no code."""

    code: int
    reason: str


def client_frame(opcode: int, payload: bytes, key: bytes) -> bytes:
    """A whole masked frame.

    Args:
        key: four random bytes, new for each frame (RFC 6455 section 5.3).
    """
    length = len(payload)
    if length < 126:
        head = bytes((FIN | opcode, MASKED | length))
    elif length < 65536:
        head = bytes((FIN | opcode, MASKED | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, MASKED | 127)) + length.to_bytes(8, "big")
    return head + key + unmask(payload, key)


class ServerFrameReader:
    """Bytes in; payloads of data frames, pings and the close out.

    Args:
        limit: bytes of one frame.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._in_message = False
        self._closed = False
        self._events: deque[bytes | PingFrame | CloseFrame] = deque()

    def receive_data(self, data: bytes) -> None:
        """Take bytes in the order of their arrival; what follows a close frame is discarded.

        Raises:
            RemoteProtocolError: what came is no WebSocket frame, or too large.
        """
        self._buffer += data
        while not self._closed and self._read_frame():
            pass
        if self._closed:
            self._buffer.clear()

    def next_event(self) -> bytes | PingFrame | CloseFrame | None:
        """What came, in order; None if more bytes are needed."""
        return self._events.popleft() if self._events else None

    def _read_frame(self) -> bool:
        """Take one frame off the buffer; False if it is incomplete."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        first, length, start = buffer[0], buffer[1], 2
        if first & RSV or length & MASKED:
            raise RemoteProtocolError("the server sent a WebSocket frame with reserved bits, or masked")
        if length > 125:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return False
            length = int.from_bytes(buffer[2:start], "big")
        if length > self._limit:
            raise RemoteProtocolError(
                f"the server sent a frame of more than {self._limit:g} bytes", websocket_code=1009
            )
        if len(buffer) < start + length:
            return False
        payload = bytes(buffer[start : start + length])
        del buffer[: start + length]
        self._take(first & 0x0F, bool(first & FIN), payload)
        return True

    def _take(self, opcode: int, final: bool, payload: bytes) -> None:
        if opcode in (TEXT, BINARY, CONTINUATION):
            if (opcode == CONTINUATION) is not self._in_message:
                raise RemoteProtocolError("the server's WebSocket fragments are out of order")
            self._in_message = not final
            if payload:
                self._events.append(payload)
        elif opcode not in (CLOSE, PING, PONG) or not final or len(payload) > MAX_CONTROL_PAYLOAD:
            raise RemoteProtocolError("the server sent a malformed WebSocket control frame")
        elif opcode == PING:
            self._events.append(PingFrame(payload))
        elif opcode == CLOSE:
            self._closed = True
            self._events.append(_close_frame(payload))


def _close_frame(payload: bytes) -> CloseFrame:
    try:
        code, reason = parse_close(payload) or (NO_STATUS, "")
    except UnicodeDecodeError:
        code, reason = NO_STATUS, ""
    return CloseFrame(code, reason)
