"""Schemas of JSON values: whether the entries of a file have the types that the code after it needs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from functional_nn.core.errors import short_repr, shortened
from functional_nn.storage.files import JsonValue

Schema: TypeAlias = "type | Sequence[Schema] | Mapping[Any, Schema] | None"
"""A type: ``str``, ``bool``, ``int``, or ``float`` for any number; ``dict`` or ``list`` with anything in it; ``None``;
a tuple of alternatives; a list with the schema of each of its values; or the schemas of entries by name. There ``...``
stands for all other names. A missing entry counts as null, and an entry without a schema can be anything."""

PLAIN = (str, float, bool, None)
"""A text, a number, a boolean or null."""

LARGEST = 2**63 - 1
"""The largest integer. JSON has no limit, but arrays and files have."""


def misfit(value: JsonValue, schema: Schema, place: str = "") -> str:
    """The first entry of a JSON value that does not fit, with its place; empty if all do.

    >>> misfit({"seconds": {"train": "0.9"}}, {"seconds": {...: float}})
    "seconds/train '0.9'"
    """
    parts: Iterable[tuple[object, JsonValue, Schema]] = ()
    if isinstance(schema, tuple):
        if any(_is_of_type(value, one) for one in schema):
            return ""
        schema = next((one for one in schema if type(one) is type(value)), schema[0])
    if isinstance(schema, Mapping) and isinstance(value, dict):
        names = dict.fromkeys([*(name for name in schema if name is not ...), *(value if ... in schema else ())])
        parts = ((name, value.get(name), schema.get(name, schema.get(...))) for name in names)
    elif isinstance(schema, list) and isinstance(value, list):
        parts = ((number, one, schema[0]) for number, one in enumerate(value))
    elif not _is_of_type(value, schema):
        return " ".join((place, "null" if value is None else short_repr(value))).lstrip()
    for name, part, of_part in parts:
        if found_in_part := misfit(part, of_part, f"{place}/{shortened(name)}".lstrip("/")):
            return found_in_part
    return ""


def _is_of_type(value: JsonValue, schema: Schema) -> bool:
    if schema is float:
        # The limit is False for NaN, too. True and False are no numbers, although Python takes them for some.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if schema is int:
        return type(value) is int and abs(value) <= LARGEST
    return type(value) is (type(None) if schema is None else schema)
