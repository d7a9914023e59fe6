"""Where a hub connection stands. Who changes it: `engine.signalr.connection`, and nobody else."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a connection stands, and whether hub messages go both ways then."""

    HANDSHAKE = "handshake", False
    OPEN = "open", True
    DRAINING = "draining", True  # the server stops: no new invocations, the rest goes on
    CLOSING = "closing", False  # the client has ended it: nothing can be sent, what was received is run
    CLOSED = "closed", False  # nothing is received and nothing can be sent

    def __init__(self, _: str, sending: bool) -> None:
        self.sending = sending
