"""Serves what grpcio's compiler generated: `add_XServicer_to_server(servicer, app)` of a stock `*_pb2_grpc.py`.

Owns: the way from grpcio's method handlers to methods of ours. Servicers may be written for `grpc.aio`
(coroutines, async generators, coroutines that `read` and `write`), with Trio in the place of asyncio, or
for the synchronous server: those run in threads. Never imports grpc: what the generated code hands over
is taken by its attributes. See `engine.grpc.hosting_context` for what servicers hold of a call.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from google.protobuf import descriptor_pool, message_factory

from engine.errors import ConfigError
from engine.grpc.context import CallContext
from engine.grpc.hosting_context import AioServicerContext, SyncServicerContext
from engine.grpc.methods import BoundMethod, MethodKind, MethodSpec, ServiceSpec
from engine.grpc.service import ServiceBase

__all__ = ["RpcMethodHandler", "generic_resolver", "host"]

Handler = Callable[[Any, CallContext], Any]


class RpcMethodHandler(Protocol):
    """What `grpc.unary_unary_rpc_method_handler` and its siblings return; one of the four last is not None."""

    request_streaming: bool
    response_streaming: bool
    request_deserializer: Callable[[bytes], Any] | None
    response_serializer: Callable[[Any], bytes] | None
    unary_unary: Callable[[Any, Any], Any] | None
    unary_stream: Callable[[Any, Any], Any] | None
    stream_unary: Callable[[Any, Any], Any] | None
    stream_stream: Callable[[Any, Any], Any] | None


class HostedService(ServiceBase):
    """A service whose handlers come from a stock servicer; made by `host`."""


def host(service_name: str, method_handlers: Mapping[str, RpcMethodHandler]) -> ServiceBase:
    """The service that a generated `add_XServicer_to_server` describes.

    Args:
        service_name: the full name, "greet.Greeter".
        method_handlers: by the name of the method, "SayHello".
    """
    handlers: dict[str, Any] = {}
    specs: list[MethodSpec] = []
    for name, handler in method_handlers.items():
        spec = _spec(f"/{service_name}/{name}", handler)
        specs.append(spec)
        handlers[name] = staticmethod(_adapt(handler))
    file = _file_of(service_name)
    body = {"__service__": ServiceSpec(service_name, tuple(specs), file), **handlers}
    service: ServiceBase = type(f"Hosted[{service_name}]", (HostedService,), body)()
    return service


@dataclass(frozen=True, slots=True)
class _CallDetails:
    """`grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


def generic_resolver(handlers: Iterable[Any]) -> Callable[[str], BoundMethod | None]:
    """Asks `grpc.GenericRpcHandler` objects: older generated code registers nothing else."""
    generic = tuple(handlers)

    def resolve(path: str) -> BoundMethod | None:
        details = _CallDetails(path)
        for each in generic:
            handler: RpcMethodHandler | None = each.service(details)
            if handler is not None:
                spec = _spec(path, handler)
                return BoundMethod(
                    spec,
                    _adapt(handler),
                    spec.request_type.FromString,
                    spec.response_type.SerializeToString,
                    spec.kind.request_streaming,
                    spec.kind.response_streaming,
                )
        return None

    return resolve


# -- types ---------------------------------------------------------------------


def _default_pool() -> Any:
    return descriptor_pool.Default()


def _file_of(service_name: str) -> str:
    try:
        return str(_default_pool().FindServiceByName(service_name).file.name)
    except KeyError:
        return ""


def _spec(path: str, handler: RpcMethodHandler) -> MethodSpec:
    kind = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
    service_name, _, name = path[1:].rpartition("/")
    request_type, response_type, no_side_effects = _types(service_name, name, handler)
    return MethodSpec(path, kind, request_type, response_type, name, no_side_effects)


_KINDS = {(kind.request_streaming, kind.response_streaming): kind for kind in MethodKind}


def _types(service_name: str, name: str, handler: RpcMethodHandler) -> tuple[type[Any], type[Any], bool]:
    """The message classes where the functions are theirs, else stand-ins that call the functions."""
    decode, encode = handler.request_deserializer, handler.response_serializer
    request_class = getattr(decode, "__self__", None)
    descriptor = getattr(request_class, "DESCRIPTOR", None)
    if isinstance(request_class, type) and descriptor is not None:
        try:
            method = descriptor.file.pool.FindServiceByName(service_name).methods_by_name[name]
        except KeyError:
            method = None
        if method is not None and method.input_type is descriptor:
            response_class = message_factory.GetMessageClass(method.output_type)
            if encode == response_class.SerializeToString:
                return request_class, response_class, method.GetOptions().idempotency_level == 1
    return _stand_in(decode, encode), _stand_in(decode, encode), False


def _stand_in(decode: Callable[[bytes], Any] | None, encode: Callable[[Any], bytes] | None) -> type[Any]:
    """A type with the two functions that the endpoint needs; without them messages are bytes."""
    functions = {
        "FromString": staticmethod(decode or _as_it_is),
        "SerializeToString": staticmethod(encode or _as_it_is),
    }
    return type("OpaqueMessage", (), functions)


def _as_it_is(data: bytes) -> bytes:
    return data


# -- handlers ------------------------------------------------------------------


def _adapt(handler: RpcMethodHandler) -> Handler:
    """A handler of ours around a servicer's method.

    Raises:
        ConfigError: there is no such method.
    """
    streams = (handler.stream_stream, handler.unary_stream) if handler.response_streaming else ()
    behaviours = streams or (handler.stream_unary, handler.unary_unary)
    behaviour = behaviours[0] if handler.request_streaming else behaviours[1]
    if behaviour is None:
        raise ConfigError("servicer", repr(handler), "the method handler has no behaviour of the kind it announces")
    if _is(inspect.isasyncgenfunction, behaviour):
        return _generating(behaviour)
    if _is(inspect.iscoroutinefunction, behaviour):
        return _writing(behaviour) if handler.response_streaming else _returning(behaviour)
    if handler.response_streaming:
        return _blocking_stream(behaviour, requests=handler.request_streaming)
    return _blocking(behaviour, requests=handler.request_streaming)


def _is(predicate: Callable[[Any], bool], behaviour: Any) -> bool:
    return predicate(behaviour) or predicate(getattr(behaviour, "__call__", None))  # noqa: B004  # not whether, but which


def _returning(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Handler:
    async def handler(request: Any, context: CallContext) -> Any:
        with AioServicerContext(context, request) as stock:
            return await behaviour(request, stock)

    return handler


def _writing(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Handler:
    async def handler(request: Any, context: CallContext) -> None:
        with AioServicerContext(context, request) as stock:
            await behaviour(request, stock)

    return handler


def _generating(behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]]) -> Handler:
    async def handler(request: Any, context: CallContext) -> None:
        with AioServicerContext(context, request) as stock:
            replies = behaviour(request, stock)
            try:
                async for reply in replies:
                    await context.send(reply)
            finally:
                await replies.aclose()

    return handler


def _blocking(behaviour: Callable[[Any, Any], Any], *, requests: bool) -> Handler:
    async def handler(request: Any, context: CallContext) -> Any:
        with SyncServicerContext(context, request) as stock:
            given = _BlockingRequests(stock) if requests else request
            return await trio.to_thread.run_sync(behaviour, given, stock, abandon_on_cancel=True)

    return handler


_END = object()


def _blocking_stream(behaviour: Callable[[Any, Any], Any], *, requests: bool) -> Handler:
    async def handler(request: Any, context: CallContext) -> None:
        with SyncServicerContext(context, request) as stock:
            given = _BlockingRequests(stock) if requests else request
            replies = await trio.to_thread.run_sync(behaviour, given, stock, abandon_on_cancel=True)
            if replies is None:
                return  # the status is set, and there is nothing to send
            iterator: Iterator[Any] = iter(replies)
            while True:
                # A thread that waits for ever must not hold the call: it learns from is_active() that it is over.
                reply: Any = await trio.to_thread.run_sync(next, iterator, _END, abandon_on_cancel=True)
                if reply is _END:
                    return
                await context.send(reply)

    return handler


class _BlockingRequests(Iterator[Any]):
    """The requests of a stream, for a thread."""

    def __init__(self, context: SyncServicerContext) -> None:
        self._context = context

    def __next__(self) -> Any:
        item = trio.from_thread.run(self._context.next_request, _END)
        if item is _END:
            raise StopIteration
        return item
