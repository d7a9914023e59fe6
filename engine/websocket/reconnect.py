"""A WebSocket client that connects anew: `reconnecting_websocket`.

Owns: which failures are worth another attempt, and how long to wait before it. A connection itself is
`engine.websocket.client`'s. Time is Trio's clock, so that a test's `MockClock` is its clock too.
"""

from __future__ import annotations

import logging
import random as random_module
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import trio

from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected
from engine.websocket.client import ClientWebSocket, connect_websocket

__all__ = ["Backoff", "Reconnection", "is_transient", "reconnecting_websocket"]

_log = logging.getLogger(__name__)

# RFC 9110 and 6585: time-out, too early, too many requests; then an overload, a restart, a proxy without its server.
_TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_MAX_EXPONENT = 64  # by then any back-off has reached its cap, and no float overflows


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait: `initial * factor ** failures`, capped, and then a random part of it.

    Attributes:
        initial: seconds after the first failure.
        factor: by which each further failure in a row multiplies it.
        maximum: seconds; the cap.
        jitter: 1: anything from 0 to that time (what spreads clients of a restarted server best); 0: just that.
        stable_after: seconds a connection must have been open for failures to be counted from 0 again.
    """

    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: float = 1.0
    stable_after: float = 10.0

    def __post_init__(self) -> None:
        for name, bad in (
            ("initial", self.initial < 0),
            ("factor", self.factor < 1),
            ("maximum", self.maximum < self.initial),
            ("jitter", not 0 <= self.jitter <= 1),
        ):
            if bad:
                hint = "give initial >= 0, factor >= 1, maximum >= initial, jitter from 0 to 1"
                raise ConfigError(f"backoff.{name}", getattr(self, name), hint)

    def delay(self, failures: int, random: float) -> float:
        """Seconds to wait after so many failures in a row, at least one; `random` is from 0 to 1."""
        full = min(self.maximum, self.initial * self.factor ** min(failures - 1, _MAX_EXPONENT))
        return full * (1 - self.jitter * random)


def is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed where nothing is changed here.

    True for a server that cannot be reached, that goes away, or that answers 408, 425, 429, 500, 502, 503
    or 504; False for other answers, for certificates that are not trusted, and for broken protocols.
    """
    if isinstance(error, HandshakeRejected):
        return error.status in _TRANSIENT_STATUS
    return isinstance(error, ConnectionClosed) and not isinstance(error.__cause__, ssl.SSLCertVerificationError)


class reconnecting_websocket:
    """One connection after the other, as an async iterator that does not end by itself.

        async for connection in engine.reconnecting_websocket("ws://localhost:8000/feed"):
            async with connection as ws:
                async for message in ws:
                    ...

    Entering a connection tries until there is one, with a pause after each failure. When it is lost, the
    `ConnectionClosed` ends the block and no more: the loop goes on with the next connection, as it does
    when the block just ends. `break` or `return` leaves for good, and closes with 1000.

    Args:
        url: as for `engine.connect_websocket`, and so are all options that are not named here.
        backoff: how long to wait.
        attempt_timeout: seconds for one attempt, from the name's resolution to the server's answer.
        retry: whether to go on after an error of an attempt, or after the `ConnectionClosed` of a
            connection; where it says no, that error is raised.
        random: from 0 to 1; for tests.
        options: of `engine.connect_websocket`.
    """

    def __init__(
        self,
        url: str,
        *,
        backoff: Backoff = Backoff(),
        attempt_timeout: float = 30.0,
        retry: Callable[[Exception], bool] = is_transient,
        random: Callable[[], float] = random_module.random,
        **options: Any,
    ) -> None:
        if not attempt_timeout > 0:
            raise ConfigError("attempt_timeout", attempt_timeout, "give seconds, more than 0")
        connect_websocket(url, **options)  # bad arguments are an error now, and not when the server is back
        # immutable
        self._url = url
        self._options = options
        self._backoff = backoff
        self._attempt_timeout = attempt_timeout
        self._retry = retry
        self._random = random
        # owned by the task that iterates
        self._failures = 0
        self._reason = ""  # of the last failure
        self._asked_for = 0.0  # seconds, by the server
        self._current: Reconnection | None = None

    def __aiter__(self) -> reconnecting_websocket:
        return self

    async def __anext__(self) -> Reconnection:
        """The next connection, not open yet. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._current is not None and not self._current.entered:
            raise RuntimeError("the last connection was not used; enter each with `async with connection as ws`")
        self._current = Reconnection(self)
        return self._current

    # -- for Reconnection -----------------------------------------------------

    async def _open(self) -> connect_websocket:
        """Try until there is a connection; it is open and not entered."""
        while True:
            if self._failures:
                delay = max(self._backoff.delay(self._failures, self._random()), self._asked_for)
                self._asked_for = 0.0
                _log.info("%s; connecting again in %.3g s", self._reason, delay)
                await trio.sleep(delay)
            connecting = connect_websocket(self._url, **self._options)
            error: Exception = ConnectionClosed(1006, f"no answer within {self._attempt_timeout:g} s (attempt_timeout)")
            with trio.move_on_after(self._attempt_timeout):
                try:
                    await connecting.open()
                except (ConnectionClosed, HandshakeRejected) as failure:
                    error = failure
                else:
                    return connecting
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Count a failure; raises `error` where another attempt is of no use."""
        if not self._retry(error):
            raise error
        self._failures += 1
        self._reason = str(error)
        if isinstance(error, HandshakeRejected):
            self._asked_for = self._retry_after(error)

    def _retry_after(self, error: HandshakeRejected) -> float:
        """Seconds of a Retry-After field, within the cap; its other form, a date, is not looked at."""
        value = dict(error.headers).get("retry-after", "")
        return min(float(value), self._backoff.maximum) if value.isascii() and value.isdigit() else 0.0

    def _ended(self, seconds: float, error: ConnectionClosed | None) -> bool:
        """A connection is over after so long; returns whether its error ends with it."""
        if seconds >= self._backoff.stable_after:
            self._failures = 0
        self._failures += 1
        self._reason = "the connection has ended" if error is None else str(error)
        return error is None or self._retry(error)


class Reconnection:
    """A connection to be, of a `reconnecting_websocket`: enter it to open it. Entered once."""

    def __init__(self, owner: reconnecting_websocket) -> None:
        self._owner = owner
        self._connecting: connect_websocket | None = None
        self._ws: ClientWebSocket | None = None
        self._opened_at = 0.0
        self.entered = False

    async def __aenter__(self) -> ClientWebSocket:
        if self.entered:
            raise RuntimeError("a connection is opened once; take the next of the iterator")
        self.entered = True
        self._connecting = await self._owner._open()
        self._ws = await self._connecting.__aenter__()
        self._opened_at = trio.current_time()
        return self._ws

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert self._connecting is not None  # it was entered
        assert self._ws is not None
        lost = _closure(error) if self._ws.closed is not None else None
        if lost is not None:
            kind = error = None
        await self._connecting.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # it knows how to be cancelled
        if error is not None:
            return False
        return self._owner._ended(trio.current_time() - self._opened_at, lost) and lost is not None


def _closure(error: BaseException | None) -> ConnectionClosed | None:
    """The ConnectionClosed that `error` is, or that is all there is in a nursery's group."""
    if isinstance(error, BaseExceptionGroup):
        found = [_closure(each) for each in error.exceptions]
        return found[0] if all(each is not None for each in found) else None
    return error if isinstance(error, ConnectionClosed) else None
