"""Values that must not be shown, and where they stand in any text: an error, a traceback, a line of a log.

A text may show a number as ``1234567``, ``1234567.0`` or ``1.23457e+06``, and a string with quotes escaped,
in capitals or cut off. So numbers are compared as numbers, and strings without escapes, in small letters.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlserver.redaction.body import Span

MAX_VALUES = 10_000
"""Different values that are looked for, and"""
MAX_CHARACTERS = 2**18
"""how long they may be, all together."""
HEAD = 8
"""Of a longer string, so many characters at its beginning or end are enough: the rest may be cut off."""
SHORT = 3
"""Values of so few characters are hidden where they stand alone, not within words and numbers."""

_LONG = 64
# Possessive: what does not match must not be tried in all the ways that digits can be shared out.
_NUMBER = re.compile(r"(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d+)?")
_GROUPED = re.compile(r"(?<!\d)\d{1,3}(?:[,_]\d{3})+(?!\d)(?:\.\d+)?")
_ESCAPE = re.compile(
    r"(?:\\+x[0-9a-fA-F]{2})+|(?:\\+u[0-9a-fA-F]{4})+|\\+U[0-9a-fA-F]{8}|\\+[abfnrtv'\"/]?|(?:%[0-9a-fA-F]{2})+"
)
_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FLOAT32 = 1.2e-7
"""How far, relatively, a number is moved when it becomes a float32."""


class TooManyValues(Exception):
    """They are more, or longer, than can be looked for in reasonable time."""


class Values:
    """Finds values in texts, in a time that grows with the text but hardly with the number of values.

    Args:
        leaves: strings, and other JSON values as they are written. ``null`` says nothing and is left out.

    Raises:
        TooManyValues: see `MAX_VALUES` and `MAX_CHARACTERS`.
    """

    def __init__(self, leaves: Iterable[str]) -> None:
        numbers: set[float] = set()
        words: dict[str, bool] = {}
        size = 0
        for leaf in leaves:
            if leaf == "null" or leaf in words:
                continue
            size += len(leaf)
            if size > MAX_CHARACTERS or len(words) >= MAX_VALUES:
                raise TooManyValues
            words.update(_words(leaf))
            numbers.update(_numbers(leaf))
        self._numbers = sorted(numbers)
        self._heads = _Heads(words)
        self._tails = _Heads({word[::-1]: True for word in words if len(word) > 2 * HEAD})

    def spans(self, text: str, *, short: bool = True) -> Iterator[Span]:
        """Where they stand, in no order.

        Args:
            text: of any length; the time grows with it.
            short: find those of few characters, too, which other things may happen to be.
        """
        if self._numbers:
            yield from self._numbers_in(text, short=short)
        if self._heads:
            yield from self._words_in(_small(text), short=short)
            if has_escapes(text):
                meant, places = without_escapes(text)
                for start, end in self._words_in(_small(meant), short=short):
                    yield places[start][0], places[end - 1][1]

    def _words_in(self, text: str, *, short: bool) -> Iterator[Span]:
        yield from self._heads.find(text, short=short)
        if self._tails:
            for start, end in self._tails.find(text[::-1], short=short):
                yield len(text) - end, len(text) - start

    def _numbers_in(self, text: str, *, short: bool) -> Iterator[Span]:
        for match in _GROUPED.finditer(text):
            if self._is_value(match[0].replace(",", "").replace("_", "")):
                yield match.span()
        for match in _NUMBER.finditer(text):
            alone = len(match[0]) > SHORT or (short and _alone(text, *match.span()))
            if alone and self._is_value(match[0]):
                yield match.span()

    def _is_value(self, number: str) -> bool:
        """Whether a number is one of the values, written in full or rounded to no fewer than four digits."""
        mantissa, _, exponent = number.lower().partition("e")
        whole, _, decimals = mantissa.partition(".")
        value = float(number)
        margin = 0.0
        if len((whole + decimals).lstrip("0")) > SHORT:
            margin = max(float(f"1e{int(exponent[:6] or 0) - len(decimals)}"), value * _FLOAT32)
        at = bisect_left(self._numbers, value)
        return any(
            known == value or abs(known - value) < margin for known in self._numbers[max(0, at - 1) : at + 1]
        )


class _Heads:
    """Words by how they begin.

    Args:
        words: of each, whether it is hidden within other words, too.
    """

    def __init__(self, words: Mapping[str, bool]) -> None:
        self._heads = {word[:HEAD]: anywhere for word, anywhere in words.items()}
        self._lengths = sorted({len(head) for head in self._heads})
        self._long = sorted(word for word in words if len(word) > HEAD)
        self._longest = max(map(len, self._long), default=0)

    def __bool__(self) -> bool:
        return bool(self._heads)

    def find(self, text: str, *, short: bool) -> Iterator[Span]:
        at, heads = 0, self._heads
        while at < len(text):
            end = 0
            for length in self._lengths:
                part = text[at : at + length]
                anywhere = heads.get(part)
                if anywhere or (anywhere is False and short and _alone(text, at, at + len(part))):
                    end = at + len(part)
            if end:
                end = max(end, at + self._goes_on(text[at : at + _LONG]))
                if end - at == _LONG:
                    end = at + self._goes_on(text[at : at + self._longest])
                yield at, end
            # Another may begin within this one; where that is long, this is not looked for at every place.
            at = at + 1 if end - at < _LONG else end - HEAD + 1

    def _goes_on(self, text: str) -> int:
        """How many characters a text has in common with the beginning of one of the words."""
        place = bisect_left(self._long, text)
        return max((_in_common(word, text) for word in self._long[max(0, place - 1) : place + 1]), default=0)


def _words(leaf: str) -> Iterator[tuple[str, bool]]:
    """What to look for: a string, and each line of it, as they are and as they are meant."""
    if leaf in ("true", "false"):
        yield leaf, False
        return
    for text in {leaf, *leaf.splitlines()}:
        # The third for what ``ascii`` makes of letters that, as bytes, are also UTF-8 for others.
        forms = {
            text,
            without_escapes(text)[0],
            text if text.isascii() else without_escapes(ascii(text)[1:-1])[0],
        }
        for form in forms:
            if word := _small(form).strip():
                yield word, len(word) > SHORT


def _numbers(leaf: str) -> Iterator[float]:
    if leaf in ("true", "false"):
        yield float(leaf == "true")
    elif _NUMBER.fullmatch(number := leaf.strip().lstrip("+-")):
        yield float(number)


def _small(text: str) -> str:
    """In small letters, and as long as before."""
    small = text.lower()
    return (
        small if len(small) == len(text) else "".join(low if len(low := c.lower()) == 1 else c for c in text)
    )


def has_escapes(text: str) -> bool:
    """Whether a text may be written in another way than it is meant."""
    return "\\" in text or "%" in text


def without_escapes(text: str) -> tuple[str, Sequence[Span]]:
    """A text as it is meant, whatever it was escaped with and however often.

    Returns:
        the text, and where each of its characters comes from.
    """
    pieces: list[str] = []
    places: list[Span] = []
    ends = [0]
    for match in _ESCAPE.finditer(text):
        start, end = match.span()
        meant = _meant(match[0])
        pieces += text[ends[-1] : start], meant
        places += pairwise(range(ends[-1], start + 1))
        places += [(start, end)] * len(meant)
        ends.append(end)
    pieces.append(text[ends[-1] :])
    places += pairwise(range(ends[-1], len(text) + 1))
    return "".join(pieces), places


def _meant(escape: str) -> str:
    if escape[0] == "%":
        return _of_bytes(escape.replace("%", ""))
    kind, digits = (escape.lstrip("\\") + " ")[0], escape.replace("\\", "")
    if kind == "x":
        return _of_bytes(digits.replace("x", ""))
    if kind == "u":
        return bytes.fromhex(digits.replace("u", "")).decode("utf-16-be", "replace")
    if kind == "U":
        return chr(min(int(digits[1:], 16), 0x10FFFF))
    return _CONTROLS.get(kind, digits)


def _of_bytes(digits: str) -> str:
    data = bytes.fromhex(digits)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _alone(text: str, start: int, end: int) -> bool:
    return not (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1]))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _in_common(first: str, second: str) -> int:
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
