"""What the schemas of all files have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

Json = dict[str, Any]
"""A JSON schema, or a part of one."""


def of_type(kind: Any) -> Json:
    """The schema of values of a dataclass."""
    return tidy(TypeAdapter(kind).json_schema())


def tidy(schema: Json) -> Json:
    """``schema`` without the titles that are made of its keys' and types' own names."""
    return {
        key: (
            {name: tidy(part) for name, part in value.items()}
            if key in ("properties", "patternProperties", "$defs")
            else _tidy_value(value)
        )
        for key, value in schema.items()
        if key != "title"
    }


def _tidy_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tidy(dict(value))
    return [_tidy_value(part) for part in value] if isinstance(value, list) else value


def change_numbers(schema: Any, change: Callable[[Json], Json]) -> Any:
    """``schema`` with ``change`` of each number in it (not of whole numbers)."""
    if isinstance(schema, list):
        return [change_numbers(part, change) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        return change(schema)
    return {key: change_numbers(value, change) for key, value in schema.items()}


def or_null(number: Json) -> Json:
    """A number that is ``null`` where it is not finite."""
    return {"anyOf": [number, {"type": "null"}]}


def listed(item: Json) -> Json:
    return {"type": "array", "items": item}


def one_or_more(item: Json) -> Json:
    """A value, or a list of such."""
    return {"anyOf": [item, {**listed(item), "minItems": 1}]}


def reference(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


FLAG: Json = {"type": "boolean"}
TEXT: Json = {"type": "string"}
