"""One attempt of a call: one stream of one connection, from its head to its status.

Owns: the response's messages and metadata as they arrive, and the one place where a client's status is made:
of `grpc-status`, or of what came instead (an HTTP status, RST_STREAM, GOAWAY, a lost connection, a
deadline). Whether there is another attempt is `engine.grpc.call`'s.

Spec: grpc/grpc doc/PROTOCOL-HTTP2.md, "Responses" and "Errors"; doc/statuscodes.md.

An attempt is fed synchronously by its connection. It ends exactly once: `finished`, with `code`,
`message` and `ended_by`; what waits for it is woken by every step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import outcome
import trio

from engine.errors import CallCause, Http2Code, RpcError, StatusCode
from engine.transport.http2_client import Http2ClientConnection, LossKind, StreamLoss
from engine.wire.grpc import compression, metadata, status, synthesis
from engine.wire.grpc.framing import MessageParser, parse_single
from engine.wire.grpc.metadata import Metadata

if TYPE_CHECKING:
    from engine.config import ChannelConfig
    from engine.wire.http2_fields import Fields

__all__ = ["Attempt"]

_FAMILY = b"application/grpc"
_MAX_HEADS = 256  # judged heads, and as many ends, that are remembered, of the process
_MAX_HEAD = 1024  # bytes of one that is
_OK_TRAILERS: Fields = ((b"grpc-status", b"0"),)
_PUSHBACK = b"grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class _Head:
    """What a response's head says."""

    encoding: str | None = None  # of compressed messages
    unknown_encoding: str = ""
    size: int = 0
    has_status: bool = False  # Trailers-Only, if the stream ends here
    code: StatusCode | None = None  # the status, unless one comes in trailers
    message: str = ""
    is_grpc: bool = True  # there may be trailers


_heads: dict[tuple[int, Fields], _Head] = {}


def _judge(http_status: int, headers: Fields) -> _Head:
    """A server sends the same few heads again and again: each is looked at once."""
    key = (http_status, headers)
    head = _heads.get(key)
    if head is None:
        head = _judge_anew(http_status, headers)
        if len(_heads) >= _MAX_HEADS:
            _heads.clear()
        if head.size < _MAX_HEAD:
            _heads[key] = head
    return head


def _judge_anew(http_status: int, headers: Fields) -> _Head:
    content_type = b""
    encoding: str | None = None
    unknown = ""
    has_status = False
    for name, value in headers:
        if name == b"content-type":
            content_type = value.strip().lower()
        elif name == b"grpc-encoding":
            encoding = compression.known(value, compression.ENCODINGS)
            unknown = "" if encoding else value.decode("latin-1")[:64]
        elif name == b"grpc-status":
            has_status = True
    size = metadata.size(headers)
    if encoding == compression.IDENTITY:
        encoding = None
    is_grpc = content_type.startswith(_FAMILY) and content_type[len(_FAMILY) :][:1] in (b"", b"+", b";")
    if has_status or (http_status == 200 and is_grpc):
        return _Head(encoding, unknown, size, has_status)
    if http_status == 200:
        text = f"the server answered with content-type {content_type.decode('latin-1')[:64]!r}; is it a gRPC server?"
        return _Head(size=size, code=StatusCode.UNKNOWN, message=text, is_grpc=False)
    # doc/http-grpc-status-mapping.md: "If grpc-status was provided, it must be used", in trailers as well.
    text = f"the server answered with HTTP status {http_status} and no grpc-status; is it a gRPC server?"
    return _Head(encoding, unknown, size, code=synthesis.of_http(http_status), message=text, is_grpc=is_grpc)


_ends: dict[Fields, tuple[StatusCode | None, str, int]] = {}


def _judge_end(trailers: Fields) -> tuple[StatusCode | None, str, int]:
    """The status, its message and the size of trailers; remembered as `_judge` does."""
    end = _ends.get(trailers)
    if end is None:
        code: StatusCode | None = None
        message = ""
        for name, value in trailers:
            if name == b"grpc-status":
                code = status.decode_status(value)
            elif name == b"grpc-message":
                message = status.decode_message(value)
        end = code, message, metadata.size(trailers)
        if len(_ends) >= _MAX_HEADS:
            _ends.clear()
        if end[2] < _MAX_HEAD:
            _ends[trailers] = end
    return end


class Attempt:
    """See the module; it is the `StreamHandler` of its stream.

    Args:
        number: from 1, for the causes of errors.
        single: the response is one message: it is collected, and credit goes back at once.
    """

    __slots__ = (
        "_body",
        "_config",
        "_head",
        "_max_size",
        "_parser",
        "_single",
        "_waiters",
        "code",
        "committed",
        "connection",
        "deadline",
        "ended_by",
        "finished",
        "headers",
        "loss",
        "message",
        "number",
        "payload",
        "stream_id",
        "trailers",
    )

    def __init__(
        self,
        connection: Http2ClientConnection,
        config: ChannelConfig,
        *,
        number: int,
        single: bool,
        max_size: int,
        deadline: float,
    ) -> None:
        # immutable
        self.connection = connection
        self.number = number
        self.deadline = deadline  # trio's clock
        self._config = config
        self._single = single
        self._max_size = max_size
        # owned by the connection
        self.stream_id = 0
        self.headers: Fields = ()
        self.trailers: Fields = ()
        self.committed = False  # the server has begun to answer: no retry
        self.payload: bytes | None = None  # the message of a single response
        self.finished = False
        self.code = StatusCode.UNKNOWN
        self.message = ""
        self.ended_by = ""
        self.loss: LossKind | None = None
        self._head: _Head | None = None
        self._parser: MessageParser | None = None
        self._body: deque[tuple[bytes, int]] = deque()
        self._waiters: list[trio.lowlevel.Task] = []

    def open(self, fields: Fields, *, reserved: bool) -> bool:
        """Begin the stream; False if the connection cannot take it any more."""
        stream_id = self.connection.open(self, fields, reserved=reserved, single=self._single)
        if stream_id is None:
            return False
        self.stream_id = stream_id
        return True

    # -- from the connection --------------------------------------------------

    def head_received(self, http_status: int, headers: Fields) -> None:
        """See `StreamHandler`."""
        self.headers = headers
        head = self._head = _judge(http_status, headers)
        if head.size > self._config.max_metadata_size:
            self._give_up(StatusCode.RESOURCE_EXHAUSTED, self._too_much_metadata(head.size), "a head that is too large")
        elif not head.is_grpc:
            self._give_up(*self._without_status())
        else:
            self.committed = True
            if not self._single:
                self._wake()

    def data_received(self, data: bytes, flow_length: int) -> None:
        """See `StreamHandler`."""
        if not self._single:
            self._body.append((data, flow_length))
            self._wake()
            return
        self.connection.consumed(self.stream_id, flow_length)
        if not data:
            return
        if self._parser is None:
            if self.payload is None:
                self.payload = parse_single(data, self._max_size)
                if self.payload is not None:
                    return
            self._parser = self._new_parser()
        self._collect(data)

    def ended(self, trailers: Fields) -> None:
        """See `StreamHandler`."""
        if self.finished:
            return
        if not trailers and self._head is not None and self._head.has_status:
            trailers = self.headers  # Trailers-Only
            self.committed = False
        self.trailers = trailers
        if trailers == _OK_TRAILERS and (not self._single or self._check_single()):
            self._finish(StatusCode.OK, "", "trailers")
            return
        self._judge_trailers(trailers)

    def _judge_trailers(self, trailers: Fields) -> None:
        if self.finished:
            return
        code, message, size = _judge_end(trailers)
        if size > self._config.max_metadata_size:
            code, message = StatusCode.RESOURCE_EXHAUSTED, self._too_much_metadata(size)
        elif code is None:
            code, message, ended_by = self._without_status()
            self._finish(code, message, ended_by)
            return
        elif code is StatusCode.OK and self._single and not self._check_single():
            return
        self._finish(code, message, "trailers")

    def lost(self, loss: StreamLoss) -> None:
        """See `StreamHandler`."""
        if self.finished:
            return
        self.loss = loss.kind
        head = self._head
        if head is not None and head.code is not None and loss.kind is not LossKind.CLOSED:
            self._finish(head.code, head.message, loss.reason)
            return
        if loss.kind is LossKind.RESET:
            assert loss.code is not None  # it is the code of RST_STREAM
            code = synthesis.of_reset(loss.code)
            if code is StatusCode.CANCELLED and trio.current_time() >= self.deadline:
                code = StatusCode.DEADLINE_EXCEEDED
        elif loss.kind is LossKind.CLOSED:
            code = StatusCode.CANCELLED
        else:
            code = StatusCode.UNAVAILABLE
        self._finish(code, loss.reason, loss.reason)

    def writable(self) -> None:
        """See `StreamHandler`."""
        self._wake()

    # -- from the call --------------------------------------------------------

    def cancel(self) -> None:
        """Nobody wants the response any more: RST_STREAM(CANCEL)."""
        self._give_up(StatusCode.CANCELLED, "the call was cancelled by its caller", "cancelled by the caller")

    def expire(self) -> None:
        """The deadline has passed: a cancellation with another status."""
        self._give_up(StatusCode.DEADLINE_EXCEEDED, "the deadline passed on the client", "the deadline")
        self._body.clear()

    def fail(self, error: RpcError) -> None:
        """Our side cannot go on."""
        self._give_up(error.code, error.message, "an error on the client")

    def take(self) -> bytes | None:
        """The next message of a stream, without waiting; None: `finished`, or wait."""
        parser = self._parser
        if parser is None:
            if not self._body:
                return None
            parser = self._parser = self._new_parser()
        while True:
            payload = parser.next_message()
            if payload is not None:
                return payload
            if parser.failure is not None:
                self._parser_failed(parser.failure)
                return None
            if not self._body:
                if self.finished and self.code is StatusCode.OK and not parser.ended:
                    self._ends_whole(parser)
                return None
            data, flow_length = self._body.popleft()
            self.connection.consumed(self.stream_id, flow_length)
            parser.receive_data(data)

    def over(self) -> bool:
        """`finished`, asked anew."""
        return self.finished

    async def changed(self) -> None:
        """Wait for the next step. A checkpoint; cancellation changes nothing."""
        task = trio.lowlevel.current_task()
        self._waiters.append(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiters.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def wait_finished(self) -> None:
        """Wait for the end of a call with a single response. A checkpoint; cancelling it cancels the call."""
        if self.finished:
            await trio.lowlevel.checkpoint()
            return
        self._waiters.append(trio.lowlevel.current_task())
        await trio.lowlevel.wait_task_rescheduled(self._abort_call)

    def _abort_call(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiters.clear()
        self.cancel()
        return trio.lowlevel.Abort.SUCCEEDED

    # -- the result -----------------------------------------------------------

    @property
    def head_is_here(self) -> bool:
        """Initial metadata has come, or will not come any more."""
        return self.committed or self.finished

    @property
    def cause(self) -> CallCause:
        """How it ended, for the causes of an error."""
        ended_by = self.ended_by
        if ended_by == "trailers":
            ended_by = f"status {self.code.name} in the {'trailers' if self.committed else 'head'}"
        return CallCause(self.connection.peer_address, self.number, ended_by)

    @property
    def pushback(self) -> int | None:
        """Milliseconds of `grpc-retry-pushback-ms` (A6); -1 forbids a retry; None: there is no such field."""
        for name, value in self.trailers:
            if name == _PUSHBACK:
                return int(value) if value.isdigit() and len(value) < 10 else -1
        return None

    def error(self, causes: tuple[CallCause, ...]) -> RpcError:
        """The end as an exception."""
        trailing = metadata.decode(self.trailers)
        pairs = () if isinstance(trailing, RpcError) else tuple(trailing)
        details = None if isinstance(trailing, RpcError) else trailing.binary("grpc-status-details-bin")
        error = RpcError(self.code, self.message, details, pairs)
        if self.committed:
            initial = metadata.decode(self.headers)
            error.initial_metadata = () if isinstance(initial, RpcError) else initial
        error.causes = causes
        return error

    def initial_metadata(self) -> Metadata:
        """What came before the first message.

        Raises:
            RpcError: INTERNAL, it is not valid.
        """
        return _decoded(self.headers if self.committed else ())

    def trailing_metadata(self) -> Metadata:
        """What came with the status. Raises as `initial_metadata`."""
        return _decoded(self.trailers)

    # -- private --------------------------------------------------------------

    def _without_status(self) -> tuple[StatusCode, str, str]:
        """What ends a response that brought no `grpc-status`: code, message and cause."""
        head = self._head
        if head is None or head.code is None:
            text = "the response ended without grpc-status; is it a gRPC server?"
            return StatusCode.UNKNOWN, text, "trailers without grpc-status" if self.trailers else "END_STREAM"
        return head.code, head.message, head.message

    def _new_parser(self) -> MessageParser:
        return MessageParser(self._max_size, self._head.encoding if self._head is not None else None)

    def _collect(self, data: bytes) -> None:
        """Body of a single response that is not one plain message in one piece."""
        parser = self._parser
        assert parser is not None  # made by the caller
        parser.receive_data(data)
        while (payload := parser.next_message()) is not None:
            if self.payload is not None:
                self._give_up(StatusCode.UNIMPLEMENTED, "the server sent several responses; one was due", "a response")
                return
            self.payload = payload
        if parser.failure is not None:
            self._parser_failed(parser.failure)

    def _check_single(self) -> bool:
        """The status is OK: is there one whole message? If not, the call ends with another status."""
        if self._parser is not None and not self._ends_whole(self._parser):
            return False
        if self.payload is None:
            # doc/statuscodes.md: "server sent some other number of responses" is UNIMPLEMENTED.
            self._finish(StatusCode.UNIMPLEMENTED, "the server sent status OK without a response", "trailers")
        return self.payload is not None

    def _ends_whole(self, parser: MessageParser) -> bool:
        """The body is complete and all messages are taken: it must not end inside of one."""
        parser.receive_eof()
        parser.next_message()
        if parser.failure is not None:
            self._parser_failed(parser.failure)
            return False
        return True

    def _parser_failed(self, failure: RpcError) -> None:
        message = failure.message
        if failure.code is StatusCode.RESOURCE_EXHAUSTED:
            message = f"a message of the response exceeds channel.max_receive_message_size ({self._max_size})"
        elif self._head is not None and self._head.unknown_encoding:
            message = f"the response is encoded as {self._head.unknown_encoding!r}, which nobody asked for"
        if self.finished:  # the end came first, the messages before it are judged now
            self.code, self.message, self.ended_by = failure.code, message, "a message of the response"
        else:
            self._give_up(failure.code, message, "a message of the response")
        self._body.clear()

    def _too_much_metadata(self, size: int) -> str:
        limit = self._config.max_metadata_size
        return f"metadata of {size} bytes in the response exceeds channel.max_metadata_size ({limit})"

    def _give_up(self, code: StatusCode, message: str, ended_by: str) -> None:
        if self.finished:
            return
        self._finish(code, message, ended_by)
        if self.stream_id:
            self.connection.reset(self.stream_id, Http2Code.CANCEL)

    def _finish(self, code: StatusCode, message: str, ended_by: str) -> None:
        self.finished = True
        self.code, self.message, self.ended_by = code, message, ended_by
        self._wake()

    def _wake(self) -> None:
        waiters = self._waiters
        if waiters:
            self._waiters = []
            for task in waiters:
                trio.lowlevel.reschedule(task, outcome.Value(None))


def _decoded(fields: Fields) -> Metadata:
    decoded = metadata.decode(fields)
    if isinstance(decoded, RpcError):
        raise decoded
    return decoded
