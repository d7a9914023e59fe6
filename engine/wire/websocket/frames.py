"""WebSocket frames as bytes (RFC 6455 section 5): the parts that are worth having by hand.

Owns: the fast path over whole simple messages, the reading of one frame header, masking, close
payloads, and the writing of a server's frames. Never keeps state and never decides what an error
means: what it cannot take it leaves in place for `engine.wire.websocket.core`.

Theory of operation. Nearly every frame of real traffic is final, unfragmented, masked, without RSV
bits, and complete in the buffer. `parse_messages` takes a run of those in one loop, without an
object a frame besides the message itself. It stops in front of the first frame that is anything
else, also in front of one that is wrong, so that there is one place that judges errors.

Masking is the only per-byte work in Python. `websockets`' C function does it where that package is
installed (extra `speed`); without it, XOR of integers is fastest below 512 bytes and slices of
`bytes.translate` above.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from engine.errors import LocalProtocolError

FIN = 0x80
RSV = 0x70
MASKED = 0x80

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

MAX_CONTROL_PAYLOAD = 125  # RFC 6455 section 5.5
MAX_HEADER = 14  # two bytes, eight of length, four of masking key
MALFORMED = (-1, -1)  # what read_header says of a header that breaks the protocol

_KNOWN_OPCODES = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_INT_MASK_BELOW = 512  # bytes; measured, see the module's theory
_MASK_BLOCK = 64 * 1024  # bytes, a multiple of a key's four: what stays in the processor's cache

# -- masking --------------------------------------------------------------


@cache
def _xor_table(key_byte: int) -> bytes:
    return bytes(byte ^ key_byte for byte in range(256))


def unmask_in_python(payload: bytes, key: bytes) -> bytes:
    """XOR with a repeated four-byte key; it masks as well as it unmasks (RFC 6455 section 5.3)."""
    length = len(payload)
    if length < _INT_MASK_BELOW:
        mask = (key * (length // 4 + 1))[:length]
        return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(length, "little")
    if length > _MASK_BLOCK:
        blocks = memoryview(payload)
        starts = range(0, length, _MASK_BLOCK)
        return b"".join([_translate(blocks[start : start + _MASK_BLOCK], key) for start in starts])
    return bytes(_translate(payload, key))


def _translate(payload: bytes | memoryview, key: bytes) -> bytearray:
    masked = bytearray(payload)
    for position, key_byte in enumerate(key):
        masked[position::4] = masked[position::4].translate(_xor_table(key_byte))
    return masked


def _fastest_unmask() -> Callable[[bytes, bytes], bytes]:
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        return unmask_in_python
    return apply_mask


unmask = _fastest_unmask()

# -- receiving ------------------------------------------------------------


def parse_messages(data: bytes, offset: int, limit: int, append: Callable[[str | bytes], None]) -> int:
    """Append the messages of all simple frames that `data` holds from `offset` on.

    Simple: text or binary, final, without RSV bits, masked, length in its shortest form and at most
    `limit`, valid UTF-8 where it is text, and complete.

    Args:
        data: what a client sent; frames begin at `offset`, between two messages.
        offset: where to start.
        limit: bytes of a message.
        append: called with each message.

    Returns:
        Where the first frame starts that is not simple; `len(data)` if there is none.
    """
    end = len(data)
    try:
        while True:
            start = offset + 6
            if start > end:
                return offset
            first = data[offset]
            if first != 0x81 and first != 0x82:
                return offset
            length = data[offset + 1] ^ MASKED  # 0 to 127 where the mask bit is set
            if length > 125:
                if length == 126:
                    start = offset + 8
                    length = int.from_bytes(data[offset + 2 : offset + 4], "big")
                    if length < 126:
                        return offset
                elif length == 127:
                    start = offset + 14
                    length = int.from_bytes(data[offset + 2 : offset + 10], "big")
                    if length < 65536:
                        return offset
                else:
                    return offset
            stop = start + length
            if stop > end or length > limit:
                return offset
            payload = unmask(data[start:stop], data[start - 4 : start])
            append(str(payload, "utf-8") if first == 0x81 else payload)
            offset = stop
    except UnicodeDecodeError:
        return offset


def read_header(
    data: bytes, offset: int, rsv_allowed: int = 0, *, any_opcode: bool = False, masked: bool = True
) -> tuple[int, int] | None:
    """Measure the frame that starts at `offset`.

    Args:
        data: what the peer sent.
        offset: where the frame starts.
        rsv_allowed: RSV bits that a frame which begins a message may have.
        any_opcode: opcodes and RSV bits are somebody else's affair.
        masked: the peer is a client, whose frames must be masked; a server's must not.

    Returns:
        Where the payload starts and how long it is; MALFORMED where the header breaks the protocol,
        found out no later than its last byte; None where more bytes are needed.
    """
    available = len(data) - offset
    if available < 2:
        return None
    first, second = data[offset], data[offset + 1]
    opcode, length, start = first & 0x0F, second & 0x7F, offset + 2
    if opcode not in _KNOWN_OPCODES and not any_opcode:
        return MALFORMED
    if opcode >= CLOSE and (length > MAX_CONTROL_PAYLOAD or not first & FIN):
        return MALFORMED
    if length == 126:
        if available < 4:
            return None
        start = offset + 4
        length = int.from_bytes(data[offset + 2 : start], "big")
        if length < 126:
            return MALFORMED
    elif length == 127:
        if available < 10:
            return None
        start = offset + 10
        length = int.from_bytes(data[offset + 2 : start], "big")
        if length < 65536 or length >> 63:
            return MALFORMED
    if bool(second & MASKED) is not masked:
        return MALFORMED
    if first & RSV and not any_opcode and (first & RSV & ~rsv_allowed or not 0 < opcode < CLOSE):
        return MALFORMED
    if masked:
        start += 4
    return (start, length) if start <= len(data) else None


# -- close frames ---------------------------------------------------------

NO_STATUS = 1005  # never on the wire: a close frame without a payload
ABNORMAL = 1006  # never on the wire: no close frame at all

# RFC 6455 section 7.4.1 and the IANA registry; 1012 to 1014 are later than the RFC.
_REGISTERED_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


def is_close_code(code: int) -> bool:
    """Whether a close frame may carry `code`, in either direction."""
    return code in _REGISTERED_CODES or 3000 <= code <= 4999


def parse_close(payload: bytes) -> tuple[int, str] | None:
    """The code and reason of a close frame; NO_STATUS for an empty payload, None for a forbidden one.

    Raises:
        UnicodeDecodeError: the reason is not UTF-8.
    """
    if not payload:
        return NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not is_close_code(code):
        return None
    return code, str(payload[2:], "utf-8")


def close_payload(code: int, reason: str) -> bytes:
    """The payload of a close frame; the reason is cut, between characters, to what fits in."""
    if code == NO_STATUS:
        return b""
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL_PAYLOAD - 2]
    return code.to_bytes(2, "big") + text.decode("utf-8", "ignore").encode("utf-8")


# -- sending --------------------------------------------------------------


def message_payload(message: str | bytes | bytearray | memoryview) -> tuple[int, bytes]:
    """The opcode and the bytes of a message.

    Raises:
        LocalProtocolError: text that is not Unicode.
        TypeError: neither text nor bytes.
    """
    if isinstance(message, str):
        try:
            return TEXT, message.encode()
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"{error}; a text message must be Unicode, send bytes instead") from None
    if isinstance(message, bytes | bytearray | memoryview):
        return BINARY, bytes(message)
    raise TypeError(f"a message is str or bytes, not {type(message).__name__}")


_SHORT_TEXT = [bytes((FIN | TEXT, length)) for length in range(126)]
_SHORT_BINARY = [bytes((FIN | BINARY, length)) for length in range(126)]


def text_frame(message: str) -> bytes:
    """A whole text message as a server sends it.

    Raises:
        UnicodeEncodeError: the text holds a lone surrogate.
    """
    payload = message.encode()
    return (_SHORT_TEXT[len(payload)] if len(payload) < 126 else frame_header(FIN | TEXT, len(payload))) + payload


def encoded_text_frame(payload: bytes) -> bytes:
    """A whole text message whose UTF-8 is there already."""
    return (_SHORT_TEXT[len(payload)] if len(payload) < 126 else frame_header(FIN | TEXT, len(payload))) + payload


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message as a server sends it; the payload is copied once."""
    return (_SHORT_BINARY[len(payload)] if len(payload) < 126 else frame_header(FIN | BINARY, len(payload))) + payload


def any_frame(first: int, payload: bytes) -> bytes:
    """A frame as a server sends it, by the first byte of its header."""
    length = len(payload)
    return (bytes((first, length)) if length < 126 else frame_header(first, length)) + payload


def control_frame(opcode: int, payload: bytes) -> bytes:
    """A close, ping or pong as a server sends it; the payload has at most MAX_CONTROL_PAYLOAD bytes."""
    return bytes((FIN | opcode, len(payload))) + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame as a server sends it; see `close_payload`."""
    return control_frame(CLOSE, close_payload(code, reason))


def frame_header(first: int, length: int) -> bytes:
    """The header of a frame of 126 bytes or more, as a server sends it."""
    if length < 65536:
        return bytes((first, 126, length >> 8, length & 0xFF))
    return bytes((first, 127)) + length.to_bytes(8, "big")
