"""How a call's end is written: `grpc-status`, `grpc-message` and the trailers around them.

Owns the percent-encoding of `grpc-message`. Never decides which status a call ends with.
Spec: grpc/grpc doc/PROTOCOL-HTTP2.md, "Responses", "Status-Message".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.errors import StatusCode
from engine.wire.grpc.metadata import encode_binary

Fields = Sequence[tuple[bytes, bytes]]

STATUS = b"grpc-status"
MESSAGE = b"grpc-message"
DETAILS = b"grpc-status-details-bin"

OK_TRAILERS: Fields = ((STATUS, b"0"),)
"""The end of nearly every call: one constant, so that HPACK encodes it once."""

# "Percent-Byte-Unencoded → 1*( %x20-%x24 / %x26-%x7E ) ; space and VCHAR, except %"
_ENCODED = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_PLAIN = re.compile(r"[\x20-\x24\x26-\x7e]*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")

_STATUS_VALUE = {code: b"%d" % code for code in StatusCode}


def encode_message(text: str, max_size: int) -> bytes:
    """The value of `grpc-message`, cut to `max_size` bytes between two characters.

    Spaces at the ends are encoded too: RFC 9113 8.2.1 forbids them around a field value, and
    HTTP/1.1 strips them. What UTF-8 cannot express (a lone surrogate) becomes a question mark.
    """
    if len(text) > max_size:
        text = text[:max_size]
    if _PLAIN.fullmatch(text) and text[:1] != " " and text[-1:] != " ":
        return text.encode("ascii")
    value = _encode_edges(_ENCODED.sub(_escape, text.encode("utf-8", "replace")))
    if len(value) <= max_size:
        return value
    return _encode_edges(_cut(text, max_size))


def decode_message(value: bytes) -> str:
    """The text of `grpc-message`.

    "When decoding invalid values, implementations MUST NOT error or throw away the message": a broken
    escape stays as it is, bytes that are not UTF-8 become U+FFFD.
    """
    if b"%" in value:
        value = _ESCAPE.sub(_unescape, value)
    return value.decode("utf-8", "replace")


def decode_status(value: bytes) -> StatusCode:
    """The code of `grpc-status`; what is no known code is UNKNOWN (doc/statuscodes.md)."""
    return _STATUS_OF.get(value, StatusCode.UNKNOWN)


_STATUS_OF = {value: code for code, value in _STATUS_VALUE.items()}


def trailers(
    code: StatusCode,
    message: str = "",
    *,
    details: bytes | None = None,
    metadata: Fields = (),
    max_message_size: int,
) -> Fields:
    """The trailing fields of a call, `grpc-status` first.

    Args:
        details: a serialised `google.rpc.Status`.
        metadata: trailing metadata, already encoded.
    """
    if code is StatusCode.OK and not message and details is None and not metadata:
        return OK_TRAILERS
    fields = [(STATUS, _STATUS_VALUE[code])]
    if message:
        fields.append((MESSAGE, encode_message(message, max_message_size)))
    if details is not None:
        fields.append((DETAILS, encode_binary(details)))
    fields.extend(metadata)
    return fields


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))


def _encode_edges(value: bytes) -> bytes:
    if value[:1] == b" ":
        value = b"%20" + value[1:]
    if value[-1:] == b" ":
        value = value[:-1] + b"%20"
    return value


def _cut(text: str, max_size: int) -> bytes:
    """As many whole characters of `text` as fit, encoded; at least 4 bytes are kept free for edges."""
    encoded: list[bytes] = []
    room = max_size - 4
    for character in text:
        value = _ENCODED.sub(_escape, character.encode("utf-8", "replace"))
        room -= len(value)
        if room < 0:
            break
        encoded.append(value)
    return b"".join(encoded)
