"""Frames as a client sends them, right or wrong, written from RFC 6455 section 5.2 and not from our code."""

from __future__ import annotations

KEY = b"\x37\xfa\x21\x3d"  # of the RFC's own examples

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    length: int | None = None,
) -> bytes:
    """`length` lies about the payload's; `key=None` leaves the mask out."""
    size = len(payload) if length is None else length
    mask_bit = 0 if key is None else 0x80
    if size < 126:
        extended = bytes((mask_bit | size,))
    elif size < 1 << 16:
        extended = bytes((mask_bit | 126,)) + size.to_bytes(2, "big")
    else:
        extended = bytes((mask_bit | 127,)) + size.to_bytes(8, "big")
    head = bytes(((fin << 7) | (rsv << 4) | opcode,)) + extended
    if key is None:
        return head + payload
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def server_frame(opcode: int, payload: bytes = b"") -> bytes:
    """What a server sends for it: final, unmasked."""
    return frame(opcode, payload, key=None)


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of all frames that a server sent, which must be final, unmasked and minimal."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
            assert length > 125
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
            assert length > 65535
        assert len(data) >= start + length
        found.append((data[0] & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return found
