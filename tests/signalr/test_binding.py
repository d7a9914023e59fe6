"""Which hub methods can be called, by which names, with which arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import wraps
from typing import Any

import msgspec
import pytest

from engine.errors import ConfigError
from engine.signalr.binding import ArgumentsRejected, HubMethods
from engine.signalr.hub import Hub, hub_method
from engine.wire.signalr.json import JsonHubProtocol

JSON = JsonHubProtocol()


def methods(hub_class: type) -> HubMethods:
    return HubMethods(hub_class, Hub)


class Mixin:
    async def from_mixin(self) -> None: ...


def logged(function: Any) -> Any:
    @wraps(function)
    async def wrapper(self: Any, *arguments: Any) -> Any:
        return await function(self, *arguments)

    return wrapper


class ExampleHub(Mixin, Hub):
    limit = 3

    async def send_message(self, user: str, message: str) -> None: ...

    def plain(self) -> int:
        return 1

    async def stream(self) -> AsyncIterator[int]:
        yield 1

    def other_stream(self) -> AsyncIterator[int]:
        return self.stream()

    @hub_method(name="Renamed")
    async def in_the_code(self) -> None: ...

    @logged
    async def wrapped(self, number: int) -> int:
        return number

    async def optional(self, a: int, b: str = "x") -> None: ...

    async def on_connected(self) -> None: ...

    async def _private(self) -> None: ...

    async def __mangled(self) -> None: ...

    @staticmethod
    def helper() -> None: ...

    @property
    def prop(self) -> int:
        return 1


@pytest.mark.parametrize(
    "target",
    ["send_message", "SendMessage", "sendMessage", "SENDMESSAGE", "sendmessage", "Send_Message", "sEND_mESSAGE_"],
)
def test_names_match_without_case_and_underscores(target: str) -> None:
    found = methods(ExampleHub).find(target)
    assert found is not None
    assert found.wire_name == "SendMessage"


@pytest.mark.parametrize(
    "target",
    ["_private", "private", "Private", "__mangled", "_ExampleHub__mangled", "on_connected", "OnConnected",
     "OnDisconnectedAsync", "on_disconnected", "clients", "Context", "groups", "helper", "prop", "limit", "in_the_code",
     "InTheCode", "__init__", "__class__", "_send_message", "ToString", "", "nope", "s" * 10_000],
)  # fmt: skip
def test_everything_else_cannot_be_called(target: str) -> None:
    assert methods(ExampleHub).find(target) is None


def test_renamed_inherited_and_wrapped_methods_are_found() -> None:
    found = methods(ExampleHub)
    for target in ("Renamed", "FromMixin", "Wrapped"):
        method = found.find(target)
        assert method is not None
        assert (method.wire_name, method.is_async, method.is_stream) == (target, True, False)


def test_kinds_of_methods_are_told_apart() -> None:
    kinds = {each.wire_name: (each.is_async, each.is_stream, each.is_immediate) for each in methods(ExampleHub)}
    assert kinds["SendMessage"] == (True, False, False)
    assert kinds["Plain"] == (False, False, True)
    assert kinds["Stream"] == (False, True, False)
    assert kinds["OtherStream"] == (False, True, False)


def test_a_collision_names_both_methods() -> None:
    class Colliding(Hub):
        async def send_message(self) -> None: ...

        async def sendMessage(self) -> None: ...

    with pytest.raises(ConfigError) as caught:
        methods(Colliding)
    assert "send_message" in str(caught.value)
    assert "sendMessage" in str(caught.value)


def test_a_rename_can_collide_too() -> None:
    class Colliding(Hub):
        async def first(self) -> None: ...

        @hub_method(name="FIRST")
        async def second(self) -> None: ...

    with pytest.raises(ConfigError, match="first and second"):
        methods(Colliding)


def test_signatures_that_no_wire_can_call_are_refused_at_the_start() -> None:
    class KeywordOnly(Hub):
        async def method(self, *, a: int) -> None: ...

    class Unresolvable(Hub):
        async def method(self, a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    class Undecodable(Hub):
        async def method(self, a: list[int] | set[int]) -> None: ...

    with pytest.raises(ConfigError, match="parameter a"):
        methods(KeywordOnly)
    with pytest.raises(ConfigError, match="Missing"):
        methods(Unresolvable)
    (method,) = methods(Undecodable)
    with pytest.raises(ConfigError, match="cannot be decoded"):
        method.prepare(JSON)


def bind(name: str, arguments: bytes) -> Any:
    method = methods(ExampleHub).find(name)
    assert method is not None
    method.prepare(JSON)
    return method.bind(JSON, msgspec.Raw(arguments))


def test_arguments_become_their_annotated_types() -> None:
    assert bind("SendMessage", b'["a","b"]') == ("a", "b")
    assert bind("wrapped", b"[3]") == (3,)


def test_parameters_with_defaults_may_be_left_off() -> None:
    assert bind("optional", b"[1]") == (1,)
    assert bind("optional", b'[1,"b"]') == (1, "b")


TYPES = (
    "InvalidDataException: Error binding arguments. Make sure that the types of the provided values match "
    "the types of the hub method being invoked."
)


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("SendMessage", b'["a"]', "InvalidDataException: Invocation provides 1 argument(s) but target expects 2."),
        ("SendMessage", b"[1,2,3]", "InvalidDataException: Invocation provides 3 argument(s) but target expects 2."),
        ("SendMessage", b'["a",1]', TYPES),
        ("optional", b'["x"]', TYPES),
        ("optional", b"[]", "InvalidDataException: Invocation provides 0 argument(s) but target expects 2."),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_the_words_of_aspnet_core(
    name: str, arguments: bytes, text: str
) -> None:
    with pytest.raises(ArgumentsRejected) as caught:
        bind(name, arguments)
    assert str(caught.value) == text
