"""Answers that trickle in are read a few at a time: interrupt moderation, as network cards have it.

Owns: when a client's reader may wait a little before its next read, and for how long. Never sleeps itself.

A server under load answers call by call. A client that reads each answer at once and sends the next request
at once makes itself a wake-up, a read and a write of every call, and the server as many; with a hundred calls in
flight that is most of what they cost. A short wait turns them into batches for both sides.

Nobody's latency may pay for it: the wait is a small share of the fastest call that ended lately, so a call takes a
sixteenth longer at most (and in practice less long, for the server gets more done). There is none where calls are
fast or few, where a read brought a good batch anyway, or where a stream is open on which messages are awaited.
"""

from __future__ import annotations

import math

LEAST_CALLS = 16  # in flight; fewer gain too little
GOOD_BATCH = 8  # a read that ended an eighth of the calls needs no more company
SHARE = 16  # of the fastest call's time: how long a wait may be
SHORTEST = 0.0002  # seconds; a timer costs a fifth of it
LONGEST = 0.002  # seconds; what is gained beyond is not measurable
WINDOW = 64  # calls; "lately" is one to two windows


class ReadModeration:
    """The calls of one connection that wait for a whole response, and how long they take."""

    __slots__ = ("_before", "_counted", "_ended", "_fastest", "_opened")

    def __init__(self) -> None:
        self._opened: dict[int, float] = {}  # when, by stream
        self._ended = 0  # since the last read
        self._counted = 0  # in this window
        self._fastest = math.inf  # in this window
        self._before = math.inf  # in the last one

    def opened(self, stream_id: int, now: float) -> None:
        """A call begins that looks at nothing before its response is complete."""
        self._opened[stream_id] = now

    def forget(self, stream_id: int) -> None:
        """It ended without a response, or was not one of those."""
        self._opened.pop(stream_id, None)

    def ended(self, stream_id: int, now: float) -> None:
        """The response is complete."""
        self._ended += 1
        opened = self._opened.pop(stream_id, None)
        if opened is None:
            return
        if now - opened < self._fastest:
            self._fastest = now - opened
        self._counted += 1
        if self._counted == WINDOW:
            self._before, self._fastest = self._fastest, math.inf
            self._counted = 0

    def pause(self, in_flight: int) -> float:
        """After a read: seconds to wait before the next one, mostly 0."""
        ended, self._ended = self._ended, 0
        if in_flight < LEAST_CALLS or in_flight != len(self._opened) or ended * GOOD_BATCH > in_flight:
            return 0.0
        fastest = min(self._fastest, self._before)
        if not SHORTEST * SHARE <= fastest < math.inf:
            return 0.0
        return min(fastest / SHARE, LONGEST)
