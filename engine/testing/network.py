"""A network in memory: connections with a size, a delay and accidents, the same for the same seed.

Owns: `Network` and the two ends of each `Link` that it opens, which are Trio streams like any other. Time is
Trio's clock: under `trio.testing.MockClock(autojump_threshold=0)` a delay costs nothing. Never touches a socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from random import Random

import trio

from engine.errors import ConfigError

__all__ = ["Link", "MemoryStream", "Network"]

_BUFFER_SIZE = 64 * 1024  # bytes; a socket's order of magnitude, so that a peer that does not read is felt


class Network:
    """Opens connections in memory.

    Attributes:
        links: the connections that neither end has closed, the oldest first.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        fragment: bool = False,
        buffer_size: int = _BUFFER_SIZE,
        seed: int = 0,
    ) -> None:
        """
        Args:
            latency: seconds from one end to the other.
            jitter: seconds more, at most, for each piece; their order stays.
            fragment: what is sent arrives in pieces of random sizes.
            buffer_size: bytes that may be under way in one direction before a sender waits.
            seed: of all that is random.

        Raises:
            ConfigError: a number that cannot be.
        """
        if not latency >= 0 or not jitter >= 0:
            raise ConfigError("network.latency", (latency, jitter), "give seconds, 0 or more")
        if buffer_size < 1:
            raise ConfigError("network.buffer_size", buffer_size, "give bytes, 1 or more")
        # immutable
        self._latency = latency
        self._jitter = jitter
        self._fragment = fragment
        self.buffer_size = buffer_size
        # owned by the task that uses it
        self._random = Random(seed)
        self.links: list[Link] = []

    def open(self) -> tuple[MemoryStream, MemoryStream]:
        """A new connection: its two ends."""
        link = Link(self)
        self.links.append(link)
        return link.ends

    def cut(self) -> None:
        """Break every connection at once, as a reset does."""
        for link in list(self.links):
            link.cut()

    def freeze(self) -> None:
        """Nothing arrives on today's connections until `thaw`, and nobody is told, as when a cable is pulled."""
        for link in self.links:
            link.freeze()

    def thaw(self) -> None:
        """What was sent meanwhile arrives."""
        for link in self.links:
            link.thaw()

    def _delay(self) -> float:
        return self._latency + (self._jitter * self._random.random() if self._jitter else 0.0)

    def _piece(self, size: int) -> int:
        """How many of so many bytes travel together."""
        return self._random.randint(1, size) if self._fragment else size


class Link:
    """One connection; `ends` are its two streams."""

    def __init__(self, network: Network) -> None:
        there, back = _Pipe(network), _Pipe(network)
        self._network = network
        self._pipes = (there, back)
        self.ends = (MemoryStream(self, back, there), MemoryStream(self, there, back))

    def cut(self) -> None:
        """Break it at once: both ends get `trio.BrokenResourceError`."""
        for pipe in self._pipes:
            pipe.break_off()
        self.forget()

    def freeze(self) -> None:
        """Nothing arrives until `thaw`."""
        for pipe in self._pipes:
            pipe.frozen = True

    def thaw(self) -> None:
        """Go on."""
        for pipe in self._pipes:
            pipe.frozen = False
            pipe.changed.unpark_all()

    def forget(self) -> None:
        """An end was closed."""
        if self in self._network.links:
            self._network.links.remove(self)


class _Pipe:
    """One direction: pieces with the time at which they arrive; an empty piece is the end."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._latest = 0.0  # no piece overtakes another
        self._ended = False
        self._unwanted = False  # the reader has closed
        self._broken = False
        self.frozen = False
        self.changed = trio.lowlevel.ParkingLot()

    async def room(self) -> int:
        """Bytes that may be sent now, once it is at least one."""
        while True:
            if self._ended:
                raise trio.ClosedResourceError("this end has sent its last byte")
            if self._broken or self._unwanted:
                raise trio.BrokenResourceError("the connection was reset")
            if self._size < self._network.buffer_size:
                return self._network.buffer_size - self._size
            await self.changed.park()

    async def send(self, data: memoryview) -> None:
        room = await self.room()
        while data:
            size = self._network._piece(min(len(data), room))
            self._put(bytes(data[:size]))
            data = data[size:]
            if data:
                room = await self.room()

    async def receive(self, max_bytes: int | None) -> bytes:
        while True:
            if self._broken:
                raise trio.BrokenResourceError("the connection was reset")
            if self._unwanted:
                raise trio.ClosedResourceError("this end was closed")
            if self._pieces and not self.frozen:
                wait = self._pieces[0][0] - trio.current_time()
                if wait <= 0:
                    return self._take(max_bytes)
                with trio.move_on_after(wait):
                    await self.changed.park()
            else:
                await self.changed.park()

    def _take(self, max_bytes: int | None) -> bytes:
        arrival, data = self._pieces[0]
        if not data:
            return b""  # the end stays where it is, for whoever asks again
        self._pieces.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._pieces.appendleft((arrival, data[max_bytes:]))
            data = data[:max_bytes]
        self._size -= len(data)
        self.changed.unpark_all()
        return data

    def _put(self, data: bytes) -> None:
        self._latest = max(self._latest, trio.current_time() + self._network._delay())
        self._pieces.append((self._latest, data))
        self._size += len(data)
        self.changed.unpark_all()

    def end(self) -> None:
        """The sender sends no more."""
        if not self._ended:
            self._put(b"")
            self._ended = True

    def refuse(self) -> None:
        """The reader reads no more."""
        self._unwanted = True
        self._pieces.clear()
        self.changed.unpark_all()

    def break_off(self) -> None:
        self._broken = True
        self._pieces.clear()
        self.changed.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory; made by `Network.open`."""

    def __init__(self, link: Link, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.link = link
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = self._receiving = self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`: waits while `buffer_size` bytes are under way."""
        with self._alone_sending():
            await trio.lowlevel.checkpoint()
            await self._outgoing.send(memoryview(data))

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        with self._alone_sending():
            await trio.lowlevel.checkpoint()
            await self._outgoing.room()

    async def send_eof(self) -> None:
        """As `trio.abc.HalfCloseableStream`."""
        with self._alone_sending():
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this end was closed")
            self._outgoing.end()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As `trio.abc.ReceiveStream`. Cancellation loses no bytes."""
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes must be 1 or more")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._incoming.receive(max_bytes)
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        """As `trio.abc.AsyncResource`: what was sent still arrives, and then the end."""
        self._closed = True
        self._outgoing.end()
        self._incoming.refuse()
        self.link.forget()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _alone_sending(self) -> Iterator[None]:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False
