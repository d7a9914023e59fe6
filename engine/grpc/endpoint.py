"""`GrpcEndpoint`: from a request on an exchange to a handler of a service, and its answer.

Owns: the four kinds of calls, and the mapping of what ends a call to its status. It is the one machine for
gRPC, gRPC-Web and Connect: `engine.grpc.protocols` chooses the codec that reads and writes a call's bytes.
Never reads a clock but for the deadline, which is the exchange's cancel scope (R6).

Spec: grpc/grpc doc/PROTOCOL-HTTP2.md, doc/statuscodes.md, doc/compression.md. What the specification leaves
open is done as grpc-go does it: a request that is no call is answered in HTTP (415, 405, 426).
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio

from engine.errors import ConfigError, ConnectionClosed, RpcError, StatusCode, answer_for
from engine.grpc.codec import GRPC, Codec
from engine.grpc.context import CallContext
from engine.grpc.methods import BoundMethod, ServiceSpec
from engine.grpc.protocols import choose, codec_of
from engine.grpc.requests import RequestStream, decode_message, read_single, read_single_nowait
from engine.grpc.service import ServiceBase, bind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from google.protobuf.message import Message

    from engine.grpc.interceptors import MethodOptions, ServerInterceptor
    from engine.transport.exchange import Exchange
    from engine.wire.grpc.framing import MessageParser

__all__ = ["GrpcEndpoint"]


class GrpcEndpoint:
    """Serves every method of the given services, and refuses every other in gRPC's own words."""

    kind = "grpc"

    def __init__(self, services: Iterable[ServiceBase] = ()) -> None:
        self._methods: dict[str, BoundMethod] = {}
        self._services: dict[str, ServiceSpec] = {}
        self._adapted_methods: dict[tuple[str, str], BoundMethod] = {}
        self._resolvers: list[Callable[[str], BoundMethod | None]] = []
        for service in services:
            self.add(service)

    # -- building -------------------------------------------------------------

    def add(
        self,
        service: ServiceBase,
        *,
        interceptors: Sequence[ServerInterceptor] = (),
        options: MethodOptions | None = None,
        method_options: Mapping[str, MethodOptions] | None = None,
    ) -> ServiceSpec:
        """Serve one more service; the arguments are those of `service.bind`.

        Raises:
            ConfigError: it is no service, one of its name is there already, or an option names no method of it.
        """
        methods = bind(service, interceptors=interceptors, options=options, method_options=method_options)
        spec = service.__service__
        if spec.name in self._services:
            raise ConfigError("service", spec.name, "it was added before; add each service once")
        self._services[spec.name] = spec
        for method in methods:
            self._methods[method.spec.path] = method
        return spec

    def add_resolver(self, resolver: Callable[[str], BoundMethod | None]) -> None:
        """Ask `resolver` for the method of a path that no service has; the first answer counts."""
        self._resolvers.append(resolver)

    def _resolve(self, path: str) -> BoundMethod | None:
        return next((method for method in (resolve(path) for resolve in self._resolvers) if method is not None), None)

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
        path = head.path
        method = self._methods.get(path) or self._resolve(path)
        codec: Codec = GRPC
        if not (head.http_version == "2" and head.method == "POST" and GRPC.accepts(head.header(b"content-type"))):
            chosen = choose(exchange, None if method is None else method.spec)
            if chosen is None:
                return
            codec = chosen
        if method is None:
            codec.write_status(exchange, StatusCode.UNIMPLEMENTED, self._unknown(path))
            exchange.flush()
            return
        await self._call(exchange, method if codec is GRPC else self._adapted(method, codec), codec)

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
        path = exchange.head.path
        method = self._methods.get(path) or self._resolve(path)
        codec = codec_of(exchange.head, None if method is None else method.spec) or GRPC
        codec.write_status(exchange, answer.grpc_code, text)
        exchange.flush()

    def _adapted(self, method: BoundMethod, codec: Codec) -> BoundMethod:
        """The method with the serialisation of the codec, made once for each of our own."""
        key = (method.spec.path, codec.serialisation)
        adapted = self._adapted_methods.get(key)
        if adapted is None:
            adapted = codec.adapt(method)
            if method.spec.path in self._methods:
                self._adapted_methods[key] = adapted
        return adapted

    def _unknown(self, path: str) -> str:
        service, _, method = path[1:].rpartition("/")
        if service in self._services:
            return f"unknown method {method} for service {service}"
        return f"unknown service {service}"

    # -- one call -------------------------------------------------------------

    async def _call(self, exchange: Exchange, method: BoundMethod, codec: Codec) -> None:
        context = CallContext(exchange, method, codec)
        exchange.on_cancelled = context.on_cancelled
        try:
            limit = method.max_receive_message_size
            if limit is None:
                limit = exchange.config.grpc.max_receive_message_size
            parser = codec.begin(exchange, context, limit)
            if parser is None:
                return
            context.parser = parser
            if method.timeout is not None:
                exchange.scope.deadline = min(exchange.scope.deadline, trio.current_time() + method.timeout)
            deadline = exchange.scope.deadline
            if deadline != math.inf and deadline <= trio.current_time():
                message = "the deadline had expired when the call arrived"  # before the handler's first checkpoint
                raise RpcError(StatusCode.DEADLINE_EXCEEDED, message)
            if method.request_streaming:
                await self._streamed_request(exchange, method, context, parser)
            else:
                await self._single_request(exchange, method, context, parser)
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

    async def _single_request(
        self, exchange: Exchange, method: BoundMethod, context: CallContext, parser: MessageParser
    ) -> None:
        payload = read_single_nowait(exchange, parser)
        if payload is None:
            payload = await read_single(exchange, parser)
        request = decode_message(method.decode, payload)
        if method.response_streaming:
            await _stream(method.handler(request, context), context)
            context.finish()
        else:
            await context.finish_with(method.encode(await method.handler(request, context)))

    async def _streamed_request(
        self, exchange: Exchange, method: BoundMethod, context: CallContext, parser: MessageParser
    ) -> None:
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
