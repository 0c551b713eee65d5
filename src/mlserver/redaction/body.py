"""Where in a JSON body the values stand that must not be shown.

What is looked at is the body's own text, not what it is parsed to: so numbers keep their digits, a key that
stands twice counts twice, and whoever needs only the beginning stops there.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum, auto
from itertools import compress
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    Span = tuple[int, int]
    Columns = tuple[bool, ...] | None
    """Of each column whether its values are hidden, none where nobody knows; None: they have no names."""

MAX_TOKENS = 20_000
"""Values, keys and brackets of one body that are looked at."""
MAX_BYTES = 2**19
"""Of a longer one nothing is looked at."""
TOKEN = re.compile(
    r'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|([\[{])|([\]}])|[^\s\[\]{},:"]++', re.DOTALL
)  # possessive: it takes a seventh of the time where there are many escapes
"""A string, with a colon if it is a key; a bracket; any other value. ``lastindex`` says which."""
_KEY, _BEGIN, _END = 2, 3, 4
_ROWS = frozenset({"ndarray", "instances", "records"})
"""What rows without names stand under, if a client makes no mistake."""
_SHRINKING = 8
"""More characters of a name never become one. To normalize many marks in a row takes very long."""
_UNKNOWN: Columns = ()
_ANSWERS = frozenset({"predictions", "probabilities"})
"""What no rows of a request stand under."""


class Scan(NamedTuple):
    """What was found."""

    spans: list[Span]
    """Where the hidden values stand, in order; none within another."""
    end: int
    """How far was looked: what stands beyond may have to be hidden."""

    def within(self, shown: int) -> Scan:
        """As much of it as is needed for so many characters beside the hidden ones."""
        covered = 0
        for index, (start, end) in enumerate(self.spans):
            if start - covered > shown:
                return Scan(self.spans[:index], min(self.end, shown + covered))
            covered += end - start
        return Scan(self.spans, min(self.end, shown + covered))


class Names:
    """Names of fields whose values are hidden, in any case of letters."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(map(_folded, names))
        self._longest = max(map(len, self._names), default=0) * _SHRINKING

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, name: str) -> bool:
        return len(name) <= self._longest and _folded(name) in self._names

    def among(self, columns: Sequence[str]) -> tuple[bool, ...]:
        """Which columns are hidden."""
        return tuple(name in self for name in columns)


def scan(body: bytes, names: Names, features: Sequence[str] | None, *, shown: float = inf) -> Scan | None:
    """Finds the values of hidden fields, at any depth, and of hidden columns.

    Args:
        body: JSON in UTF-8. Places are counted in its characters.
        names: of the fields and columns.
        features: names of the columns of rows without names; None: nobody knows them, and all are hidden.
        shown: characters beside the hidden ones after which the rest is not needed.

    Returns:
        None if the body is no JSON.
    """
    if len(body) > MAX_BYTES:
        return Scan([], 0)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    text = body.decode()
    rows = _UNKNOWN if features is None else names.among(features) or None
    return _Scanner(names, rows, _columns_of_split(document, names, text)).scan(text, shown)


def leaves(text: str) -> Iterator[str]:
    """What stands in a JSON value: strings, decoded, and keys among them; all else as it is written."""
    for token in TOKEN.finditer(text):
        if token[1] is not None:
            yield _decoded(token[1])
        elif token.lastindex is None:
            yield token[0]


class _Kind(Enum):
    """What a value is to the search."""

    PLAIN = auto()
    HIDDEN = auto()
    BODY = auto()
    SPLIT = auto()
    ROWS = auto()
    ROW = auto()


class _Frame:
    """An object or list that has begun."""

    __slots__ = ("columns", "items", "kind", "start")

    def __init__(self, kind: _Kind, start: int, columns: tuple[bool, ...] = ()) -> None:
        self.kind = kind
        self.start = start
        self.columns = columns
        self.items: list[Span] = []


class _Scanner:
    def __init__(self, names: Names, rows: Columns, split: Columns) -> None:
        self._names = names
        self._rows, self._split = rows, split
        self._spans: list[Span] = []
        self._covered = 0

    def scan(self, text: str, shown: float) -> Scan:
        """Goes through a text that is JSON, without recursion."""
        keys: dict[str, tuple[str, bool]] = {}
        key: str | None = None
        named = False
        parent = _Frame(_Kind.PLAIN, 0)
        stack = [parent]
        plain, hidden, row = _Kind.PLAIN, _Kind.HIDDEN, _Kind.ROW
        for number, token in enumerate(TOKEN.finditer(text)):
            sort, start = token.lastindex, token.start()
            if number >= MAX_TOKENS or start - self._covered > shown:
                undecided = (frame.start for frame in stack if frame.kind in (hidden, row))
                return self._found(min([start, *undecided]))
            if sort == _KEY:
                written = token[1]
                if written not in keys:
                    name = _decoded(written)
                    keys[written] = name, name in self._names
                key, named = keys[written]
                continue
            if sort == _BEGIN:
                parent = self._begin(stack, key, text[start], start, named=named)
                stack.append(parent)
            elif sort == _END:
                frame = stack.pop()
                parent = stack[-1]
                if frame.kind is row:
                    self._end_row(frame)
                self._end(parent, frame.kind, frame.start, token.end())
            elif parent.kind is row:
                parent.items.append(token.span())
            elif named or (parent.kind is not plain and parent.kind is not hidden):
                frame = self._begin(stack, key, text[start], start, named=named)
                self._end(parent, frame.kind, start, token.end())
            key, named = None, False
        return self._found(len(text))

    def _begin(self, stack: list[_Frame], key: str | None, sign: str, start: int, *, named: bool) -> _Frame:
        """A value that begins: what it is depends on where it stands."""
        parent = stack[-1]
        if named or parent.kind is _Kind.HIDDEN:
            return _Frame(_Kind.HIDDEN, start)
        if parent.kind is _Kind.ROWS and sign != "{":
            return _Frame(_Kind.ROW if sign == "[" else _Kind.HIDDEN, start, parent.columns)
        if parent.kind is _Kind.SPLIT and key == "data":
            return _table(self._split, sign, start)
        unnamed = (len(stack) == 1 or parent.kind is _Kind.BODY) and sign == "[" and key not in _ANSWERS
        if unnamed or (parent.kind is _Kind.BODY and key in _ROWS):
            return _table(self._rows, sign, start)
        if parent.kind is _Kind.BODY and key == "dataframe_split":
            return _Frame(_Kind.SPLIT, start)
        return _Frame(_Kind.BODY if len(stack) == 1 else _Kind.PLAIN, start)

    def _end(self, parent: _Frame, kind: _Kind, start: int, end: int) -> None:
        """A value that is complete."""
        if kind is _Kind.HIDDEN and parent.kind is not _Kind.HIDDEN:
            self._hide(start, end)
        if parent.kind is _Kind.ROW:
            parent.items.append((start, end))

    def _end_row(self, row: _Frame) -> None:
        # In a row that is too short or too long nobody knows which value is whose.
        known = len(row.items) == len(row.columns)
        for item in compress(row.items, row.columns) if known else row.items:
            self._hide(*item)

    def _hide(self, start: int, end: int) -> None:
        self._spans.append((start, end))
        self._covered += end - start

    def _found(self, end: int) -> Scan:
        spans: list[Span] = []
        for span in sorted(self._spans, key=lambda span: (span[0], -span[1])):
            if span[1] <= end and (not spans or span[0] >= spans[-1][1]):
                spans.append(span)
        return Scan(spans, end)


def _table(columns: Columns, sign: str, start: int) -> _Frame:
    """What should be a list of rows."""
    if columns is None:
        return _Frame(_Kind.PLAIN, start)
    if sign not in "[{":
        return _Frame(_Kind.HIDDEN, start)
    return _Frame(_Kind.ROWS if sign == "[" else _Kind.PLAIN, start, columns)


def _columns_of_split(document: Any, names: Names, text: str) -> Columns:
    split = document.get("dataframe_split") if type(document) is dict else None
    columns = split.get("columns") if type(split) is dict else None
    if type(columns) is not list or not all(type(name) is str for name in columns):
        return _UNKNOWN
    # Where there may be two of them, nobody knows which one is of which rows.
    return names.among(columns) if text.count('columns"') == 1 else _UNKNOWN


def _decoded(token: str) -> str:
    """The text of a JSON string."""
    text: str = orjson.loads(token) if "\\" in token else token[1:-1]
    return text


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFKC", name).casefold()
