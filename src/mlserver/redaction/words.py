"""Words that must not be shown, and where they stand in a text of the same form."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from mlserver.redaction.body import Span

HEAD = 8
"""Of a longer word, so many characters at its beginning or end are enough: the rest may be cut off."""
SHORT = 3
"""Words of so few characters are hidden where they stand alone, not within words and numbers."""
MAX_STEPS = 300
"""Places of one text that are looked at closely: after so many, the rest is hidden as a whole."""

_LONG = 64


class Words:
    """Words of more than `SHORT` characters, hidden within others, too, and by how they begin or end."""

    def __init__(self, words: Collection[str]) -> None:
        self._heads = _Heads(words)
        self._tails = _Heads([word[::-1] for word in words if len(word) > 2 * HEAD])

    def find(self, text: str) -> Iterator[Span]:
        """Where they stand, in no order."""
        yield from self._heads.find(text)
        if self._tails:
            for start, end in self._tails.find(text[::-1]):
                yield len(text) - end, len(text) - start

    def __bool__(self) -> bool:
        return bool(self._heads)


class ShortWords:
    """Words that are hidden as they are.

    Args:
        words: of each, whether it is hidden within other words, too.
    """

    def __init__(self, words: Mapping[str, bool]) -> None:
        self._words = words
        self._firsts = {word[0] for word in words}
        self._lengths = sorted({len(word) for word in words}, reverse=True)

    def __bool__(self) -> bool:
        return bool(self._words)

    def find(self, text: str, *, alone: bool) -> Iterator[Span]:
        """Where they stand.

        Args:
            text: of any length.
            alone: find also those that are hidden only where they stand alone.
        """
        firsts, words = self._firsts, self._words
        found = 0
        for at in [at for at, character in enumerate(text) if character in firsts]:
            for length in self._lengths:
                part = text[at : at + length]
                anywhere = words.get(part)
                if anywhere or (anywhere is False and alone and is_alone(text, at, at + len(part))):
                    found += 1
                    yield at, at + len(part) if found <= MAX_STEPS else len(text)
                    break
            if found > MAX_STEPS:
                break


class _Heads:
    """Words by how they begin."""

    def __init__(self, words: Collection[str]) -> None:
        self._heads = {word[:HEAD] for word in words}
        self._starts = {head[: SHORT + 1] for head in self._heads}
        self._lengths = sorted({len(head) for head in self._heads}, reverse=True)
        self._long = sorted(word for word in words if len(word) > HEAD)
        self._longest = max(map(len, self._long), default=0)

    def __bool__(self) -> bool:
        return bool(self._heads)

    def find(self, text: str) -> Iterator[Span]:
        """Where one of them begins, and as far as it goes on."""
        starts, size = self._starts, SHORT + 1
        begin = end = steps = 0
        for at in [at for at in range(len(text) - SHORT) if text[at : at + size] in starts]:
            # Another may begin within the last one; where that is long, it is not looked for at every place.
            if at < end - _LONG:
                continue
            steps += 1
            reach = self._reach(text, at, end) if steps <= MAX_STEPS else len(text)
            if reach > end:
                if at > end:
                    if end:
                        yield begin, end
                    begin = at
                end = reach
        if end:
            yield begin, end

    def _reach(self, text: str, at: int, end: int) -> int:
        """How far a word goes that begins at a place; 0 if there is none beyond the end."""
        parts = (text[at : at + length] for length in self._lengths)
        length = next((len(part) for part in parts if part in self._heads), 0)
        reach = at + length if length else 0
        if length < HEAD or not self._long:
            return reach
        least = text[at : max(reach, end) + 1]
        place = bisect_left(self._long, least)
        if place < len(self._long) and self._long[place].startswith(least):
            reach = at + self._in_common(text, at)
        return reach

    def _in_common(self, text: str, at: int) -> int:
        """How many characters a text has in common with the beginning of one of the words."""
        size = _LONG
        while True:
            part = text[at : at + size]
            place = bisect_left(self._long, part)
            longest = max(_in_common(word, part) for word in self._long[max(0, place - 1) : place + 1])
            if longest < size or size >= self._longest:
                return longest
            size *= 8


def is_alone(text: str, start: int, end: int) -> bool:
    """Whether a part of a text is no part of a word or number."""
    return not (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1]))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _in_common(first: str, second: str) -> int:
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
