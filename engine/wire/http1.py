"""The server side of HTTP/1.1 as a sans-IO core over h11 (RFC 9112).

Owns: where one request ends and the next begins, the order of requests and responses, and the bytes
of responses. Never knows the time, a socket or a handler.

Theory of operation. Bytes pass a strict reader first (`http1_head`, `http1_chunks`), which refuses
what h11 would let through, and reach h11 in a normal form: whole heads, pieces of body, one chunk a
read. h11 then decides what the request is and whether the connection can be used again; where it
refuses what the strict reader let through, that is a failure of the peer too.

    HEAD ──► BODY ──► COMPLETE ──► HEAD ...      `next_request` makes the last step
      │        │          └──────► SWITCHED      `switch_protocol`: the bytes are no longer ours
      └────────┴─────────────────► CLOSED        a failure, an end in the middle, or `refuse`

While a request is COMPLETE what follows it (pipelining) is kept unread, so that nothing of a request
is looked at before the answer to the one before it is out. `buffered` says how much that is: the
driver stops reading, for nothing here bounds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

import h11

from engine.config import Http1Config
from engine.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from engine.wire.http1_chunks import ChunkReader
from engine.wire.http1_head import Buffer, FieldList, HeadLimits, RequestReceived, SectionReader, assemble, match_head

__all__ = [
    "BodyReceived",
    "ConnectionFailed",
    "Http1Core",
    "Http1Event",
    "RequestEnded",
    "RequestReceived",
    "reason_phrase",
]

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_REASONS.update({413: b"Content Too Large", 422: b"Unprocessable Content"})  # RFC 9110's names
_END = h11.EndOfMessage()  # frozen, so one does for all responses without trailers


@dataclass(frozen=True, slots=True)
class BodyReceived:
    """A piece of request body, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The request is complete."""

    trailers: FieldList


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The peer broke the protocol or a limit: nothing behind it is looked at.

    The core does not answer by itself, for a response to this request may already have begun:
    `refuse` gives the bytes that do.
    """

    error: RemoteProtocolError | LimitExceeded


Http1Event = RequestReceived | BodyReceived | RequestEnded | ConnectionFailed
_NO_TRAILERS = RequestEnded([])


class _State(Enum):
    HEAD = auto()
    BODY = auto()
    COMPLETE = auto()
    SWITCHED = auto()
    CLOSED = auto()


class Http1Core:
    """One HTTP/1.1 connection, seen from the server.

    Args:
        config: `max_head_size`, `max_target_size` and `max_fields` are used.
    """

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_chunks",
        "_ended",
        "_events",
        "_h11",
        "_limits",
        "_remaining",
        "_request",
        "_section",
        "_state",
        "failure",
    )

    def __init__(self, config: Http1Config) -> None:
        # immutable
        self._limits = HeadLimits(config.max_head_size, config.max_target_size, config.max_fields)
        # of the connection
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=config.max_head_size)
        self._events: deque[Http1Event] = deque()
        self._buffer = bytearray()  # received and not yet understood; starts where a section starts
        self._state = _State.HEAD
        self._ended = False  # the peer sends no more
        self.failure: RemoteProtocolError | LimitExceeded | None = None
        # of the current request
        self._request: RequestReceived | None = None
        self._section: SectionReader | None = None  # only for a head that arrives in pieces
        self._chunks: ChunkReader | None = None
        self._remaining = 0  # of a body with Content-Length
        self._bodiless = False  # the response has no body, whatever its head says

    # -- receiving ------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take what the peer sent; events follow. Never raises for it."""
        state = self._state
        if state is _State.CLOSED:
            return
        buffer = self._buffer
        if buffer or state is _State.COMPLETE or state is _State.SWITCHED:
            buffer += data
            self._advance(buffer)
        else:
            # The usual case: nothing waits, and nothing is left. Then nothing is copied either.
            self._advance(data)

    def receive_eof(self) -> None:
        """The peer sends no more. In the middle of a request that is a failure, elsewhere it is its right."""
        self._ended = True
        self._check_truncated()

    def next_event(self) -> Http1Event | None:
        """The next event, None where there is none yet."""
        return self._events.popleft() if self._events else None

    @property
    def buffered(self) -> int:
        """Bytes that wait behind the current request."""
        return len(self._buffer)

    @property
    def in_head(self) -> bool:
        """A head has begun and is not complete."""
        return self._state is _State.HEAD and bool(self._buffer) and self._buffer != b"\r\n"

    @property
    def idle(self) -> bool:
        """Between requests: nothing of the next one has arrived."""
        return self._state is _State.HEAD and not self.in_head

    @property
    def request_complete(self) -> bool:
        """All of the current request has arrived."""
        return self._state is _State.COMPLETE

    @property
    def body_remaining(self) -> int | None:
        """Bytes of request body still to come; None where it is chunked and not at its end."""
        return self._remaining if self._state is not _State.BODY or self._chunks is None else None

    @property
    def awaits_continue(self) -> bool:
        """The peer holds its body back until it gets 100 Continue, or a final answer."""
        return self._state is _State.BODY and self._h11.they_are_waiting_for_100_continue

    def _advance(self, data: Buffer) -> None:
        """Read on in `data`, which is the buffer itself where bytes were waiting in it."""
        used = 0
        try:
            while True:
                before = self._state
                if before is _State.HEAD:
                    used = self._read_head(data, used)
                elif before is _State.BODY:
                    used = self._read_body(data, used)
                if self._state is before:
                    break
        except (RemoteProtocolError, LimitExceeded) as error:
            self._fail(error)
            return
        except h11.RemoteProtocolError as error:
            self._fail(RemoteProtocolError(str(error), http_status=error.error_status_hint))
            return
        buffer = self._buffer
        if data is buffer:
            del buffer[:used]
        elif used < len(data):
            buffer += memoryview(data)[used:]

    def _read_head(self, data: Buffer, pos: int) -> int:
        if pos == len(data):
            return pos
        section = self._section
        if section is None:
            found = match_head(data, pos, self._limits)
            if found is not None:
                self._begin(found[0], data[pos : found[1]])
                return found[1]
            section = self._section = SectionReader(self._limits)
        if not section.feed(data, pos):
            return pos
        self._section = None
        if section.request_line is None:
            raise AssertionError("a section without a request line cannot be complete")
        end = pos + section.size
        self._begin(assemble(*section.request_line, section.fields), data[pos:end])
        return end

    def _begin(self, request: RequestReceived, head: Buffer) -> None:
        connection = self._h11
        # h11 refuses the empty line that RFC 9112 2.2 lets us ignore.
        connection.receive_data(bytes(head[2:] if head[:2] == b"\r\n" else head))
        if type(connection.next_event()) is not h11.Request:
            raise AssertionError("h11 did not take a complete head for one")
        self._request = request
        self._bodiless = request.method == b"HEAD"
        self._events.append(request)
        self._state = _State.BODY
        length = request.content_length
        if length is None:
            self._chunks = ChunkReader(self._limits)
            return
        self._chunks = None
        self._remaining = length
        if not length:
            self._drain_h11()

    def _read_body(self, data: Buffer, pos: int) -> int:
        if self._chunks is not None:
            return self._read_chunks(self._chunks, data, pos)
        size = len(data)
        if pos == size:
            return pos
        end = min(pos + self._remaining, size)
        self._remaining -= end - pos
        self._h11.receive_data(bytes(data) if end - pos == size else bytes(data[pos:end]))
        self._drain_h11()
        return end

    def _read_chunks(self, chunks: ChunkReader, data: Buffer, pos: int) -> int:
        connection = self._h11
        payload: list[bytes] = []
        try:
            pos = chunks.feed(data, pos, payload)
        finally:
            if payload:
                joined = payload[0] if len(payload) == 1 else b"".join(payload)
                connection.receive_data(b"%x\r\n%b\r\n" % (len(joined), joined))
                self._drain_h11()
        if chunks.ended:
            lines = [b"%b: %b\r\n" % field for field in chunks.trailers]
            connection.receive_data(b"0\r\n%b\r\n" % b"".join(lines))
            self._drain_h11()
        return pos

    def _drain_h11(self) -> None:
        """Pass on what h11 makes of a piece of body."""
        connection, events = self._h11, self._events
        while True:
            event = connection.next_event()
            if type(event) is h11.Data:
                events.append(BodyReceived(bytes(event.data)))
            elif type(event) is h11.EndOfMessage:
                self._state = _State.COMPLETE
                chunks = self._chunks
                events.append(RequestEnded(chunks.trailers) if chunks is not None and chunks.trailers else _NO_TRAILERS)
                return
            else:
                return

    def _check_truncated(self) -> None:
        if self._ended and (self._state is _State.BODY or self.in_head):
            part = "head" if self._state is _State.HEAD else "body"
            self._fail(RemoteProtocolError(f"the connection ended in the middle of a request {part}; send all of it"))

    def _fail(self, error: RemoteProtocolError | LimitExceeded) -> None:
        self.failure = error
        self._close()
        self._events.append(ConnectionFailed(error))

    def _close(self) -> None:
        self._state = _State.CLOSED
        self._buffer.clear()

    # -- sending --------------------------------------------------------------

    @property
    def keeps_alive(self) -> bool:
        """The response is complete, and another request may follow once this one is complete too."""
        return self._state not in (_State.CLOSED, _State.SWITCHED) and self._h11.our_state is h11.DONE

    def next_request(self) -> None:
        """Begin the next request, of which some or all may have arrived already.

        Raises:
            LocalProtocolError: not `keeps_alive`, or the request is not complete.
        """
        if not self.keeps_alive or self._state is not _State.COMPLETE:
            raise LocalProtocolError("the exchange before is not complete; finish it, or close the connection")
        self._h11.start_next_cycle()
        self._state = _State.HEAD
        self._request = None
        self._bodiless = False
        if self._buffer:
            self._advance(self._buffer)
        self._check_truncated()

    def send_response(
        self, status: int, fields: Sequence[tuple[bytes, bytes]], *, end: bool = False, close: bool = False
    ) -> bytes:
        """The bytes of a response head.

        Args:
            status: 200 to 999.
            fields: without framing, except for content-length where it is known.
            end: there is no body.
            close: the connection ends with this response.

        Raises:
            LocalProtocolError: a field that would break the framing, or not the time for a response.
                After the former the response can still be sent.
        """
        headers = list(fields)
        no_length = status in (204, 304)
        if no_length:
            # RFC 9110 8.6: no Content-Length in 204; none at all is the simplest truth in 304.
            headers = [field for field in headers if field[0] != b"content-length"]
        elif end and not self._bodiless and not any(name == b"content-length" for name, _ in fields):
            headers.append((b"content-length", b"0"))
        if close:
            headers.append((b"connection", b"close"))
        try:
            response = h11.Response(status_code=status, headers=headers, reason=_REASONS.get(status, b""))
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(f"{error}; mend this response field") from None
        head = self._send(response)
        self._bodiless = self._bodiless or no_length
        return head + self._send(_END) if end or self._bodiless else head

    @property
    def bodiless(self) -> bool:
        """The response has no body (HEAD, 204, 304): it was complete with its head."""
        return self._bodiless

    def send_data(self, data: bytes) -> bytes:
        """The bytes of a piece of response body.

        Raises:
            LocalProtocolError: more than Content-Length said, or not the time for it. The response is lost.
        """
        return self._send(h11.Data(data=data)) if data else b""

    def end_response(self, trailers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
        """The bytes that end a response. Trailers are dropped where the framing has no place for them (HTTP/1.0).

        Raises:
            LocalProtocolError: less than Content-Length said, trailers with it, or not the time for it.
        """
        if not trailers or (self._request is not None and self._request.http_version == "1.0"):
            return self._send(_END)
        try:
            end = h11.EndOfMessage(headers=list(trailers))
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(f"{error}; mend this trailer field") from None
        return self._send(end)

    def send_informational(self, status: int, fields: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
        """The bytes of a 1xx head; none to HTTP/1.0, which does not know them (RFC 9110 15.2).

        Raises:
            LocalProtocolError: a bad field, or a response has begun.
        """
        if self._request is not None and self._request.http_version == "1.0":
            return b""
        return self._send(self._informational(status, fields))

    def switch_protocol(self, fields: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        """Answer 101: the bytes of that head, and what the peer has already sent in its new protocol.

        Raises:
            LocalProtocolError: a bad field, or the request did not ask for a WebSocket.
        """
        request = self._request
        if self._state is not _State.COMPLETE or request is None or not request.wants_websocket:
            raise LocalProtocolError("the request asked for no upgrade; answer it with a response")
        upgrade = ((b"upgrade", b"websocket"), (b"connection", b"Upgrade"))
        head = self._send(self._informational(101, (*upgrade, *fields)))
        self._state = _State.SWITCHED
        del self._h11  # it has done its work, and connections of this kind are many and idle
        trailing = bytes(self._buffer)
        self._buffer.clear()
        return head, trailing

    def refuse(self, status: int, fields: Sequence[tuple[bytes, bytes]], text: str) -> bytes:
        """A last response, which closes the connection; for a request that was refused as it arrived.

        It does not pass h11, to whose state the refused request means nothing any more. The caller
        must not have begun a response to the same request. `fields` are ours, and taken as they are.
        """
        self._close()
        body = text.encode("utf-8", "replace")
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status))]
        lines += [b"%b: %b\r\n" % field for field in fields]
        lines.append(b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % len(body))
        lines.append(b"connection: close\r\n\r\n")
        if not self._bodiless:
            lines.append(body)
        return b"".join(lines)

    def _informational(self, status: int, fields: Sequence[tuple[bytes, bytes]]) -> h11.InformationalResponse:
        try:
            return h11.InformationalResponse(status_code=status, headers=list(fields), reason=_REASONS.get(status, b""))
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(f"{error}; mend this field") from None

    def _send(self, event: h11.Event) -> bytes:
        try:
            return self._h11.send(event) or b""
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(str(error)) from None


def reason_phrase(status: int) -> bytes:
    """The phrase of a registered status, else nothing."""
    return _REASONS.get(status, b"")
