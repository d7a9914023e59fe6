"""What hubs offer and call, as data: for people, and for generators of typed clients.

Owns: `describe`, from the hubs of an app to plain JSON values. Types come from annotations, as JSON
Schema. What a hub calls on its clients is read from a class `Client` inside the hub, where there is one;
else from the hub's source: every `self.clients….send("Name", …)` with the name written out.

```python
class ChatHub(Hub):
    class Client:
        def receive_message(self, user: str, message: str) -> None: ...    # wire: ReceiveMessage
```
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.signalr.binding import HubMethod, HubMethods
from engine.signalr.hub import Hub
from engine.signalr.model_schema import schemas_of

__all__ = ["describe"]


@dataclass(slots=True)
class _Parameter:
    name: str
    type: Any
    required: bool = True
    stream: bool = False


@dataclass(slots=True)
class _Signature:
    name: str
    doc: str
    parameters: list[_Parameter]
    returns: Any = None
    stream: bool = False
    rest: bool = False  # any further arguments


@dataclass(slots=True)
class _Described:
    path: str
    name: str
    doc: str
    methods: list[_Signature] = field(default_factory=list)
    client: list[_Signature] = field(default_factory=list)


def describe(hubs: Iterable[tuple[str, type[Hub]]]) -> dict[str, Any]:
    """All hubs, each with its path.

    Returns:
        `{"hubs": [{path, name, doc, methods, client}], "types": {name: JSON Schema}}`, where a method is
        `{name, doc, parameters: [{name, schema, required, stream}], returns, stream}`; `returns` is None
        where there is no result. References go to `#/types/NAME`.
    """
    described = [_describe_hub(path, hub_class) for path, hub_class in hubs]
    wanted = [
        hint
        for hub in described
        for each in (*hub.methods, *hub.client)
        for hint in (*(parameter.type for parameter in each.parameters), each.returns)
    ]
    schemas, components = schemas_of(wanted)
    found = iter(schemas)
    return {"hubs": [_hub(hub, found) for hub in described], "types": components}


def _hub(hub: _Described, schemas: typing.Iterator[Any]) -> dict[str, Any]:
    return {
        "path": hub.path,
        "name": hub.name,
        "doc": hub.doc,
        "methods": [_signature(each, schemas) for each in hub.methods],
        "client": [_signature(each, schemas) for each in hub.client],
    }


def _signature(signature: _Signature, schemas: typing.Iterator[Any]) -> dict[str, Any]:
    parameters = [
        {"name": each.name, "schema": next(schemas), "required": each.required, "stream": each.stream}
        for each in signature.parameters
    ]
    returns = next(schemas)
    answer = {
        "name": signature.name,
        "doc": signature.doc,
        "parameters": parameters,
        "returns": None if signature.returns in (None, type(None)) else returns,
        "stream": signature.stream,
    }
    return answer | ({"rest": True} if signature.rest else {})


# -- what clients may call -------------------------------------------------------------


def _describe_hub(path: str, hub_class: type[Hub]) -> _Described:
    methods = sorted(HubMethods(hub_class, Hub), key=lambda each: each.wire_name)
    hub = _Described(path, hub_class.__name__, _doc(hub_class))
    hub.methods = [_describe_method(each) for each in methods]
    declared = getattr(hub_class, "Client", None)
    hub.client = _declared_calls(declared) if isinstance(declared, type) else _calls_in_source(hub_class)
    return hub


def _describe_method(method: HubMethod) -> _Signature:
    parameters = list(inspect.signature(method.function).parameters.values())[1:]
    streams = dict(method.streams)
    plain = iter(method.parameters)
    described = [
        _Parameter(
            each.name,
            streams[index] if index in streams else next(plain),
            required=each.default is each.empty,
            stream=index in streams,
        )
        for index, each in enumerate(parameters)
    ]
    returns = _hint(method.function, "return")
    if method.is_stream:
        arguments = typing.get_args(returns)
        returns = arguments[0] if arguments else Any
    return _Signature(method.wire_name, _doc(method.function), described, returns, method.is_stream)


def _doc(documented: Any) -> str:
    """The first paragraph of its own docstring."""
    doc = inspect.cleandoc(documented.__doc__ or "")
    return " ".join(doc.partition("\n\n")[0].split())


def _hint(function: Callable[..., Any], name: str) -> Any:
    """A resolved annotation; Any where there is none, or it cannot be resolved."""
    inner = inspect.unwrap(function)
    hints = {key: value for key, value in inspect.get_annotations(inner).items() if key == name}
    holder = types.SimpleNamespace(__annotations__=hints)
    try:
        return typing.get_type_hints(holder, inner.__globals__).get(name, Any)
    except NameError:
        return Any


# -- what the hub calls ------------------------------------------------------------------


def _declared_calls(client: type) -> list[_Signature]:
    calls: list[_Signature] = []
    for method in HubMethods(client, object):
        returns = _hint(method.function, "return")
        names = list(inspect.signature(method.function).parameters)[1:]
        parameters = [_Parameter(name, hint) for name, hint in zip(names, method.parameters, strict=True)]
        calls.append(_Signature(method.wire_name, _doc(method.function), parameters, returns))
    return sorted(calls, key=lambda each: each.name)


def _calls_in_source(hub_class: type[Hub]) -> list[_Signature]:
    found: dict[str, _Signature] = {}
    for owner in hub_class.__mro__:
        if owner in (Hub, *Hub.__mro__):
            continue
        for function in vars(owner).values():
            if isinstance(function, types.FunctionType):
                for call in _calls_of(inspect.unwrap(function)):
                    _merge(found, call)
    return [found[name] for name in sorted(found)]


def _calls_of(function: Callable[..., Any]) -> Iterable[_Signature]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # no source at hand
        return
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=receiver, attr="send" | "invoke" as kind),
                args=[ast.Constant(value=str(name)), *arguments],
            ) if _names_clients(receiver):
                rest = any(isinstance(each, ast.Starred) for each in arguments)
                plain = [each for each in arguments if not isinstance(each, ast.Starred)]
                parameters = [_argument(each, index, function) for index, each in enumerate(plain)]
                yield _Signature(name, "", parameters, Any if kind == "invoke" else None, rest=rest)


def _names_clients(node: ast.expr) -> bool:
    """`self.clients.all`, `self.clients.group(name)` and the like."""
    while True:
        match node:
            case ast.Attribute(attr="clients"):
                return True
            case ast.Attribute(value=inner) | ast.Call(func=inner):
                node = inner
            case _:
                return False


def _argument(node: ast.expr, index: int, function: Callable[..., Any]) -> _Parameter:
    match node:
        case ast.Name(id=name):
            known = name in inspect.signature(function).parameters
            return _Parameter(name, _hint(function, name) if known else Any)
        case ast.Attribute(attr=name):
            return _Parameter(name, Any)
        case ast.Constant(value=value) if value is not None:
            return _Parameter(f"arg{index}", type(value))
        case ast.JoinedStr():
            return _Parameter(f"arg{index}", str)
        case _:
            return _Parameter(f"arg{index}", Any)


def _merge(found: dict[str, _Signature], call: _Signature) -> None:
    """One call of a name that may be called in several places: what all of them have in common."""
    known = found.setdefault(call.name, call)
    if known is call:
        return
    known.rest = known.rest or call.rest or len(known.parameters) != len(call.parameters)
    known.parameters = known.parameters[: len(call.parameters)]
    for ours, theirs in zip(known.parameters, call.parameters, strict=False):
        if ours.type != theirs.type:
            ours.type = Any
    known.returns = known.returns or call.returns
