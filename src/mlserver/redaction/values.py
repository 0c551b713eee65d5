"""Values that must not be shown, and where they stand in any text: an error, a traceback, a line of a log.

A text may show a number as ``1234567``, ``1234567.0`` or ``1.23457e+06``, and a string with quotes escaped,
in capitals or cut off. So numbers are compared as numbers, and strings in the same `spelling`.
"""

from __future__ import annotations

import re
import string
from bisect import bisect_left
from itertools import chain
from typing import TYPE_CHECKING

from mlserver.redaction.spelling import (
    gapless,
    has_escapes,
    join_digits,
    readings,
    small,
    without_case,
    without_gaps,
    without_gaps_in_numbers,
)
from mlserver.redaction.words import SHORT, ShortWords, Words, is_alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlserver.redaction.body import Span
    from mlserver.redaction.spelling import Spelling

MAX_VALUES = 2_000
"""Different values, and lines of them, that are looked for, and"""
MAX_CHARACTERS = 2**17
"""how long they may be, all together, where"""
_WEIGHT = 8
"""those count as so many that are not ASCII or may be escaped: they take longer."""

# Possessive: what does not match must not be tried in all the ways that digits can be shared out.
_DIGITS, _EXPONENT = r"\d++\.?\d*+", r"(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(rf"(?:{_DIGITS}|\.\d++){_EXPONENT}")
_AFTER_DOT = re.compile(rf"(?:(?<=[^\d]\.)|(?<=^\.)){_DIGITS}{_EXPONENT}")
"""A number behind a full stop or the dots of ``...``, which may be no decimal point."""
_GROUPED = re.compile(r"(?<!\d)\d{1,3}(?:[,_]\d{3})+(?!\d)(?:\.\d+)?")
_TRUTH = ("true", "false")
_MISREAD = re.compile("[\xc2-\xf4][\x80-\xbf]")
"""Characters that, as ``ascii`` writes them, are also UTF-8 for others."""
_LEAST_DIGITS = 6
"""Of what is found with other gaps between its digits than it was sent with, or with none."""
_STRETCH = 12
"""Characters that one of a value may be written as that is no letter or digit of ASCII."""
_PLAIN = str.maketrans("", "", string.ascii_letters + string.digits)
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
        words: set[str] = set()
        pairs: dict[str, bool] = {}
        short: dict[str, bool] = {}
        digits: set[str] = set()
        seen: set[str] = set()
        size = 0
        self.longest = 0
        """How many characters of a text one of them may take, whole or in part."""
        for leaf in leaves:
            if leaf == "null" or leaf in seen:
                continue
            seen.add(leaf)
            plain = leaf.isascii() and not has_escapes(leaf)
            size += len(leaf) if plain else len(small(leaf)) * _WEIGHT
            if size > MAX_CHARACTERS:
                raise TooManyValues
            self.longest = max(self.longest, len(leaf) + _STRETCH * len(leaf.translate(_PLAIN)))
            numbers.update(_numbers(leaf))
            for word in _words(leaf):
                anywhere = len(word) > SHORT and leaf not in _TRUTH
                if len(whole := gapless(word)) > SHORT and anywhere:
                    words.add(whole)
                    if sum(map(str.isdigit, whole)) >= _LEAST_DIGITS:
                        digits.add(join_digits(whole))
                elif " " in whole:
                    pairs[whole] = anywhere
                elif word:
                    short[word] = anywhere
                if max(len(seen), len(words), len(pairs), len(short)) > MAX_VALUES:
                    raise TooManyValues
        self._numbers = sorted(numbers)
        self._words = Words(words)
        self._digits = Words(digits)
        self._pairs = ShortWords(pairs)
        self._short = ShortWords(short)

    def __bool__(self) -> bool:
        return bool(self._numbers or self._words or self._pairs or self._short)

    def spans(self, written: Sequence[Spelling], *, short: bool = True) -> Iterator[Span]:
        """Where they stand, in no order.

        Args:
            written: the text's `readings`; the time grows with it.
            short: find those of few characters, too, which other things may happen to be.
        """
        for reading in written:
            if self._numbers:
                for span in self._numbers_in(reading.text, short=short):
                    yield reading.place(*span)
            lower = without_case(reading)
            for span in self._short.find(lower.text, alone=short):
                yield lower.place(*span)
            if self._words or self._pairs:
                even = without_gaps(lower)
                for span in (*self._words.find(even.text), *self._pairs.find(even.text, alone=short)):
                    yield even.place(*span)
                if self._digits:
                    joined = without_gaps_in_numbers(even)
                    for span in self._digits.find(joined.text):
                        start, end = joined.place(*span)
                        yield start, start + len(written[0].text[start:end].rstrip())

    def _numbers_in(self, text: str, *, short: bool) -> Iterator[Span]:
        for match in _GROUPED.finditer(text):
            if self._is_value(match[0].replace(",", "").replace("_", "")):
                yield match.span()
        known: dict[str, bool] = {}
        for match in chain(_NUMBER.finditer(text), _AFTER_DOT.finditer(text)):
            number = match[0]
            if number not in known:
                known[number] = self._is_value(number)
            if known[number] and (len(number) > SHORT or (short and is_alone(text, *match.span()))):
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


def _words(leaf: str) -> Iterator[str]:
    """What to look for: a string, and each line of it, as they are and as they are meant."""
    if leaf.isprintable() and not has_escapes(leaf) and _MISREAD.search(leaf) is None:
        yield small(leaf).strip()
        return
    for text in {leaf, *leaf.splitlines()}:
        forms = {text, readings(text)[-1].text}
        if not text.isascii():
            forms.add(readings(ascii(text)[1:-1])[-1].text)
        for form in forms:
            yield small(form).strip()


def _numbers(leaf: str) -> Iterator[float]:
    if leaf in _TRUTH:
        yield float(leaf == "true")
    elif _NUMBER.fullmatch(number := leaf.strip().lstrip("+-")):
        yield float(number)
