"""How long an HTTP/2 connection may live, and who pings whom: gRFC A8 and A9 on the server's side.

Owns: the keep-alive PING, the strikes of clients that ping too often, the greatest age of a connection with
its grace. What is done about it is the driver's: drain, stop, lose, give up. A connection on which a client
has asked for something that is not gRPC keeps its pings: browsers and HTTP libraries do not know these rules.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import trio

from engine.errors import Http2Code
from engine.transport.exchange import RequestHead
from engine.wire.ping_strikes import PingStrikes

if TYPE_CHECKING:
    from engine.transport.http2 import Http2Driver

KEEPALIVE_PING = b"alive yn"
_JITTER = 0.1  # gRFC A9: "a random jitter of +/-10%", so that clients do not come back all at once
_GRPC = b"application/grpc"


class Http2Policies:
    """The rules of one connection."""

    def __init__(self, driver: Http2Driver) -> None:
        # immutable
        self._driver = driver
        self._http2 = driver.config.http2
        # owned by the connection task
        self._strikes = PingStrikes(driver.config.grpc)
        self._only_grpc = True
        self._pings = 0
        self._answers = 0
        self._last_read = 0.0
        self._waiting = False  # for any byte since our PING
        self._keepalive_timer = driver.watchdog.timer(self._keep_alive)
        self._age_timer = driver.watchdog.timer(self._aged)
        self._grace_timer = driver.watchdog.timer(driver.stop)

    def start(self, now: float) -> None:
        """The connection begins."""
        self._last_read = now
        self._keepalive_timer.set(now + self._http2.keepalive_time)
        if self._http2.max_connection_age != math.inf:
            self._age_timer.set(now + self._http2.max_connection_age * random.uniform(1 - _JITTER, 1 + _JITTER))

    def end(self) -> None:
        """The connection is over."""
        for timer in (self._keepalive_timer, self._age_timer, self._grace_timer):
            timer.clear()

    def request(self, head: RequestHead) -> None:
        """A request came: is this a client of gRPC, and of nothing else?"""
        if self._only_grpc and not (head.header(b"content-type") or b"").startswith(_GRPC):
            self._only_grpc = False

    def received(self, now: float) -> None:
        """Bytes arrived, and their frames are applied."""
        self._last_read = now
        self._waiting = False
        budgets = self._driver.core.traffic
        if budgets.pings != self._pings:
            new, self._pings = budgets.pings - self._pings, budgets.pings
            if self._only_grpc:
                self._judge(new, now, budgets.answers)

    def _judge(self, pings: int, now: float, answers: int) -> None:
        if answers != self._answers:
            self._answers = answers
            self._strikes.answered()
        for _ in range(pings):
            if self._strikes.ping(now, calls=self._driver.has_exchanges):
                self._driver.give_up(Http2Code.ENHANCE_YOUR_CALM, "too_many_pings")
                return

    def _keep_alive(self) -> None:
        """gRFC A8: nothing was read for `http2.keepalive_time`; ask, and wait for any byte at all."""
        now = trio.current_time()
        if self._waiting:
            self._driver.lose("no answer to PING within http2.keepalive_timeout")
        elif now < self._last_read + self._http2.keepalive_time:
            self._keepalive_timer.set(self._last_read + self._http2.keepalive_time)
        else:
            self._waiting = True
            self._driver.core.ping(KEEPALIVE_PING)
            self._driver.outbox.flush()
            self._keepalive_timer.set(now + self._http2.keepalive_timeout)

    def _aged(self) -> None:
        """gRFC A9: a graceful end, and after the grace one by force."""
        self._driver.drain("max_age")
        self._grace_timer.set(trio.current_time() + self._http2.max_connection_age_grace)
