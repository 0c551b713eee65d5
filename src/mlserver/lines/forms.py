"""Forms of a line: JSON under our own names or those of the Elastic Common Schema, and text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mlserver.lines.ecs import to_ecs
from mlserver.lines.terminal import Terminal
from mlserver.lines.texts import cut_stack
from mlserver.lines.values import MAX_ITEMS, key_of, simple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Form = Callable[[Mapping[str, Any]], bytes]
    """A record becomes one line with its newline."""
    _Dump = Callable[[dict[str, Any]], bytes]

TRUNCATED = "truncated"
"""Is true in a line that lacks fields which it had no room for."""
MAX_FIELDS = 256
"""Of one line."""
_JSON = orjson.OPT_APPEND_NEWLINE
_PLAIN = frozenset({str, int, float, bool, type(None)})
_TEXTS = frozenset({str})
_LEAST_TEXT = 32
_STACKS = frozenset({"exception", "stack", "error.stack_trace"})


def form_of(*, structured: bool, ecs: bool, longest: int, colours: bool) -> Form:
    """How records become lines.

    A line has at most ``longest`` bytes, whatever is in the record: its texts become shorter, then its
    lists and dicts, and at last it loses fields from the end, which `TRUNCATED` says. Values may be anything.
    Text for people has no control characters but newlines, each followed by the indentation of a traceback.

    Args:
        structured: JSON; otherwise text for people.
        ecs: JSON with the names of the Elastic Common Schema, without fields that are null.
        longest: bytes of a line, 1024 or more.
        colours: colours the text for people.
    """
    if not structured:
        terminal = Terminal(colours=colours)
        return lambda record: _fitting(record, terminal.dump, longest)
    if ecs:
        return lambda record: _fitting(to_ecs(record), _dump, longest)
    return lambda record: _fitting(record, _dump, longest)


def _dump(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record, option=_JSON)


def _fitting(record: Mapping[str, Any], dump: _Dump, longest: int) -> bytes:
    try:
        made = {
            key: value if type(value) in _PLAIN else simple(value, limit=longest)
            for key, value in record.items()
        }
        if len(made) <= MAX_FIELDS and _TEXTS.issuperset(map(type, made)):
            line = dump(made)
            if len(line) <= longest:
                return line
    except TypeError:  # a lone surrogate, an integer of more than 64 bits
        pass
    return _shrunk(record, dump, longest)


def _shrunk(record: Mapping[str, Any], dump: _Dump, longest: int) -> bytes:
    fields = list(record.items())
    for texts, items in _steps(longest):
        made: dict[str, Any] = {}
        for key, value in fields[:MAX_FIELDS]:
            name = key_of(key)
            while name in made:
                name += "_"
            made[name] = _shortened(name, value, texts, items)
        if len(fields) > MAX_FIELDS:
            made[TRUNCATED] = True
        line = dump(made)
        if len(line) <= longest:
            return line
    return _first_fields(made, dump, longest)


def _steps(longest: int) -> list[tuple[int, int]]:
    """Bytes of a text and values of a list or dict, ever fewer."""
    steps = [(longest, MAX_ITEMS)]
    while steps[-1][0] > _LEAST_TEXT:
        steps.append((steps[-1][0] // 2, MAX_ITEMS))
    return steps + [(_LEAST_TEXT, items) for items in (256, 64, 16, 4, 0)]


def _shortened(key: str, value: object, limit: int, items: int) -> Any:
    if isinstance(value, str) and key in _STACKS:
        return cut_stack(value, limit)
    return simple(value, limit=limit, items=items)


def _first_fields(made: dict[str, Any], dump: _Dump, longest: int) -> bytes:
    """As many fields from the beginning as fit."""
    names, few, many = list(made), 0, len(made)
    while few < many:
        middle = (few + many + 1) // 2
        fits = len(dump({name: made[name] for name in names[:middle]} | {TRUNCATED: True})) <= longest
        few, many = (middle, many) if fits else (few, middle - 1)
    return dump({name: made[name] for name in names[:few]} | {TRUNCATED: True})
