"""What all connections of one mounted hub share."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import ConnectionClosed, HubError, LimitExceeded
from engine.signalr.filters import FilterChain
from engine.signalr.groups import Groups
from engine.signalr.lifetime import HubLifetimeManager
from engine.signalr.presence import Presence

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.signalr.binding import HubMethods
    from engine.signalr.clients import SendFilter
    from engine.signalr.hub import Hub
    from engine.wire.signalr.messages import HubProtocol

_log = logging.getLogger("engine.signalr")

_AT_ONCE = 0.02  # seconds; over less there is no herd to spread


@dataclass(slots=True)
class HubRuntime:
    """A hub class, its settings and its registry; every mount has its own."""

    name: str
    factory: Callable[[], Hub]
    methods: HubMethods
    protocols: Mapping[str, HubProtocol]  # by lower-case name
    settings: SignalRConfig
    detailed_errors: bool
    manager: HubLifetimeManager
    filters: FilterChain = field(default_factory=FilterChain)
    drain_window: float = 5.0  # seconds within which all clients are told that the server stops
    groups: Groups = field(init=False)
    dropped: int = 0  # broadcasts that slow clients did not get, where `signalr.slow_client` drops them
    drained: int = 0  # clients that were given a time to come back at
    presence: Presence = field(init=False)
    send_filter: SendFilter | None = field(init=False)

    def __post_init__(self) -> None:
        self.groups = Groups(self.manager)
        self.presence = Presence(self.manager)
        self.send_filter = self.filters.send

    def drain_delay(self) -> float:
        """Seconds until one more client is told to come back: a random time, so that they do not come all at once.

        The time within which it lies grows with the number of clients; the first few are told at once.
        """
        self.drained += 1
        spread = self.drained / self.settings.drain_rate
        return random.uniform(0.0, min(spread, self.drain_window)) if spread > _AT_ONCE else 0.0

    def log_error(self, connection_id: str, method: str, error: Exception) -> None:
        """Log what left user code; what a hub says to its client is not an error of the server."""
        level = logging.DEBUG if isinstance(error, HubError | ConnectionClosed | LimitExceeded) else logging.ERROR
        if _log.isEnabledFor(level):
            fields = {"hub": self.name, "hub_method": method, "hub_connection": connection_id}
            _log.log(
                level,
                "%s.%s (hub connection %s) raised %s: %s",
                *(self.name, method, connection_id, type(error).__name__, error),
                exc_info=error if level == logging.ERROR else None,
                extra={"fields": fields},
            )
