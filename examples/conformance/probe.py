"""conformance.v1.Probe: lets a client learn what became of a handler."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import trio

from engine import CallContext
from engine.errors import ConnectionClosed, RpcError, StatusCode
from engine.grpc import RequestStream
from engine.grpc.error_details import rich_error
from engine.grpc.health import HealthService

from .generated.conformance_probe_engine import ProbeBase
from .generated.conformance_probe_engine import conformance_probe_pb2 as pb
from .generated.interop_test_pb2 import EchoStatus

State = pb.OutcomeReply.State
MAX_CHUNK = 16 * 1024 * 1024


@dataclass
class Outcome:
    """One key's handler."""

    state: State = pb.OutcomeReply.UNKNOWN
    sent: int = 0
    received: int = 0
    ended: trio.Event = field(default_factory=trio.Event)


class Probe(ProbeBase):
    """Keeps an `Outcome` for each key that clients name."""

    def __init__(self, health: HealthService) -> None:
        self.health = health
        self.outcomes: defaultdict[str, Outcome] = defaultdict(Outcome)
        self.running = 0
        self.peak = 0

    @contextlib.contextmanager
    def watched(self, key: str, context: CallContext, *, counted: bool = False) -> Iterator[Outcome]:
        """Record how the block ends; `counted`: it is one of those that running_now is about."""
        previous = self.outcomes.get(key)
        outcome = Outcome(pb.OutcomeReply.RUNNING)
        if previous is not None and not previous.ended.is_set():
            outcome.ended = previous.ended  # somebody may be waiting for this key already
        self.outcomes[key] = outcome
        self.running += counted
        self.peak = max(self.peak, self.running)
        try:
            yield outcome
            outcome.state = pb.OutcomeReply.FINISHED
        except (trio.Cancelled, GeneratorExit, ConnectionClosed):
            outcome.state = pb.OutcomeReply.CANCELLED
            raise
        except BaseException:
            outcome.state = pb.OutcomeReply.CANCELLED if context.cancelled else pb.OutcomeReply.FAILED
            raise
        finally:
            self.running -= counted
            outcome.ended.set()

    async def hang(self, request: pb.HangRequest, context: CallContext) -> pb.HangReply:
        with self.watched(request.key, context, counted=True):
            return pb.HangReply(key=request.key, held_ms=await hold(request.hold_ms))

    async def hang_stream(self, request: pb.HangRequest, context: CallContext) -> None:
        with self.watched(request.key, context, counted=True) as outcome:
            for _ in range(request.messages):
                await context.send(pb.Chunk(data=zeros(request.chunk_size, context)))
                outcome.sent += 1
            await hold(request.hold_ms)

    async def hang_input(self, requests: RequestStream[pb.Chunk], context: CallContext) -> pb.InputReply:
        first = await anext(requests, pb.Chunk())
        size = len(first.data)
        with self.watched(first.key, context, counted=True) as outcome:
            outcome.received = 1
            if first.hold_ms > 0:
                await trio.sleep(first.hold_ms / 1000)
            async for request in requests:
                outcome.received += 1
                size += len(request.data)
            return pb.InputReply(messages=outcome.received, bytes=size)

    async def flood(self, request: pb.FloodRequest, context: CallContext) -> None:
        with self.watched(request.key, context) as outcome:
            chunk = pb.Chunk(data=zeros(request.chunk_size, context))
            for _ in range(request.count):
                await context.send(chunk)
                outcome.sent += 1

    async def early_reply(self, requests: RequestStream[pb.Chunk], context: CallContext) -> pb.InputReply:
        first = await anext(requests, pb.Chunk())
        with self.watched(first.key, context) as outcome:
            outcome.received = 1
            return pb.InputReply(messages=1, bytes=len(first.data))

    async def greet(self, requests: RequestStream[pb.Chunk], context: CallContext) -> AsyncIterator[pb.Chunk]:
        yield pb.Chunk(data=b"hello")
        async for request in requests:
            yield request

    async def outcome(self, request: pb.OutcomeRequest, context: CallContext) -> pb.OutcomeReply:
        outcome = self.outcomes[request.key]
        with trio.move_on_after(max(0, request.wait_ms) / 1000):
            await outcome.ended.wait()
        outcome = self.outcomes[request.key]
        return pb.OutcomeReply(
            state=outcome.state,
            sent=outcome.sent,
            received=outcome.received,
            running_now=self.running,
            running_peak=self.peak,
        )

    async def echo_metadata(self, request: pb.Nothing, context: CallContext) -> pb.MetadataReply:
        entries = [
            pb.MetadataEntry(key=key, value=value if isinstance(value, bytes) else value.encode("latin-1"))
            for key, value in context.metadata
            if key.startswith("x-")
        ]
        return pb.MetadataReply(entries=entries)

    async def deadline(self, request: pb.Nothing, context: CallContext) -> pb.DeadlineReply:
        remaining = context.time_remaining()
        return pb.DeadlineReply(has_deadline=remaining is not None, remaining_us=int((remaining or 0) * 1_000_000))

    async def fail(self, request: pb.FailRequest, context: CallContext) -> pb.Nothing:
        raise failure(request)

    async def fail_stream(self, request: pb.FailRequest, context: CallContext) -> AsyncIterator[pb.Chunk]:
        if request.kind == pb.FailRequest.AFTER_MESSAGE:
            yield pb.Chunk()
        raise failure(request)

    async def set_health(self, request: pb.HealthRequest, context: CallContext) -> pb.Nothing:
        try:
            self.health.set_status(request.service, request.status)
        except ValueError:
            context.abort(StatusCode.INVALID_ARGUMENT, f"{request.status} is no ServingStatus")
        return pb.Nothing()


async def hold(milliseconds: int) -> int:
    """Wait so long, for ever where it is 0; how long it was."""
    started = trio.current_time()
    if milliseconds:
        await trio.sleep(max(0, milliseconds) / 1000)
    else:
        await trio.sleep_forever()
    return round((trio.current_time() - started) * 1000)


def zeros(size: int, context: CallContext) -> bytes:
    if not 0 <= size <= MAX_CHUNK:
        context.abort(StatusCode.INVALID_ARGUMENT, f"chunk_size must be 0 to {MAX_CHUNK}")
    return bytes(size)


def failure(request: pb.FailRequest) -> Exception:
    if request.kind == pb.FailRequest.RAISE:
        return RuntimeError(request.text)
    code = StatusCode(request.code) if 0 < request.code <= StatusCode.UNAUTHENTICATED else StatusCode.UNKNOWN
    if request.kind == pb.FailRequest.RICH:
        return rich_error(code, request.text, EchoStatus(message=f"detail: {request.text}"))
    return RpcError(code, request.text)
