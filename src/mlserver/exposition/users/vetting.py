"""What a collector of the user's gives, made into families that cannot spoil a scrape."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import Histogram, Metric

from mlserver.exposition.users import rules
from mlserver.exposition.users.family import (
    BUCKETED,
    SUFFIXES,
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

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = frozenset(
    f"{live}{mode}" for live in ("", "live") for mode in ("all", "min", "max", "sum", "mostrecent")
)
"""The client's multiprocess modes of gauges."""
MAX_FAMILIES = 10_000
"""Families of one collector: one that never ends must end somewhere."""
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
        self._admitted: dict[str, dict[Labels, None]] = {}
        self._before: dict[str, Vetted] = {}

    def collect(self) -> Outcome:
        outcome = Outcome()
        try:
            for given in itertools.islice(self._collector.collect(), MAX_FAMILIES + 1):
                if len(outcome.families) == MAX_FAMILIES:
                    outcome.broken = True
                    outcome.faults.append(("", f"gives more than {MAX_FAMILIES} families; split it", False))
                    break
                self._vet(given, outcome)
        except BaseException as error:  # noqa: BLE001  # a user's code may raise SystemExit, too
            outcome.broken = True
            outcome.faults.append(
                ("", f"raised {told(error)}; its metrics keep their last values: mend its collect()", False)
            )
        self._before = outcome.families
        if not outcome.broken:
            self._admitted = {name: its for name, its in self._admitted.items() if name in outcome.families}
        return outcome

    def _vet(self, given: Any, outcome: Outcome) -> None:
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
            family.samples = self._samples(given, family, outcome)
            if len(family.samples) > self._max_series:
                self._fold(family, outcome)
        except Exception as error:  # noqa: BLE001  # what a Metric holds is the user's
            why = str(error) if isinstance(error, rules.Unfit) else f"it is no proper Metric ({told(error)})"
            outcome.faults.append((name, f"is left out: {why}", False))
            outcome.unfit.add(name)
            outcome.broken |= not name
        else:
            before = self._before.get(name)
            same = before is not None and before.family == family
            outcome.families[name] = before if before and same else Vetted(family, size(family))

    def _mode_of(self, given: Metric) -> str:
        # Gauge knows its mode, but does not tell the Metric; the client's own merger does tell it.
        mode = getattr(self._collector, "_multiprocess_mode", "") or getattr(given, "_multiprocess_mode", "")
        return mode if given.type == "gauge" and mode in MODES else ""

    def _samples(self, given: Metric, family: Family, outcome: Outcome) -> list[Sample]:
        samples: list[Sample] = []
        allowed = SUFFIXES[family.type]
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
                what = f"has a {suffix} of {value}, which is left out; do not count or observe such values"
                outcome.faults.append((family.name, what, False))
                continue
            kept = None
            if exemplar is not None and suffix in ("_total", "_bucket"):
                kept = rules.exemplar_of(exemplar)
                if kept is None:
                    outcome.faults.append((family.name, "has an exemplar that is not valid", False))
            samples.append(Sample(its_name, labels, value, kept))
        if type(self._collector) is not Histogram:  # the client's own buckets are right
            rules.check(family, samples)
        return samples

    def _fold(self, family: Family, outcome: Outcome) -> None:
        """Keeps the first label sets and puts the others together, where they can be added."""
        sets = dict.fromkeys(rules.label_set(family, sample) for sample in family.samples)
        if len(sets) <= self._max_series:
            return
        admitted = self._admitted.setdefault(family.name, {})
        if family.type not in SUMMED:  # who is first may change: nothing here must not fall
            admitted.clear()
        for key in sets:
            if len(admitted) >= self._max_series:
                break
            admitted[key] = None
        rest = [sample for sample in family.samples if rules.label_set(family, sample) not in admitted]
        if not rest:
            return
        family.samples = [sample for sample in family.samples if rules.label_set(family, sample) in admitted]
        what = f"has more than {self._max_series} label sets; further ones are "
        if family.type in SUMMED:
            what += "counted together as __overflow__"
            folded: dict[Labels, Group] = {}
            for labels, group in split(Family(family.name, family.type, samples=rest)).items():
                there = folded.setdefault(overflow(labels), Group())
                for part, value in group.values.items():
                    there.values[part] = there.values.get(part, 0.0) + value
                there.exemplars |= group.exemplars
            for labels, group in folded.items():
                family.samples += join(family, labels, group)
        else:
            what += "left out"
        outcome.faults.append(
            (family.name, f"{what}: use fewer labels or raise observability.max_series", True)
        )


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
