"""The catalogue: every signal the server gives, declared once, as data.

Metrics, the docs page about them, and later dashboards and alerts come from the declarations here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds; +Inf is implied."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""Methods of RFC 9110 and RFC 5789; anything else is folded into ``OTHER``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the catalogue. Its full name is the configured prefix plus ``name``."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    over_workers: Literal["sum", "max"] = "sum"
    """How the workers' values make one."""


REQUESTS = Metric(
    "requests_total",
    "counter",
    "Requests answered, by route, method and HTTP status.",
    ("endpoint", "method", "status"),
)
REQUEST_DURATION = Metric(
    "request_duration_seconds",
    "histogram",
    "Time from a request's complete headers to its encoded response.",
    ("endpoint", "method"),
    unit="seconds",
    buckets=LATENCY_BUCKETS,
)
PREDICTION_DURATION = Metric(
    "prediction_duration_seconds",
    "histogram",
    "Time of one run of the predictor; a run may answer several requests.",
    ("model",),
    unit="seconds",
    buckets=LATENCY_BUCKETS,
)
PREDICTION_ERRORS = Metric(
    "prediction_errors_total",
    "counter",
    "Requests whose prediction failed, by class of the exception.",
    ("model", "error_type"),
)
ACTIVE_REQUESTS = Metric("active_requests", "gauge", "Requests received and not yet answered.")
MODEL_LOADED = Metric(
    "model_loaded",
    "gauge",
    "1 if at least one live worker has the model loaded, else 0.",
    ("model", "version"),
    over_workers="max",
)
SIGNALS_DROPPED = Metric(
    "signals_dropped_total",
    "counter",
    "Signals that could not be given, by the observer that lost them.",
    ("signal",),
)

METRICS = (
    REQUESTS,
    REQUEST_DURATION,
    PREDICTION_DURATION,
    PREDICTION_ERRORS,
    ACTIVE_REQUESTS,
    MODEL_LOADED,
    SIGNALS_DROPPED,
)
