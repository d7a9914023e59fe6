"""The strict reading of the chunked transfer coding, before h11 sees it (RFC 9112 section 7.1).

Owns: where chunks begin and end, which bytes may be a chunk-size line, and how much of a body may be
framing. Never keeps payload.

h11 takes any bytes for a chunk extension and white space behind a size. Two parsers that disagree
about either disagree about where the next request begins (request smuggling), so a line is a size and
well-formed extensions or the body is refused. What leaves this reader is payload; the core
hands it to h11 as one chunk for each read, however small the peer cut it, so that a body of
one-byte chunks costs one event for each read and not one for each byte.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from engine.errors import RemoteProtocolError
from engine.wire.http1_head import FORBIDDEN, Buffer, FieldList, HeadLimits, SectionReader, check_trailers

_MAX_LINE = 1024  # a chunk-size line; Go's is 4 KiB, extensions are all but unused
_MAX_EXCESS = 16 * 1024  # framing beyond 16 bytes a chunk and twice its payload; Go's (CVE-2023-39326)
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15}+)"  # 15 digits: more than any body, less than an integer that others truncate
    rb"(?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]++(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
    rb'|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"))?+)*+\r\n'
)


class _State(Enum):
    LINE = auto()  # of a size
    PAYLOAD = auto()
    PAYLOAD_END = auto()  # the CR LF behind it
    TRAILERS = auto()
    END = auto()


class ChunkReader:
    """Reads one chunked body.

    Attributes:
        ended: the trailer section is complete.
        trailers: its fields.
    """

    __slots__ = ("_excess", "_remaining", "_section", "_state")

    def __init__(self, limits: HeadLimits) -> None:
        self._state = _State.LINE
        self._remaining = 0  # payload of the current chunk
        self._excess = 0
        self._section = SectionReader(limits, trailers=True)

    @property
    def ended(self) -> bool:
        return self._state is _State.END

    @property
    def trailers(self) -> FieldList:
        return self._section.fields

    def feed(self, data: Buffer, pos: int, payload: list[bytes]) -> int:
        """Read on from `data[pos]`; returns where to go on when there is more data.

        Args:
            data: what has arrived.
            pos: where this reader's next byte is.
            payload: what is found is appended, also what comes before an error.

        Raises:
            RemoteProtocolError, LimitExceeded: the body is refused.
        """
        size = len(data)
        while pos < size:
            state = self._state
            if state is _State.LINE:
                used = self._read_line(data, pos)
                if not used:
                    break
                pos += used
            elif state is _State.PAYLOAD:
                piece = bytes(data[pos : pos + self._remaining])
                payload.append(piece)
                pos += len(piece)
                self._remaining -= len(piece)
                if not self._remaining:
                    self._state = _State.PAYLOAD_END
            elif state is _State.PAYLOAD_END:
                end = data[pos : pos + 2]
                if end == b"\r\n":
                    pos += 2
                    self._state = _State.LINE
                elif end == b"\r":
                    break
                else:
                    raise RemoteProtocolError("a chunk that does not end where its size says; end it with CR LF")
            else:
                if self._section.feed(data, pos):
                    check_trailers(self._section.fields)
                    pos += self._section.size
                    self._state = _State.END
                break
        return pos

    def _read_line(self, data: Buffer, pos: int) -> int:
        match = _CHUNK_LINE.match(data, pos, pos + _MAX_LINE)
        if match is None:
            newline = data.find(b"\n", pos, pos + _MAX_LINE)
            bad = newline >= 0 or len(data) - pos >= _MAX_LINE or FORBIDDEN.search(data, pos)
            if bad:
                raise RemoteProtocolError("malformed chunk size; send hexadecimal digits and CR LF")
            return 0
        used = match.end() - pos
        self._remaining = int(match[1], 16)
        self._excess = max(0, self._excess + used - 16 - 2 * self._remaining)
        if self._excess > _MAX_EXCESS:
            raise RemoteProtocolError("a chunked body that is mostly framing; send larger chunks")
        self._state = _State.PAYLOAD if self._remaining else _State.TRAILERS
        return used
