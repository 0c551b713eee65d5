"""What may be shown: one family that breaks the format would cost the whole scrape."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import METRIC_TYPES

from mlserver import signals

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.samples import Sample

_NOT_OF_A_METRIC = re.compile(r"[^a-zA-Z0-9_:]|^(?=[0-9])")
_NOT_OF_A_LABEL = re.compile(r"[^a-zA-Z0-9_]|^(?=[0-9])")


def legal(family: Family) -> Family:
    """The family with names that every reader takes, and without its ``_created`` samples.

    Those are left out since several processes were not created at one time. Characters beyond the classic
    ones become ``_``.

    Raises:
        ValueError: it cannot be shown.
    """
    if family.type not in METRIC_TYPES:
        raise ValueError(f"{family.type!r} is no type of a metric")
    shown = copy.copy(family)
    shown.name = metric_name(family.name)
    if family.unit and not shown.name.endswith(f"_{family.unit}"):
        raise ValueError(f"its name does not end with its unit {family.unit!r}")
    created = f"{family.name}_created"
    samples = [
        _without_bad_exemplar(sample)
        for sample in family.samples
        if sample.name != created and sample.native_histogram is None  # in neither format
    ]
    if any(sample.value is None for sample in samples):  # OpenMetrics would be written without it
        raise ValueError("a sample has no value")
    renamed = {name: metric_name(name) for name in {sample.name for sample in samples}}
    relabelled = {given: _label_names(given) for given in {tuple(sample.labels) for sample in samples}}
    if any(new != old for names in (renamed, relabelled) for old, new in names.items()):
        samples = [
            sample._replace(
                name=renamed[sample.name],
                labels=dict(zip(relabelled[tuple(sample.labels)], sample.labels.values(), strict=True)),
            )
            for sample in samples
        ]
    shown.samples = samples
    return shown


def names_of(family: Family) -> set[str]:
    """All names that no other family may have."""
    suffixes = signals.SUFFIXES.get(family.type, frozenset())
    return {
        family.name,
        *(family.name + suffix for suffix in suffixes),
        *(sample.name for sample in family.samples),
    }


def metric_name(name: str) -> str:
    """A metric's or a sample's name as it is shown.

    Raises:
        ValueError: it is empty.
    """
    if not name:
        raise ValueError("it has no name")
    return _NOT_OF_A_METRIC.sub("_", name)


def label_name(name: str) -> str:
    """A label's name as it is shown."""
    return _NOT_OF_A_LABEL.sub("_", name)


def _label_names(given: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(map(label_name, given))
    if len(set(names)) < len(names) or any(not name or name.startswith("__") for name in names):
        raise ValueError(f"its labels {', '.join(given)} have an illegal name or one name twice")
    return names


def _without_bad_exemplar(sample: Sample) -> Sample:
    """The library writes the names of an exemplar's labels as they are."""
    if sample.exemplar is None or not any(map(_NOT_OF_A_LABEL.search, sample.exemplar.labels)):
        return sample
    return sample._replace(exemplar=None)
