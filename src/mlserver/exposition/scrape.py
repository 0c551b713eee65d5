"""What a scrape gets: all families, each rendered on its own, in the format that was asked for."""

from __future__ import annotations

import gzip
import logging
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mlserver.exposition.catalogue import PageCollector
from mlserver.exposition.formats import OPENMETRICS, Format, accepts_gzip, choose_format
from mlserver.exposition.legal import legal, names_of
from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector

    from mlserver.config import Config
    from mlserver.pages import Page

GZIP_LEVEL = 1
"""Of 53 kB it leaves 7.6 kB in 0.13 ms; level 6 leaves 6.3 kB in 0.45 ms, level 9 6.0 kB in 0.9 ms."""
_logger = logging.getLogger("mlserver.metrics")


class Rendered(NamedTuple):
    """One answer to a scrape."""

    body: bytes
    content_type: bytes
    encoding: bytes | None
    """The header ``Content-Encoding``, if there is to be one."""


class Exposition:
    """The metrics of the catalogue and those of other collectors.

    A fault costs the collector or the family that has it, never the scrape; it is logged once a minute for
    each collector.

    Args:
        config: prefix, buckets, budget and what is there at 0.
        pages: what the metrics of the catalogue are read from.
        collectors: whose families follow, in order. Of several families with one name the first is shown.
        on_drop: told how many collectors or families had to be left out.
        on_fold: told how many label sets of the catalogue's have no series of their own.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        config: Config,
        pages: Sequence[Page],
        collectors: Iterable[Collector] = (),
        *,
        on_drop: Callable[[int], None] = lambda _: None,
        on_fold: Callable[[int], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalogue = PageCollector(config, pages, on_fold=on_fold)
        self._collectors = tuple(collectors)
        self._on_drop = on_drop
        self._paces: defaultdict[int, Pace] = defaultdict(partial(Pace, now))

    def adopt(self, config: Config) -> None:
        """Takes over another configuration. No counter falls by it."""
        self._catalogue.adopt(config)

    def render(self, accept: str, accept_encoding: str = "") -> Rendered:
        """All metrics at this moment.

        Args:
            accept: the request's header ``Accept``, or "".
            accept_encoding: its header ``Accept-Encoding``, or "".
        """
        chosen = choose_format(accept)
        taken: set[str] = set()
        parts: list[bytes] = []
        for index, collector in enumerate((self._catalogue, *self._collectors)):
            try:
                families = list(self._families(collector, chosen))
            except Exception as error:  # noqa: BLE001  # whatever it is, the scrape goes on
                self._note(
                    index, f"Metrics of {type(collector).__name__} are left out of scrapes", error, error
                )
                continue
            parts += [self._render(index, family, chosen, taken) for family in families]
        body = b"".join(parts) + chosen.end
        if accepts_gzip(accept_encoding):
            return Rendered(gzip.compress(body, GZIP_LEVEL, mtime=0), chosen.content_type, b"gzip")
        return Rendered(body, chosen.content_type, None)

    def _render(self, index: int, family: Family, chosen: Format, taken: set[str]) -> bytes:
        """One family; nothing if it cannot be shown."""
        try:
            shown = legal(family)
            names = names_of(shown)
            if clash := names & taken:
                raise ValueError(f"another metric has the name {min(clash)} already: give it another name")  # noqa: TRY301
            text = chosen.encode(_Only(shown)).removesuffix(chosen.end)
        except Exception as error:  # noqa: BLE001  # likewise
            name = getattr(family, "name", type(family).__name__)
            self._note(index, f"Metric {name} is left out of scrapes", error)
            return b""
        taken |= names
        return text

    def _families(self, collector: Collector, chosen: Format) -> Iterable[Family]:
        if collector is self._catalogue:
            return self._catalogue.families(exemplars=chosen is OPENMETRICS)
        return collector.collect()

    def _note(self, index: int, what: str, error: Exception, trace: Exception | None = None) -> None:
        self._on_drop(1)
        if self._paces[index].due():
            _logger.warning("%s: %s: %s", what, type(error).__name__, error, exc_info=trace)


class _Only:
    """A collector of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> list[Family]:
        return [self._family]
