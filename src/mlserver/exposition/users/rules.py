"""What a metric must be like, so that a scrape with it can be read."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prometheus_client.metrics_core import METRIC_TYPES, Metric

from mlserver.exposition.legal import label_name
from mlserver.exposition.users.family import BUCKETED, Exemplar, Family, Labels, Sample, number

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_EXEMPLAR = 128
"""Characters of an exemplar's labels, as OpenMetrics has it."""
BAD_EXEMPLAR = "has an exemplar that is not valid"
_BESIDES = {"histogram": "le", "gaugehistogram": "le", "summary": "quantile"}
"""Labels that make no label set of their own."""


class Unfit(Exception):
    """A family cannot be shown. The message says why and what to do."""


def name_of(given: Metric) -> str:
    name = given.name
    if not isinstance(name, str) or not name or not encodable(name):
        raise Unfit("its name is no text")
    if not isinstance(given.type, str) or given.type not in METRIC_TYPES:
        raise Unfit(f"{name} is of no known type")
    if not isinstance(given.samples, list | tuple):
        raise Unfit(f"the samples of {name} are no list")
    return name.removesuffix("_total") if given.type == "counter" else name


def has_unit(given: Metric, name: str) -> bool:
    unit = given.unit
    return isinstance(unit, str) and name.endswith(f"_{unit}") and given.type not in ("info", "stateset")


def encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def text_of(given: Any) -> str:
    text = given if isinstance(given, str) else ""
    return text if encodable(text) else text.encode("utf-8", "backslashreplace").decode()


def labels_of(given: Any) -> dict[str, str]:
    """The labels of a sample; half characters in values are spelled out, as a scrape could not be sent."""
    labels = dict(given or {})
    check_names(tuple(labels))
    for name, value in labels.items():
        if not isinstance(value, str):
            raise Unfit(f"label {name!r} is no text but {type(value).__name__}: give str(...)")
        if not value.isascii():
            labels[name] = text_of(value)
    return labels


@lru_cache(1024)
def check_names(names: tuple[Any, ...]) -> None:
    """Raises Unfit unless these can be the labels of one sample."""
    for name in names:
        if not isinstance(name, str) or not name or name.startswith("__") or not encodable(name):
            raise Unfit(f"{name!r} cannot be a label's name")
    if len(set(map(label_name, names))) < len(names):
        raise Unfit(f"labels {sorted(names)} are told apart only by characters that not all scrapes can show")


def value_of(name: str, given: Any) -> float:
    if type(given) is float:
        return given
    try:
        if isinstance(given, str | bytes | bytearray):
            raise TypeError  # noqa: TRY301  # float() would take it
        return float(given)
    except Exception as error:
        raise Unfit(f"the value of {name} is no number but {type(given).__name__}") from error


def counts(suffix: str, value: float) -> bool:
    """Whether a value can be one of a counter, histogram or summary. A sum may be negative."""
    if suffix in ("_sum", "_gsum"):
        return math.isfinite(value)
    return value >= 0 and math.isfinite(value) and (suffix == "_total" or value.is_integer())


def no_count(suffix: str, value: float) -> str:
    return f"has a {suffix} of {value}, which is left out; do not count or observe such values"


def exemplar_of(given: Any) -> Exemplar | None:
    try:
        labels = labels_of(given.labels)
        value = float(given.value)
        at = None if given.timestamp is None else float(given.timestamp)
    except Exception:  # noqa: BLE001  # whatever it is, it is no exemplar
        return None
    fits = sum(len(name) + len(its) for name, its in labels.items()) <= MAX_EXEMPLAR
    return Exemplar(labels, value, at) if fits and (at is None or math.isfinite(at)) else None


def label_set(family: Family, labels: Mapping[str, str]) -> Labels:
    """The label set that a sample with these labels counts as."""
    beside = family.name if family.type == "stateset" else _BESIDES.get(family.type)
    return tuple(sorted((name, value) for name, value in labels.items() if name != beside))


def check(family: Family, samples: list[Sample]) -> None:
    """Raises Unfit for what only the samples together, or a type's own rules, show to be wrong."""
    if family.type in BUCKETED:
        check_buckets(family, samples)
    elif family.type == "summary":
        for sample in samples:
            if sample.name == family.name and not 0 <= bound_of(sample.labels, "quantile") <= 1:
                raise Unfit("a quantile is no number from 0 to 1")
    elif family.type == "stateset":
        if any(family.name not in sample.labels or sample.value not in (0, 1) for sample in samples):
            raise Unfit(f"each of its states needs the label {family.name} and the value 0 or 1")
    elif family.type == "info" and any(sample.value != 1 for sample in samples):
        raise Unfit("an info's value is 1")


def check_buckets(family: Family, samples: list[Sample]) -> None:
    buckets: dict[Labels, dict[float, float]] = {}
    others: dict[Labels, dict[str, float]] = {}
    for sample in samples:
        key = label_set(family, sample.labels)
        if sample.name.endswith("_bucket"):
            bound = bound_of(sample.labels, "le")
            sample.labels["le"] = number(bound)
            buckets.setdefault(key, {})[bound] = sample.value
        else:
            others.setdefault(key, {})[sample.name.removeprefix(family.name)] = sample.value
    if family.type == "gaugehistogram" and any(len(its) != 2 for its in others.values()):
        raise Unfit("its _gcount or its _gsum is missing")
    for key in buckets | others:
        counts = [count for _, count in sorted(buckets.get(key, {}).items())]
        if math.inf not in buckets.get(key, {}) or counts != sorted(counts):
            raise Unfit("its buckets do not rise to a bucket +Inf")
        count = others.get(key, {}).get("_count" if family.type == "histogram" else "_gcount", counts[-1])
        if count != counts[-1]:
            raise Unfit("its buckets do not count up to its count")


def bound_of(labels: Mapping[str, str], name: str) -> float:
    try:
        bound = float(labels[name])
    except (KeyError, ValueError) as error:
        raise Unfit(f"a sample has no number for the label {name}") from error
    if math.isnan(bound):
        raise Unfit(f"a sample has no number for the label {name}")
    return bound
