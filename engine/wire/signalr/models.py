"""Pydantic models as arguments and results, where pydantic is installed.

Owns: the hooks that msgspec calls for types that it does not know. Pydantic itself is never imported:
a model is known by its methods. Bytes are base64 text in JSON wherever the model's annotations say
`bytes`, so that both encodings bind a model alike.

Spec: https://docs.pydantic.dev/latest/concepts/models/
"""

from __future__ import annotations

import base64
import types
import typing
from typing import Any


def encode_model(value: Any) -> Any:
    """`enc_hook`: a model as the plain values of its fields.

    Raises:
        TypeError: the value is no model.
    """
    dump = getattr(value, "model_dump", None)
    if dump is None or isinstance(value, type):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return dump(by_alias=True)


def decode_model(type_: type, value: Any) -> Any:
    """`dec_hook` for encodings that have bytes of their own.

    Raises:
        TypeError, ValueError: the value does not fit; msgspec makes a ValidationError of both.
    """
    if _is_model(type_):
        return type_.model_validate(value)  # type: ignore[attr-defined]  # `_is_model` looked
    if isinstance(value, type_):
        return value
    raise TypeError(f"Expected `{type_.__name__}`, got `{type(value).__name__}`")


def decode_model_of_text(type_: type, value: Any) -> Any:
    """`dec_hook` for JSON: bytes are base64 text.

    Raises:
        TypeError, ValueError: the value does not fit.
    """
    return decode_model(type_, _with_bytes(type_, value))


def _is_model(type_: Any) -> bool:
    return isinstance(type_, type) and hasattr(type_, "model_validate") and hasattr(type_, "model_fields")


def _with_bytes(hint: Any, value: Any) -> Any:
    """The value with base64 text decoded wherever the annotations want bytes."""
    arguments = typing.get_args(hint)
    match value:
        case str() if hint is bytes:
            return base64.b64decode(value, validate=True)
        case dict() if _is_model(hint):
            hints = {field.alias or name: field.annotation for name, field in hint.model_fields.items()}
            return {key: _with_bytes(hints.get(key), item) for key, item in value.items()}
        case list() if arguments and typing.get_origin(hint) in (list, set, frozenset, tuple):
            return [_with_bytes(arguments[0], item) for item in value]
        case dict() if len(arguments) == 2 and typing.get_origin(hint) is dict:
            return {key: _with_bytes(arguments[1], item) for key, item in value.items()}
        case str() | dict() | list() if typing.get_origin(hint) in (typing.Union, types.UnionType):
            # Text may mean itself in a union with str; else the one member that is not None decides.
            members = [each for each in arguments if each is not type(None)]
            return _with_bytes(members[0], value) if len(members) == 1 else value
        case _:
            return value
