"""Values of a line: anything at all made of what JSON knows, with bounded work."""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import enum
import sys
from collections import UserList, deque
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from itertools import islice
from typing import TYPE_CHECKING, Any

from mlserver.lines.texts import MAX_WORK, cut, without

if TYPE_CHECKING:
    from mlserver.lines.texts import Hide

MAX_ITEMS = 1000
"""Values inside of one field, all levels together."""
MAX_ARRAY = 100
"""Values of an array of numpy that is shown; of a larger one there are shape and type."""
MAX_DEPTH = 8
MAX_KEY = 128
"""Bytes of a key."""
MORE = "…"
"""Stands for what was left out of a list or a dict."""

_LISTS = (list, tuple, set, frozenset, deque, array.array, UserList, KeysView, ItemsView, ValuesView)
_MAX_BITS = 4096


def simple(value: object, *, limit: int, hide: Hide | None = None, items: int = MAX_ITEMS) -> Any:
    """A value as None, numbers, texts, lists, and dicts whose keys are texts.

    Texts are cut. `MORE` stands for the rest of a list or dict that has too many values or lies too deep,
    and for one that holds itself. What is none of all these is its ``repr``, and what raises is named.
    Numbers of more than 64 bits are texts; NaN and infinite ones stay, JSON has ``null`` for them.

    Args:
        value: anything.
        limit: bytes of one text.
        hide: applied to every text before it is cut, and to numbers as they are written.
        items: values inside of it, all levels together.
    """
    return _Simplifier(limit, hide, items).of(value)


def key_of(key: object, hide: Hide | None = None) -> str:
    """A key as text, which is never empty."""
    if type(key) is str and hide is None and 0 < len(key) <= MAX_KEY and key.isascii():
        return key
    text = simple(key, limit=MAX_KEY, hide=hide, items=0)
    return (text if isinstance(text, str) else cut(repr(text), MAX_KEY)) or "_"


class _Simplifier:
    def __init__(self, limit: int, hide: Hide | None, items: int) -> None:
        self._limit = limit
        self._hide = hide
        self._left = items
        self._above: set[int] = set()

    def of(self, value: object) -> Any:
        if value is None or value is True or value is False:
            return value
        try:
            return self._of(value)
        except Exception as error:  # noqa: BLE001  # a user's own code runs in it
            return f"<{type(value).__name__} without text: {type(error).__name__}>"

    def _of(self, value: object) -> Any:  # noqa: PLR0911
        if isinstance(value, enum.Enum):
            return self.of(value.value)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            return self._number(int.__int__(value))
        if isinstance(value, float):
            return self._number(float.__float__(value))
        if isinstance(value, bytes | bytearray | memoryview):
            seen = bytes(value[:MAX_WORK])
            return self._text(seen.decode("utf-8", "replace"), beyond=len(value) - len(seen))
        if isinstance(value, dt.date | dt.time):
            return self._text(value.isoformat())
        if isinstance(value, Mapping):
            return self._inside(value, lambda: self._dict(value.items()))
        if isinstance(value, _LISTS):
            return self._inside(value, lambda: self._list(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and _shows_fields(value):
            return self._inside(value, lambda: self._dict(_fields(value)))
        return self._of_numpy(value)

    def _of_numpy(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")  # not imported for this: the supervisor does without
        if numpy is not None and isinstance(value, numpy.ndarray):
            if value.size <= MAX_ARRAY:
                return self.of(value.tolist())
            return f"{type(value).__name__}(shape={value.shape}, dtype={value.dtype})"
        if numpy is not None and isinstance(value, numpy.generic):
            item = value.item()
            exact = isinstance(item, bool | int | float | str | bytes)
            return self.of(item if exact and value.dtype.kind not in "mM" else str(value))
        return self._text(repr(value) if not _is_plain_text(value) else str(value))

    def _text(self, text: str, *, beyond: int = 0) -> str:
        return cut(without(text, self._hide), self._limit, beyond=beyond)

    def _number(self, value: float) -> Any:
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            bits = value.bit_length()
            return self._text(str(value) if bits <= _MAX_BITS else f"<int of {bits} bits>")
        if self._hide is not None and (shown := self._text(written := repr(value))) != written:
            return shown
        return value

    def _inside(self, value: object, make: Any) -> Any:
        """What is made of a list or dict, unless it lies too deep or holds itself."""
        if id(value) in self._above or len(self._above) >= MAX_DEPTH:
            return MORE
        self._above.add(id(value))
        try:
            return make()
        finally:
            self._above.discard(id(value))

    def _list(self, values: Iterable[object]) -> list[Any]:
        made: list[Any] = []
        for value in list(islice(values, self._left + 1)):
            if self._left <= 0:
                made.append(MORE)
                break
            self._left -= 1
            made.append(self.of(value))
        return made

    def _dict(self, pairs: Iterable[tuple[object, object]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in list(islice(pairs, self._left + 1)):
            if self._left <= 0:
                made[MORE] = MORE
                break
            self._left -= 1
            name = key_of(key, self._hide)
            while name in made:  # keys may differ and yet have the same text
                name = f"{name}_{len(made)}"
            made[name] = self.of(value)
        return made


def _is_plain_text(value: object) -> bool:
    """Whether ``str`` says all of it: a ``Decimal``, a path, a UUID, a span of time."""
    module = type(value).__module__
    return module in ("decimal", "fractions", "uuid", "datetime", "ipaddress") or module.startswith("pathlib")


@dataclasses.dataclass
class _Any: ...


def _shows_fields(value: object) -> bool:
    """Whether a dataclass is shown by its fields: not if its ``repr`` is its own, which may hide some."""
    return getattr(type(value).__repr__, "__code__", None) is _Any.__repr__.__code__


def _fields(value: Any) -> list[tuple[str, object]]:
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr]
