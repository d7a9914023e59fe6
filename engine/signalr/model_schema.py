"""JSON Schema of models that msgspec does not know, pydantic's, beside that of all other types.

Owns: their names among the names of all types. A model is known by its methods; pydantic is never
imported. Its schema brings definitions of its own, whose names may be taken already by other types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

__all__ = ["schemas_of"]

_REFERENCE = "#/types/{name}"
_MODEL = "#/models/"  # and the index of a model, until it has its name


def schemas_of(hints: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """JSON Schema of each type, and of the types that those refer to; what has none is anything."""
    models: list[Any] = []

    def model_schema(type_: type) -> dict[str, Any]:
        if not hasattr(type_, "model_json_schema"):
            raise NotImplementedError
        if type_ not in models:
            models.append(type_)
        return {"$ref": f"{_MODEL}{models.index(type_)}"}

    usable = [hint if _has_schema(hint, model_schema) else Any for hint in hints]
    schemas, components = msgspec.json.schema_components(usable, schema_hook=model_schema, ref_template=_REFERENCE)
    names = {f"{_MODEL}{index}": _add(model, components) for index, model in enumerate(models)}
    return [_renamed(each, names) for each in schemas], {
        name: _renamed(each, names) for name, each in components.items()
    }


def _has_schema(hint: Any, hook: Callable[[type], dict[str, Any]]) -> bool:
    try:
        msgspec.json.schema(hint, schema_hook=hook)
    except (TypeError, NotImplementedError, RuntimeError, NameError):
        return False
    return True


def _add(model: Any, components: dict[str, Any]) -> str:
    """Put a model's schema and its definitions among the components; the reference to it."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    root = schema.get("$ref", "").rpartition("/")[2]  # of a model that contains itself
    if not root:
        root = model.__name__
        definitions = definitions | {root: schema}
    names: dict[str, str] = {}
    for name, each in definitions.items():
        free = name
        while free in components and not _same(components[free], each):
            free += "_"
        names[f"#/$defs/{name}"] = f"#/types/{free}"
    for name, each in definitions.items():
        components.setdefault(names[f"#/$defs/{name}"].rpartition("/")[2], _renamed(each, names))
    return names[f"#/$defs/{root}"]


def _same(ours: Any, theirs: Any) -> bool:
    """Two descriptions of one type, an enum by msgspec and by pydantic among them."""
    if "enum" in ours and "enum" in theirs:
        return set(map(str, ours["enum"])) == set(map(str, theirs["enum"]))
    return bool(_renamed(theirs, {}, plain=True) == _renamed(ours, {}, plain=True))


def _renamed(schema: Any, names: dict[str, str], *, plain: bool = False) -> Any:
    """A copy with other references; with their names alone where they are to be compared."""
    match schema:
        case {"$ref": str(reference), **rest}:
            target = reference.rpartition("/")[2] if plain else names.get(reference, reference)
            return {"$ref": target} | rest
        case dict():
            return {key: _renamed(each, names, plain=plain) for key, each in schema.items()}
        case list():
            return [_renamed(each, names, plain=plain) for each in schema]
        case _:
            return schema
