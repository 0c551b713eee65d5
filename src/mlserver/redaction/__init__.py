"""What must not be shown, and every text without it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from mlserver.redaction.body import MAX_TOKENS, Names, leaves, scan
from mlserver.redaction.covering import Cover, blanked, covered, covered_beginning, covers
from mlserver.redaction.spelling import readings
from mlserver.redaction.values import TooManyValues, Values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mlserver.redaction.body import Scan, Span
    from mlserver.redaction.spelling import Spelling

__all__ = ["Hidden", "Hide", "Redaction"]

Hide = Callable[[str], str]
"""A text without what must not be shown."""
WINDOW = 2**12
"""Characters of a text that are looked at: of a longer one only the beginning and the end are left."""
_BEYOND = 2**10
"""Characters beyond such a border that are looked at, since a pattern's match may go over it."""
_MAX_TOKENS_OF_ALL = 2 * MAX_TOKENS
"""Of the bodies of one run, about so many values, keys and brackets are looked at."""


class Redaction:
    """What the settings say must not be shown.

    Args:
        names: of fields and features whose values are hidden.
        patterns: regular expressions, whose matches are hidden.
    """

    features: Sequence[str] | None = None
    """What the columns of rows without names are called.

    As long as it is None nobody knows, and where there are names to hide, all such rows are hidden. If it is
    empty they have no names and stay as they are."""

    def __init__(self, names: Collection[str] = (), patterns: Iterable[str] = ()) -> None:
        self.names = Names(names)
        self.patterns = tuple(map(re.compile, patterns))

    def __bool__(self) -> bool:
        return bool(self.names or self.patterns)

    def text(self, text: str) -> str:
        """A text without what the patterns match."""
        return self.hide(())(text)

    def hide(self, bodies: Iterable[bytes]) -> Hidden:
        """Hides, in any text, what the patterns match and the hidden values of these requests."""
        return Hidden(self, list(bodies))

    def body(
        self, data: bytes, *, limit: int | None = None, hidden: Hidden | None = None, short: bool = False
    ) -> str:
        """The body of a request or response, for a log.

        One that is no JSON is not shown at all where there are names to hide.

        Args:
            data: the body, whatever it holds.
            limit: bytes of it, in UTF-8. A mark says how many more there are.
            hidden: hides further values.
            short: also those of few characters, which other things may happen to be.
        """
        return (hidden or self.hide(())).body(data, limit=limit, short=short)

    def matches(self, written: Sequence[Spelling]) -> Iterator[Span]:
        """Where a pattern matches a text, in any of its `readings` or in one of it as a submitted form."""
        if not self.patterns:
            return
        text = written[0].text
        form = readings(text.replace("+", " ")) if "+" in text else ()
        for reading in (*written, *form):
            for pattern in self.patterns:
                for match in pattern.finditer(reading.text):
                    if match[0]:
                        yield reading.place(*match.span())


class _Look(NamedTuple):
    """What was found in a body."""

    data: bytes
    limit: int
    text: str
    covers: list[Cover]
    end: int
    """How far into the text was looked."""


class Hidden:
    """Hides, in any text, what a redaction's patterns match and the hidden values of some requests.

    The values are looked for in the bodies only when there is a text: mostly there is none.
    """

    def __init__(self, redaction: Redaction, bodies: list[bytes]) -> None:
        self._redaction = redaction
        self._bodies = bodies
        self._scans: dict[int, Scan | None] = {}
        self._looks: dict[tuple[int, bool], _Look] = {}

    @cached_property
    def values(self) -> Values | None:
        """The hidden values of the requests; None if they are too many to look for."""
        try:
            return Values(self._leaves())
        except TooManyValues:
            return None

    def _leaves(self) -> Iterator[str]:
        redaction = self._redaction
        if not redaction.names:
            return
        commas = 0  # those within strings, too: then more is hidden than need be
        for body in self._bodies:
            commas += (here := body.count(b","))
            if here > MAX_TOKENS or commas > _MAX_TOKENS_OF_ALL:
                raise TooManyValues
            found = self._scans[id(body)] = scan(body, redaction.names, redaction.features)
            if found is None:
                if b"\0" in body or body.startswith(
                    b"\x93NUMPY"
                ):  # a binary one: what is in it is not known here
                    raise TooManyValues
                continue  # the model never saw it
            text = body.decode()
            if found.end < len(text):
                raise TooManyValues
            for start, end in found.spans:
                yield from leaves(text[start:end])

    def __call__(self, text: str) -> str:
        """The text without them; where they are too many to look for, without anything."""
        # Of a long text windows are looked at, which a part of a long value could fill, without its ends.
        if self.values is None or (len(text) > WINDOW and self.values.longest > _BEYOND):
            return f"[REDACTED: {len(text)} characters]"
        if len(text) <= WINDOW:
            return covered(text, self._covers(text))
        half = WINDOW // 2
        beginning, ending = text[: half + _BEYOND], text[-half - _BEYOND :]
        return (
            f"{covered(beginning, self._covers(beginning), end=half)}…({len(text) - WINDOW} characters more)…"
            f"{covered(ending, self._covers(ending), start=_BEYOND)}"
        )

    def body(self, data: bytes, *, limit: int | None = None, short: bool = False) -> str:
        """A body, as `Redaction.body` has it."""
        if self.values is None:
            return f"[REDACTED: {len(data)} bytes]"
        limit = len(data) * 3 if limit is None else limit  # a byte that is no text takes three
        look = self._looks.get((id(data), short))
        if look is None or look.limit < limit:  # a body is asked for with one limit after the other
            found = self._look(data, limit, short=short)
            if found is None:
                return f"[REDACTED: {len(data)} bytes that are no JSON]"
            look = self._looks[id(data), short] = found
        text = look.text
        shown, place = covered_beginning(text, look.covers, end=min(look.end, len(text)), limit=limit)
        left = len(data) - len(text[:place].encode())
        return f"{shown}…({left} bytes more)" if place < len(text) and left > 0 else shown

    def _look(self, data: bytes, limit: int, *, short: bool) -> _Look | None:
        redaction = self._redaction
        spans: list[Span] = []
        end = limit
        if redaction.names and data:
            if id(data) in self._scans:
                found = self._scans[id(data)]
            else:
                found = scan(data, redaction.names, redaction.features, shown=limit)
            if found is None:
                return None
            spans, end = found.within(limit)
        text = data[: (end + _BEYOND) * 4].decode("utf-8", "replace")[: end + _BEYOND]
        found_covers = [*covers(spans, '"[REDACTED]"'), *self._covers(text, spans, short=short)]
        return _Look(data, limit, text, found_covers, end)

    def _covers(self, text: str, spans: Sequence[Span] = (), *, short: bool = True) -> Iterator[Cover]:
        """What is to be covered of a text, but for these spans, in which no values are looked for."""
        written = readings(text)
        yield from covers(self._redaction.matches(written))
        if self.values:
            plain = readings(blanked(text, spans)) if spans else written
            yield from covers(self.values.spans(plain, short=short))
