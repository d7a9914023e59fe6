"""What calls ask of their channel.

Owns: the seam between calls and the one that connects and configures: calls know no balancer, no resolver and
no TLS, and a channel knows no attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.config import ChannelConfig
    from engine.grpc.credentials import CallCredentials
    from engine.grpc.retry import MethodConfig, RetryThrottle
    from engine.transport.http2_client import Http2ClientConnection
    from engine.transport.watchdog import Watchdog
    from engine.wire.http2 import Fields

__all__ = ["ChannelInterface"]


class ChannelInterface(Protocol):
    """See `engine.grpc.channel.Channel`, which is one.

    Attributes:
        config: its settings.
        authority: the server's name, for `:authority` and for credentials.
        secure: what is sent is encrypted, or the user takes the risk of showing credentials.
        compression: of requests that do not say their own; None: none.
        call_credentials: of calls that have none of their own.
        throttle: of retries, where the service config has one.
        random: for back-off.
        watchdog: keeps deadlines.
    """

    config: ChannelConfig
    authority: str
    secure: bool
    compression: str | None
    call_credentials: CallCredentials | None
    throttle: RetryThrottle | None
    random: Random
    watchdog: Watchdog

    def method_config(self, path: str) -> MethodConfig:
        """What the service config says about a method."""

    def head(self, path: str, encoding: str | None) -> Fields:
        """The fields that every request of a method begins with."""

    def pick(self) -> Http2ClientConnection | None:
        """A connection, if there is one now."""

    async def connection(self, *, wait_for_ready: bool | None) -> Http2ClientConnection:
        """Wait for a connection.

        Raises:
            RpcError: no server can be reached, and the call does not want to wait for one.
        """

    @property
    def why_not_ready(self) -> str:
        """The state in words, for errors."""

    def start_soon(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the channel."""
