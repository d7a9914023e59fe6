"""When to try again after a connection was lost.

Owns: the seam for users' own policies and the official clients' default. Never waits by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["DEFAULT_DELAYS", "ReconnectPolicy", "RetryContext", "after_delays"]

DEFAULT_DELAYS = (0.0, 2.0, 10.0, 30.0)  # seconds before each attempt; then no more: the official clients' default


@dataclass(frozen=True, slots=True)
class RetryContext:
    """What a policy decides on."""

    previous_retry_count: int
    elapsed: float  # seconds since the connection was lost
    reason: Exception | None  # why it was lost, or why the last attempt failed


class ReconnectPolicy(Protocol):
    """Any callable with this signature."""

    def __call__(self, context: RetryContext, /) -> float | None:
        """Seconds to wait before the next attempt; None: give up."""


def after_delays(delays: Sequence[float] = DEFAULT_DELAYS) -> ReconnectPolicy:
    """Try once after each of these delays, in seconds, then give up."""
    steps = tuple(delays)

    def policy(context: RetryContext) -> float | None:
        count = context.previous_retry_count
        return steps[count] if count < len(steps) else None

    return policy
