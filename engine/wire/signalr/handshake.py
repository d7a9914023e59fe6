"""The handshake that opens a hub connection: always JSON, always ended by 0x1E, whatever follows.

Owns: the request, the answer, and every text that refuses one. Never decides when: the caller keeps
the time-out.

Spec: docs/specs/HubProtocol.md, "Overview"; HandshakeProtocol.cs, HubConnectionContext.HandshakeAsync.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from engine.wire.signalr.messages import MAX_VERSION, HubProtocol, TransferFormat

__all__ = ["CANCELED", "HandshakeAccepted", "HandshakeReader", "HandshakeRefused", "handshake_request"]

CANCELED = "Handshake was canceled."  # too late, or too large
MALFORMED = "An unexpected error occurred during connection handshake."


class _Request(msgspec.Struct):
    protocol: str
    version: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]  # as .NET reads it


_decode = msgspec.json.Decoder(_Request).decode


@dataclass(frozen=True, slots=True)
class HandshakeAccepted:
    """The client and we speak `protocol`; `rest` came behind the request and is hub messages."""

    protocol: HubProtocol
    version: int
    rest: bytes
    answer: bytes = b"{}\x1e"


@dataclass(frozen=True, slots=True)
class HandshakeRefused:
    """Terminal: send `answer` and close the connection."""

    error: str

    @property
    def answer(self) -> bytes:
        return b'{"error":%b}\x1e' % msgspec.json.encode(self.error)


class HandshakeReader:
    """Bytes in, one event out.

    Args:
        protocols: by their names in lower case.
        formats: what the transport carries.
        limit: bytes within which the request must end.
        detailed: append what is wrong with a malformed request.
    """

    def __init__(
        self,
        protocols: Mapping[str, HubProtocol],
        formats: frozenset[TransferFormat],
        limit: float,
        *,
        detailed: bool = False,
    ) -> None:
        self._protocols = protocols
        self._formats = formats
        self._limit = limit
        self._detailed = detailed
        self._buffer = bytearray()
        self._event: HandshakeAccepted | HandshakeRefused | None = None
        self._done = False

    def receive_data(self, data: bytes) -> None:
        """Take bytes; discarded once there was an event."""
        if self._done:
            return
        searched = len(self._buffer)
        self._buffer += data
        end = self._buffer.find(b"\x1e", searched)
        if 0 <= end < self._limit:
            self._event = self._judge(bytes(self._buffer[:end]), bytes(self._buffer[end + 1 :]))
        elif end >= 0 or len(self._buffer) > self._limit:
            self._event = HandshakeRefused(CANCELED)
        if self._event is not None:
            self._done = True
            self._buffer.clear()

    def next_event(self) -> HandshakeAccepted | HandshakeRefused | None:
        """The outcome, once."""
        event, self._event = self._event, None
        return event

    def _judge(self, request: bytes, rest: bytes) -> HandshakeAccepted | HandshakeRefused:
        try:
            asked = _decode(request.decode("utf-8", "replace"))
        except (msgspec.DecodeError, RecursionError) as error:
            detail = f" {type(error).__name__}: {error}" if self._detailed else ""
            return HandshakeRefused(MALFORMED + detail)
        protocol = self._protocols.get(asked.protocol.lower())
        if protocol is None:
            return HandshakeRefused(f"The protocol '{asked.protocol}' is not supported.")
        if asked.version > MAX_VERSION:
            return HandshakeRefused(
                f"The server does not support version {asked.version} of the '{protocol.name}' protocol."
            )
        wanted = protocol.transfer_format
        if wanted not in self._formats:
            return HandshakeRefused(
                f"Cannot use the '{protocol.name}' protocol on the current transport. "
                f"The transport does not support '{wanted.value}' transfer format."
            )
        return HandshakeAccepted(protocol, asked.version, rest)


def handshake_request(protocol: str, version: int) -> bytes:
    """What a client sends first."""
    return b'{"protocol":%b,"version":%d}\x1e' % (msgspec.json.encode(protocol), version)
