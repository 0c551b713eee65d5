"""What MLServer must reach, beside what was measured. A miss is shown and is no error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contenders import PEERS
from works import ROWS, TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOORS = {"regression": 0.65, "forest": 0.9, "noop": 0.75}
PEERS_TIMES = {"regression": 18.0, "forest": 2.5, "noop": 8.0}
LONE_P50, ON_TO_OFF, TAIL, GROWTH_MB = 1.15, 0.85, 2.5, 5.0
CONNECTIONS = 32


@dataclass(frozen=True)
class Target:
    """One thing to reach.

    Args:
        limit: as it is said, with its unit.
        measured: likewise; empty where it was not, or not validly.
        reached: whether it was; ``None`` where it is not known.
    """

    work: str
    limit: str
    measured: str = ""
    reached: bool | None = None


class Rows:
    """The results by server and work. Rows with errors do not count."""

    def __init__(self, result: dict[str, Any]) -> None:
        self._rows = {
            (row["server"], row["model"], row["connections"]): row["median"]
            for row in result["rows"]
            if not row["varied"] and not row["median"]["errors"]
        }

    def value(
        self, server: str, model: str, figure: str = "rate", connections: int = CONNECTIONS
    ) -> float | None:
        row = self._rows.get((server, model, connections))
        return None if row is None else row[figure]

    def best_peer(self, model: str) -> float | None:
        rates = [rate for peer in PEERS if (rate := self.value(peer, model)) is not None]
        return max(rates, default=None)


def targets(result: dict[str, Any]) -> Iterator[Target]:
    """All of them, in the order of the table that sets them."""
    rows = Rows(result)
    for model in ROWS:
        rate, work = rows.value("on", model), f"{TITLES[model]}, {CONNECTIONS} connections"
        yield _at_least(f"{work}, of the floor", FLOORS[model], rate, rows.value("floor", model))
        yield _at_least(f"{work}, times the best peer", PEERS_TIMES[model], rate, rows.best_peer(model))
    lone = [rows.value(server, "regression", "p50_ms", 1) for server in ("on", "floor")]
    yield _at_most(f"{TITLES['regression']}, 1 connection: p50, of the floor's", LONE_P50, *lone)
    on, off = (rows.value(server, "regression") for server in ("on", "off"))
    yield _at_least(f"{TITLES['regression']}: all signals on, of all off", ON_TO_OFF, on, off)
    for model in ROWS:
        p99, p50 = (rows.value("on", model, figure) for figure in ("p99_ms", "p50_ms"))
        yield _at_most(f"{TITLES[model]}, {CONNECTIONS} connections: p99, of its own p50", TAIL, p99, p50)
    yield _of_memory(result["memory_mb"])


def _at_least(work: str, limit: float, measured: float | None, beside: float | None) -> Target:
    if not measured or not beside:
        return Target(work, f"at least {limit:g}")
    ratio = measured / beside
    return Target(work, f"at least {limit:g}", f"{ratio:.2f}", ratio >= limit)


def _at_most(work: str, limit: float, measured: float | None, beside: float | None) -> Target:
    if not measured or not beside:
        return Target(work, f"at most {limit:g}")
    ratio = measured / beside
    return Target(work, f"at most {limit:g}", f"{ratio:.2f}", ratio <= limit)


def _of_memory(memory: dict[str, float]) -> Target:
    """From its smallest to its largest number of requests, which it names as they were."""
    work = "memory after 2,000,000 requests against after 100,000"
    limit = f"at most +{GROWTH_MB:g} MB"
    if len(memory) < 2:
        return Target(work, limit)
    (_, before), (many, after) = sorted((int(count), size) for count, size in memory.items())
    grown = after - before
    shown = f"{grown:+.1f} MB"
    if many < 2_000_000:
        return Target(work, limit, f"{shown} after {many:,}")
    return Target(work, limit, shown, grown <= GROWTH_MB)
