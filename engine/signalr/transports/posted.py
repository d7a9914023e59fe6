"""What a client sends over the transports that cannot carry it: the bodies of POST requests.

Owns: the order of those requests and their back-pressure. A body is handed over whole where it is
small, so that a request that breaks off leaves no half message behind.

Spec: docs/specs/TransportProtocols.md, "HTTP Post (Client-to-Server only)".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from engine.signalr.transports import HubTransport

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange

_HOLD = 64 * 1024  # bytes of a body that are held back until it is complete; ApplicationMaxBufferSize


class PostedTransport(HubTransport):
    """A transport whose other direction is POST.

    Args:
        on_data: called synchronously with the chunks of one body.
    """

    def __init__(self, on_data: Callable[[list[bytes]], None]) -> None:
        self._on_data = on_data
        self._posting = trio.Lock()  # requests are taken in the order of their arrival
        self._may_read = trio.Event()
        self._may_read.set()

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Nothing that is posted is looked at any more."""

    async def receive_post(self, exchange: Exchange) -> bool:
        """Take one request's body; False: the connection had ended before.

        Waits its turn, and while reading is paused. Cancellation loses what was not handed over.

        Raises:
            ConnectionClosed: the rest of the body will not come.
            LimitExceeded: the body is too large.
        """
        async with self._posting:
            if self.ended:
                return False
            held: list[bytes] = []
            size = 0
            while True:
                data = await exchange.receive()
                held.append(data)
                size += len(data)
                if data and size < _HOLD:
                    continue
                await self._may_read.wait()
                if size:
                    self._on_data(held)
                if not data or self.ended:
                    return True
                held, size = [], 0

    def pause(self) -> None:
        if self._may_read.is_set():
            self._may_read = trio.Event()

    def resume(self) -> None:
        self._may_read.set()
