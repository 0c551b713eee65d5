"""What a client is answered with: which of the two formats, and whether compressed."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.exposition import generate_latest as as_text
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.registry import Collector


class Format(NamedTuple):
    """One of the formats."""

    media_type: str
    version: str
    encode: Callable[[Collector], bytes]
    end: bytes
    """What the whole of it ends with, and nothing else may."""

    @property
    def content_type(self) -> bytes:
        """The header ``Content-Type``."""
        return f"{self.media_type}; version={self.version}; charset=utf-8".encode("ascii")


# Names are legal before they come here. The library's own default would replace ":" in those of OpenMetrics
# samples, but not in their families'.
TEXT = Format("text/plain", "0.0.4", partial(as_text, escaping=ALLOWUTF8), b"")
OPENMETRICS = Format(
    "application/openmetrics-text", "1.0.0", partial(as_openmetrics, escaping=ALLOWUTF8), b"# EOF\n"
)


class _Wish(NamedTuple):
    """One element of an Accept header."""

    name: str
    parameters: dict[str, str]
    quality: float


def choose_format(accept: str) -> Format:
    """The format that an ``Accept`` header ranks first.

    Where it names neither in a version that there is, it is text. That is also for a header that makes no
    sense and for one that refuses both: whoever scrapes is better off with an answer.
    """
    openmetrics = _rank(accept, OPENMETRICS)
    return OPENMETRICS if openmetrics > _rank(accept, TEXT, wildcards=("text/*", "*/*")) else TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an ``Accept-Encoding`` header prefers gzip to no compression."""
    given = {wish.name: wish.quality for wish in _wishes(accept_encoding)}
    gzip = given.get("gzip", given.get("x-gzip", given.get("*", 0.0)))
    return gzip > 0 and gzip >= given.get("identity", 0.0)


def _rank(accept: str, format_: Format, wildcards: tuple[str, ...] = ()) -> tuple[float, float]:
    """Quality, then place in the header; a range that has the format by its name goes before all others."""
    named, ranges = (-1.0, 0.0), dict.fromkeys(wildcards, -1.0)
    for place, wish in enumerate(_wishes(accept)):
        if wish.name == format_.media_type:
            if wish.parameters.get("version", format_.version) == format_.version:
                named = max(named, (wish.quality, -place))
        elif wish.name in ranges:
            ranges[wish.name] = max(ranges[wish.name], wish.quality)
    if named[0] >= 0 or not ranges:
        return _refused_last(named)
    by_range = next((quality for quality in ranges.values() if quality >= 0), -1.0)
    return _refused_last((by_range, -math.inf))


def _refused_last(rank: tuple[float, float]) -> tuple[float, float]:
    return rank if rank[0] > 0 else (0.0, -math.inf)


def _wishes(header: str) -> Iterator[_Wish]:
    """The elements of a header, without those that make no sense."""
    for element in header.split(","):
        name, *rest = (part.strip() for part in element.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if name and 0 <= quality <= 1:
            yield _Wish(name.lower(), parameters, quality)
