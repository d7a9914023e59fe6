"""One epoll for all plain sockets of a server, read by one task.

Owns: the registration of sockets that are being pumped and the one loop that reads them. A socket is
registered once, level-triggered, and costs nothing more until it has bytes; a task that waits in
`trio.lowlevel.wait_readable` is re-armed and switched to for every message.

Theory of operation. The epoll's own descriptor is what Trio waits for. When it is readable, each
ready socket gets one read, whose bytes go to its sink synchronously: so a connection that floods gets
one read a round, as everybody else, and Trio runs all other tasks between rounds. What a sink raises
is raised in the task that pumps its connection, and nowhere else.

With `busy_poll` the loop asks the epoll again without blocking for so long after a message before it
goes back to sleep, as SO_BUSY_POLL does in the kernel: the answer to a reply is then picked up without
a sleep and a wake-up. It costs the CPU of that time, and no other task waits for it: Trio runs
between any two looks.

Linux only: `Poller.available` tells.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from time import perf_counter

import outcome
import trio

from engine.errors import ConnectionClosed

_EVENTS_A_ROUND = 256

FIRST_READ = 16 * 1024  # bytes; as HTTP/2's slices, and a memory page or two more than most messages
_SMALLEST_READ = 2 * 1024
_DEAR = 0.02  # seconds that others wait for one read; a frame of a film
_CHEAP = 0.004


def next_read(size: int, seconds: float, largest: int) -> int:
    """How much to read at once, after a full read of `size` took `seconds` to work through.

    Other connections wait while a read is worked through: bytes that are dear (a chunk or a fragment
    for each byte of body) come in small bites, bulk in large ones.
    """
    if seconds > _DEAR:
        return max(size // 2, _SMALLEST_READ)
    return min(size * 2, largest) if seconds < _CHEAP else size


class _Pumped:
    """A socket that is being read for one task."""

    __slots__ = ("largest", "recv", "sink", "size", "task")

    def __init__(
        self, sock: socket.socket, sink: Callable[[bytes], bool], largest: int, task: trio.lowlevel.Task
    ) -> None:
        self.recv = sock.recv
        self.sink = sink
        self.largest = largest
        self.size = min(largest, FIRST_READ)
        self.task = task


class Poller:
    """The shared epoll of one server; `run` must be running while anything is pumped.

    Args:
        busy_poll: seconds to go on polling after a message; 0 switches it off.
    """

    available = hasattr(select, "epoll")

    def __init__(self, busy_poll: float = 0.0) -> None:
        self._epoll = select.epoll()
        self._busy_poll = busy_poll
        self._pumped: dict[int, _Pumped] = {}

    def __len__(self) -> int:
        """Sockets that are being pumped."""
        return len(self._pumped)

    def __bool__(self) -> bool:
        return True

    async def run(self) -> None:
        """Read what is ready, until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                if not self._busy_poll:
                    self._round()
                elif self._round():
                    await self._spin()
        finally:
            self._epoll.close()

    async def _spin(self) -> None:
        """Poll without blocking until nothing has come for `busy_poll` seconds."""
        heard = perf_counter()
        while True:
            await trio.lowlevel.checkpoint()  # whoever the last round woke runs, and timers, and other sockets
            if self._round():
                heard = perf_counter()
            elif perf_counter() - heard > self._busy_poll:
                return

    def _round(self) -> int:
        """One read for each socket that is ready."""
        ready = self._epoll.poll(0, _EVENTS_A_ROUND)
        for descriptor, _ in ready:
            pumped = self._pumped.get(descriptor)
            if pumped is not None:  # else an earlier sink of this round has ended it
                self._read(descriptor, pumped)
        return len(ready)

    def _read(self, descriptor: int, pumped: _Pumped) -> None:
        size = pumped.size
        try:
            data = pumped.recv(size)
            if len(data) < size:
                if not pumped.sink(data) or not data:
                    self._finish(descriptor, outcome.Value(None))
                return
            began = perf_counter()
            if not pumped.sink(data):
                self._finish(descriptor, outcome.Value(None))
            pumped.size = next_read(size, perf_counter() - began, pumped.largest)
        except BlockingIOError:
            return  # another reader, or a spurious wake-up
        except Exception as error:
            # Handed over to the connection's own barrier: raised in the task that pumps.
            self._finish(descriptor, outcome.Error(error))

    def _finish(self, descriptor: int, result: outcome.Outcome[None]) -> None:
        pumped = self._pumped.pop(descriptor, None)
        if pumped is not None:
            self._epoll.unregister(descriptor)
            trio.lowlevel.reschedule(pumped.task, result)

    async def pump(self, sock: socket.socket, sink: Callable[[bytes], bool], largest: int) -> None:
        """Hand every read of `sock` to `sink` until it returns False or has had the end.

        A checkpoint; cancellation loses no bytes.

        Raises:
            OSError: of the socket.
            ConnectionClosed: `discard` was called.
            Exception: what the sink raised.
        """
        descriptor = sock.fileno()
        self._pumped[descriptor] = _Pumped(sock, sink, largest, trio.lowlevel.current_task())
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            if self._pumped.pop(descriptor, None) is not None:
                self._epoll.unregister(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def discard(self, sock: socket.socket) -> None:
        """The socket is about to be closed: whoever pumps it gets `ConnectionClosed`."""
        self._finish(sock.fileno(), outcome.Error(ConnectionClosed(1006, "closed on our side")))
