"""Receive credit of an HTTP/2 connection (RFC 9113 section 5.2).

Owns: how much the peer may still send on the connection, how much of it to give back when, and how
much of what arrived nobody has consumed. The credit of a stream is h2's `WindowManager`, which the
core feeds on consumption; it gives back at half a window.

Connection credit goes back on arrival, so that a stream whose handler does not read starves none of
its siblings. What one connection may make us hold is bounded all the same: while more than
`max_unread` waits for handlers, nothing is given back, and the peer has one connection window left.
A DATA frame counts as `FRAME_FLOOR` bytes at least, because that is what keeping it costs (hyper
charges small frames likewise since 0.4.16); more than `HARD_FACTOR` times `max_unread` is a flood.
"""

from __future__ import annotations

from engine.config import Http2Config
from engine.errors import Http2Code, LimitExceeded, LimitKind, RemoteProtocolError

DEFAULT_WINDOW = 65_535  # RFC 9113 6.9.2
FRAME_FLOOR = 256  # bytes: an event, a bytes object and their places in two queues
HARD_FACTOR = 4  # an honest peer stops at max_unread and a window


class ConnectionCredit:
    """The connection's receive window."""

    __slots__ = ("_half", "_limit", "_owed", "_streams", "initial_increment", "unread", "window")

    def __init__(self, config: Http2Config) -> None:
        # immutable
        self._half = config.connection_window // 2
        self._limit = config.max_unread
        self.initial_increment = config.connection_window - DEFAULT_WINDOW
        # The peer knows of the larger window only later; until then it cannot have used it.
        self.window = config.connection_window  # what the peer may still send
        self.unread = 0  # cost of what waits for handlers
        self._owed = 0  # arrived and not given back yet
        self._streams: dict[int, list[int]] = {}  # bytes unread, surcharge for small frames

    def arrived(self, length: int) -> None:
        """DATA of any stream, known or not, padding included.

        Raises:
            RemoteProtocolError: the peer overran the connection window.
        """
        self.window -= length
        if self.window < 0:
            raise RemoteProtocolError(
                "DATA overran the connection's window; wait for WINDOW_UPDATE",
                http2_code=Http2Code.FLOW_CONTROL_ERROR,
            )
        self._owed += length

    def hold(self, stream_id: int, length: int) -> None:
        """A handler gets so many bytes and will say when they are consumed.

        Raises:
            LimitExceeded: small frames without end, faster than they are consumed.
        """
        surcharge = FRAME_FLOOR - length if length < FRAME_FLOOR else 0
        held = self._streams.get(stream_id)
        if held is None:
            self._streams[stream_id] = [length, surcharge]
        else:
            held[0] += length
            held[1] += surcharge
        self.unread += length + surcharge
        if self.unread > HARD_FACTOR * self._limit:
            raise LimitExceeded(
                "http2.max_unread", self._limit, self.unread, kind=LimitKind.RATE, what="the cost of unread DATA"
            )

    def consumed(self, stream_id: int, length: int) -> int:
        """The handler took so many bytes: how many of them had been held."""
        held = self._streams.get(stream_id)
        if held is None:
            return 0
        have, surcharge = held
        if length >= have:
            del self._streams[stream_id]
            self.unread -= have + surcharge
            return have
        back = surcharge * length // have
        held[0] = have - length
        held[1] = surcharge - back
        self.unread -= length + back
        return length

    def forget(self, stream_id: int) -> None:
        """The stream was reset: what waits is dropped unread."""
        held = self._streams.pop(stream_id, None)
        if held is not None:
            self.unread -= held[0] + held[1]

    def due(self) -> int:
        """The increment to announce now, or 0; batched at half a window."""
        owed = self._owed
        if owed < self._half or self.unread > self._limit:
            return 0
        self._owed = 0
        self.window += owed
        return owed
