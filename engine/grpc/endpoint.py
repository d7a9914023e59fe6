"""`GrpcEndpoint`: from a request on an exchange to a handler of a service, and its answer.

Owns: the refusals before a call begins, the four kinds of calls, and the mapping of what ends a call to
its status. Never reads a clock but for the deadline, which is the exchange's cancel scope (R6).

Spec: grpc/grpc doc/PROTOCOL-HTTP2.md, doc/statuscodes.md, doc/compression.md. What the specification leaves
open is done as grpc-go does it: a request that is no gRPC is answered in HTTP (415, 405, 426).
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio

from engine.errors import ConfigError, ConnectionClosed, LimitExceeded, LimitKind, RpcError, StatusCode, answer_for
from engine.grpc.codec import GRPC, GrpcCodec
from engine.grpc.context import CallContext
from engine.grpc.requests import RequestStream, decode_message, read_single, read_single_nowait
from engine.grpc.service import BoundMethod, ServiceBase, ServiceSpec, bind
from engine.wire.grpc import metadata as wire_metadata
from engine.wire.grpc import status as wire_status
from engine.wire.grpc import timeout as wire_timeout
from engine.wire.grpc.framing import MessageParser

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from google.protobuf.message import Message

    from engine.transport.exchange import Exchange, Fields

__all__ = ["GrpcEndpoint"]

_ACCEPTED_ENCODINGS = b"identity"  # what grpc-accept-encoding lists
_REFUSAL_SIZE = 1024  # bytes of grpc-message in a refusal; the texts are ours and short


class GrpcEndpoint:
    """Serves every method of the given services, and refuses every other in gRPC's own words."""

    kind = "grpc"

    def __init__(self, services: Iterable[ServiceBase] = ()) -> None:
        self._methods: dict[str, BoundMethod] = {}
        self._services: dict[str, ServiceSpec] = {}
        for service in services:
            self.add(service)

    # -- building -------------------------------------------------------------

    def add(self, service: ServiceBase) -> ServiceSpec:
        """Serve one more service.

        Raises:
            ConfigError: it is no service, or one of its name is there already.
        """
        methods = bind(service)
        spec = service.__service__
        if spec.name in self._services:
            raise ConfigError("service", spec.name, "it was added before; add each service once")
        self._services[spec.name] = spec
        for method in methods:
            self._methods[method.spec.path] = method
        return spec

    @property
    def services(self) -> tuple[ServiceSpec, ...]:
        """What is served, in the order in which it was added."""
        return tuple(self._services.values())

    # -- serving --------------------------------------------------------------

    async def serve(self, exchange: Exchange, params: Mapping[str, str]) -> None:
        """Run one call. Cancellation ends its handler; an expired deadline is then told to the client."""
        exchange.max_body = math.inf  # what one message may weigh is bounded instead
        exchange.min_body_rate = 0
        head = exchange.head
        content_type = head.header(b"content-type") or b""
        if head.method != "POST":
            _refuse(exchange, 405, f"gRPC needs POST, not {head.method}", ((b"allow", b"POST"),))
            return
        if not GRPC.accepts(content_type):
            _refuse(exchange, 415, "gRPC needs the content-type application/grpc")
            return
        if head.http_version != "2":
            _refuse(exchange, 426, "gRPC needs HTTP/2", ((b"upgrade", b"h2c"),))
            return
        method = self._methods.get(head.path)
        if method is None:
            GRPC.write_status(exchange, StatusCode.UNIMPLEMENTED, self._unknown(head.path))
            exchange.flush()
            return
        await self._call(exchange, method, GRPC)

    def fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer an error that left `serve`; its text is sent only where the error or the config allows it."""
        if exchange.response_ended:
            return
        cause = _sole_cause(error)
        answer = answer_for(cause)
        if answer.public:
            text = str(cause)
        else:
            text = f"{type(cause).__name__}: {cause}" if exchange.config.detailed_errors else ""
        GRPC.write_status(exchange, answer.grpc_code, text)
        exchange.flush()

    def _unknown(self, path: str) -> str:
        service, _, method = path[1:].rpartition("/")
        if service in self._services:
            return f"unknown method {method} for service {service}"
        return f"unknown service {service}"

    # -- one call -------------------------------------------------------------

    async def _call(self, exchange: Exchange, method: BoundMethod, codec: GrpcCodec) -> None:
        context = CallContext(exchange, method, codec)
        exchange.on_cancelled = context.on_cancelled
        try:
            if not self._begin(exchange, context, codec):
                return
            if method.request_streaming:
                await self._streamed_request(exchange, method, context)
            else:
                await self._single_request(exchange, method, context)
        except RpcError as error:
            context.fail(error)
        except ConnectionClosed:
            if exchange.cancel_reason is None:
                raise  # of some other connection, which the handler holds
        except BaseExceptionGroup as group:  # a handler's nursery wraps what its tasks raise
            rest = _without_loss(exchange, group)
            if rest is None:
                return
            cause = _sole_cause(rest)
            if not isinstance(cause, RpcError):
                raise rest from rest.__cause__
            context.fail(cause)

    def _begin(self, exchange: Exchange, context: CallContext, codec: GrpcCodec) -> bool:
        """Judge the request's fields and start the clock; False: the call is answered.

        One pass: this runs for every call.

        Raises:
            RpcError: the call is refused.
        """
        size = 0
        binary = False
        for name, value in exchange.head.headers:
            size += len(name) + len(value) + wire_metadata.FIELD_OVERHEAD
            if name == b"grpc-timeout":
                _start_clock(exchange, value)
            elif name == b"grpc-encoding":
                if value != b"identity":
                    _refuse_encoding(exchange, codec, value)
                    return False
            elif name[-4:] == b"-bin":
                binary = True
        limit = exchange.config.grpc.max_metadata_size
        if size > limit:
            excess = LimitExceeded(
                "grpc.max_metadata_size", limit, size, kind=LimitKind.MESSAGE_SIZE, what="request metadata"
            )
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, str(excess))
        if binary:
            _ = context.metadata  # broken base64 is the client's error, before a handler runs
        return True

    async def _single_request(self, exchange: Exchange, method: BoundMethod, context: CallContext) -> None:
        parser = MessageParser(exchange.config.grpc.max_receive_message_size)
        payload = read_single_nowait(exchange, parser)
        if payload is None:
            payload = await read_single(exchange, parser)
        request = decode_message(method.decode, payload)
        if method.response_streaming:
            await _stream(method.handler(request, context), context)
            context.finish()
        else:
            await context.finish_with(method.encode(await method.handler(request, context)))

    async def _streamed_request(self, exchange: Exchange, method: BoundMethod, context: CallContext) -> None:
        parser = MessageParser(exchange.config.grpc.max_receive_message_size)
        requests: RequestStream[Any] = RequestStream(exchange, parser, method.decode)
        if method.response_streaming:
            context.attach_requests(requests)
            await _stream(method.handler(requests, context), context)
            context.finish()
        else:
            await context.finish_with(method.encode(await method.handler(requests, context)))


async def _stream(replies: AsyncIterator[Message] | Awaitable[None], context: CallContext) -> None:
    """Send what a handler yields, or let it send by itself."""
    if isinstance(replies, AsyncGenerator):
        async with aclosing(replies):
            async for reply in replies:
                await context.send(reply)
    elif isinstance(replies, AsyncIterator):
        async for reply in replies:
            await context.send(reply)
    else:
        await replies


def _start_clock(exchange: Exchange, value: bytes) -> None:
    seconds = wire_timeout.decode(value)
    if seconds is None:
        raise RpcError(StatusCode.INTERNAL, "malformed grpc-timeout; send 1 to 8 digits and one of H M S m u n")
    if seconds == 0:
        raise RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline had expired when the call arrived")
    exchange.scope.deadline = trio.current_time() + seconds


def _refuse_encoding(exchange: Exchange, codec: GrpcCodec, encoding: bytes) -> None:
    """doc/compression.md: UNIMPLEMENTED, with "grpc-accept-encoding … specifying the algorithms" of ours."""
    codec.write_status(
        exchange,
        StatusCode.UNIMPLEMENTED,
        f"grpc-encoding {encoding.decode('latin-1')!r} is not supported; use one of grpc-accept-encoding",
        metadata=((b"grpc-accept-encoding", _ACCEPTED_ENCODINGS),),
    )
    exchange.flush()


def _refuse(exchange: Exchange, http_status: int, message: str, headers: Fields = ()) -> None:
    """Answer what is no gRPC call in HTTP, with a status for those who look for one (as ASP.NET Core does)."""
    fields = (*headers, *wire_status.trailers(StatusCode.INTERNAL, message, max_message_size=_REFUSAL_SIZE))
    exchange.write_head(http_status, fields, end=True)
    exchange.flush()


def _without_loss(
    exchange: Exchange, group: BaseExceptionGroup[BaseException]
) -> BaseExceptionGroup[BaseException] | None:
    """What a group holds beside the news that this call's own connection is lost."""
    if exchange.cancel_reason is None:
        return group
    return group.split(ConnectionClosed)[1]


def _sole_cause(error: BaseException) -> BaseException:
    """The only exception in nested groups, or the error itself."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    return error if isinstance(cause, BaseExceptionGroup) else cause
