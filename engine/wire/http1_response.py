"""The head of an HTTP/1 response, as a client reads it (RFC 9112 sections 2 to 5).

Owns: which bytes may be a status line and field lines, and the bounds on them. Knows no bodies.

Theory of operation. A head has at most `http1.max_head_size` bytes: it is kept until it is whole and
then judged at once. What does not begin like HTTP/1 fails at its first wrong byte, since nothing else
may ever follow it. Informational heads (RFC 9110 section 15.2) are skipped; 101 is final.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.config import Http1Config
from engine.errors import LimitExceeded, LimitKind, RemoteProtocolError
from engine.wire.http1_head import FORBIDDEN

_MAX_INFORMATIONAL = 16  # any number is allowed, nobody sends more than two
_START = b"HTTP/1."
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?+")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A final head: its status, and pairs of bytes with names in lower case."""

    status: int
    fields: list[tuple[bytes, bytes]]


class ResponseHeadReader:
    """Reads heads up to the final one; what follows is left in `rest`."""

    __slots__ = ("_config", "_informational", "rest")

    def __init__(self, config: Http1Config) -> None:
        self._config = config
        self._informational = 0
        self.rest = bytearray()

    def feed(self, data: bytes) -> ResponseHead | None:
        """Take more bytes; None until the head is whole. Not to be called after that.

        Raises:
            RemoteProtocolError: it is no head.
            LimitExceeded: it is too large.
        """
        rest, limit = self.rest, self._config.max_head_size
        rest += data
        while True:
            if rest[: len(_START)] != _START[: len(rest)]:
                raise RemoteProtocolError("the answer is not HTTP/1; check the scheme and the port")
            end = rest.find(b"\r\n\r\n", 0, limit)
            if end < 0:
                if len(rest) >= limit:
                    raise LimitExceeded("http1.max_head_size", limit, kind=LimitKind.HEAD_SIZE, what="response head")
                return None
            lines = bytes(rest[:end])
            del rest[: end + 4]
            head = self._parse(lines)
            if head.status >= 200 or head.status == 101:
                return head
            self._informational += 1
            if self._informational > _MAX_INFORMATIONAL:
                raise RemoteProtocolError(f"more than {_MAX_INFORMATIONAL} informational answers")

    def _parse(self, text: bytes) -> ResponseHead:
        if FORBIDDEN.search(text):
            raise RemoteProtocolError("a control character, a bare CR or a bare LF in the head of the answer")
        first, *lines = text.split(b"\r\n")
        status = _STATUS_LINE.fullmatch(first)
        if status is None:
            raise RemoteProtocolError("the answer has a malformed status line")
        if status[1] == b"0" and status[2] == b"101":
            raise RemoteProtocolError("a switch of protocols in an HTTP/1.0 answer")  # RFC 9110 section 7.8
        limit = self._config.max_fields
        if len(lines) > limit:
            raise LimitExceeded("http1.max_fields", limit, len(lines), kind=LimitKind.HEAD_SIZE, what="field number")
        fields = []
        for line in lines:
            field = _FIELD_LINE.fullmatch(line)
            if field is None:
                raise RemoteProtocolError("the answer has a malformed or folded field line")
            fields.append((field[1].lower(), field[2].rstrip(b" \t")))
        return ResponseHead(int(status[2]), fields)
