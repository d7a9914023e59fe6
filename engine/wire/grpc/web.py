"""gRPC-Web: trailers as the last frame of the body, and the text variant's base64.

Owns the content-types and what differs from gRPC's framing. Spec: grpc/grpc doc/PROTOCOL-WEB.md.

The text variant exists for browsers that can't read a binary body while it arrives. Its base64 comes in
pieces, each padded by itself, and the edges of pieces mean nothing: `AAAA` + `AAA=` is one message.
"""

from __future__ import annotations

import binascii
import re
import struct
from collections.abc import Sequence

from engine.errors import StatusCode
from engine.wire.grpc.framing import MessageParser

Fields = Sequence[tuple[bytes, bytes]]

TRAILERS = 0x80  # "the most significant bit of the 1st byte" of a frame's prefix: it holds trailers

_CONTENT_TYPE = re.compile(rb"application/grpc-web(-text)?(?:\+([a-z0-9._-]+))?[ \t]*(?:;.*)?", re.IGNORECASE)
_ACCEPTED = re.compile(rb"application/grpc-web(-text)?(?![a-z0-9.-])", re.IGNORECASE)
_prefix = struct.Struct(">BI")


def is_text(content_type: bytes) -> bool | None:
    """Whether a content-type is that of the text variant; None where it is not gRPC-Web at all."""
    match = _CONTENT_TYPE.fullmatch(content_type.strip())
    return None if match is None else match[1] is not None


def answers_text(content_type: bytes, accept: bytes | None) -> bool:
    """Whether the response is to be in the text variant: as `accept` says, else as the request is."""
    match = _ACCEPTED.search(accept) if accept else None
    return match[1] is not None if match else bool(is_text(content_type))


def response_type(content_type: bytes, *, text: bool) -> bytes:
    """The content-type of the response, with the request's `+proto` where it has one."""
    match = _CONTENT_TYPE.fullmatch(content_type.strip())
    suffix = b"+" + match[2].lower() if match and match[2] else b""
    return (b"application/grpc-web-text" if text else b"application/grpc-web") + suffix


def trailer_frame(trailers: Fields) -> bytes:
    """The frame that ends a response.

    "Key-value pairs encoded as a HTTP/1 headers block (without the terminating newline)", names in lower case.
    """
    block = b"".join([b"%b: %b\r\n" % field for field in trailers])
    return _prefix.pack(TRAILERS, len(block)) + block


def encode_text(data: bytes) -> bytes:
    """One piece of base64 with its padding."""
    return binascii.b2a_base64(data, newline=False)


class TextParser(MessageParser):
    """A `MessageParser` whose bytes arrive as base64."""

    __slots__ = ("_broken", "_rest")

    def __init__(self, max_size: int, encoding: str | None = None) -> None:
        super().__init__(max_size, encoding)
        self._rest = b""  # up to three characters of a group that is not complete
        self._broken = ""  # why no more can be decoded: told once what came before was taken

    @property
    def ended(self) -> bool:
        """As in `MessageParser`."""
        return not self._broken and super().ended

    def receive_data(self, data: bytes) -> None:
        """Add characters of the body."""
        if self.failure is not None or self._broken:
            return
        data = self._rest + data if self._rest else data
        whole = len(data) // 4 * 4
        self._rest = data[whole:]
        decoded, valid = decode_text(data[:whole])
        super().receive_data(decoded)
        if not valid:
            self._broken = "the request body is not base64 (RFC 4648 section 4)"

    def receive_eof(self) -> None:
        """The body is complete."""
        if self._rest and not self._broken:
            self._broken = "the base64 of the request body is cut; pad its last group"
        if not self._broken:
            super().receive_eof()

    def next_message(self) -> bytes | None:
        """As in `MessageParser`."""
        message = super().next_message()
        if message is None and self._broken and self.failure is None:
            self._fail(StatusCode.INTERNAL, self._broken)
        return message

    def parse_single(self, body: bytes) -> bytes | None:
        return None  # it is not plain


def decode_text(text: bytes) -> tuple[bytes, bool]:
    """What whole groups of base64 stand for, any of them padded, up to the first that is none; were all?"""
    pieces: list[bytes] = []
    start = 0
    while start < len(text):
        padding = text.find(b"=", start)
        end = len(text) if padding < 0 else (padding // 4 + 1) * 4
        piece = _decode(text[start:end])
        if piece is None:
            # Each group that is good is taken, as if it had come alone.
            for at in range(start, end, 4):
                group = _decode(text[at : at + 4])
                if group is None:
                    break
                pieces.append(group)
            return b"".join(pieces), False
        pieces.append(piece)
        start = end
    return b"".join(pieces), True


def _decode(text: bytes) -> bytes | None:
    if text[-3:] == b"===":
        return None  # binascii takes "AAAA====", also in its strict mode
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
