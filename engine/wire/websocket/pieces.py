"""The bytes of a message that arrives in pieces, until they are whole.

A growing buffer is moved each time it grows, over and over for a message of a megabyte; large pieces are
kept as they came and joined once. Small ones would cost more than they hold, so they share a buffer.
"""

from __future__ import annotations

import io

_LARGE = 4096  # bytes


class Pieces:
    """Bytes in order."""

    __slots__ = ("_parts", "_small")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._small: io.BytesIO | None = None  # what follows the parts

    def write(self, piece: bytes) -> None:
        """Add a piece at the end."""
        if len(piece) < _LARGE:
            if self._small is None:
                self._small = io.BytesIO()
            self._small.write(piece)
            return
        self._settle()
        self._parts.append(piece)

    def getvalue(self) -> bytes:
        """All that was written."""
        self._settle()
        return b"".join(self._parts)

    def _settle(self) -> None:
        if self._small is not None:
            self._parts.append(self._small.getvalue())
            self._small = None
