"""How often a gRPC client may ping: strikes, as gRFC A8 counts them.

Owns: the count for one connection. Never sends anything; the driver says what happened and when.
"A server should send GOAWAY with ENHANCE_YOUR_CALM and debug data `too_many_pings`" once there are more bad
pings than `grpc.max_ping_strikes`; HEADERS or DATA that were sent wipe the slate. Beside it stands the bucket
`http2.pings`, which bounds floods of every kind of client.
"""

from __future__ import annotations

import math

from engine.config import GrpcConfig


class PingStrikes:
    """The pings of one client."""

    __slots__ = ("_config", "_last_good", "strikes")

    def __init__(self, config: GrpcConfig) -> None:
        self._config = config
        self._last_good = -math.inf
        self.strikes = 0

    def answered(self) -> None:
        """We have sent HEADERS or DATA: "the server resets the strikes", and the next ping is good."""
        self._last_good = -math.inf
        self.strikes = 0

    def ping(self, now: float, *, calls: bool) -> bool:
        """A PING arrived; True: it was one too many.

        Args:
            calls: the connection has open streams.
        """
        config = self._config
        interval = config.min_ping_interval if calls else config.min_ping_interval_without_calls
        if now >= self._last_good + interval:
            self._last_good = now
            return False
        self.strikes += 1
        return self.strikes > config.max_ping_strikes
