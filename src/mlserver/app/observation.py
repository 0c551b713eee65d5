"""The signals of one worker, bound once, from the configuration: what is off is not there."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from mlserver import lines, propagation
from mlserver.config.surroundings import privacy_risk
from mlserver.exposition.alone import OwnMetrics
from mlserver.lines import LineWriter, form_of, take_over, teller
from mlserver.observers.correlation import Correlation
from mlserver.observers.logs import RequestLog, hide_values
from mlserver.observers.metrics import Metrics
from mlserver.redaction import Redaction
from mlserver.serving.call import Enter, Levels, Observer, Tracer
from mlserver.serving.guard import Guard
from mlserver.serving.ids import caller_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlserver.config import Config
    from mlserver.observers.traces import Traces
    from mlserver.pages import Page
    from mlserver.serving.call import Trace
    from mlserver.serving.health import Health
    from mlserver.serving.model import Model

FLUSH_S = 3.0
"""How long the end of a worker waits for a collector to take the last spans, …"""
LEAST_FLUSH_S = 0.8
"""… and how long at least, if the predictor has taken its time to end."""
_logger = logging.getLogger("mlserver.app")


class Observation:
    """All observers and hooks, and what has to be told and closed beside them.

    Args:
        page: where this process counts.
        pages: what a scrape sums.
        worker: as in `create_app`.
        log_fd: likewise.
    """

    def __init__(
        self,
        config: Config,
        *,
        health: Health,
        page: Page,
        pages: Sequence[Page],
        worker: int | None,
        log_fd: int,
    ) -> None:
        settings = config.observability
        self.observers: list[Observer] = []
        """In the order in which they see what has finished."""
        self.enter: list[Enter] = []
        self.levels = Levels()
        self.metrics: OwnMetrics | None = None
        self.trace: Tracer = caller_trace if settings.correlation_ids else _untraced
        """Whether a request is traced, and its place."""
        self._own_process = worker is not None
        self._dropped: Callable[[str, int], None] = _uncounted
        self._traces: Traces | None = None
        payloads = settings.payloads
        self._redaction = (
            Redaction(payloads.redact, payloads.redact_patterns)
            if payloads.redact or payloads.redact_patterns
            else None
        )

        if settings.metrics:
            self._add_metrics(config, health, page, pages, worker)
        self._add_ids(config)
        if settings.tracing.enabled:
            self._add_traces(config, worker)
        self._add_lines(config, worker, log_fd)
        if self._traces is not None:
            self._observe(self._traces.observe, "traces")

    def learn(self, model: Model) -> None:
        """Takes what depends on the model: the names of the columns of bare arrays."""
        if self._redaction is not None:
            self._redaction.features = model.schema.feature_names or ()

    def set_log_level(self, level: int) -> None:
        """Logs from a level of ``logging`` on."""
        self._log_lines.level = level
        if self._own_process:
            lines.set_level(level)

    def start(self) -> None:
        """Begins what goes on beside the requests; to be called on the event loop."""
        if self.metrics is not None:
            self.metrics.start()
        if self._traces is not None:
            self._traces.start()

    async def flush(self, spent_s: float) -> None:
        """Sends what is still to be sent; no span can come after it.

        Args:
            spent_s: what the end has taken so far, in seconds.
        """
        if self._traces is not None:
            propagation.sources.remove(self._traces.outgoing)
            await asyncio.to_thread(self._traces.close, max(LEAST_FLUSH_S, FLUSH_S - spent_s))

    def close(self) -> None:
        """Ends everything; log lines after that are lost."""
        if self.metrics is not None:
            self.metrics.close()
        self._writer.close()

    def _add_metrics(
        self, config: Config, health: Health, page: Page, pages: Sequence[Page], worker: int | None
    ) -> None:
        counts = Metrics(page, config)
        self.levels, self._dropped = counts.levels, counts.dropped
        self._observe(counts, "metrics")
        on_drop = partial(counts.dropped, "user_metrics")
        self.metrics = OwnMetrics(
            config, pages, worker=worker or 0, ready=lambda: health.ready, on_drop=on_drop
        )

    def _add_ids(self, config: Config) -> None:
        if config.observability.correlation_ids:
            propagation.install()
            self._enter(Correlation().enter, "logs")

    def _add_traces(self, config: Config, worker: int | None) -> None:
        from mlserver.observers.traces import Traces, disabled  # noqa: PLC0415  # 20 MB where nobody traces

        if disabled():
            return
        self._traces = traces = Traces(
            config, worker=worker, on_drop=partial(self._dropped, "traces"), redaction=self._redaction
        )
        traces.install()
        self.trace = self._guarded(traces.decide)
        self._enter(traces.enter, "traces")
        propagation.sources.append(traces.outgoing)

    def _add_lines(self, config: Config, worker: int | None, log_fd: int) -> None:
        settings, redaction = config.observability, self._redaction
        self._writer = writer = (
            LineWriter.to_file(settings.log_file) if settings.log_file else LineWriter(os.dup(log_fd))
        )
        writer.on_drop = partial(self._dropped, "logs")
        structured, ecs = settings.structured_logging, settings.log_format == "ecs"
        form = form_of(structured=structured, ecs=ecs, longest=writer.longest, colours=writer.colours)
        level = logging.getLevelNamesMapping()[settings.log_level]
        self._log_lines = RequestLog(
            writer,
            form,
            structured=structured,
            ecs=ecs,
            model=config.model.name,
            version=config.model.version,
            worker=worker,
            level=level,
            redaction=redaction,
            payloads=settings.payloads if settings.log_payloads else None,
        )
        self._observe(self._log_lines, "logs")
        if redaction:
            self._enter(hide_values(redaction), "logs")
        if self._own_process:
            from mlserver.lines.structured import use_structlog  # noqa: PLC0415

            more: list[Callable[[], Mapping[str, str]]] = [self._traces.fields] if self._traces else []
            take_over(
                writer,
                form,
                level=level,
                worker=worker,
                more=more,
                hide=redaction.text if redaction else None,
            )
            use_structlog()
            return
        writer.tell = teller(form)
        if risk := privacy_risk(config):  # which the supervisor says once for all its workers
            _logger.warning(risk)

    def _observe(self, observer: Observer, name: str) -> None:
        self.observers.append(Guard(observer, name=name, on_fault=self._fault))

    def _enter(self, hook: Enter, name: str) -> None:
        self.enter.append(Guard(hook, name=name, on_fault=self._fault))

    def _guarded(self, decide: Tracer) -> Tracer:
        """A tracer whose fault leaves a request untraced: as a `Guard`, but cheap, since all ask it."""
        told = Guard(_raise, name="traces", on_fault=self._fault)

        def trace(headers: Mapping[bytes, bytes]) -> Trace | None:
            try:
                return decide(headers)
            except Exception as error:  # noqa: BLE001  # whatever it is, the request goes on
                told(error)
                return None

        return trace

    def _fault(self, name: str) -> None:
        self._dropped(name, 1)


def _uncounted(signal: str, count: int) -> None:
    """Where there are no metrics, nobody counts what is lost."""


def _untraced(headers: Mapping[bytes, bytes]) -> Trace | None:  # noqa: ARG001
    return None


def _raise(error: Exception) -> None:
    raise error
