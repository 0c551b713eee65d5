"""What is wrong with a request's body, in words: where it is, what stands there and what was expected.

Nothing here is on the way of a good request, so it may take its time to look for the first mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mlserver.errors import InvalidInput, MalformedRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

NUMBERS: frozenset[type] = frozenset({float, int, bool, NoneType})
"""What JSON values of a numeric column are parsed to."""
CELLS: frozenset[type] = NUMBERS | {str}
"""What those of any other column are."""
MAX_DIMENSIONS = 32
"""As many as every numpy can hold."""

_LISTS = frozenset({list, tuple})
_SHOWN = 40  # characters of a value or name
_LINE = 120  # characters of another library's message
_LISTED = 5  # names


def not_json(body: bytes, error: orjson.JSONDecodeError) -> MalformedRequest:
    """A body that the parser refuses, with the parser's reason and position."""
    if not body:
        return MalformedRequest('The body is empty: expected JSON such as {"ndarray": [[1.5, 2.0]]}.')
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        return MalformedRequest(f"The body is not valid UTF-8: byte {undecodable.start} begins no character.")
    hint = ""
    if error.doc[error.pos :].startswith(("NaN", "Infinity", "-Infinity")):
        hint = " JSON has no NaN and no infinity; a missing value is written null."
    return MalformedRequest(
        f"The body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}.{hint}"
    )


def in_form(document: Any, forms: Collection[str]) -> InvalidInput:
    """A JSON document that is not an object with exactly one of the input forms in it."""
    expected = f"expected an object with one of {_listing(forms)}"
    if type(document) is not dict:
        return InvalidInput(f"The body is {show(document)}: {expected}.")
    if unknown := [key for key in document if key not in forms]:
        return InvalidInput(f"The body has the unknown {_unknown('key', unknown, forms)}: {expected}.")
    given = f"has {_listing(document)} together" if document else "is an empty object"
    return InvalidInput(f"The body {given}: {expected}.")


def in_media_type(given: bytes, taken: Iterable[bytes]) -> UnsupportedMediaType:
    """A body that is declared to be something else than what is taken."""
    *others, last = (name.decode() for name in taken)
    return UnsupportedMediaType(
        f"Content-Type is {quote(given.decode('latin-1'))}: expected {', '.join(others)} or {last}."
    )


def without_names(where: str, *, by_config: bool) -> InvalidInput:
    """Rows without names for a model that has to have them."""
    reason = "api.adapter is records" if by_config else "the model takes features by name"
    return InvalidInput(f"{where} holds rows without names, but {reason}: send records.")


def with_names(where: str) -> InvalidInput:
    """Rows with names where the configuration says that there are none."""
    return InvalidInput(f"{where} holds rows with names, but api.adapter is ndarray: send ndarray.")


def in_keys(where: str, given: Collection[str], required: Collection[str], optional: str) -> InvalidInput:
    """An object of fixed keys that lacks one or has another."""
    known = (*required, optional)
    if unknown := [key for key in given if key not in known]:
        return InvalidInput(
            f"{where} has the unknown {_unknown('key', unknown, known)}: expected {_listing(known)}."
        )
    missing = [key for key in required if key not in given]
    return InvalidInput(f"{where} lacks {_listing(missing)}: expected {_listing(required)}.")


def in_names(where: str, given: Collection[str], expected: Sequence[str], owner: str) -> InvalidInput:
    """Features that are missing from or unknown to those that the owner has."""
    had, wanted = set(given), set(expected)
    missing = [name for name in expected if name not in had]
    unknown = [name for name in given if name not in wanted]
    parts = [f"lacks {_plural('feature', missing)} {_listing(missing)}"] if missing else []
    parts += [f"has the unknown {_unknown('feature', unknown, expected)}"] if unknown else []
    return InvalidInput(f"{where} {' and '.join(parts)}: {owner} {_listing(expected)}.")


def in_shape(shape: tuple[int, ...], width: int, names: Sequence[str] | None) -> InvalidInput:
    """An array whose rows are not as wide as the model's."""
    given = str(shape) if len(shape) <= _LISTED else f"of {len(shape)} dimensions"
    reason = "as the model takes" if names is None else f"one value for each of {_listing(names)}"
    return InvalidInput(f"The array has shape {given}: expected ({shape[0]}, {width}), {reason}.")


def check_texts(texts: Collection[str], allowed: Collection[str]) -> None:
    """Refuses columns of strings where only others may hold them."""
    if wrong := [name for name in texts if name not in allowed]:
        raise InvalidInput(
            f"{_listing(wrong)} {'is a column' if len(wrong) == 1 else 'are columns'} of strings: only "
            f"{_listing(sorted(allowed))} may hold strings."
        )


def not_finite(array: NDArray[np.float64], names: Sequence[str] | None) -> InvalidInput:
    """An array that holds infinity: the first place of it."""
    place = np.argwhere(np.isinf(array))[0].tolist()
    name = f" (feature {quote(names[place[1]])})" if names is not None and len(place) == 2 else ""
    return InvalidInput(
        f"The array{''.join(f'[{index}]' for index in place)}{name} is infinite: expected numbers, and NaN "
        "for a missing value."
    )


def in_width(where: str, given: int, width: int | None) -> InvalidInput:
    """More or fewer names than the model has features."""
    return InvalidInput(f"{where} has {given} names: the model takes {width} features.")


def in_columns(where: str, columns: Any) -> InvalidInput:
    """Names of columns that are no list of different strings."""
    if type(columns) is not list or not columns:
        return InvalidInput(f"{where} is {show(columns)}: expected a list of the features' names.")
    seen: set[str] = set()
    for index, name in enumerate(columns):
        if type(name) is not str:
            return InvalidInput(
                f"{where}[{index}] is {show(name)}: expected a name; rows without names go into ndarray."
            )
        if name in seen:
            break
        seen.add(name)
    return InvalidInput(f"{where}[{index}] is {quote(name)} again: every name may stand only once.")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in which a mistake is looked for."""

    where: str
    """Path of the list of rows, such as ``dataframe_split.data``."""
    names: Sequence[str] | None
    allowed: Sequence[frozenset[type]] | None = None
    """The types of every column's values; None: numbers only."""
    keyed: bool = False
    """Each row was an object."""

    def mistake(self, rows: list[Any], shape: tuple[int, ...] | None) -> InvalidInput:
        """The first place where rows differ from a shape; None: the shape that the first row has."""
        if shape is None:
            shape = (len(rows), *_shape(rows[0]))
        if len(shape) > MAX_DIMENSIONS:
            return InvalidInput(f"{self.where} has more than {MAX_DIMENSIONS} dimensions.")
        if len(shape) == 1:
            return InvalidInput(self._not_a_list((0,), rows[0], "a row, which is a list of values"))
        if 0 in shape:
            return InvalidInput(f"{self._at((0,) * shape.index(0))} is an empty list: expected values.")
        return InvalidInput(self._find(rows, shape) or f"The body has {self.where} more than once.")

    def _find(self, level: list[Any], shape: tuple[int, ...]) -> str | None:
        """Goes down level by level: all lists of one depth stand side by side, as long as they are equal."""
        for depth, length in enumerate(shape[1:], 1):
            alike = {*map(type, level)} <= _LISTS and {*map(len, level)} == {
                length
            }  # many times faster to ask
            for index, value in enumerate(() if alike else level):
                if type(value) not in _LISTS or len(value) != length:
                    return self._wrong_list(_path(index, shape[:depth]), value, length)
            level = list(chain.from_iterable(level))
        allowed = self.allowed or [NUMBERS] * shape[-1]
        alike = {*map(type, level)} <= frozenset.intersection(*allowed)
        for index, value in enumerate(() if alike else level):
            if type(value) not in allowed[index % shape[-1]]:
                return self._wrong_cell(_path(index, shape), value, allowed)
        return None

    def _wrong_list(self, path: tuple[int, ...], value: Any, length: int) -> str:
        if type(value) not in _LISTS:
            return self._not_a_list(path, value, f"a list of {_count(length)}")
        if self.names is not None:
            reason = f"one for each of {_listing(self.names)}"
        elif any(path):
            reason = f"as {self._at((0,) * len(path))} has"
        else:
            reason = "as the model takes"
        return f"{self._at(path)} has {_count(len(value))}: expected {length}, {reason}."

    def _not_a_list(self, path: tuple[int, ...], value: Any, expected: str) -> str:
        hint = " A single row is written [[…]]." if len(path) == 1 else ""
        return f"{self._at(path)} is {show(value)}: expected {expected}.{hint}"

    def _wrong_cell(self, path: tuple[int, ...], value: Any, allowed: Sequence[frozenset[type]]) -> str:
        texts = [name for name, types in zip(self.names or (), allowed, strict=False) if str in types]
        expected = "a number or null"
        if str in allowed[path[-1]]:
            expected = "a number, a string, true, false or null"
        elif type(value) is str and texts:
            expected += f"; only {_listing(texts)} may hold strings"
        return f"{self._at(path)} is {show(value)}: expected {expected}."

    def _at(self, path: tuple[int, ...]) -> str:
        place = self.where + "".join(f"[{index}]" for index in path)
        if len(path) != 2 or self.names is None or path[1] >= len(self.names):
            return place
        name = quote(self.names[path[1]])
        return f"{self.where}[{path[0]}][{name}]" if self.keyed else f"{place} (feature {name})"


def show(value: Any) -> str:
    """A parsed JSON value, short enough for a message."""
    if type(value) is str:
        return f"the string {quote(value)}"
    if type(value) is list:
        return f"a list of {len(value)}" if value else "an empty list"
    if type(value) is dict:
        return "an object" if value else "an empty object"
    return orjson.dumps(value).decode()


def quote(text: str) -> str:
    """Text in JSON's quotes, shortened."""
    return orjson.dumps(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…").decode()


def brief(value: object) -> str:
    """The first line of what others wrote, shortened and without its full stop."""
    line = next(iter(str(value).strip().splitlines()), "")
    return (line if len(line) <= _LINE else line[: _LINE - 1] + "…").rstrip(".")


def _listing(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(map(quote, names[:_LISTED]))
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def _unknown(noun: str, unknown: list[str], known: Collection[str]) -> str:
    nearest = _nearest(unknown[0], known) if len(unknown) == 1 else None
    hint = f" (did you mean {quote(nearest)}?)" if nearest else ""
    return f"{_plural(noun, unknown)} {_listing(unknown)}{hint}"


def _nearest(word: str, known: Collection[str]) -> str | None:
    if len(word) > _SHOWN or len(known) > 1000:  # the comparison is slow, and the client chose the word
        return None
    return next(iter(get_close_matches(word, known, 1)), None)


def _plural(noun: str, items: Collection[object]) -> str:
    return noun if len(items) == 1 else f"{noun}s"


def _count(values: int) -> str:
    return "1 value" if values == 1 else f"{values} values"


def _path(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where the value of that number is in nested lists of a shape."""
    path: list[int] = []
    for length in reversed(shape):
        index, place = divmod(index, length)
        path.insert(0, place)
    return tuple(path)


def _shape(value: Any) -> tuple[int, ...]:
    """Lengths of nested lists along their first elements, down to just beyond the limit."""
    lengths: list[int] = []
    while type(value) is list and len(lengths) <= MAX_DIMENSIONS:
        lengths.append(len(value))
        value = value[0] if value else None
    return tuple(lengths)
