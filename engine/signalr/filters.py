"""Code around hub methods, life-cycle methods, and what is sent to clients.

Owns: `HubFilter` and the chains that are made of filters. A hub without filters pays nothing for them.
The first filter is the outermost. Filters do not see unknown methods, arguments that do not fit, or
single items of streams (wrap the iterator for those).

Spec: IHubFilter.cs; sending is ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.signalr.clients import OutgoingMessage, SendFilter, SendNext

if TYPE_CHECKING:
    from engine.signalr.binding import HubMethod
    from engine.signalr.hub import Hub, HubCallerContext

__all__ = ["HubFilter", "HubInvocation", "OutgoingMessage"]


@dataclass(frozen=True, slots=True)
class HubInvocation:
    """One call of a hub method."""

    hub: Hub
    method: str
    """Its name on the wire."""
    arguments: tuple[Any, ...]
    """Decoded; streams that the client sends are async iterators among them."""
    is_stream: bool
    """The result is an async iterable of items."""
    function: Callable[..., Any]
    """The method itself, for what a decorator left on it."""

    @property
    def context(self) -> HubCallerContext:
        """Who calls."""
        return self.hub.context


InvokeNext: TypeAlias = Callable[[HubInvocation], Awaitable[Any]]
ConnectedNext: TypeAlias = Callable[["Hub"], Awaitable[None]]
DisconnectedNext: TypeAlias = Callable[["Hub", Exception | None], Awaitable[None]]


class HubFilter:
    """Override what you need; each method goes on by awaiting `call`, with other arguments if it likes.

    ```python
    class Timing(HubFilter):
        async def invoke(self, invocation: HubInvocation, call: InvokeNext) -> Any:
            started = trio.current_time()
            try:
                return await call(invocation)
            finally:
                print(invocation.method, trio.current_time() - started)

    app.hub("/chathub", filters=[Timing()])(ChatHub)
    ```
    """

    async def invoke(self, invocation: HubInvocation, call: InvokeNext) -> Any:
        """Around a hub method; raise HubError to refuse it."""
        return await call(invocation)

    async def on_connected(self, hub: Hub, call: ConnectedNext) -> None:
        """Around `on_connected`; an exception closes the connection."""
        await call(hub)

    async def on_disconnected(self, hub: Hub, error: Exception | None, call: DisconnectedNext) -> None:
        """Around `on_disconnected`."""
        await call(hub, error)

    async def send(self, message: OutgoingMessage, call: SendNext) -> Any:
        """Around what is sent to clients; not calling `call` sends nothing."""
        return await call(message)


class FilterChain:
    """The filters of one mounted hub; each member is None where no filter overrides that method."""

    __slots__ = ("connected", "disconnected", "invoke", "send")

    def __init__(self, filters: Sequence[HubFilter] = ()) -> None:
        invoke = [each for each in filters if _overrides(each, "invoke")]
        connected = [each for each in filters if _overrides(each, "on_connected")]
        disconnected = [each for each in filters if _overrides(each, "on_disconnected")]
        send = [each for each in filters if _overrides(each, "send")]
        self.invoke = partial(_invoke, invoke) if invoke else None
        self.connected = _nested([each.on_connected for each in connected], _connected) if connected else None
        self.disconnected = (
            _nested([each.on_disconnected for each in disconnected], _disconnected) if disconnected else None
        )
        self.send: SendFilter | None = partial(_send, send) if send else None


def _overrides(each: HubFilter, name: str) -> bool:
    return getattr(type(each), name) is not getattr(HubFilter, name)


def _nested(layers: Sequence[Callable[..., Awaitable[Any]]], innermost: Callable[..., Awaitable[Any]]) -> Any:
    """One callable of many, each of which gets the next as its last argument."""
    call = innermost
    for layer in reversed(layers):
        call = partial(_layered, layer, call)
    return call


async def _layered(layer: Callable[..., Awaitable[Any]], call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    return await layer(*arguments, call)


async def _connected(hub: Hub) -> None:
    await hub.on_connected()


async def _disconnected(hub: Hub, error: Exception | None) -> None:
    await hub.on_disconnected(error)


async def _invoke(filters: Sequence[HubFilter], hub: Hub, method: HubMethod, arguments: Sequence[Any]) -> Any:
    async def innermost(invocation: HubInvocation) -> Any:
        result = method.function(invocation.hub, *invocation.arguments)
        return await result if inspect.isawaitable(result) else result

    invocation = HubInvocation(hub, method.wire_name, tuple(arguments), method.is_stream, method.function)
    return await _nested([each.invoke for each in filters], innermost)(invocation)


async def _send(filters: Sequence[HubFilter], message: OutgoingMessage, deliver: SendNext) -> Any:
    return await _nested([each.send for each in filters], deliver)(message)
