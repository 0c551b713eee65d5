"""A metric family as plain data, as it travels from a worker to the supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar as ClientExemplar
from prometheus_client.utils import floatToGoString

from mlserver.exposition.legal import metric_name
from mlserver.signals import OVERFLOW, SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable

PROCESS = "process"
"""Mode of families that tell of one process: they come out once for every worker."""
SUMMED = frozenset({"counter", "histogram", "summary"})
"""Types that are added up over all workers and never fall."""
BUCKETED = frozenset({"histogram", "gaugehistogram"})

Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name, without ``le``."""


class Exemplar(NamedTuple):
    """One observation that stands for others; ``timestamp`` is unix time in seconds."""

    labels: dict[str, str]
    value: float
    timestamp: float | None = None


class Sample(NamedTuple):
    """One value; ``name`` is the full name, suffix included."""

    name: str
    labels: dict[str, str]
    value: float
    exemplar: Exemplar | None = None


@dataclass(slots=True)
class Family:
    """All samples of one metric.

    ``mode`` is a gauge's ``multiprocess_mode``, `PROCESS`, or "".
    """

    name: str
    type: str
    help: str = ""
    unit: str = ""
    mode: str = ""
    samples: list[Sample] = field(default_factory=list)

    def without_samples(self) -> Family:
        return replace(self, samples=[])

    def metric(self, samples: Iterable[Sample]) -> Metric:
        """What ``prometheus_client`` renders, with these samples for its own."""
        made = Metric(self.name, self.help, self.type, self.unit)
        for name, labels, value, exemplar in samples:
            made.add_sample(name, labels, value, exemplar=exemplar and ClientExemplar(*exemplar))
        return made


def pack(families: Iterable[Family]) -> list[list[Any]]:
    """Families as lists that ``json`` can write; not-a-number and infinities are among the values."""
    return [
        [
            family.name,
            family.type,
            family.help,
            family.unit,
            family.mode,
            [sample if sample.exemplar else sample[:3] for sample in family.samples],
        ]
        for family in families
    ]


def unpack(packed: Iterable[list[Any]]) -> list[Family]:
    """What `pack` was given, also after a way through JSON.

    Raises:
        ValueError, TypeError: it is not of that shape.
    """
    families = []
    for name, kind, about, unit, mode, samples in packed:
        family = Family(name, kind, about, unit, mode)
        for its_name, labels, value, *exemplar in samples:
            family.samples.append(
                Sample(its_name, labels, value, Exemplar(*exemplar[0]) if exemplar else None)
            )
        families.append(family)
    return families


def claims(family: Family) -> set[str]:
    """Names that no other family may have on the same page, as they are shown."""
    name = metric_name(family.name)
    created = {"_created"} if family.type in SUMMED else set()
    return {name} | {name + suffix for suffix in SUFFIXES[family.type] | created}


@dataclass(slots=True)
class Group:
    """The samples of one label set of a counter, summary or (gauge) histogram.

    Keys of ``values``: a bucket's upper bound, for what fell into this bucket alone, so that groups of other
    bounds can be added; else a sample's suffix.
    """

    values: dict[float | str, float] = field(default_factory=dict)
    exemplars: dict[float | str, Exemplar] = field(default_factory=dict)


def split(family: Family) -> dict[Labels, Group]:
    """The groups of a family, in the order of their first samples. A summary's quantiles are left out."""
    groups: dict[Labels, Group] = {}
    skip = len(family.name)
    for name, labels, value, exemplar in family.samples:
        key: float | str = name[skip:]
        if key == "_bucket":
            key = float(labels["le"])
            labels = {label: its for label, its in labels.items() if label != "le"}  # noqa: PLW2901
        elif not key:
            continue
        group = groups.setdefault(tuple(sorted(labels.items())), Group())
        group.values[key] = value
        if exemplar:
            group.exemplars[key] = exemplar
    if family.type in BUCKETED:
        for group in groups.values():
            below = 0.0
            for bound in _bounds(group):
                group.values[bound], below = group.values[bound] - below, group.values[bound]
    return groups


def join(family: Family, labels: Labels, group: Group) -> list[Sample]:
    """The samples of a group, as ``prometheus_client`` orders them: the reverse of `split`."""
    common = dict(labels)
    values = dict(group.values)
    bounds = _bounds(group)
    counts = list(accumulate(values.pop(bound) for bound in bounds))
    samples = [
        Sample(
            f"{family.name}_bucket",
            {**common, "le": number(bound)},
            count,
            group.exemplars.get(bound),
        )
        for bound, count in zip(bounds, counts, strict=True)
    ]
    if family.type == "histogram":
        # OpenMetrics: no sum where values may be negative, and a count if and only if there is a sum.
        total = values.pop("_sum", None)
        values = {} if total is None or bounds[0] < 0 else {"_count": counts[-1], "_sum": total}
    elif bounds and "_gcount" in values:
        values["_gcount"] = counts[-1]
    samples += [
        Sample(f"{family.name}{suffix}", common, values[suffix], group.exemplars.get(suffix))
        for suffix in sorted(map(str, values))
    ]
    return samples


def number(value: float) -> str:
    """A bound as a label's value."""
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def overflow(labels: Labels) -> Labels:
    """The label set that takes what is beyond the budget."""
    return tuple((name, OVERFLOW) for name, _ in labels)


def _bounds(group: Group) -> list[float]:
    return sorted(key for key in group.values if isinstance(key, float))
