"""The client side of HTTP/1.1 as a sans-IO core over h11 (RFC 9112).

Owns: the bytes of requests, where a response ends, and whether the connection can be used again.
Never knows the time, a socket, a URL or who asked. Redirections, retries and pools are its caller's.

Theory of operation. One request at a time: `send_request` gives the whole request, body included, and
the response comes as events: its head, pieces of body, its end. `start_next` begins anew where both
sides keep the connection. Informational responses before the real one are skipped.

    core = Http1ClientCore()
    transport.write(core.send_request(b"GET", b"/", [(b"host", b"x")]))
    core.receive_data(data)
    while (event := core.next_event()) is not None: ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import h11

from engine.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "DataReceived",
    "Http1ClientCore",
    "Http1ClientEvent",
    "ResponseEnded",
    "ResponseFailed",
    "ResponseReceived",
]

_MAX_HEAD = 64 * 1024  # bytes of a response's head; curl allows 300 KiB, browsers 256 KiB


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The head of the response; names of fields are in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A piece of body, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ResponseEnded:
    """The response is complete."""


@dataclass(frozen=True, slots=True)
class ResponseFailed:
    """Terminal: the server broke the protocol, or the bytes ended within the response."""

    error: RemoteProtocolError


Http1ClientEvent = ResponseReceived | DataReceived | ResponseEnded | ResponseFailed


class Http1ClientCore:
    """One connection, seen from the client.

    Attributes:
        failure: why nothing more can be done with it.
        answered: bytes of a response to the current request have come.
        ended: all of it has.
    """

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self.ended = False
        self.failure: RemoteProtocolError | None = None
        self.answered = False

    def send_request(
        self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes | None = None
    ) -> bytes:
        """The bytes of a request; a body, also an empty one, gets its length.

        Raises:
            LocalProtocolError: a target or field that HTTP forbids, or a request is under way.
        """
        fields = list(headers)
        if body is not None:
            fields.append((b"content-length", b"%d" % len(body)))
        try:
            request = h11.Request(method=method, target=target, headers=fields)
            head = self._connection.send(request) or b""
            content = (self._connection.send(h11.Data(data=body)) or b"") if body else b""
            end = self._connection.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(f"no such request can be sent: {error}") from None
        return head + content + end

    def receive_data(self, data: bytes) -> None:
        """Take bytes in the order of their arrival; discarded after a failure."""
        if self.failure is None and data:
            self.answered = True
            self._connection.receive_data(data)

    def receive_eof(self) -> None:
        """No more bytes will come; that may be how a response ends."""
        if self.failure is None:
            self._connection.receive_data(b"")

    def next_event(self) -> Http1ClientEvent | None:
        """What comes next of the response, or None if more bytes are needed or it is over."""
        if self.failure is not None or self.ended:
            return None
        while True:
            try:
                event = self._connection.next_event()
            except h11.RemoteProtocolError as error:
                return self._fail(f"malformed response: {error}")
            match event:
                case h11.InformationalResponse():
                    continue
                case h11.Response():
                    return ResponseReceived(event.status_code, tuple(event.headers))
                case h11.Data():
                    if event.data:
                        return DataReceived(bytes(event.data))
                case h11.EndOfMessage():
                    self.ended = True
                    return ResponseEnded()
                case h11.ConnectionClosed():
                    return self._fail("the server closed the connection without a response")
                case _:
                    return None  # NEED_DATA, PAUSED

    @property
    def reusable(self) -> bool:
        """The response is complete, and both sides keep the connection."""
        connection = self._connection
        return (
            self.ended
            and connection.our_state is h11.DONE
            and connection.their_state is h11.DONE
            and connection.trailing_data == (b"", False)
        )

    def start_next(self) -> None:
        """Begin anew; only where it is `reusable`."""
        if not self.reusable:
            raise LocalProtocolError("this connection cannot be used for another request")
        self._connection.start_next_cycle()
        self.ended = self.answered = False

    def _fail(self, why: str) -> ResponseFailed:
        self.failure = RemoteProtocolError(why)
        return ResponseFailed(self.failure)
