"""Stateful reconnect: which messages survive a cut, and how both sides agree on them.

Owns: the numbers of messages in both directions, the copies of what the peer has not acknowledged,
and which received messages are repetitions. Never decides when: the caller sends Ack (at most one a
second) and Sequence, and keeps the grace of a connection that was cut.

Theory of operation. Invocations, stream items, completions and cancels are numbered from 1, in each
direction by itself; the numbers are never sent with them and never start anew. Ping, Close, Ack and
Sequence are not numbered. After a cut each side first sends Sequence with the number of the message
that comes next on the new transport: the first unacknowledged one, or else the one after the last.
Then it repeats what is unacknowledged, and goes on. The receiver counts on from that number and
ignores what it has seen. A Sequence beyond what would come next tells of lost messages, and ends the
connection.

Spec: docs/specs/HubProtocol.md, "Stateful Reconnect"; MessageBuffer.cs, whose numbers these are where
the prose differs.
"""

from __future__ import annotations

from collections import deque

from engine.errors import RemoteProtocolError
from engine.wire.signalr.messages import (
    CancelInvocation,
    Completion,
    HubMessage,
    Invocation,
    StreamInvocation,
    StreamItem,
)

__all__ = ["ACK_INTERVAL", "ResumeReceiver", "ResumeSender"]

ACK_INTERVAL = 1.0  # seconds; ASP.NET Core's and the JavaScript client's

_NUMBERED = frozenset((Invocation, StreamInvocation, StreamItem, Completion, CancelInvocation))
_TOO_FAR = "Sequence ID greater than amount of messages we've received."


class ResumeSender:
    """The outgoing half: numbers what is sent and keeps it until it is acknowledged.

    Args:
        limit: bytes beyond which senders should wait for an acknowledgement. Nothing is refused:
            whoever sends all the same is kept.

    Attributes:
        total: messages that were sent; the number of the last one.
        size: bytes that are kept.
    """

    __slots__ = ("_frames", "_limit", "size", "total")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._frames: deque[bytes] = deque()  # the last has the number `total`
        self.total = 0
        self.size = 0

    @property
    def blocked(self) -> bool:
        """More is kept than `limit`."""
        return self.size > self._limit

    def sent(self, frame: bytes) -> None:
        """A numbered message goes out, or would if there were a transport."""
        self.total += 1
        self.size += len(frame)
        self._frames.append(frame)

    def acknowledged(self, sequence_id: int) -> None:
        """Forget everything up to this number; numbers that were not sent yet acknowledge what was."""
        frames = self._frames
        while frames and self.total - len(frames) < sequence_id:
            self.size -= len(frames.popleft())

    def replay(self) -> tuple[int, tuple[bytes, ...]]:
        """For a new transport: the number for Sequence, and what to repeat behind it."""
        return self.total - len(self._frames) + 1, tuple(self._frames)


class ResumeReceiver:
    """The incoming half: counts, and recognises repetitions.

    Attributes:
        latest: the highest number that was received.
    """

    __slots__ = ("_acknowledged", "_next", "latest")

    def __init__(self) -> None:
        self._next = 1  # of the message that comes next
        self._acknowledged = 0
        self.latest = 0

    def is_new(self, message: HubMessage) -> bool:
        """Count a message; False: it is a repetition, to be ignored."""
        if type(message) not in _NUMBERED:
            return True
        number = self._next
        self._next = number + 1
        if number <= self.latest:
            # The Ack that told of it was lost with the transport; a sender whose buffer is full waits for it.
            self._acknowledged = min(self._acknowledged, number - 1)
            return False
        self.latest = number
        return True

    def start(self, sequence_id: int) -> RemoteProtocolError | None:
        """The peer's Sequence: its next message has this number. An error: messages were lost."""
        # Not `> self._next`, as ASP.NET Core has it: a second cut in the middle of a repetition leaves
        # `_next` behind what was received, and acknowledged, before the first.
        if sequence_id > self.latest + 1:
            return RemoteProtocolError(_TOO_FAR)
        self._next = sequence_id
        return None

    @property
    def has_news(self) -> bool:
        """An Ack would tell the peer something."""
        return self.latest > self._acknowledged

    def acknowledge(self) -> int:
        """The number for an Ack that is about to be sent."""
        self._acknowledged = self.latest
        return self.latest
