"""One epoll for all plain sockets of a server, read by one task.

Owns: the registration of sockets that are being pumped and the one loop that reads them. A socket is
registered once, level-triggered, and costs nothing more until it has bytes; a task that waits in
`trio.lowlevel.wait_readable` is re-armed and switched to for every message.

Theory of operation. The epoll's own descriptor is what Trio waits for. When it is readable, each
ready socket gets one read, whose bytes go to its sink synchronously: so a connection that floods gets
one read a round, as everybody else, and Trio runs all other tasks between rounds. What a sink raises
is raised in the task that pumps its connection, and nowhere else.

A handler that waits for a message may do that by waiting for the epoll itself, in place of the one
task: it *leads*. So the message that it waits for needs no second task to be woken, which is what a
request and its reply spend most of their time on. What it reads for others is theirs as ever, and runs
in the poller's context.

With `busy_poll` the loop asks the epoll again without blocking for so long after a message before it
goes back to sleep, as SO_BUSY_POLL does in the kernel: the answer to a reply is then picked up without
a sleep and a wake-up. No other task waits for it, for Trio runs between any two looks; what it costs is
the processor. Measured with eight connections that send a message every 2 ms, on one core:

    busy_poll        0      30 µs    100 µs   1 ms
    p50 of an echo   75 µs  70 µs    55 µs    22 µs
    share of a core  35 %   40 %     62 %     91 %

One connection that waits for each answer has its echo in 25 µs instead of 55 µs with 100 µs. A task that
sleeps for 5 ms in between woke no later than without it (0.2 ms late at the median without, 0.06 ms with).

Linux only: `Poller.available` tells.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextvars import copy_context
from time import perf_counter

import outcome
import trio

from engine.errors import ConnectionClosed

_EVENTS_A_ROUND = 256

FIRST_READ = 16 * 1024  # bytes; as HTTP/2's slices, and a memory page or two more than most messages
_SMALLEST_READ = 2 * 1024
_DEAR = 0.0001  # seconds that others wait for one read: as long as a dozen messages take
_CHEAP = 0.00003
_BULK = 4e-9  # seconds for a byte of what is only moved: a MiB in 4 ms, which unmasking in Python keeps to


def next_read(size: int, seconds: float, largest: int) -> int:
    """How much to read at once, after a full read of `size` took `seconds` to work through.

    Other connections wait while a read is worked through: bytes that are dear (a chunk or a fragment
    for each byte of body) come in small bites, bulk in large ones. Bulk may take twice as long, for it is
    soon over, and in small bites it would take longer for all.
    """
    if seconds < size * _BULK:
        seconds /= 2
    if seconds > _DEAR:
        return max(size // 2, min(size, _SMALLEST_READ))
    return min(size * 2, largest) if seconds < _CHEAP else size


class _Pumped:
    """A socket that is being read for one task."""

    __slots__ = ("largest", "recv", "sink", "size", "task")

    def __init__(
        self, sock: socket.socket, sink: Callable[[bytes], bool], largest: int, size: int, task: trio.lowlevel.Task
    ) -> None:
        self.recv = sock.recv
        self.sink = sink
        self.largest = largest
        self.size = min(largest, size)
        self.task = task


class Poller:
    """The shared epoll of one server; `run` must be running while anything is pumped.

    Args:
        busy_poll: seconds to go on polling after a message; 0 switches it off.

    Attributes:
        free: nobody waits for the epoll at this moment: whoever is about to wait for a message may `lead`.
    """

    available = hasattr(select, "epoll")

    def __init__(self, busy_poll: float = 0.0) -> None:
        # immutable
        self._busy_poll = busy_poll
        self._epoll = select.epoll()
        self._descriptor = self._epoll.fileno()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._context = copy_context()  # rounds run in it, whoever leads; `run` replaces it by its own
        # owned by whoever reads
        self._pumped: dict[int, _Pumped] = {}
        self._in_round = False
        # who waits for the epoll
        self.free = False
        self._led = False
        self._standby: trio.lowlevel.Task | None = None  # of `run`, while somebody leads
        self._over = False

    def __len__(self) -> int:
        """Sockets that are being pumped."""
        return len(self._pumped)

    def __bool__(self) -> bool:
        return True

    async def run(self) -> None:
        """Read what is ready, until cancelled."""
        self._context = copy_context()
        read = 0
        try:
            while True:
                if self._led:
                    self._standby = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._abort_standby)
                    read = 0
                    continue
                self.free = False
                if not read:  # under load there is more by now, and to look costs less than to wait
                    await trio.lowlevel.wait_readable(self._descriptor)
                read = self._round()
                if read and self._busy_poll:
                    await self._spin()
                    read = 0
                elif read:
                    # Whom this round has woken may answer, wait again, and lead then.
                    self.free = True
                    await trio.lowlevel.checkpoint()
        finally:
            self.free = False
            self._over = True
            if not self._led:
                self._close()

    async def lead(self, arrived: Callable[[], bool]) -> None:
        """Read all sockets in place of `run`, until `arrived` says that what the caller waits for is there.

        Only while `free`. A checkpoint. Whoever makes `arrived` true by other means than a socket calls `wake`.
        """
        self.free = False
        self._led = True
        try:
            read = 0
            while not arrived():
                if read:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._descriptor)
                read = self._context.run(self._round)
        finally:
            self._led = False
            if self._over:
                self._close()
            else:
                self.free = True
                if self._standby is not None:
                    standby, self._standby = self._standby, None
                    trio.lowlevel.reschedule(standby)

    def wake(self) -> None:
        """Let the leader look whether it has what it waits for."""
        if not self._in_round:
            os.eventfd_write(self._bell, 1)

    def _abort_standby(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._standby = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _close(self) -> None:
        self._epoll.close()
        os.close(self._bell)

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
        pumped_by = self._pumped
        self._in_round = True
        try:
            for descriptor, _ in ready:
                pumped = pumped_by.get(descriptor)
                if pumped is None:  # an earlier sink of this round has ended it, or it is the bell
                    if descriptor == self._bell:
                        os.eventfd_read(self._bell)
                    continue
                try:
                    data = pumped.recv(pumped.size)
                    if len(data) == pumped.size:
                        self._receive_much(descriptor, pumped, data)
                    elif not pumped.sink(data) or not data:
                        self._finish(descriptor, outcome.Value(None))
                except BlockingIOError:
                    continue  # another reader, or a spurious wake-up
                except Exception as error:
                    # Handed over to the connection's own barrier: raised in the task that pumps.
                    self._finish(descriptor, outcome.Error(error))
        finally:
            self._in_round = False
        return len(ready)

    def _receive_much(self, descriptor: int, pumped: _Pumped, data: bytes) -> None:
        """A full read: there may be more behind it."""
        began = perf_counter()
        more = pumped.sink(data)
        pumped.size = next_read(len(data), perf_counter() - began, pumped.largest)
        if not more:
            self._finish(descriptor, outcome.Value(None))

    def _finish(self, descriptor: int, result: outcome.Outcome[None]) -> None:
        pumped = self._forget(descriptor)
        if pumped is not None:
            trio.lowlevel.reschedule(pumped.task, result)

    def _forget(self, descriptor: int) -> _Pumped | None:
        pumped = self._pumped.pop(descriptor, None)
        if pumped is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)
        return pumped

    async def pump(
        self, sock: socket.socket, sink: Callable[[bytes], bool], largest: int, size: int = FIRST_READ
    ) -> int:
        """Hand every read of `sock` to `sink` until it returns False or has had the end.

        A checkpoint; cancellation loses no bytes.

        Args:
            largest: bytes of a read at most.
            size: bytes of the first one.

        Returns:
            What a next read should have; see `next_read`.

        Raises:
            OSError: of the socket.
            ConnectionClosed: `discard` was called.
            Exception: what the sink raised.
        """
        descriptor = sock.fileno()
        pumped = self._pumped[descriptor] = _Pumped(sock, sink, largest, size, trio.lowlevel.current_task())
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._forget(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return pumped.size

    def discard(self, sock: socket.socket) -> None:
        """The socket is about to be closed: whoever pumps it gets `ConnectionClosed`."""
        self._finish(sock.fileno(), outcome.Error(ConnectionClosed(1006, "closed on our side")))
