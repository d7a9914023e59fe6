"""What a peer may do how often on one HTTP/2 connection.

Owns: the token buckets and counters behind which the frame guard and the core hide, and the words
with which they refuse. Each refusal is a `LimitExceeded` that names its setting; the core answers it
with GOAWAY(ENHANCE_YOUR_CALM). Pure over `now`.

A honest peer never meets these limits; the numbers and their precedents are in `Http2Config` and
beside the constants here.
"""

from __future__ import annotations

import dataclasses

from engine.config import Bucket, Http2Config
from engine.errors import LimitExceeded, LimitKind

PRIORITIES_PER_STREAM = 100  # Envoy's max_inbound_priority_frames_per_stream
FREE_UNKNOWN_FRAMES = 50  # GREASE (RFC 8701 style) sends one or two
LATE_FRAMES_PER_STREAM = 2  # RST_STREAM, WINDOW_UPDATE that crossed with the end of their stream
FREE_LATE_FRAMES = 10
FREE_WINDOW_UPDATES = 5  # Envoy: 5 + 2 * (streams + max_window_updates * DATA frames sent)
MAX_EMPTY_DATA_TOTAL = 100  # on a connection; hyper's
FLOOD_ALLOWANCE = 1024 * 1024  # bytes that may carry nothing, times max_overhead; nginx's
PREMATURE_RESET = 1.0  # seconds; Envoy's premature_reset_min_stream_lifetime_seconds
IN_FLIGHT_COST = 1 / 16  # of a glitch: DATA for a stream that we reset may be on its way for a while


class TokenBucket:
    """`burst` tokens, refilled by `per_second`."""

    __slots__ = ("_burst", "_rate", "_stamp", "_tokens")

    def __init__(self, bucket: Bucket) -> None:
        self._burst = bucket.burst
        self._rate = bucket.per_second
        self._tokens = bucket.burst
        self._stamp = 0.0

    def spend(self, now: float, cost: float = 1) -> bool:
        """Take `cost` tokens; False if there are not so many."""
        tokens = min(self._burst, self._tokens + max(0.0, now - self._stamp) * self._rate)
        self._stamp = now
        self._tokens = tokens - cost
        return tokens >= cost

    def refill(self) -> None:
        """Fill the bucket to its brim."""
        self._tokens = self._burst


def flood(name: str, limit: float, what: str, observed: float | None = None) -> LimitExceeded:
    """The refusal of a flood."""
    return LimitExceeded(name, limit, observed, kind=LimitKind.RATE, what=what)


class Budgets:
    """All budgets of one connection."""

    __slots__ = (
        "_config",
        "_empty_run",
        "_empty_total",
        "_glitches",
        "_late",
        "_pings",
        "_priorities",
        "_resets",
        "_settings",
        "_unknown",
        "_window_updates",
        "answers",
        "data_sent",
        "overhead",
        "pings",
        "streams",
    )

    def __init__(self, config: Http2Config) -> None:
        self._config = config
        # A client may cancel all of its calls at once.
        resets = max(config.resets.burst, config.max_concurrent_streams)
        self._resets = TokenBucket(dataclasses.replace(config.resets, burst=resets))
        self._glitches = TokenBucket(config.glitches)
        self._settings = TokenBucket(config.settings)
        self._pings = TokenBucket(config.pings)
        self._empty_run = 0
        self._empty_total = 0
        self._late = 0
        self._priorities = 0
        self._unknown = 0
        self._window_updates = 0
        # nginx: total / 8 > payload + 1 MiB is a flood; as one number, total - 8 * payload. The guard
        # adds to it, frame by frame.
        self.overhead = 0
        self.streams = 0  # opened so far
        self.data_sent = 0  # DATA frames
        self.answers = 0  # times that HEADERS or DATA were sent
        self.pings = 0  # PING frames received

    def reset(self, now: float) -> None:
        """A stream came to nothing: reset by the peer, young and unanswered, or by us for the peer's fault."""
        if not self._resets.spend(now):
            raise flood("http2.resets", self._config.resets.burst, "the number of reset streams")

    def glitch(self, now: float, cost: float = 1) -> None:
        """The peer did something legal and useless."""
        if not self._glitches.spend(now, cost):
            raise flood("http2.glitches", self._config.glitches.burst, "the number of useless frames")

    def settings(self, now: float) -> None:
        """A SETTINGS frame that wants an acknowledgement."""
        if not self._settings.spend(now):
            raise flood("http2.settings", self._config.settings.burst, "the number of SETTINGS frames")

    def ping(self, now: float) -> None:
        """A PING frame that wants an acknowledgement."""
        self.pings += 1
        if not self._pings.spend(now):
            raise flood("http2.pings", self._config.pings.burst, "the number of PING frames")

    def answered(self, data_frames: int, payload: int) -> None:
        """We sent HEADERS or DATA: pings around them are how gRPC peers measure the path (gRFC A8)."""
        self.answers += 1
        self.data_sent += data_frames
        self.overhead -= payload * self._config.max_overhead
        self._pings.refill()

    def priority(self, now: float) -> None:
        """A PRIORITY or PRIORITY_UPDATE frame."""
        self._priorities += 1
        if self._priorities > PRIORITIES_PER_STREAM * (1 + self.streams):
            self.glitch(now)

    def unknown(self, now: float) -> None:
        """A frame of a type that RFC 9113 5.5 wants ignored."""
        self._unknown += 1
        if self._unknown > FREE_UNKNOWN_FRAMES:
            self.glitch(now)

    def late(self, now: float) -> None:
        """RST_STREAM or WINDOW_UPDATE for a stream that is closed."""
        self._late += 1
        if self._late > FREE_LATE_FRAMES + LATE_FRAMES_PER_STREAM * self.streams:
            self.glitch(now)

    def window_update(self) -> None:
        """A WINDOW_UPDATE frame: at most so many as what we sent can need."""
        self._window_updates += 1
        allowed = FREE_WINDOW_UPDATES + 2 * (self.streams + self._config.max_window_updates * self.data_sent)
        if self._window_updates > allowed:
            raise flood("http2.max_window_updates", allowed, "the number of WINDOW_UPDATE frames")

    def data(self, size: int, *, end_stream: bool) -> None:
        """A DATA frame of `size` bytes without padding."""
        if size or end_stream:
            self._empty_run = 0
            return
        self._empty_run += 1
        self._empty_total += 1
        limit = self._config.max_empty_data
        if self._empty_run > limit or self._empty_total > max(limit, MAX_EMPTY_DATA_TOTAL):
            raise flood("http2.max_empty_data", limit, "the number of empty DATA frames", self._empty_run)
