"""Texts as they are meant, however they were written: escaped, decomposed, in capitals, with other gaps.

A value and the text that it may stand in are brought into the same form, and of each character of that form
it is known where it comes from.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlserver.redaction.body import Span

MAX_LAYERS = 4
"""Escapes around each other, such as of an URL in HTML, that are taken off."""

# All backslashes before a letter are one escape, however often they were doubled; so it is in capitals.
_ESCAPE = re.compile(
    r"(?P<bytes>(?:\\+[xX][0-9a-fA-F]{2})+|(?:%[0-9a-fA-F]{2})+)"
    r"|(?P<long>\\+U00(?:0[1-9a-fA-F]|10)[0-9a-fA-F]{4})"
    r"|(?P<units>(?:\\+(?:u|U(?!00(?:0[1-9a-fA-F]|10)[0-9a-fA-F]{4}))[0-9a-fA-F]{4})+)"
    r"|(?P<one>\\++[abfnrtvABFNRTV'\"/]?)"
    r"|&(?P<entity>#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});"
)
_UNIT = re.compile(r"(?:%|\\+[xXuU])([0-9a-fA-F]{4}|[0-9a-fA-F]{2})")
_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_GAPS = str.maketrans({
    character: " " for character in map(chr, range(0x3001)) if character.isspace() or character in "_+-"
})  # fmt: skip
_MANY = 64
"""Characters that are decomposed at once: with many marks in a row the time grows with their square."""
_ODD = re.compile(r"[^\w\x00-\x7f]+")
_RUN = re.compile(" {2,}|'{2,}|\"{2,}")
_BETWEEN_DIGITS = re.compile(r"(?<=\d) (?=\d)")


class Spelling(NamedTuple):
    """A text in another form."""

    text: str
    starts: Sequence[int]
    """Where each of its characters begins in the text that it was made of, and where that text ends."""
    of: Spelling | None = None
    """That text, if it is such a form itself."""

    def place(self, start: int, end: int) -> Span:
        """Where a part of it, which is not empty, stands in the text that was there first."""
        starts = self.starts
        while end < len(self.text) and starts[end] == starts[end - 1]:  # one may have become several
            end += 1
        span = starts[start], starts[end]
        return span if self.of is None else self.of.place(*span)


def readings(text: str) -> list[Spelling]:
    """A text as it is written, and, if it has escapes, with fewer and fewer of them."""
    found = [Spelling(text, range(len(text) + 1))]
    while len(found) <= MAX_LAYERS:
        less = _without_escapes(found[-1])
        if less.text == found[-1].text:
            break
        found.append(less)
    return found


def has_escapes(text: str) -> bool:
    """Whether a text may be written in another way than it is meant."""
    return "\\" in text or "%" in text or "&" in text


def without_case(given: Spelling) -> Spelling:
    """A text in small letters without accents, wide letters and ligatures."""
    text = given.text
    if text.isascii():
        return given._replace(text=text.lower())
    parts = [*map(_small, text)]
    starts = [index for index, part in enumerate(parts) for _ in part]
    return Spelling("".join(parts), [*starts, len(text)], given)


def without_gaps(given: Spelling) -> Spelling:
    """A text in which white space, underscores, plus signs and hyphens, however many, are one space.

    Quotes, which are doubled within others by SQL and CSV, are single ones.
    """
    return _shortened(given._replace(text=given.text.translate(_GAPS)), _RUN, keep=1)


def without_gaps_in_numbers(given: Spelling) -> Spelling:
    """A text without the spaces between digits."""
    return _shortened(given, _BETWEEN_DIGITS, keep=0)


def _shortened(given: Spelling, run: re.Pattern[str], *, keep: int) -> Spelling:
    """A text with so many characters only of each match."""
    text = given.text
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    for match in run.finditer(text):
        start, end = match.span()
        pieces.append(text[at : start + keep])
        starts += range(at, start + keep)
        at = end
    if not at:
        return given
    pieces.append(text[at:])
    starts += range(at, len(text) + 1)
    return Spelling("".join(pieces), starts, given)


def small(text: str) -> str:
    """A text as `without_case` makes it."""
    if text.isascii():
        return text.lower()
    if len(text) > _MANY:
        return "".join(small(text[at : at + _MANY]) for at in range(0, len(text), _MANY))
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return _ODD.sub(_without_marks, decomposed.replace("\u0131", "i"))  # an i without dot, as its capital is


def gapless(text: str) -> str:
    """A text as `without_gaps` makes it, without those around it."""
    return _RUN.sub(lambda run: run[0][0], text.translate(_GAPS)).strip()


def join_digits(text: str) -> str:
    """A text as `without_gaps_in_numbers` makes it."""
    return _BETWEEN_DIGITS.sub("", text)


def _without_escapes(given: Spelling) -> Spelling:
    text = given.text
    if not has_escapes(text):
        return given
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(text):
        start, end = match.span()
        pieces.append(text[at:start])
        starts += range(at, start)
        for meant, place in _meant(match):
            pieces.append(meant)
            starts += [place] * len(meant)
        at = end
    pieces.append(text[at:])
    starts += range(at, len(text) + 1)
    return Spelling("".join(pieces), starts, given)


def _meant(escape: re.Match[str]) -> Iterator[tuple[str, int]]:
    """What an escape stands for, in parts, and where each of them begins."""
    kind, written, start = escape.lastgroup, escape[0], escape.start()
    if kind == "one":
        last = written[-1]
        yield _CONTROLS.get(last.lower(), last.strip("\\")), start
    elif kind == "entity":
        yield html.unescape(f"&{escape['entity']};"), start
    elif kind == "long":
        yield chr(int(written[-8:], 16)), start
    else:
        units = [*_UNIT.finditer(written)]
        data = bytes.fromhex("".join([unit[1] for unit in units]))
        for meant, index in _of_units(data) if kind == "units" else _of_bytes(data):
            yield meant, start + units[index].start()


def _of_units(data: bytes) -> Iterator[tuple[str, int]]:
    index = 0
    for character in data.decode("utf-16-be", "surrogatepass"):
        yield character, index
        index += 1 + (character > "\uffff")


def _of_bytes(data: bytes) -> Iterator[tuple[str, int]]:
    """Characters in UTF-8, and in Latin-1 where it is none."""
    index = 0
    while index < len(data):
        first = data[index]
        size = 1 + (first >= 0xC2) + (first >= 0xE0) + (first >= 0xF0)
        character = chr(first)
        if size > 1:
            try:
                character = data[index : index + size].decode()
            except UnicodeDecodeError:
                size = 1
        yield character, index
        index += size


def _without_marks(odd: re.Match[str]) -> str:
    return "".join([c for c in odd[0] if not unicodedata.combining(c) and unicodedata.category(c) != "Cf"])


_small = lru_cache(maxsize=2**12)(small)
"""Of one character. Each of a text may be taken by itself, since accents go."""
