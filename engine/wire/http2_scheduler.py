"""Which frame goes next: the send side of an HTTP/2 connection (RFC 9113 sections 5.2 and 6.1).

Owns: the queue of each stream, the connection's send window, the order of frames on the wire and
their bytes. Knows nothing of h2; a stream's state machine hears of what was sent through
`Outgoing.head_sent` and `Outgoing.end_sent`.

Theory of operation. A stream's output is a FIFO: heads, body, trailers or the end. A stream with a
new head goes first, with at most one frame of its body, so that a small answer never waits behind a
large one; it costs no more than its head and one quantum, and at least one quantum of the others
leaves with it, so they starve neither. All other streams take turns with one frame each (RFC 9218
would call them incremental; gRPC and SignalR send no priority). A stream whose window is used up
leaves the round until `wake`; when the connection's is, streams park in order until `open_connection`.

No call touches a stream that has nothing to send. Chunks are joined into whole frames, so writing in
small pieces costs no small frames. A window that cuts a frame below `SMALL` twice in a row
is a peer that makes us dribble (CVE-2019-9511): those are counted in `dribbles`.
"""

from __future__ import annotations

import struct
from collections import deque

from engine.wire.frame_guard import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS

QUANTUM = 16_384  # bytes of DATA a turn: the frame size that every peer takes (RFC 9113 4.2)
FULL_BATCH = 16  # heads in one write; more would save less than a microsecond of each
SMALL = 256  # bytes; below it a frame that a window cut costs more than it carries

Parts = list[bytes | memoryview]
"""What leaves in one write; a part of a body is a view, which the joining of the write copies once."""

_FRAME = struct.Struct(">HBBBL").pack


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a frame's payload."""
    return _FRAME(length >> 8, length & 0xFF, kind, flags, stream_id)


class Outgoing:
    """What one stream has to send. The core's stream object inherits it."""

    __slots__ = (
        "answered",
        "chunks",
        "dribbled",
        "early_end",
        "end_queued",
        "ended",
        "head_queued",
        "heads",
        "offset",
        "outbound_flow_control_window",
        "queued",
        "scheduled",
        "stream_id",
        "trailers",
    )

    def __init__(self, stream_id: int, window: int) -> None:
        self.stream_id = stream_id
        self.outbound_flow_control_window = window  # h2's name: SETTINGS change it there
        self.heads: list[tuple[bytes, bool]] = []  # blocks, and whether they are informational
        self.chunks: deque[bytes] = deque()
        self.offset = 0  # into the first chunk
        self.queued = 0  # bytes of body
        self.trailers: bytes | None = None
        self.head_queued = False  # the final one, not 1xx
        self.end_queued = False  # no more can be added
        self.early_end = False  # RST_STREAM(NO_ERROR) follows our END_STREAM
        self.answered = False  # the final head is out
        self.ended = False  # END_STREAM is out
        self.scheduled = False  # in one of the scheduler's queues
        self.dribbled = False  # the last DATA frame was small because of a window

    def head_sent(self, *, informational: bool) -> None:
        """HEADERS that are no trailers went out."""
        raise NotImplementedError

    def end_sent(self, *, trailers: bool) -> None:
        """END_STREAM went out, with the trailers where there are any."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Both sides have ended."""
        raise NotImplementedError


class Scheduler:
    """The streams that have something to send, and the connection's window."""

    __slots__ = (
        "_parked",
        "_ready",
        "_starting",
        "data_bytes",
        "data_frames",
        "dribbles",
        "finished",
        "prefix",
        "window",
    )

    def __init__(self) -> None:
        self._starting: deque[Outgoing] = deque()  # with a head to send
        self._ready: deque[Outgoing] = deque()  # with body to send and a window for it
        self._parked: deque[Outgoing] = deque()  # would be ready but for the connection's window
        self.window = 65_535  # RFC 9113 6.9.2
        self.prefix = b""  # HPACK size update, due before the next block
        # since the core last looked
        self.finished: list[Outgoing] = []  # their END_STREAM is out
        self.data_frames = 0
        self.data_bytes = 0  # header blocks included
        self.dribbles = 0

    @property
    def idle(self) -> bool:
        """Nothing can go out now."""
        return not self._starting and not self._ready

    @property
    def batch_full(self) -> bool:
        """So many heads wait that there is nothing to gain by waiting for more."""
        return len(self._starting) >= FULL_BATCH

    @property
    def parked(self) -> bool:
        """Some stream waits for the connection's window."""
        return bool(self._parked)

    def queue_head(self, stream: Outgoing) -> None:
        """`stream.heads` has got an entry."""
        if not stream.scheduled:
            stream.scheduled = True
            self._starting.append(stream)

    def wake(self, stream: Outgoing) -> None:
        """The stream has got body or trailers to send, or a window to send them."""
        if stream.scheduled:
            return
        if not stream.queued:
            if not stream.end_queued or stream.ended:
                return
        elif stream.outbound_flow_control_window <= 0:
            return
        stream.scheduled = True
        self._ready.append(stream)

    def open_connection(self, increment: int) -> None:
        """The connection's window has grown (or shrunk never: SETTINGS do not touch it)."""
        self.window += increment
        if self._parked:
            self._ready.extend(self._parked)
            self._parked.clear()

    def drop(self, stream: Outgoing) -> None:
        """The stream was reset: nothing of it goes out any more."""
        if stream.scheduled:
            stream.scheduled = False
            for streams in (self._starting, self._ready, self._parked):
                if stream in streams:
                    streams.remove(stream)
                    break
        stream.heads.clear()
        stream.chunks.clear()
        stream.queued = stream.offset = 0
        stream.trailers = None

    def take(self, parts: Parts, limit: int) -> None:
        """Append frames to `parts`: all heads that wait, and about `limit` bytes of DATA."""
        starting = self._starting
        while starting:
            self._turn(starting.popleft(), parts)
        ready = self._ready
        taken = self.data_bytes
        while ready:
            self._turn(ready.popleft(), parts)
            if self.data_bytes - taken >= limit:
                break

    def _turn(self, stream: Outgoing, parts: Parts) -> None:
        """Send the stream's heads, then one frame of its body, then its end if that is next."""
        stream.scheduled = False
        if stream.heads and not self._send_heads(stream, parts):
            return
        queued = stream.queued
        end = stream.end_queued
        if queued:
            allowed = min(stream.outbound_flow_control_window, self.window, QUANTUM)
            if allowed <= 0:
                if stream.outbound_flow_control_window > 0:
                    stream.scheduled = True
                    self._parked.append(stream)
                return
            if queued > allowed:
                self._send_piece(stream, allowed, parts)
                stream.scheduled = True
                self._ready.append(stream)
                return
            end = end and stream.trailers is None
            parts.append(_FRAME(queued >> 8, queued & 0xFF, DATA, END_STREAM if end else 0, stream.stream_id))
            self._take_all(stream, parts)
            stream.outbound_flow_control_window -= queued
            self.window -= queued
            self.data_frames += 1
            self.data_bytes += queued
            stream.dribbled = False
            if end:
                self._finish(stream, trailers=False)
                return
        elif end and stream.trailers is None:
            parts.append(frame_header(0, DATA, END_STREAM, stream.stream_id))
            self.data_frames += 1
            self._finish(stream, trailers=False)
            return
        if stream.trailers is not None:
            self._send_block(stream.stream_id, stream.trailers, END_STREAM, parts)
            stream.trailers = None
            self._finish(stream, trailers=True)

    def _finish(self, stream: Outgoing, *, trailers: bool) -> None:
        stream.ended = True
        stream.end_sent(trailers=trailers)
        self.finished.append(stream)

    def _send_heads(self, stream: Outgoing, parts: Parts) -> bool:
        """True if a body may follow."""
        for block, informational in stream.heads:
            alone = not informational and stream.end_queued and not stream.queued and stream.trailers is None
            self._send_block(stream.stream_id, block, END_STREAM if alone else 0, parts)
            stream.answered = not informational
            stream.head_sent(informational=informational)
            if alone:
                stream.heads.clear()
                self._finish(stream, trailers=False)
                return False
        stream.heads.clear()
        return True

    def _send_block(self, stream_id: int, block: bytes, flags: int, parts: Parts) -> None:
        """HEADERS, and CONTINUATION where the block is longer than a frame."""
        if self.prefix:
            block = self.prefix + block
            self.prefix = b""
        length = len(block)
        self.data_bytes += length
        if length <= QUANTUM:
            parts.append(_FRAME(length >> 8, length & 0xFF, HEADERS, flags | END_HEADERS, stream_id))
            parts.append(block)
            return
        kind = HEADERS
        for start in range(0, length, QUANTUM):
            piece = block[start : start + QUANTUM]
            last = END_HEADERS if start + QUANTUM >= length else 0
            parts.append(frame_header(len(piece), kind, flags | last, stream_id))
            parts.append(piece)
            kind, flags = CONTINUATION, 0

    def _take_all(self, stream: Outgoing, parts: Parts) -> None:
        chunks = stream.chunks
        if stream.offset:
            parts.append(memoryview(chunks.popleft())[stream.offset :])
            stream.offset = 0
        parts.extend(chunks)
        chunks.clear()
        stream.queued = 0

    def _send_piece(self, stream: Outgoing, size: int, parts: Parts) -> None:
        """One DATA frame of `size` bytes, of a body that is longer."""
        small = size < SMALL
        if small and stream.dribbled:
            self.dribbles += 1
        stream.dribbled = small
        parts.append(frame_header(size, DATA, 0, stream.stream_id))
        chunks = stream.chunks
        missing = size
        while missing:
            first = chunks[0]
            offset = stream.offset
            have = len(first) - offset
            if have > missing:
                parts.append(memoryview(first)[offset : offset + missing])
                stream.offset = offset + missing
                break
            parts.append(memoryview(first)[offset:] if offset else first)
            chunks.popleft()
            stream.offset = 0
            missing -= have
        stream.queued -= size
        stream.outbound_flow_control_window -= size
        self.window -= size
        self.data_frames += 1
        self.data_bytes += size
