"""Texts with parts of them covered."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlserver.redaction.body import Span

MARK = "[REDACTED]"


class Cover(NamedTuple):
    """A part of a text that must not be seen, and what is seen in its place."""

    start: int
    end: int
    mark: str = MARK


def covers(spans: Iterable[Span], mark: str = MARK) -> Iterator[Cover]:
    """All with the same mark."""
    return (Cover(*span, mark) for span in spans)


def joined(found: Iterable[Cover]) -> list[Cover]:
    """Covers in order, those that overlap made one."""
    whole: list[Cover] = []
    for cover in sorted(found, key=lambda cover: (cover.start, -cover.end)):
        last = whole[-1] if whole else None
        if last is None or cover.start >= last.end:
            whole.append(cover)
        elif cover.end > last.end:
            whole[-1] = Cover(last.start, cover.end)
    return whole


def blanked(text: str, spans: Iterable[Span]) -> str:
    """A text of the same length in which these parts, given in order, say nothing."""
    pieces: list[str] = []
    at = 0
    for start, end in spans:
        pieces += text[at:start], "\0" * (min(end, len(text)) - start)
        at = end
    return "".join((*pieces, text[at:]))


def covered(text: str, found: Iterable[Cover], *, start: int = 0, end: int | None = None) -> str:
    """What stands between two places of a text, its covered parts replaced."""
    stop = len(text) if end is None else end
    pieces: list[str] = []
    at = start
    for cover in joined(found):
        if cover.start >= stop:
            break
        if cover.end > start:
            pieces += text[at : cover.start], cover.mark
            at = cover.end
    pieces.append(text[at:stop])
    return "".join(pieces)


def covered_beginning(text: str, found: Iterable[Cover], *, end: int, limit: int) -> tuple[str, int]:
    """The beginning of a text, its covered parts replaced, in at most so many bytes of UTF-8.

    Args:
        text: at least as much of it as is wanted.
        found: what is to be covered, in any order.
        end: how far it was looked for what is to be covered.
        limit: bytes.

    Returns:
        the beginning, and the place in the text up to which it goes.
    """
    pieces: list[str] = []
    at = 0
    for cover in (*joined(found), Cover(end, end, "")):
        plain = text[at : min(cover.start, end)]
        data = plain.encode("utf-8", "replace")
        if len(data) > limit:
            shown = data[:limit].decode("utf-8", "ignore")
            return "".join((*pieces, shown)), at + len(shown)
        limit -= len(data) + len(cover.mark)
        if cover.start >= end or limit < 0:
            return "".join((*pieces, plain)), min(cover.start, end)
        pieces += plain, cover.mark
        at = cover.end
    return "".join(pieces), at
