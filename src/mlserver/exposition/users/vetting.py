"""What a collector of the user's gives, made into families that cannot spoil a scrape."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric

from mlserver import signals
from mlserver.exposition.users import rules
from mlserver.exposition.users.clients import Reader
from mlserver.exposition.users.family import (
    BUCKETED,
    SUMMED,
    Family,
    Group,
    Labels,
    Sample,
    claims,
    join,
    overflow,
    pack,
    split,
)
from mlserver.exposition.users.sums import Totals

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = frozenset(
    f"{live}{mode}" for live in ("", "live") for mode in ("all", "min", "max", "sum", "mostrecent")
)
"""The client's multiprocess modes of gauges."""
MAX_FAMILIES = 10_000
"""Families of one collector: one that never ends must end somewhere."""
MAX_ABSENT = 100
"""Families of one collector that it has given before and whose sums are kept."""
MAX_SAMPLES = 200_000
"""Samples of one family that are looked at at all."""


@dataclass(slots=True)
class Vetted:
    """A family and how many bytes its JSON takes."""

    family: Family
    size: int


@dataclass(slots=True)
class Outcome:
    """What one collection gave.

    ``unfit`` names families that were left out, ``broken`` says that others may be missing, too. ``faults``
    tells what was lost: the metric or "", what is wrong, and whether that will not pass by itself.
    """

    families: dict[str, Vetted] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)
    broken: bool = False
    faults: list[tuple[str, str, bool]] = field(default_factory=list)


class Budget:
    """Which label sets of a metric are shown one by one, and what all others have together.

    Of types that are added up, who is in stays in, and a label set that is removed or begins anew leaves
    what it had: the sum never falls, and never jumps.
    """

    def __init__(self, max_series: int, kind: str) -> None:
        self.kind = kind
        self._max = max_series
        self._admitted: dict[Labels, None] = {}
        self._rest = Totals(0, held=max_series)

    def begin(self) -> None:
        """A new snapshot."""
        if self.kind not in SUMMED:
            self._admitted = {}

    def admits(self, labels: Labels) -> bool:
        if labels in self._admitted:
            return True
        if len(self._admitted) >= self._max or (labels and labels == overflow(labels)):
            return False
        self._admitted[labels] = None
        return True

    def fold(self, family: Family, rest: dict[Labels, Group]) -> list[Sample]:
        """The samples that stand for these label sets."""
        if self.kind not in SUMMED:
            return []
        self._rest.take(0, {labels: group for labels, group in rest.items() if group.values})
        return [
            sample for labels, group in self._rest.read().items() for sample in join(family, labels, group)
        ]


class Vetting:
    """Collects from one collector, and never raises.

    Args:
        mode: mode of all its families, or "" for their own.
        reserved: whether a name is one of the server's own.
    """

    def __init__(self, collector: Any, mode: str, max_series: int, reserved: Callable[[str], bool]) -> None:
        self._collector = collector
        self._mode = mode
        self._max_series = max_series
        self._reserved = reserved
        self._budgets: dict[str, Budget] = {}
        self.reader = Reader.of(collector)

    def collect(self) -> Outcome:
        outcome = Outcome()
        try:
            reader = self.reader
            families = [reader.given()] if reader else self._collector.collect()
            for given in itertools.islice(families, MAX_FAMILIES + 1):
                if len(outcome.families) == MAX_FAMILIES:
                    outcome.broken = True
                    outcome.faults.append(("", f"gives more than {MAX_FAMILIES} families; split it", False))
                    break
                self._vet(given, outcome, reader)
        except BaseException as error:  # noqa: BLE001  # a user's code may raise SystemExit, too
            outcome.broken = True
            outcome.faults.append(
                ("", f"raised {told(error)}; its metrics keep their last values: mend its collect()", False)
            )
        # One that is missing for a while goes on where it was, unless there are ever new ones.
        absent = [name for name in self._budgets if name not in outcome.families]
        for name in absent[: max(0, len(absent) - MAX_ABSENT)]:
            del self._budgets[name]
        return outcome

    def _vet(self, given: Any, outcome: Outcome, reader: Reader | None) -> None:
        if not isinstance(given, Metric):
            outcome.broken = True
            kind = type(given).__name__
            outcome.faults.append(("", f"gives a {kind} where a prometheus_client Metric belongs", False))
            return
        name = ""
        try:
            name = rules.name_of(given)
            family = Family(
                name,
                given.type,
                rules.text_of(given.documentation),
                given.unit if rules.has_unit(given, name) else "",
                self._mode or self._mode_of(given),
            )
            if name in outcome.families:
                outcome.faults.append((name, "is given twice, and only the first one is shown", False))
                return
            if taken := sorted(name for name in claims(family) if self._reserved(name)):
                outcome.faults.append(
                    (name, f"is left out: {taken[0]} is a name of the server's own; choose another", True)
                )
                return
            budget = self._budgets.get(name)
            if budget is None or budget.kind != family.type:
                budget = self._budgets[name] = Budget(self._max_series, family.type)
            budget.begin()
            if reader:
                rest, faults, bytes_ = reader.read(family, budget.admits)
                outcome.faults += [(name, fault, False) for fault in faults]
            else:
                rest, bytes_ = self._samples(given, family, outcome, budget), 0
            self._fold(family, budget, rest, outcome)
        except Exception as error:  # noqa: BLE001  # what a Metric holds is the user's
            why = str(error) if isinstance(error, rules.Unfit) else f"it is no proper Metric ({told(error)})"
            outcome.faults.append((name, f"is left out: {why}", False))
            outcome.unfit.add(name)
            outcome.broken |= not name
            if isinstance(error, AttributeError):  # the client has changed inside: never read it so again
                self.reader = None
        else:
            outcome.families[name] = Vetted(family, bytes_ or size(family))

    def _mode_of(self, given: Metric) -> str:
        # Gauge knows its mode, but does not tell the Metric; the client's own merger does tell it.
        mode = getattr(self._collector, "_multiprocess_mode", "") or getattr(given, "_multiprocess_mode", "")
        return mode if given.type == "gauge" and mode in MODES else ""

    def _samples(
        self, given: Metric, family: Family, outcome: Outcome, budget: Budget
    ) -> dict[Labels, Group]:
        """Puts the samples of label sets that are admitted into the family; those that are not."""
        samples: list[Sample] = []
        allowed = signals.SUFFIXES[family.type]
        if len(given.samples) > MAX_SAMPLES:
            raise rules.Unfit(f"it has {len(given.samples)} samples; use fewer labels")
        for its_name, its_labels, its_value, _, exemplar, *native in given.samples:
            suffix = its_name.removeprefix(family.name)
            if suffix == "_created" or any(native):
                continue  # the time tells nothing of many workers; a native histogram has no text
            if suffix not in allowed or not its_name.startswith(family.name):
                raise rules.Unfit(
                    f"a {family.type} cannot have a sample {its_name!r}; prometheus_client.core has a "
                    "MetricFamily class for each type"
                )
            labels = rules.labels_of(its_labels)
            value = rules.value_of(its_name, its_value)
            if family.type in SUMMED | BUCKETED and suffix and not rules.counts(suffix, value):
                if suffix not in ("_sum", "_total"):
                    raise rules.Unfit(f"{its_name} cannot be {value}")
                outcome.faults.append((family.name, rules.no_count(suffix, value), False))
                continue
            kept = None
            if exemplar is not None and suffix in ("_total", "_bucket"):
                kept = rules.exemplar_of(exemplar)
                if kept is None:
                    outcome.faults.append((family.name, rules.BAD_EXEMPLAR, False))
            samples.append(Sample(its_name, labels, value, kept))
        rules.check(family, samples)
        return _beyond(family, samples, budget)

    def _fold(self, family: Family, budget: Budget, rest: dict[Labels, Group], outcome: Outcome) -> None:
        family.samples = family.samples + budget.fold(family, rest)
        if not rest:
            return
        what = "counted together as __overflow__" if family.type in SUMMED else "left out"
        what = f"has more than {self._max_series} label sets; further ones are {what}"
        outcome.faults.append(
            (family.name, f"{what}: use fewer labels or raise observability.max_series", True)
        )


def _beyond(family: Family, samples: list[Sample], budget: Budget) -> dict[Labels, Group]:
    rest = family.without_samples()
    groups: dict[Labels, Group] = {}
    for sample in samples:
        key = rules.label_set(family, sample.labels)
        if budget.admits(key):
            family.samples.append(sample)
        else:
            rest.samples.append(sample)
            groups[key] = Group()
    return groups | split(rest)


def size(family: Family) -> int:
    """Bytes of the family's JSON."""
    return len(json.dumps(pack([family])))


def told(error: BaseException) -> str:
    """An exception in a line, whatever its own text does."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  # as said
        text = ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
