"""A bar chart as SVG: a panel for each kind of work, a bar for each server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH, LABEL, VALUE = 760, 230, 70
BAR, STEP, HEAD, GAP = 14, 20, 26, 18
COLOURS = {"floor": "#9aa0a6", "ours": "#1f6feb", "peer": "#d0a215"}


@dataclass(frozen=True)
class Bar:
    """One server's figure; `kind` is a key of `COLOURS`."""

    title: str
    value: float
    kind: str


def bars(panels: Sequence[tuple[str, Sequence[Bar]]], what: str) -> str:
    """The picture. Each panel has a scale of its own, from zero to its largest value.

    Args:
        panels: titles and their bars.
        what: says what the bars are, for who cannot see them.
    """
    height = sum(HEAD + STEP * len(panel) + GAP for _, panel in panels)
    body, top = [], 0
    for title, panel in panels:
        body.append(_text(12, top + 18, title, "font-weight='bold'"))
        body += _panel(panel, top + HEAD)
        top += HEAD + STEP * len(panel) + GAP
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' "
        f"font-family='sans-serif' font-size='12' fill='#1f2328' role='img'>\n"
        f"<title>{escape(what)}</title>\n<rect width='100%' height='100%' fill='white'/>\n"
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _panel(panel: Sequence[Bar], top: int) -> Iterator[str]:
    longest = max((bar.value for bar in panel), default=0) or 1
    for at, bar in enumerate(panel):
        y, length = top + at * STEP, bar.value / longest * (WIDTH - LABEL - VALUE)
        yield _text(LABEL - 8, y + BAR - 3, bar.title, "text-anchor='end'")
        colour = COLOURS[bar.kind]
        yield f"<rect x='{LABEL}' y='{y}' width='{length:.1f}' height='{BAR}' rx='2' fill='{colour}'/>"
        yield _text(LABEL + length + 6, y + BAR - 3, f"{bar.value:,.0f}")


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y}' {more}>{escape(text)}</text>"
