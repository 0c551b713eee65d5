"""Every metric that the server gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds; +Inf is implied."""

ROW_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Upper bounds in rows; +Inf is implied."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""Methods of RFC 9110 and RFC 5789; anything else is folded into ``OTHER``."""
OTHER = "OTHER"

PHASES = ("decode", "queue", "predict", "encode")
"""What a prediction's time is spent on, in order; together they are the request's duration."""

OVERFLOW = "__overflow__"
"""Every label's value of the one series in which label sets beyond the budget of a metric are counted."""

REJECTIONS = ("queue_full", "overloaded", "not_ready")
"""Codes of errors that turn away requests which were in order."""

DROPPABLE = ("logs", "metrics", "prints", "traces", "user_metrics")
"""Signals whose losses are counted. ``prints``: what workers print, where that goes the way of log lines."""

SUFFIXES: Mapping[str, frozenset[str]] = {
    "counter": frozenset({"_total"}),
    "gauge": frozenset({""}),
    "histogram": frozenset({"_bucket", "_count", "_sum"}),
    "gaugehistogram": frozenset({"_bucket", "_gcount", "_gsum"}),
    "summary": frozenset({"", "_count", "_sum"}),
    "info": frozenset({"_info"}),
    "stateset": frozenset({""}),
    "unknown": frozenset({""}),
}
"""What may follow a metric's name in the names of its samples, by its type as OpenMetrics has them."""


class Panel(NamedTuple):
    """One graph of a dashboard. ``$metric`` in the expression stands for the metric's full name."""

    dashboard: str
    title: str
    expr: str


class Alert(NamedTuple):
    """One rule that pages somebody; ``$metric`` as in `Panel`."""

    name: str
    expr: str
    after: str
    """How long it has to be so, as Prometheus writes it."""
    severity: Literal["warning", "critical"]
    summary: str


class Source(NamedTuple):
    """Series in the workers' pages that a metric is made from."""

    record: str
    """Name of the series there."""
    labels: tuple[str, ...]
    """What their keys' values are of."""
    constants: tuple[tuple[str, str], ...] = ()
    """Labels that are the same for all of them, with their values."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the catalogue."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    over_workers: Literal["sum", "max", "each"] = "sum"
    """How the workers' values make one; ``each``: they do not, label ``worker`` tells them apart."""
    sources: tuple[Source, ...] = ()
    """By default the series of its own name. Those with equal labels are joined by ``over_workers``; a
    counter that is made from a histogram is the number of its observations."""
    panels: tuple[Panel, ...] = ()
    alerts: tuple[Alert, ...] = ()
    prefixed: bool = True
    """False for names that every Python program has for the same thing."""

    def full_name(self, prefix: str) -> str:
        """Its name on ``/metrics``. The one place where the configured prefix and a name meet."""
        return prefix + self.name if self.prefixed else self.name

    def recorded(self) -> tuple[Source, ...]:
        """Where its numbers come from."""
        return self.sources or (Source(self.name, self.labels),)


REQUEST_DASHBOARD = "MLServer Request Metrics"
MODEL_DASHBOARD = "Model Performance"
OVERVIEW_DASHBOARD = "Overview"

CALLS = Source("calls", ("endpoint", "method", "status"))
"""One histogram of durations for every label set of `REQUESTS`: one write gives the count and the duration,
which therefore never disagree."""
RUNS_ALONE = Source("runs_alone", ("model",))
"""Runs that answered one call: their time is that call's ``predict`` phase, too."""
RUNS_SHARED = Source("runs_shared", ("model",))

REQUESTS = Metric(
    "requests_total",
    "counter",
    "Requests answered, by route, method and HTTP status.",
    ("endpoint", "method", "status"),
    sources=(CALLS,),
    panels=(
        Panel(REQUEST_DASHBOARD, "Request Rate", "rate($metric[5m])"),
        Panel(REQUEST_DASHBOARD, "Error Rate", "rate($metric{status=~'4..|5..'}[5m])"),
        Panel(MODEL_DASHBOARD, "Prediction Throughput", "rate($metric{endpoint='/predict'}[1m])"),
    ),
    alerts=(
        Alert(
            "HighErrorRate",
            'rate($metric{status=~"5.."}[5m]) > 0.05',
            "2m",
            "warning",
            "High error rate on {{ $labels.instance }}",
        ),
    ),
)
REQUEST_DURATION = Metric(
    "request_duration_seconds",
    "histogram",
    "Time from a request's complete headers to its encoded response.",
    ("endpoint", "method"),
    unit="seconds",
    buckets=LATENCY_BUCKETS,
    sources=(CALLS,),
    panels=tuple(
        Panel(
            REQUEST_DASHBOARD,
            "Latency Percentiles",
            f"histogram_quantile({quantile}, rate($metric_bucket[5m]))",
        )
        for quantile in ("0.50", "0.95", "0.99")
    ),
    alerts=(
        Alert(
            "HighLatency",
            "histogram_quantile(0.95, rate($metric_bucket[5m])) > 1",
            "5m",
            "warning",
            "High latency on {{ $labels.instance }}",
        ),
    ),
)
REQUEST_PHASES = Metric(
    "request_phase_duration_seconds",
    "histogram",
    "Time that predictions spend on each part of their way.",
    ("phase",),
    unit="seconds",
    buckets=LATENCY_BUCKETS,
    sources=(
        Source("request_phase_duration_seconds", ("phase",)),
        RUNS_ALONE._replace(constants=(("phase", "predict"),)),
    ),
    panels=(
        Panel(
            REQUEST_DASHBOARD,
            "Phases of a Request",
            "sum by (phase) (rate($metric_sum[5m])) / sum by (phase) (rate($metric_count[5m]))",
        ),
    ),
)
PREDICTION_DURATION = Metric(
    "prediction_duration_seconds",
    "histogram",
    "Time of one run of the predictor; a run may answer several requests.",
    ("model",),
    unit="seconds",
    buckets=LATENCY_BUCKETS,
    sources=(RUNS_ALONE, RUNS_SHARED),
    panels=(
        Panel(MODEL_DASHBOARD, "Prediction Latency", "histogram_quantile(0.95, rate($metric_bucket[5m]))"),
    ),
)
PREDICTION_ERRORS = Metric(
    "prediction_errors_total",
    "counter",
    "Requests whose prediction failed, by class of the exception.",
    ("model", "error_type"),
    panels=(Panel(MODEL_DASHBOARD, "Model Errors", "rate($metric[5m])"),),
)
PREDICTIONS = Metric(
    "predictions_total",
    "counter",
    "Rows answered with a prediction.",
    ("model",),
    panels=(Panel(MODEL_DASHBOARD, "Rows", "sum by (model) (rate($metric[5m]))"),),
)
BATCH_ROWS = Metric(
    "batch_rows",
    "histogram",
    "Rows of one run of the predictor.",
    ("model",),
    buckets=ROW_BUCKETS,
    panels=(Panel(MODEL_DASHBOARD, "Rows of a Run", "sum by (le) (increase($metric_bucket[5m]))"),),
)
ACTIVE_REQUESTS = Metric(
    "active_requests",
    "gauge",
    "Requests received and not yet answered.",
    panels=(Panel(MODEL_DASHBOARD, "Active Requests", "$metric"),),
)
QUEUE_DEPTH = Metric(
    "queue_depth",
    "gauge",
    "Requests that wait for the model.",
    panels=(Panel(REQUEST_DASHBOARD, "Queue", "$metric"),),
)
REJECTED = Metric(
    "rejected_requests_total",
    "counter",
    "Requests turned away although they were in order, by code of the error.",
    ("reason",),
    panels=(Panel(REQUEST_DASHBOARD, "Rejected", "sum by (reason) (rate($metric[5m]))"),),
)
MODEL_LOADED = Metric(
    "model_loaded",
    "gauge",
    "1 if at least one live worker has the model loaded, else 0.",
    ("model", "version"),
    over_workers="max",
    panels=(Panel(OVERVIEW_DASHBOARD, "Model Loaded", "min by (model) ($metric)"),),
    alerts=(
        Alert(
            "ModelNotLoaded", "$metric == 0", "1m", "critical", "Model not loaded on {{ $labels.instance }}"
        ),
    ),
)
WORKERS = Metric(
    "workers",
    "gauge",
    "Workers that are ready to predict.",
    panels=(Panel(OVERVIEW_DASHBOARD, "Ready Workers", "$metric"),),
)
WORKER_RESTARTS = Metric(
    "worker_restarts_total",
    "counter",
    "Workers that died and had to be replaced.",
    panels=(Panel(OVERVIEW_DASHBOARD, "Restarts", "increase($metric[1h])"),),
)
SIGNALS_DROPPED = Metric(
    "signals_dropped_total",
    "counter",
    "Signals that could not be given, by the observer that lost them.",
    ("signal",),
    panels=(Panel(OVERVIEW_DASHBOARD, "Signals Dropped", "sum by (signal) (increase($metric[1h]))"),),
)
BUILD_INFO = Metric(
    "build_info",
    "gauge",
    "1, with the versions of the server and of Python.",
    ("version", "python"),
    over_workers="max",
    panels=(Panel(OVERVIEW_DASHBOARD, "Version", "$metric"),),
)

METRICS = (
    REQUESTS,
    REQUEST_DURATION,
    REQUEST_PHASES,
    PREDICTION_DURATION,
    PREDICTION_ERRORS,
    PREDICTIONS,
    BATCH_ROWS,
    ACTIVE_REQUESTS,
    QUEUE_DEPTH,
    REJECTED,
    MODEL_LOADED,
    WORKERS,
    WORKER_RESTARTS,
    SIGNALS_DROPPED,
    BUILD_INFO,
)
"""What the server counts itself."""


def _of_process(
    name: str,
    type_: Literal["counter", "gauge"],
    help_: str,
    *labels: str,
    unit: str = "",
    panels: tuple[Panel, ...] = (),
    alerts: tuple[Alert, ...] = (),
) -> Metric:
    return Metric(
        name,
        type_,
        help_,
        ("worker", *labels),
        unit=unit,
        over_workers="each",
        panels=panels,
        alerts=alerts,
        prefixed=False,
    )


PROCESSES = (
    _of_process("process_virtual_memory_bytes", "gauge", "Virtual memory.", unit="bytes"),
    _of_process(
        "process_resident_memory_bytes",
        "gauge",
        "Memory in use; pages that processes share count in each.",
        unit="bytes",
        panels=(Panel(OVERVIEW_DASHBOARD, "Memory", "$metric"),),
        alerts=(
            Alert(
                "HighMemoryUsage",
                "$metric / 1024 / 1024 / 1024 > 2",
                "5m",
                "warning",
                "High memory usage on {{ $labels.instance }}",
            ),
        ),
    ),
    _of_process("process_start_time_seconds", "gauge", "When it was started, since 1970.", unit="seconds"),
    _of_process(
        "process_cpu_seconds_total",
        "counter",
        "CPU time of user and system.",
        unit="seconds",
        panels=(Panel(OVERVIEW_DASHBOARD, "CPU", "rate($metric[5m])"),),
    ),
    _of_process("process_open_fds", "gauge", "Open file descriptors."),
    _of_process("process_max_fds", "gauge", "Open file descriptors that it may have."),
    _of_process("python_gc_objects_collected_total", "counter", "Objects collected.", "generation"),
    _of_process("python_gc_objects_uncollectable_total", "counter", "Objects not collectable.", "generation"),
    _of_process("python_gc_collections_total", "counter", "Collections of a generation.", "generation"),
    _of_process(
        "python_info",
        "gauge",
        "The interpreter.",
        "implementation",
        "major",
        "minor",
        "patchlevel",
        "version",
    ),
)
"""What every process says of itself, as ``prometheus_client`` names it."""

CATALOGUE = METRICS + PROCESSES


def bounds(metric: Metric, chosen: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    """A histogram's upper bounds in effect, without +Inf: those chosen under its name, else its own."""
    return chosen.get(metric.name, metric.buckets)


def reserved_names(prefix: str) -> frozenset[str]:
    """Names that no metric of a user's own can have, with those of their samples."""
    families = {metric.full_name(prefix).removesuffix("_total") for metric in CATALOGUE}
    endings = frozenset({"_created"}).union(*SUFFIXES.values())
    return frozenset(family + ending for family in families for ending in endings)
