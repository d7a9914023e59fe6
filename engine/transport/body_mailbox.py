"""Body bytes that wait for a handler.

Owns: how pieces of a body wait. Small ones are joined: a peer that sends a body two bytes at a time would
otherwise make each of them an object, here and in whatever list the handler keeps, and cost fifty times
what it sent. Never bounds the whole: that is the receive window's work, or the paused reader's.
"""

from __future__ import annotations

from engine.transport.mailbox import Mailbox

_JOINED = 4096  # bytes; beyond it a piece pays for its objects


class Piece:
    """Bytes, and the flow-control credit that they give back when they are taken."""

    __slots__ = ("credit", "data")

    def __init__(self, data: bytes, credit: int) -> None:
        self.data: bytes | bytearray = data
        self.credit = credit


class BodyMailbox(Mailbox[Piece]):
    """A `Mailbox` of pieces."""

    __slots__ = ()

    def add(self, data: bytes, credit: int = 0) -> None:
        """Add bytes and wake the reader; ignored after the end."""
        items = self.items
        if items and not self._ended:  # then nobody is parked
            last = items[-1]
            if len(last.data) + len(data) <= _JOINED:
                if isinstance(last.data, bytes):
                    last.data = bytearray(last.data)
                last.data += data
                last.credit += credit
                return
        self.put(Piece(data, credit))
