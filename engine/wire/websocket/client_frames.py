"""WebSocket frames as bytes, at the client's end (RFC 6455 section 5): masked out, unmasked in.

Owns: the fast path over the whole simple messages of a server, and the writing of masked frames. The
keys come from the caller. See `engine.wire.websocket.frames`, of which this is the other direction.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.wire.websocket.frames import BINARY, FIN, MASKED, TEXT, message_payload, unmask

mask = unmask  # XOR is its own inverse


def parse_messages(data: bytes, offset: int, limit: int, append: Callable[[str | bytes], None]) -> int:
    """Append the messages of all simple frames that `data`, sent by a server, holds from `offset` on.

    Simple: text or binary, final, without RSV bits, not masked, length in its shortest form and at most
    `limit`, valid UTF-8 where it is text, and complete. See `frames.parse_messages`.

    Returns:
        Where the first frame starts that is not simple; `len(data)` if there is none.
    """
    end = len(data)
    try:
        while True:
            start = offset + 2
            if start > end:
                return offset
            first = data[offset]
            if first != 0x81 and first != 0x82:
                return offset
            length = data[offset + 1]
            if length > 125:
                if length == 126:
                    start = offset + 4
                    length = int.from_bytes(data[offset + 2 : start], "big")
                    if length < 126:
                        return offset
                elif length == 127:
                    start = offset + 10
                    length = int.from_bytes(data[offset + 2 : start], "big")
                    if length < 65536:
                        return offset
                else:
                    return offset
            stop = start + length
            if stop > end or length > limit:
                return offset
            payload = data[start:stop]
            append(str(payload, "utf-8") if first == 0x81 else payload)
            offset = stop
    except UnicodeDecodeError:
        return offset


def message_frame(message: str | bytes | bytearray | memoryview, key: bytes) -> bytes:
    """A whole message as a client sends it.

    Raises:
        LocalProtocolError: text that is not Unicode.
        TypeError: neither text nor bytes.
    """
    opcode, payload = message_payload(message)
    length = len(payload)
    if length < 126:
        return (_SHORT_TEXT if opcode == TEXT else _SHORT_BINARY)[length] + key + mask(payload, key)
    return masked_frame(FIN | opcode, payload, key)


def masked_frame(first: int, payload: bytes, key: bytes) -> bytes:
    """A frame as a client sends it, by the first byte of its header."""
    length = len(payload)
    if length < 126:
        header = bytes((first, MASKED | length))
    elif length < 65536:
        header = bytes((first, MASKED | 126, length >> 8, length & 0xFF))
    else:
        header = bytes((first, MASKED | 127)) + length.to_bytes(8, "big")
    return b"".join((header, key, mask(payload, key)))


def mask_control(frame: bytes, key: bytes) -> bytes:
    """A control frame of a server as a client sends it."""
    return bytes((frame[0], MASKED | frame[1])) + key + mask(frame[2:], key)


_SHORT_TEXT = [bytes((FIN | TEXT, MASKED | length)) for length in range(126)]
_SHORT_BINARY = [bytes((FIN | BINARY, MASKED | length)) for length in range(126)]
