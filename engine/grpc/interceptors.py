"""What stands between the endpoint and a handler: interceptors, and the limits of single methods.

Owns: `ServerInterceptor`, `MethodOptions`, and the wrapping of handlers with both when a service is added. A
service without them costs nothing at a call. Never touches the wire.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, RpcError, StatusCode

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from engine.grpc.context import CallContext

__all__ = ["MethodOptions", "Proceed", "ProceedStream", "ServerInterceptor"]

Proceed = Callable[[Any, "CallContext"], Awaitable["Message"]]
"""The rest of a call with one response: the next interceptor, or the handler."""

ProceedStream = Callable[[Any, "CallContext"], AsyncIterator["Message"]]
"""The rest of a call with a stream of responses."""

Handler = Callable[..., Any]


class ServerInterceptor:
    """Runs around every call of the services that it is given with; override one method or both.

    `request` is a message, or, where the client streams, the async iterator of its messages: pass it
    on, or an iterator of your own. `context.method` tells which method was called. The first
    interceptor of a list is the outermost. `context.abort` ends the call before the handler runs.
    """

    async def intercept_unary(self, request: Any, context: CallContext, proceed: Proceed) -> Message:
        """A call with one response. Cancellation is that of the call."""
        return await proceed(request, context)

    def intercept_stream(self, request: Any, context: CallContext, proceed: ProceedStream) -> AsyncIterator[Message]:
        """A call with a stream of responses; usually written as an async generator.

        The iterator of `proceed` has what the handler yields. What it sends with `context.send` goes to
        the client directly.
        """
        return proceed(request, context)


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """Limits of a method; None: what the server's settings say, or no limit."""

    timeout: float | None = None  # seconds that a call may take; a client's earlier deadline wins
    max_receive_message_size: int | None = None  # bytes; instead of grpc.max_receive_message_size
    max_concurrent_calls: int | None = None  # one more is RESOURCE_EXHAUSTED

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not value > 0:
                raise ConfigError(f"MethodOptions.{item.name}", value, "give a number that is more than 0")


def wrap(
    handler: Handler, *, streams: bool, interceptors: Sequence[ServerInterceptor], options: MethodOptions
) -> Handler:
    """The handler with everything around it.

    Args:
        streams: its response is a stream.
    """
    for interceptor in reversed(interceptors):
        handler = _intercept_stream(interceptor, handler) if streams else _intercept_unary(interceptor, handler)
    if options.max_concurrent_calls is not None:
        gate = _Gate(options.max_concurrent_calls)
        handler = gate.around_stream(handler) if streams else gate.around_unary(handler)
    return handler


def _intercept_unary(interceptor: ServerInterceptor, handler: Handler) -> Handler:
    def intercepted(request: Any, context: CallContext) -> Awaitable[Message]:
        return interceptor.intercept_unary(request, context, handler)

    return intercepted


def _intercept_stream(interceptor: ServerInterceptor, handler: Handler) -> Handler:
    async def intercepted(request: Any, context: CallContext) -> AsyncGenerator[Message, None]:
        opened: list[AsyncGenerator[Message, None]] = []

        def proceed(request: Any, context: CallContext) -> AsyncIterator[Message]:
            opened.append(_replies(handler, request, context))
            return opened[-1]

        replies = interceptor.intercept_stream(request, context, proceed)
        try:
            async for reply in replies:
                yield reply
        finally:
            # Whoever stops in the middle need not think of it: the handler is closed with its call.
            if isinstance(replies, AsyncGenerator):
                await replies.aclose()
            for each in opened:
                await each.aclose()

    return intercepted


async def _replies(handler: Handler, request: Any, context: CallContext) -> AsyncGenerator[Message, None]:
    """What a handler streams, in whichever of the ways that are allowed it is written."""
    replies = handler(request, context)
    if not isinstance(replies, AsyncIterator):
        await replies
        return
    try:
        async for reply in replies:
            yield reply
    finally:
        if isinstance(replies, AsyncGenerator):
            await replies.aclose()


class _Gate:
    """Counts the calls of one method."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0

    def _enter(self, context: CallContext) -> None:
        if self._running >= self._limit:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{context.method.path} serves {self._limit} calls at once (max_concurrent_calls); try again later",
            )
        self._running += 1

    def around_unary(self, handler: Handler) -> Handler:
        async def limited(request: Any, context: CallContext) -> Message:
            self._enter(context)
            try:
                reply: Message = await handler(request, context)
                return reply
            finally:
                self._running -= 1

        return limited

    def around_stream(self, handler: Handler) -> Handler:
        async def limited(request: Any, context: CallContext) -> AsyncGenerator[Message, None]:
            self._enter(context)
            replies = _replies(handler, request, context)
            try:
                async for reply in replies:
                    yield reply
            finally:
                self._running -= 1
                await replies.aclose()

        return limited
