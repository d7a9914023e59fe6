"""Hedged calls: attempts side by side, of which the first that is answered counts (gRFC A6, hedgingPolicy).

Owns: when the next attempt begins, what is kept to be sent by it, and which one wins. How an attempt begins is
`engine.grpc.call`'s, which asks for a hedge where a service config has a hedging policy.

The first attempt begins in the caller's task, as that of any call; the others in a task of the channel's
nursery, which ends with the decision or with the call. Until the decision requests go to all attempts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import trio

from engine.errors import RpcError, StatusCode
from engine.grpc.attempt import Attempt

if TYPE_CHECKING:
    from engine.errors import CallCause
    from engine.grpc.channel_interface import ChannelInterface
    from engine.grpc.retry import HedgingPolicy
    from engine.wire.http2 import Fields

__all__ = ["Hedge", "HedgedAttempt"]


class HedgedAttempt(Attempt):
    """Tells its hedge when the server begins to answer, and how it ended."""

    __slots__ = ("hedge",)

    hedge: Hedge

    def head_received(self, http_status: int, headers: Fields) -> None:
        """See `StreamHandler`."""
        super().head_received(http_status, headers)
        self.hedge.step()

    def _finish(self, code: StatusCode, message: str, ended_by: str) -> None:
        super()._finish(code, message, ended_by)
        self.hedge.step()


class HedgedCall(Protocol):
    """The call whose attempts these are; see `engine.grpc.call`."""

    deadline: float
    attempt: Attempt | None
    causes: tuple[CallCause, ...]

    async def start(self, *, again: bool = False) -> Attempt:
        """Begin an attempt."""

    def unseen(self, attempt: Attempt) -> bool:
        """No server has seen it."""


class Hedge:
    """The attempts of one call until one of them counts."""

    def __init__(self, channel: ChannelInterface, call: HedgedCall, policy: HedgingPolicy) -> None:
        # immutable
        self._channel = channel
        self._call = call
        self._policy = policy
        # shared by the caller's task and the hedge's
        self.winner: Attempt | None = None
        """What counts; it may have failed."""
        self._live: list[Attempt] = []
        self._last: Attempt | None = None  # that failed
        self._sent: list[tuple[bytes, bool]] = []
        self._size = 0
        self._decided = trio.Event()
        self._stepped = trio.Event()
        self._scope = trio.CancelScope()
        # owned by the hedge's task
        self._begun = 1  # attempts that count towards the policy's maximum
        self._due = math.inf  # when the next one begins
        self._starting = False

    # -- from the caller ------------------------------------------------------

    def begin(self, first: Attempt) -> None:
        """The first attempt's head is queued; more follow while nobody answers."""
        self._live.append(first)
        self._due = trio.current_time() + self._policy.delay
        self._channel.start_soon(self.run)

    def send(self, framed: bytes, *, end: bool = False) -> None:
        """A request for all attempts, the future ones too; too much for `channel.retry_buffer_size` decides."""
        self._sent.append((framed, end))
        self._size += len(framed)
        for attempt in self._live:
            if not attempt.finished:
                attempt.connection.send(attempt.stream_id, framed, end=end)
                attempt.connection.flush()
        if self._size > self._channel.config.retry_buffer_size:
            self._policy = self._policy.without_more()
            unfinished = [attempt for attempt in self._live if not attempt.finished]
            if unfinished:
                self._decide(unfinished[0])

    async def decided(self) -> Attempt:
        """Wait for the attempt that counts. Cancellation changes nothing."""
        await self._decided.wait()
        assert self.winner is not None  # set with the event
        return self.winner

    def cancel(self) -> None:
        """Nobody wants the response any more."""
        for attempt in list(self._live):
            attempt.cancel()

    def expire(self) -> None:
        """The deadline has passed."""
        for attempt in list(self._live):
            if not attempt.finished:
                attempt.expire()

    def close(self) -> None:
        """The call is over: nothing of it goes on."""
        self._scope.cancel()
        self.cancel()

    # -- from the attempts ----------------------------------------------------

    def step(self) -> None:
        """Something has happened to one of them."""
        self._stepped.set()

    # -- the task -------------------------------------------------------------

    async def run(self) -> None:
        """Begin attempts until one counts."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    while not self._judge():
                        if trio.current_time() >= self._due and not self._starting:
                            self._due, self._starting = math.inf, True
                            nursery.start_soon(self._start)
                        self._stepped = trio.Event()
                        with trio.move_on_at(math.inf if self._starting else self._due):
                            await self._stepped.wait()
                    nursery.cancel_scope.cancel()
        finally:
            if self.winner is None:  # the call or the channel was closed
                for attempt in (*self._live, self._last):
                    if attempt is not None:
                        self._decide(attempt)
                        break

    async def _start(self) -> None:
        try:
            attempt = await self._call.start(again=True)
        except RpcError:  # no connection, or no time left: the attempts that are there decide
            self._policy = self._policy.without_more()
        else:
            self._begun += 1
            self._live.append(attempt)
            for framed, end in self._sent:
                attempt.connection.send(attempt.stream_id, framed, end=end)
            attempt.connection.flush()
            if self._begun < self._policy.max_attempts:
                self._due = trio.current_time() + self._policy.delay
        self._starting = False
        self.step()

    def _judge(self) -> bool:
        """Look at every attempt; True: one of them counts."""
        for attempt in list(self._live):
            if self.winner is not None:
                return True
            if not attempt.finished:
                if attempt.committed:
                    self._decide(attempt)
                continue
            if attempt.code is StatusCode.OK or attempt.committed or not self._survivable(attempt):
                self._decide(attempt)
                continue
            self._live.remove(attempt)
            if self._last is not None:
                self._call.causes += (self._last.cause,)
            self._last = attempt
        if self.winner is None and not self._live and not self._starting and self._due == math.inf:
            assert self._last is not None  # there was at least one attempt
            self._decide(self._last)
        return self.winner is not None

    def _survivable(self, attempt: Attempt) -> bool:
        """Whether the call goes on after this failure; sets when the next attempt begins."""
        now = trio.current_time()
        if now >= self._call.deadline:
            return False
        if self._call.unseen(attempt):
            self._begun -= 1
            self._due = now
            return True
        throttle, pushback = self._channel.throttle, attempt.pushback
        non_fatal = attempt.code in self._policy.codes
        if throttle is not None and (non_fatal or pushback == -1):
            throttle.failed()
        if not non_fatal:
            return False
        if pushback == -1 or (throttle is not None and not throttle.affordable):
            self._policy = self._policy.without_more()
        more = self._begun + self._starting < self._policy.max_attempts
        # "the next hedged RPC is sent immediately", or when the server says, and the delay begins anew.
        self._due = now + (pushback or 0) / 1000 if more and not self._starting else math.inf
        return True

    def _decide(self, winner: Attempt) -> None:
        if self.winner is not None:
            return
        self.winner = self._call.attempt = winner
        for attempt in self._live:
            if attempt is not winner:
                attempt.cancel()
        if self._last is not None and self._last is not winner:
            self._call.causes += (self._last.cause,)
        self._live = [winner]
        self._sent.clear()
        self._decided.set()
        self.step()
