"""The bytes of a message that arrives in pieces, until they are whole.

A growing buffer is moved each time it grows, over and over for a message of a megabyte: large pieces are
kept as they came and joined once. Small ones would cost more than they hold, so they share a buffer. A huge
message is in a buffer as well, for while pieces are joined it would be in memory twice.
"""

from __future__ import annotations

import io

_LARGE = 4 * 1024  # bytes of a piece
_HUGE = 2 * 1024 * 1024  # bytes of a message


class Pieces:
    """Bytes in order."""

    __slots__ = ("_parts", "_rest", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._rest: io.BytesIO | None = None  # what follows the parts
        self._size = 0

    def write(self, piece: bytes) -> None:
        """Add a piece at the end."""
        self._size += len(piece)
        if self._size > _HUGE:
            if self._parts:
                whole = self.getvalue()
                self._parts.clear()
                self._buffer().write(whole)
        elif len(piece) >= _LARGE:
            self._settle()
            self._parts.append(piece)
            return
        self._buffer().write(piece)

    def getvalue(self) -> bytes:
        """All that was written."""
        self._settle()
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _buffer(self) -> io.BytesIO:
        if self._rest is None:
            self._rest = io.BytesIO()
        return self._rest

    def _settle(self) -> None:
        if self._rest is not None:
            self._parts.append(self._rest.getvalue())
            self._rest = None
