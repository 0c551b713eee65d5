"""The names of the Elastic Common Schema for a line's fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlserver.lines.texts import MAX_WORK
from mlserver.lines.values import key_of, simple
from mlserver.signals.lines import ECS_VERSION, EVENT_FIELDS, MESSAGE, REQUEST_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlserver.signals.lines import LogField

_FIELDS = {field.name: field for field in (*EVENT_FIELDS, *REQUEST_FIELDS)}
_ROOTS = frozenset(field.ecs.partition(".")[0] for field in _FIELDS.values()) | {"ecs"}
_OUTCOMES = {"success": "success", "error": "failure"}
_SCALARS = (str, int, float)
_SUITING: dict[str, tuple[type[Any], ...]] = {
    "date": (str,),
    "keyword": (*_SCALARS, list),
    "text": _SCALARS,
    "integer": (int, list),
    "float": (int, float),
}


def to_ecs(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record under the names of the Elastic Common Schema, without what is None.

    A field that we do not declare keeps its name, unless a store would take it for a part of one of ours:
    then its first part ends in "_". So does one of ours whose value is of another type than we declare.
    """
    made: dict[str, Any] = {}
    for key, given in record.items():
        if given is None:
            continue
        value = simple(given, limit=MAX_WORK)
        field = _FIELDS.get(key)
        value = None if field is None else _translated(field, value)
        name = field.ecs if field is not None and value is not None else _own(key)
        while name in made:
            name += "_"
        made[name] = given if value is None else value
        if name == MESSAGE.ecs:
            made["ecs.version"] = ECS_VERSION
    return made


def _translated(field: LogField, value: Any) -> Any:
    """A value as the schema has it; None for one that does not suit the field."""
    if not isinstance(value, _SUITING[field.type]):
        return None
    if field.ecs == "log.level":
        return str(value).lower()
    if field.ecs == "event.outcome":
        return _OUTCOMES.get(value) if isinstance(value, str) else None
    if field.ecs == "event.duration":
        return round(value * 1e6) if math.isfinite(value) else None  # nanoseconds
    return value


def _own(key: object) -> str:
    first, dot, rest = key_of(key).partition(".")
    return f"{first}_{dot}{rest}" if first in _ROOTS else first + dot + rest
