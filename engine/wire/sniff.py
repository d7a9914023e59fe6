"""Tells by the first bytes of a connection which protocol it speaks.

Owns nothing but the decision. Once a prefix of a connection has been decided, every longer prefix
gets the same answer, so it does not matter how the bytes were cut.

TLS: the first record is a handshake, content type 22 (RFC 8446 5.1). HTTP/2: the client connection
preface (RFC 9113 3.4). HTTP/1: anything that starts with a word of printable text; whether it is a
good request is for `engine.wire.http1` to say, which can answer 400.
"""

from __future__ import annotations

import re
from enum import Enum

__all__ = ["HTTP2_PREFACE", "PROBE_SIZE", "Protocol", "sniff"]

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PROBE_SIZE = len(HTTP2_PREFACE) + 2  # bytes after which `sniff` never answers None; 2: a leading CRLF

_TLS_HANDSHAKE = 0x16
_HTTP2_REQUEST_LINE = HTTP2_PREFACE[:14]  # "PRI * HTTP/2.0": no HTTP/1 request has this version
_LONGEST_WORD = 16  # printable bytes without a space that pass for a method; the head parser judges them
_WORD = re.compile(rb"[\t\r\x21-\x7e]{0,%d}+" % _LONGEST_WORD)


class Protocol(Enum):
    """What a connection speaks."""

    TLS = "tls"
    HTTP1 = "http/1"
    HTTP2 = "http/2"
    UNKNOWN = "unknown"  # close without a byte: there is no protocol to answer in


def sniff(data: bytes) -> Protocol | None:
    """The protocol that `data`, the first bytes of a connection, starts; None: more is needed."""
    if not data:
        return None
    if data[0] == _TLS_HANDSHAKE:
        return Protocol.TLS
    if HTTP2_PREFACE.startswith(data[: len(HTTP2_PREFACE)]):
        return Protocol.HTTP2 if len(data) >= len(HTTP2_PREFACE) else None
    if data.startswith(_HTTP2_REQUEST_LINE):
        return Protocol.UNKNOWN
    if data[:2] == b"\r\n":  # RFC 9112 2.2: at least one empty line before a request line is ignored
        data = data[2:]
    return _sniff_text(data)


def _sniff_text(data: bytes) -> Protocol | None:
    match = _WORD.match(data)
    end = match.end() if match else 0
    if end == _LONGEST_WORD:
        return Protocol.HTTP1
    if end == len(data):
        return None
    return Protocol.HTTP1 if data[end] in b" \n" else Protocol.UNKNOWN
