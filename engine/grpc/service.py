"""The base of generated services, and what becomes of a service's methods when it is added.

Never handles a call. `protoc-gen-engine` writes subclasses of `ServiceBase`; they can be written by
hand as well, with any pair of functions that turn bytes into objects and back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import ClassVar, TypeVar

from engine.errors import ConfigError, RpcError, StatusCode
from engine.grpc.interceptors import MethodOptions, ServerInterceptor, wrap
from engine.grpc.methods import BoundMethod, ServiceSpec

__all__ = ["ServiceBase", "StreamingReply", "bind", "unimplemented"]

_Reply = TypeVar("_Reply")

StreamingReply = AsyncIterator[_Reply] | Awaitable[None]
"""What a handler that streams may be: an async generator of messages, or a coroutine that calls
`context.send`."""


class ServiceBase:
    """The base of every generated service class; derive from the generated one and override its methods."""

    __service__: ClassVar[ServiceSpec]

    # Not names that a .proto method can have.

    def __serve__(self) -> None:
        """A server begins to serve; called synchronously."""

    def __drain__(self) -> None:
        """The server begins to stop; called synchronously."""


_NO_OPTIONS = MethodOptions()


def bind(
    service: ServiceBase,
    *,
    interceptors: Sequence[ServerInterceptor] = (),
    options: MethodOptions | None = None,
    method_options: Mapping[str, MethodOptions] | None = None,
) -> list[BoundMethod]:
    """The methods of a service with the handlers of this instance.

    Args:
        interceptors: run around every handler, the first one outermost.
        options: limits of every method.
        method_options: by a handler's name ("say_hello"): used instead of `options`.

    Raises:
        ConfigError: it is no service, lacks a handler that its specification names, or has no method that
            `method_options` names.
    """
    if isinstance(service, type):
        raise ConfigError("service", service.__name__, "give an instance, not the class")
    spec = getattr(service, "__service__", None)
    if not isinstance(spec, ServiceSpec):
        hint = "give an instance of a class that derives from a generated ...Base class"
        raise ConfigError("service", type(service).__name__, hint)
    limits = dict(method_options or {})
    unknown = limits.keys() - {method.name for method in spec.methods}
    if unknown:
        known = ", ".join(method.name for method in spec.methods)
        raise ConfigError("method_options", min(unknown), f"{spec.name} has no such handler; it has {known}")
    bound: list[BoundMethod] = []
    for method in spec.methods:
        handler = getattr(service, method.name, None)
        if not callable(handler):
            raise ConfigError("service", spec.name, f"{type(service).__name__} has no method {method.name!r}; write it")
        limit = limits.get(method.name, options or _NO_OPTIONS)
        streams = method.kind.response_streaming
        bound.append(
            BoundMethod(
                method,
                wrap(handler, streams=streams, interceptors=interceptors, options=limit),
                method.request_type.FromString,
                method.response_type.SerializeToString,
                method.kind.request_streaming,
                streams,
                limit.timeout,
                limit.max_receive_message_size,
            )
        )
    return bound


def unimplemented(path: str) -> RpcError:
    """What a handler that nobody wrote raises."""
    return RpcError(StatusCode.UNIMPLEMENTED, f"method {path} is not implemented")
