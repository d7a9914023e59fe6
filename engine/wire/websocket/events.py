"""What `engine.wire.websocket.core` makes of the bytes of a peer.

A whole message is a plain `str` or `bytes`; everything else is one of the classes here.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConnectionClosed, LimitExceeded, RemoteProtocolError


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer pinged; the pong is in `data_to_send` already."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answered a ping of ours, or sent a pong of its own accord."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class MessagePart:
    """What one read brought of a message that was not complete with it; only after `stream_messages`.

    Attributes:
        data: text or bytes; may be empty where it is the last part.
        finished: it is the last part.
    """

    data: str | bytes
    finished: bool

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it was sent, of any opcode but CLOSE; only from `engine.wire.websocket.raw`.

    Attributes:
        opcode: 0 to 15; 0 continuation, 1 text, 2 binary, 9 ping, 10 pong.
        payload: unmasked, and nothing else is done to it.
        fin: the FIN bit.
        rsv: the three reserved bits as a number, RSV1 is 4.
    """

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    def __len__(self) -> int:
        return len(self.payload)


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer's close frame: its code (1005 where it gave none) and reason. Terminal.

    It answers ours, or ours is the answer to it.
    """

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection ended without a closing handshake. Terminal.

    Attributes:
        code: what our close frame said, or 1006 where the peer just went away.
        error: why.
    """

    code: int
    error: RemoteProtocolError | LimitExceeded | ConnectionClosed


Event = str | bytes | MessagePart | Frame | Ping | Pong | CloseReceived | ConnectionFailed
