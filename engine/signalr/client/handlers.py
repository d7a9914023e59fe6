"""What the server may call: the user's handlers.

Owns: the registry of handlers, the conversion of arguments by their annotations, and the order in which
they run. Calls without a result run one after another in the order of their arrival, across
reconnections; a call that wants a result runs in a task of its own, so that a handler may wait for
other calls. A handler that fails is logged and, where a result is wanted, answered with its error.

Spec: HubConnection.ts, `_invokeClientMethod`; HubConnection.cs, `StartProcessingInvocationMessages`.
"""

from __future__ import annotations

import inspect
import logging
import typing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from engine.errors import ConfigError, ConnectionClosed, HubError, LimitExceeded
from engine.signalr.client.unread import Holder, Unread
from engine.wire.signalr.messages import BindingError, HubProtocol, Invocation

if TYPE_CHECKING:
    import msgspec

    from engine.signalr.client.link import Link

__all__ = ["HandlerRunner", "Handlers"]

_log = logging.getLogger(__name__)

_CALL_COST = 500  # bytes beside its own that a waiting call takes
NO_RESULT = "Client didn't provide a result."
MANY_RESULTS = "Client provided multiple results."


@dataclass(slots=True)
class Handler:
    """One function of the user."""

    function: Callable[..., Any]
    types: tuple[Any, ...]  # of its positional parameters
    required: int
    takes_more: bool  # it has *args
    decoders: dict[tuple[str, int], Callable[[msgspec.Raw], tuple[Any, ...]]] = field(default_factory=dict)

    def bind(self, protocol: HubProtocol, arguments: msgspec.Raw) -> tuple[Any, ...]:
        """Decode the arguments straight into the annotated types; more than it takes are dropped.

        Raises:
            HubError: they do not fit.
        """
        expected = len(self.types)
        try:
            return self._decoder(protocol, expected)(arguments)
        except BindingError as error:
            count = error.count
        if count != expected and count >= self.required:
            try:
                bound = self._decoder(protocol, count)(arguments)
            except BindingError:
                count = expected  # their types do not fit
            else:
                return bound if self.takes_more else bound[:expected]
        if count == expected:
            raise HubError("the arguments are not of the types that the client's handler takes")
        raise HubError(f"{count} arguments came, the client's handler takes {expected}")

    def _decoder(self, protocol: HubProtocol, count: int) -> Callable[[msgspec.Raw], tuple[Any, ...]]:
        decoder = self.decoders.get((protocol.name, count))
        if decoder is None:
            types = (self.types + (Any,) * count)[:count]
            decoder = self.decoders[protocol.name, count] = protocol.argument_decoder(types)
        return decoder


def _describe(name: str, function: Callable[..., Any]) -> Handler:
    where = f"handler of {name}"
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some functions in C have none
        return Handler(function, (), 0, takes_more=True)
    try:
        hints = typing.get_type_hints(inspect.unwrap(getattr(function, "__func__", function)), include_extras=True)
    except TypeError:  # a callable object
        hints = {}
    except NameError as error:
        raise ConfigError(where, None, f"an annotation cannot be resolved: {error}; import it at run time") from None
    plain = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return Handler(
        function,
        tuple(hints.get(each.name, Any) for each in plain),
        sum(each.default is each.empty for each in plain),
        takes_more=any(each.kind is each.VAR_POSITIONAL for each in parameters),
    )


class Handlers:
    """Handlers by the names that servers call, without case."""

    def __init__(self, protocol: HubProtocol) -> None:
        self._protocol = protocol
        self._by_name: dict[str, list[Handler]] = {}

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Idempotent.

        Raises:
            ConfigError: an annotation that nothing can be decoded into.
        """
        handlers = self._by_name.setdefault(name.lower(), [])
        if any(each.function == function for each in handlers):
            return
        handler = _describe(name, function)
        try:
            handler._decoder(self._protocol, len(handler.types))
        except TypeError as error:
            raise ConfigError(f"handler of {name}", None, f"an argument cannot be decoded: {error}") from None
        handlers.append(handler)

    def remove(self, name: str, function: Callable[..., Any] | None) -> None:
        """One handler, or all of that name."""
        kept = [each for each in self._by_name.pop(name.lower(), []) if function not in (None, each.function)]
        if kept:
            self._by_name[name.lower()] = kept

    def find(self, name: str) -> Sequence[Handler]:
        """A copy: handlers may change the registry."""
        return tuple(self._by_name.get(name.lower(), ()))


class HandlerRunner(Holder):
    """Runs handlers; see the module."""

    def __init__(self, handlers: Handlers, unread: Unread) -> None:
        super().__init__(unread)
        self._handlers = handlers
        self._queue: deque[tuple[Link, Invocation]] = deque()
        self._news = trio.Event()
        self._latest: Link | None = None

    def receive(self, link: Link, call: Invocation) -> None:
        """Take a call; it runs later."""
        self._latest = link
        self._queue.append((link, call))
        self._hold(_cost(call))
        self._news.set()

    def shed(self, error: LimitExceeded) -> None:
        """Calls cannot be left out: the connection ends."""
        if self._latest is not None:
            self._latest.abandon(error)

    async def run(self) -> None:
        """Run handlers until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                while self._queue:
                    link, call = self._queue.popleft()
                    if call.invocation_id is None:
                        await self._handle(link, call)
                        self._release(_cost(call))
                    else:
                        nursery.start_soon(self._answer, link, call, call.invocation_id)
                self._news = trio.Event()
                await self._news.wait()

    async def _handle(self, link: Link, call: Invocation) -> None:
        found = self._handlers.find(call.target)
        if not found:
            _log.warning("no handler for %r; add one with hub.on(%r, ...)", call.target, call.target)
        for handler in found:
            try:
                await _run(handler, link.protocol, call)
            except Exception as error:  # the invocation barrier
                _log_failure(call, error)
        await trio.lowlevel.checkpoint()

    async def _answer(self, link: Link, call: Invocation, invocation_id: str) -> None:
        results: list[Any] = []
        failure: Exception | None = None
        found = self._handlers.find(call.target)
        for handler in found:
            try:
                results.append(await _run(handler, link.protocol, call))
                failure = None  # as the official client: a result that comes later counts
            except Exception as error:  # the invocation barrier
                _log_failure(call, error)
                failure = error
        protocol = link.protocol
        if sum(each is not None for each in results) > 1:
            frame = protocol.error(invocation_id, MANY_RESULTS)
        elif failure is not None:
            text = str(failure) if isinstance(failure, HubError) else f"{type(failure).__name__}: {failure}"
            frame = protocol.error(invocation_id, text)
        elif not found:
            frame = protocol.error(invocation_id, NO_RESULT)
        else:
            value = next((each for each in results if each is not None), None)
            try:
                frame = protocol.result(invocation_id, value)
            except (TypeError, ValueError) as error:
                frame = protocol.error(invocation_id, f"the client's result cannot be sent: {error}")
        try:
            await link.send(frame)
        except ConnectionClosed as error:
            _log.debug("the result of %r is not wanted any more: %s", call.target, error)
        self._release(_cost(call))


def _cost(call: Invocation) -> int:
    return _CALL_COST + len(memoryview(call.arguments))


async def _run(handler: Handler, protocol: HubProtocol, call: Invocation) -> Any:
    result = handler.function(*handler.bind(protocol, call.arguments))
    return await result if inspect.isawaitable(result) else result


def _log_failure(call: Invocation, error: Exception) -> None:
    _log.error("a handler of %r failed", call.target, exc_info=error)
