"""Which methods of a hub clients may call, by which names, and how arguments become typed values.

Owns: discovery at start-up, names, and the decoders made from annotations. Never calls a method.

Parameters annotated as `AsyncIterator[T]` (or AsyncIterable, AsyncGenerator) are streams that the
client sends; they take no place among the arguments.

A method is callable when it is a public function of the hub class or of its bases below `Hub`. Names
match without case and underscores: `send_message` = `SendMessage` = `sendMessage`. In texts for
clients a method goes by its wire name: what `@hub_method` gave, else its own name in PascalCase.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError
from engine.signalr.texts import TYPES_DO_NOT_FIT, wrong_count
from engine.wire.signalr.messages import BindingError, HubProtocol

if typing.TYPE_CHECKING:
    import msgspec

    from engine.signalr.uploads import Upload

_WIRE_NAME = "__hub_method_name__"
_CHECKS = "__hub_method_checks__"
_STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator)
_MAX_NAME = 256  # of a target that is looked up at all; .NET's identifiers end at 511 characters


class ArgumentsRejected(Exception):  # not an error of ours: it becomes an answer
    """The arguments do not fit; `str()` is what detailed errors tell."""


@dataclass(slots=True)
class HubMethod:
    """One method that clients may call."""

    wire_name: str
    function: Callable[..., Any]  # takes the hub object first
    parameters: tuple[Any, ...]  # their annotations, without those that are streams
    required: int  # of them, those without a default
    is_async: bool  # a coroutine function
    is_stream: bool  # its results are a stream
    is_immediate: bool  # a plain function with one result: it can run without a task of its own
    streams: tuple[tuple[int, Any], ...] = ()  # parameters that clients stream: which, and the type of their items
    checks: tuple[Callable[[Any], bool], ...] = ()  # who may call it
    is_plain: bool = True  # no streams in or out, and no checks: arguments that fit are all it needs
    _item_decoders: dict[str, tuple[Callable[[msgspec.Raw], Any], ...]] = field(default_factory=dict)
    _decoders: dict[str, Callable[[msgspec.Raw], tuple[Any, ...]]] = field(default_factory=dict)
    _partial_decoders: dict[tuple[str, int], Callable[[msgspec.Raw], tuple[Any, ...]]] = field(default_factory=dict)

    def prepare(self, protocol: HubProtocol) -> None:
        """Make the decoders of all parameters; before the first `bind` with this protocol.

        Raises:
            ConfigError: an annotation that cannot be decoded into.
        """
        self._decoders[protocol.name] = self._make_decoder(protocol, self.parameters)
        try:
            self._item_decoders[protocol.name] = tuple(protocol.decoder(each) for _, each in self.streams)
        except TypeError as error:
            raise self._undecodable(error) from None

    def with_uploads(self, arguments: tuple[Any, ...], protocol: HubProtocol, uploads: Sequence[Upload]) -> list[Any]:
        """All that the method takes, in its order; the items of the uploads have their types now."""
        everything = list(arguments)
        decoders = self._item_decoders[protocol.name]
        for upload, (index, _), decode in zip(uploads, self.streams, decoders, strict=True):
            upload.decode_with(decode)
            everything.insert(index, upload)
        return everything

    def _undecodable(self, error: TypeError) -> ConfigError:
        return ConfigError(
            f"hub method {self.function.__qualname__}",
            None,
            f"an argument cannot be decoded: {error}; annotate with types that msgspec knows",
        )

    def bind(self, protocol: HubProtocol, arguments: msgspec.Raw) -> tuple[Any, ...]:
        """Decode the arguments of an invocation, once, straight into the annotated types.

        Raises:
            ArgumentsRejected: they do not fit.
            RemoteProtocolError: they are malformed.
        """
        try:
            return self._decoders[protocol.name](arguments)
        except BindingError as error:
            count = error.count
        expected = len(self.parameters)
        if self.required <= count < expected:
            try:
                return self._partial_decoder(protocol, count)(arguments)
            except BindingError:
                raise ArgumentsRejected(TYPES_DO_NOT_FIT) from None
        raise ArgumentsRejected(TYPES_DO_NOT_FIT if count == expected else wrong_count(count, expected))

    def _partial_decoder(self, protocol: HubProtocol, count: int) -> Callable[[msgspec.Raw], tuple[Any, ...]]:
        """Of the first `count` parameters, where the others have defaults."""
        decoder = self._partial_decoders.get((protocol.name, count))
        if decoder is None:
            decoder = self._make_decoder(protocol, self.parameters[:count])
            self._partial_decoders[protocol.name, count] = decoder
        return decoder

    def _make_decoder(
        self, protocol: HubProtocol, parameters: tuple[Any, ...]
    ) -> Callable[[msgspec.Raw], tuple[Any, ...]]:
        try:
            return protocol.argument_decoder(parameters)
        except TypeError as error:
            raise self._undecodable(error) from None


class HubMethods:
    """The methods of one hub class, by what clients call them.

    Args:
        hub_class: the user's class.
        base: the class whose own attributes are plumbing, `Hub`.

    Raises:
        ConfigError: two methods with one name, or a signature that cannot be called from a wire.
    """

    def __init__(self, hub_class: type, base: type) -> None:
        self.hub_class = hub_class
        self._by_key: dict[str, HubMethod] = {}
        for name in dir(hub_class):
            if name.startswith("_") or hasattr(base, name):
                continue
            attribute = inspect.getattr_static(hub_class, name)
            if isinstance(attribute, types.FunctionType):
                self._add(name, attribute)
        # Names as clients usually write them, so that finding a method costs one look-up.
        self._by_name = dict(self._by_key)
        for method in self._by_key.values():
            wire = method.wire_name
            self._by_name |= {wire: method, wire[:1].lower() + wire[1:]: method}

    def __iter__(self) -> typing.Iterator[HubMethod]:
        return iter(self._by_key.values())

    def find(self, target: str) -> HubMethod | None:
        """The method that a client means."""
        method = self._by_name.get(target)
        if method is None and not target.startswith("_") and len(target) <= _MAX_NAME:
            method = self._by_key.get(_key(target))
        return method

    def _add(self, name: str, function: types.FunctionType) -> None:
        wire_name = getattr(function, _WIRE_NAME, None) or _pascal_case(name)
        method = _describe(wire_name, function, self.hub_class)
        key = _key(wire_name)
        other = self._by_key.get(key)
        if other is not None:
            raise ConfigError(
                f"hub {self.hub_class.__name__}",
                None,
                f"{other.function.__name__} and {name} have the same name for clients ({wire_name}); "
                "rename one, or give it @hub_method(name=...)",
            )
        self._by_key[key] = method


def rename(function: Callable[..., Any], name: str) -> None:
    """Give a function its wire name (`@hub_method`)."""
    setattr(function, _WIRE_NAME, name)


def restrict(target: Any, check: Callable[[Any], bool]) -> None:
    """Add a check to a function or hub class (`@authorize`)."""
    setattr(target, _CHECKS, (*target.__dict__.get(_CHECKS, ()), check))


def _checks(function: Callable[..., Any], hub_class: type) -> tuple[Callable[[Any], bool], ...]:
    """Those of the class and of its bases, then the method's own."""
    of_classes = [check for each in reversed(hub_class.__mro__) for check in each.__dict__.get(_CHECKS, ())]
    return (*of_classes, *function.__dict__.get(_CHECKS, ()))


def _key(name: str) -> str:
    return name.replace("_", "").lower()


def _pascal_case(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _describe(wire_name: str, function: types.FunctionType, hub_class: type) -> HubMethod:
    inner = inspect.unwrap(function)
    where = f"hub method {hub_class.__name__}.{function.__name__}"
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise ConfigError(where, None, f"parameter {parameter} cannot come from a wire; use plain parameters")
    hints = _hints(inner, {each.name for each in parameters}, hub_class, where)
    annotations = [hints.get(each.name, Any) for each in parameters]
    streams = tuple((index, _item_type(each)) for index, each in enumerate(annotations) if _is_stream(each))
    plain = [each for each in parameters if not _is_stream(hints.get(each.name, Any))]
    # With streams between them, arguments that are left out cannot be told from the place of what follows.
    required = len(plain) if streams else sum(each.default is each.empty for each in plain)
    is_async = inspect.iscoroutinefunction(inner)
    is_stream = inspect.isasyncgenfunction(inner) or _returns_stream(inner, hub_class)
    checks = _checks(inner, hub_class)
    return HubMethod(
        wire_name=wire_name,
        function=function,
        parameters=tuple(each for each in annotations if not _is_stream(each)),
        required=required,
        is_async=is_async,
        is_stream=is_stream,
        is_immediate=not (is_async or is_stream or streams),
        streams=streams,
        checks=checks,
        is_plain=not (is_stream or streams or checks),
    )


def _hints(function: Callable[..., Any], names: set[str], hub_class: type, where: str) -> dict[str, Any]:
    """The resolved annotations of some parameters (or of `return`)."""
    wanted = {name: hint for name, hint in inspect.get_annotations(function).items() if name in names}
    holder = types.SimpleNamespace(__annotations__=wanted)
    try:
        return typing.get_type_hints(holder, function.__globals__, dict(vars(hub_class)), include_extras=True)
    except NameError as error:
        raise ConfigError(
            where, None, f"an annotation cannot be resolved: {error}; import the type at module level at run time"
        ) from None


def _returns_stream(function: Callable[..., Any], hub_class: type) -> bool:
    try:
        hint = _hints(function, {"return"}, hub_class, "").get("return")
    except ConfigError:
        return False  # nobody needs the type of a result
    return _is_stream(hint)


def _is_stream(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in _STREAMS


def _item_type(hint: Any) -> Any:
    return next(iter(typing.get_args(hint)), Any)
