"""Bytes in and out of one connection, whatever carries them.

Owns: `ByteStream`, the one small interface that drivers are written against, and the implementations
that carry bytes: `SocketByteStream` on a raw non-blocking socket (try first, wait only on
`BlockingIOError`) and `WrappedByteStream` on any `trio.abc.Stream` (memory streams, simulators).
TLS is one more, on top of any of them: `engine.transport.tls_stream`.

Reading is a pump: the stream calls the driver's synchronous sink for each read. So the same driver
can be fed by one task a connection, or by one poller for all of them.

Every way in which a transport breaks becomes `ConnectionClosed`; an orderly end is `b""`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from time import perf_counter

import trio

from engine.errors import ConnectionClosed
from engine.transport.poller import FIRST_READ, Poller, next_read
from engine.transport.socket_options import tune

Sink = Callable[[bytes], bool]
"""Takes one read; `b""` is the end. Returns False to pause: the pump then returns."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for no time
_SEND_SLICE = 64 * 1024  # TLS encrypts a whole send_all before its first byte leaves


class ByteStream(ABC):
    """A byte stream that can be read by one task and written by one task."""

    local_address: str = "memory"
    peer_address: str = "memory"
    poller: Poller | None = None  # that reads it together with others

    @abstractmethod
    async def receive_some(self) -> bytes:
        """The next bytes, `b""` at the end. A checkpoint; cancellation loses no bytes.

        Raises:
            ConnectionClosed: the transport is broken.
        """

    @abstractmethod
    async def pump(self, sink: Sink, max_bytes: int | None = None) -> None:
        """Hand every read, of at most `max_bytes` each, to `sink` until it returns False or has had the end.

        A checkpoint between reads, also under a flood; cancellation loses no bytes.

        Raises:
            ConnectionClosed: the transport is broken.
        """

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what the transport takes at once; 0 where that is nothing, or cannot be known.

        Raises:
            ConnectionClosed: the transport is broken.
        """

    @abstractmethod
    async def send_all(self, data: bytes | memoryview) -> None:
        """Send all of it. A checkpoint; after cancellation it is unknown how much left.

        Raises:
            ConnectionClosed: the transport is broken.
        """

    @abstractmethod
    async def send_eof(self) -> None:
        """End our direction where the transport can say so (TLS says it only in `aclose`)."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close in order. A checkpoint; when cancelled the stream is closed all the same."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, so that the peer sees a failure (a TCP reset) and not an end; readers and
        writers get `ConnectionClosed`."""


def _lost(error: BaseException) -> ConnectionClosed:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return ConnectionClosed(1006, reason)


def format_address(address: object) -> str:
    """A socket address as people write it: `127.0.0.1:80`, `[::1]:80`, a path, or `unix`."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address) if address else "unix"


class SocketByteStream(ByteStream):
    """A connected, non-blocking stream socket, without a stream object in between.

    `trio.SocketStream` costs two checkpoints and a re-armed registration a message; this costs one
    system call where data is there. The socket is owned from here on.
    """

    __slots__ = ("_broken", "_read_size", "_size", "_socket", "local_address", "peer_address", "poller")

    def __init__(self, sock: socket.socket, *, read_size: int, poller: Poller | None = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.poller = poller
        self._read_size = read_size
        self._size = FIRST_READ  # of the next read
        self._broken = False
        self.local_address = self.peer_address = "unix"
        with contextlib.suppress(OSError):  # the peer may be gone before we look: reading will tell
            tune(sock)
            self.local_address = format_address(sock.getsockname())
            self.peer_address = format_address(sock.getpeername())

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                return self._socket.recv(min(self._read_size, FIRST_READ))
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_readable)
            except OSError as error:
                raise _lost(error) from None

    async def pump(self, sink: Sink, max_bytes: int | None = None) -> None:
        if self.poller is not None:
            await self._pump_shared(self.poller, sink, max_bytes or self._read_size)
            return
        recv, largest = self._socket.recv, max_bytes or self._read_size
        while True:
            size = min(largest, self._size)
            try:
                data = recv(size)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_readable)
                continue
            except OSError as error:
                raise _lost(error) from None
            if len(data) < size:
                if not sink(data) or not data:
                    return
                # A short read emptied the buffer: waiting is cheaper than a recv that says so.
                await self._wait(trio.lowlevel.wait_readable)
                continue
            began = perf_counter()
            more = sink(data)
            self._size = next_read(size, perf_counter() - began, largest)
            if not more:
                return
            await trio.lowlevel.checkpoint()  # a peer that always has data must not starve others

    async def _pump_shared(self, poller: Poller, sink: Sink, largest: int) -> None:
        if self._socket.fileno() < 0:
            raise ConnectionClosed(1006, "closed on our side")
        try:
            self._size = await poller.pump(self._socket, sink, largest, self._size)
        except OSError as error:
            raise _lost(error) from None

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _lost(error) from None

    async def send_all(self, data: bytes | memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while rest:
            sent = self.send_nowait(rest)
            if sent:
                rest = rest[sent:]
            else:
                await self._wait(trio.lowlevel.wait_writable)

    async def _wait(self, wait: Callable[[socket.socket], object]) -> None:
        if self._socket.fileno() < 0:
            raise ConnectionClosed(1006, "closed on our side")
        try:
            await wait(self._socket)  # type: ignore[misc]  # both are coroutine functions
        except trio.ClosedResourceError:
            raise ConnectionClosed(1006, "closed on our side") from None

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        with contextlib.suppress(OSError):  # already gone: then there is nobody to tell
            self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self._close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            # A reset: the peer must not take what it has for the whole.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._close()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            if self.poller is not None:
                self.poller.discard(self._socket)
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class WrappedByteStream(ByteStream):
    """Any `trio.abc.Stream`. Everything is sent by the writer task: such streams cannot be tried."""

    __slots__ = ("_aborted", "_close_timeout", "_read_size", "_scopes", "_stream", "local_address", "peer_address")

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        read_size: int,
        close_timeout: float = 1.0,
        local_address: str = "memory",
        peer_address: str = "memory",
    ) -> None:
        self._stream = stream
        self._read_size = read_size
        self._close_timeout = close_timeout
        self._scopes: set[trio.CancelScope] = set()  # of the calls under way, for `abort`
        self._aborted = False
        self.local_address = local_address
        self.peer_address = peer_address

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """Around each call of the wrapped stream: ends it on `abort`, and names what breaks."""
        scope = trio.CancelScope()
        self._scopes.add(scope)
        if self._aborted:
            scope.cancel()
        try:
            with scope:
                yield
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _lost(error.__cause__ or error) from error
        finally:
            self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise ConnectionClosed(1006, "closed on our side")

    async def _read(self, max_bytes: int | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes or self._read_size))
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLEOFError):
                return b""  # TLS ended without close_notify; the framing above knows if that was whole
            raise

    async def receive_some(self) -> bytes:
        with self._call():
            return await self._read()
        raise AssertionError("unreachable: _call raises where the block did not finish")

    async def pump(self, sink: Sink, max_bytes: int | None = None) -> None:
        largest = max_bytes or self._read_size
        size = min(largest, FIRST_READ)
        with self._call():
            while True:
                data = await self._read(size)
                began = perf_counter()
                if not sink(data) or not data:
                    return
                if len(data) == size:
                    size = next_read(size, perf_counter() - began, largest)

    def send_nowait(self, data: bytes | memoryview) -> int:
        return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with self._call():
            for start in range(0, len(view), _SEND_SLICE):
                await self._stream.send_all(view[start : start + _SEND_SLICE])

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with contextlib.suppress(ConnectionClosed), self._call():
                await self._stream.send_eof()

    async def aclose(self) -> None:
        if self._aborted:
            await trio.aclose_forcefully(self._stream)
            return
        # TLS waits for the peer to take our close_notify; one that does not read is not waited for.
        with trio.move_on_after(self._close_timeout) as scope, contextlib.suppress(trio.BrokenResourceError):
            await self._stream.aclose()
        if scope.cancelled_caught:
            await trio.aclose_forcefully(self._stream)

    def abort(self) -> None:
        self._aborted = True
        for scope in self._scopes:
            scope.cancel()


class ReplayedByteStream(ByteStream):
    """A stream with its first bytes put back in front of it."""

    __slots__ = ("_initial", "_stream", "local_address", "peer_address", "poller")

    def __init__(self, stream: ByteStream, initial: bytes) -> None:
        self._stream = stream
        self._initial = initial
        self.local_address = stream.local_address
        self.peer_address = stream.peer_address
        self.poller = stream.poller

    async def receive_some(self) -> bytes:
        if not self._initial:
            return await self._stream.receive_some()
        await trio.lowlevel.checkpoint()
        data, self._initial = self._initial, b""
        return data

    async def pump(self, sink: Sink, max_bytes: int | None = None) -> None:
        while self._initial:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._initial)
            data, self._initial = self._initial[:size], self._initial[size:]
            if not sink(data):
                return
        await self._stream.pump(sink, max_bytes)

    def send_nowait(self, data: bytes | memoryview) -> int:
        return self._stream.send_nowait(data)

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def abort(self) -> None:
        self._stream.abort()
