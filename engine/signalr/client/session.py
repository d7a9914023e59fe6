"""What the bytes of one connection id mean to a client, across all sockets that carry them.

Owns: the handshake's request and answer, the order of messages, and stateful reconnect's numbers. Sans
I/O: never waits, never looks at a clock, never raises for what a server sent.

Theory of operation.

    HANDSHAKE ──► OPEN ◄──► AWAITING_SEQUENCE      `cut`, and the server's Sequence
        └───────────┴────────────┴──► FAILED       terminal: `SessionFailed` is the last event

Ack and Sequence are dealt with here and never leave as events. After a cut half a message is
discarded, and until the server's Sequence comes only a Close is listened to.

Spec: docs/specs/HubProtocol.md; HubConnection.ts and MessageBuffer.ts of the official client.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import msgspec

from engine.errors import HubError, LimitExceeded, RemoteProtocolError
from engine.wire.signalr.handshake import handshake_request
from engine.wire.signalr.messages import Ack, Close, HubMessage, HubProtocol, Malformed, SequenceStart
from engine.wire.signalr.resume import ResumeReceiver, ResumeSender

__all__ = ["ClientSession", "HandshakeDone", "SessionEvent", "SessionFailed"]

_MAX_HANDSHAKE = 16 * 1024  # bytes of the answer; the longest real one is a sentence


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """The server speaks our protocol."""


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """Terminal: the server refused the handshake, or sent what is no hub protocol."""

    error: HubError | RemoteProtocolError


SessionEvent = HubMessage | HandshakeDone | SessionFailed


class State(Enum):
    """Where a session stands."""

    HANDSHAKE = auto()
    OPEN = auto()
    AWAITING_SEQUENCE = auto()
    FAILED = auto()


class _Answer(msgspec.Struct):
    error: str | None = None
    type: int | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class ClientSession:
    """See the module.

    Args:
        protocol: the encoding.
        max_message_size: bytes of one message from the server.
        buffer_size: of stateful reconnect: unacknowledged bytes beyond which senders should wait; None:
            the connection has no stateful reconnect.

    Attributes:
        state: where it stands.
        outgoing: what stateful reconnect keeps, or None.
    """

    def __init__(self, protocol: HubProtocol, *, max_message_size: float, buffer_size: float | None = None) -> None:
        # immutable
        self._protocol = protocol
        self._limit = max_message_size
        # owned by the receiver
        self.state = State.HANDSHAKE
        self._head = bytearray()  # of a handshake answer that is incomplete
        self._reader = protocol.reader(max_message_size)
        self._incoming = None if buffer_size is None else ResumeReceiver()
        self._events: deque[SessionEvent] = deque()
        # owned by the sender
        self.outgoing = None if buffer_size is None else ResumeSender(buffer_size)

    @property
    def stateful(self) -> bool:
        """It can outlive a socket."""
        return self.outgoing is not None

    @property
    def ack_due(self) -> bool:
        """The server should be told what has arrived."""
        return self._incoming is not None and self._incoming.has_news

    # -- receiving ------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take bytes in the order of their arrival; discarded after a failure."""
        if self.state is State.HANDSHAKE:
            data = self._receive_answer(data)
        if data and self.state is not State.FAILED:
            self._reader.receive_data(data)
            self._read()

    def next_event(self) -> SessionEvent | None:
        """What happened, in order; None if more bytes are needed."""
        return self._events.popleft() if self._events else None

    def cut(self) -> None:
        """The socket is gone; another one may carry on."""
        if self.state is State.OPEN:
            self.state = State.AWAITING_SEQUENCE
        self._reader = self._protocol.reader(self._limit)

    def acknowledge(self) -> bytes:
        """An Ack of everything so far."""
        if self._incoming is None:
            raise AssertionError("only stateful reconnect has Acks")
        return self._protocol.ack(self._incoming.acknowledge())

    def _receive_answer(self, data: bytes) -> bytes:
        """Read the handshake's answer; returns what came behind it."""
        searched = len(self._head)
        self._head += data
        end = self._head.find(b"\x1e", searched)
        if end < 0:
            if len(self._head) > _MAX_HANDSHAKE:
                self._fail(RemoteProtocolError("the server's answer to the handshake has no end"))
            return b""
        answer, rest = bytes(self._head[:end]), bytes(self._head[end + 1 :])
        self._head.clear()
        try:
            parsed = _decode_answer(answer.decode("utf-8", "replace"))
        except (msgspec.DecodeError, RecursionError):
            self._fail(RemoteProtocolError("the server's answer to the handshake is malformed; is this a hub?"))
            return b""
        if parsed.error is not None:
            self._fail(HubError(f"Server returned handshake error: {parsed.error}"))
        elif parsed.type is not None:
            self._fail(RemoteProtocolError("Expected a handshake response from the server."))
        else:
            self.state = State.OPEN
            self._events.append(HandshakeDone())
            return rest
        return b""

    def _read(self) -> None:
        while self.state is not State.FAILED:
            event = self._reader.next_event()
            if event is None:
                return
            if isinstance(event, Malformed):
                self._fail(self._explain(event.error))
            elif self._accepts(event):
                self._events.append(event)

    def _accepts(self, message: HubMessage) -> bool:
        """Count it; False: it is not for the user."""
        incoming, outgoing = self._incoming, self.outgoing
        if incoming is None or outgoing is None:
            return type(message) not in (Ack, SequenceStart)
        if isinstance(message, SequenceStart):
            error = incoming.start(message.sequence_id)
            if error is not None:
                self._fail(error)
            else:
                self.state = State.OPEN
            return False
        if self.state is State.AWAITING_SEQUENCE:
            return isinstance(message, Close)
        if isinstance(message, Ack):
            outgoing.acknowledged(message.sequence_id)
            return False
        return incoming.is_new(message)

    def _explain(self, error: RemoteProtocolError | LimitExceeded) -> RemoteProtocolError:
        if isinstance(error, RemoteProtocolError):
            return error
        return RemoteProtocolError(
            f"the server sent a message of more than {self._limit:.0f} bytes; "
            "raise max_message_size of the HubConnection"
        )

    def _fail(self, error: HubError | RemoteProtocolError) -> None:
        self.state = State.FAILED
        self._events.append(SessionFailed(error))

    # -- sending --------------------------------------------------------------

    def handshake_request(self) -> bytes:
        """What is sent first on the first socket."""
        # Version 2 is what knows Ack and Sequence; older servers refuse it.
        return handshake_request(self._protocol.name, 2 if self.stateful else 1)

    def resume(self) -> list[bytes]:
        """What is sent first on any other socket: Sequence, and all that the server may not have."""
        if self.outgoing is None:
            raise AssertionError("only stateful reconnect resumes")
        first, frames = self.outgoing.replay()
        return [self._protocol.sequence(first), *frames]
