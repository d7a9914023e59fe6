"""An `Exchange` in memory: the test is the client and the driver.

Owns: what the endpoint wrote, in order, and what the client has sent so far. Windows are endless
unless `room` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from engine.config import Config
from engine.errors import ConnectionClosed, Http2Code, LocalProtocolError
from engine.grpc.endpoint import GrpcEndpoint
from engine.transport.exchange import CancelReason, Exchange, Fields, Peer, RequestHead
from engine.transport.mailbox import Mailbox
from engine.transport.watchdog import Timer
from engine.wire.grpc.framing import MessageParser, frame

PEER = Peer("127.0.0.1:50000", "127.0.0.1:8000", 1)
HEADERS: tuple[tuple[bytes, bytes], ...] = ((b"te", b"trailers"), (b"content-type", b"application/grpc"))


class FakeExchange(Exchange):
    def __init__(
        self,
        path: str = "/greet.Greeter/SayHello",
        headers: Fields = (),
        *,
        base: Fields = HEADERS,
        method: str = "POST",
        http_version: str = "2",
        config: Config | None = None,
    ) -> None:
        self.head = RequestHead(method, path, "", "http", "test", (*base, *headers), http_version, None, path.encode())
        self.peer = PEER
        self.config = config or Config()
        self.scope = trio.CancelScope()
        self.cancel_reason = None
        self.status = 0
        self.response_ended = False
        self.draining = False
        self.on_cancelled: Callable[[CancelReason], None] | None = None
        self.on_draining = None
        self.max_body: float = 1000
        self.min_body_rate = 240
        self._body: Mailbox[bytes] = Mailbox()
        # what the test looks at
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.trailers: list[tuple[bytes, bytes]] = []
        self.flushed: list[int] = []  # bytes of body at each flush
        self.reset_code: Http2Code | None = None
        self.room = math.inf
        self.error: BaseException | None = None

    # -- the client -----------------------------------------------------------

    def send_message(self, payload: bytes) -> None:
        self.send_bytes(b"".join(frame(payload)))

    def send_bytes(self, data: bytes) -> None:
        self._body.put(data)

    def end_request(self) -> None:
        self._body.end()

    def abort_request(self, reason: CancelReason = CancelReason.PEER_RESET) -> None:
        """RST_STREAM or a lost connection."""
        self._body.end(ConnectionClosed(1006, "the stream was reset"))
        self.response_ended = True
        self.cancel(reason)

    @property
    def messages(self) -> list[bytes]:
        parser = MessageParser(2**32)
        parser.receive_data(self.body)
        messages = list(iter(parser.next_message, None))
        parser.receive_eof()
        assert parser.next_message() is None
        assert parser.ended, "the response is cut inside a message"
        return messages

    @property
    def grpc_status(self) -> tuple[int, str]:
        """Code and raw message, wherever they are."""
        fields = dict(self.trailers) if self.trailers else self.headers
        return int(fields[b"grpc-status"]), fields.get(b"grpc-message", b"").decode("ascii")

    # -- the driver -----------------------------------------------------------

    async def run(self, endpoint: GrpcEndpoint) -> FakeExchange:
        """Serve the exchange to its end as the drivers and the app do."""
        with self.scope:
            try:
                await endpoint.serve(self, {})
            except Exception as error:
                self.error = error
                endpoint.fail(self, error)
        if self.scope.cancelled_caught:
            self.cancel_reason = self.cancel_reason or CancelReason.DEADLINE
            if self.on_cancelled is not None:
                self.on_cancelled(self.cancel_reason)
        return self

    # -- the exchange ---------------------------------------------------------

    async def receive(self) -> bytes:
        return await self._body.get() or b""

    def receive_nowait(self) -> bytes | None:
        item = self._body.get_nowait()
        if item is None and self._body.ended and self.cancel_reason is None:
            return b""
        return item

    def attach(self, sink: Callable[[bytes], None]) -> None:
        raise AssertionError("a gRPC call does not attach")

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        raise AssertionError("a gRPC call waits in its own task")

    def pause_receiving(self) -> None:
        raise NotImplementedError

    def resume_receiving(self) -> None:
        raise NotImplementedError

    def write_head(self, status: int, headers: Fields = (), *, end: bool = False) -> None:
        if self.status:
            raise LocalProtocolError("two heads")
        self.status = status
        self.headers = dict(headers)
        self.response_ended = end

    def write_informational(self, status: int, headers: Fields = ()) -> None:
        raise NotImplementedError

    @property
    def bytes_sent(self) -> int:
        return 0

    def write(self, data: bytes, *, end: bool = False) -> None:
        assert self.status, "body before head"
        if not self.response_ended:
            self.body += data
            self.response_ended = end

    def write_trailers(self, headers: Fields) -> None:
        assert self.status, "trailers before head"
        if not self.response_ended:
            self.trailers = list(headers)
            self.response_ended = True

    def switch_protocol(self, headers: Fields = ()) -> None:
        raise NotImplementedError

    @property
    def queued(self) -> int:
        return max(0, int(min(len(self.body), 2**62) - self.room)) if self.room != math.inf else 0

    def flush(self) -> None:
        self.flushed.append(len(self.body))

    def flush_soon(self) -> None:
        pass

    async def drain(self) -> None:
        self.flush()
        if self.queued > self.config.http2.send_buffer:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint_if_cancelled()

    def timer(self, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError

    def reset(self, code: Http2Code = Http2Code.CANCEL) -> None:
        self.reset_code = code

    def close(self) -> None:
        raise NotImplementedError
