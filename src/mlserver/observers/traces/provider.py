"""The tracer provider that a predictor's own spans come from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import (
    Event,
    ReadableSpan,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import Link, ProxyTracerProvider
from opentelemetry.trace.status import Status

from mlserver.lines.texts import hidden, plain, without
from mlserver.observers.traces.sampling import RunIds, RunSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import Attributes, AttributeValue

    Hide = Callable[[str], str]

_REFUSED = "Overriding of current TracerProvider is not allowed"
_logger = logging.getLogger("mlserver.traces")


class Processors(SynchronousMultiSpanProcessor):
    """Hands ended spans to the server's own exporter, then to the processors that a predictor added."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._added: tuple[SpanProcessor, ...] = ()
        self.take: Callable[[ReadableSpan], None] | None = None
        """Where spans go."""
        self.lose: Callable[[int, str], None] | None = None
        """Told how many spans are lost, and why."""
        self.hide: Hide | None = None
        """What must be hidden outside of runs."""

    @property
    def others(self) -> Sequence[Callable[[ReadableSpan], None]]:
        """Who else is given every span."""
        return [processor.on_end for processor in self._added]

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Adds one of the predictor's."""
        self._added += (span_processor,)
        super().add_span_processor(span_processor)

    def leave(self) -> None:
        """Ends what the predictor added, and forgets it; may take as long as that does."""
        added, self._added = self._added, ()
        super().__init__()  # type: ignore[no-untyped-call]  # which leaves none of them
        for processor in added:
            processor.shutdown()

    def on_end(self, span: ReadableSpan) -> None:
        """Passes on a span, without what must be hidden in the run that it belongs to.

        Does not raise for faults of its own: this is called where a predictor's ``with`` ends.
        """
        try:
            if (hide := hidden.get() or self.hide) is not None:
                span = _without(span, hide)
            if self.take is not None:
                self.take(span)
        except Exception as error:  # noqa: BLE001  # as said
            if self.lose is not None:
                self.lose(1, f"they cannot be read: {type(error).__name__}")
            return
        super().on_end(span)


class Provider(TracerProvider):
    """Gives a predictor tracers whose spans go where the server's go, and are sampled as its runs are."""

    def __init__(self, resource: Resource, ratio: float) -> None:
        self.processors = Processors()
        self.sampler_of_runs = RunSampler(ratio)
        super().__init__(
            sampler=ParentBased(self.sampler_of_runs),
            resource=resource,
            shutdown_on_exit=False,  # the server's end waits for no collector, a predictor's included
            active_span_processor=self.processors,
            id_generator=RunIds(),
        )

    def serve(
        self,
        resource: Resource,
        ratio: float,
        *,
        take: Callable[[ReadableSpan], None],
        lose: Callable[[int, str], None],
        hide: Hide | None,
    ) -> None:
        """Takes the place of what it was made with: an earlier application in the same process."""
        self.sampler_of_runs.set_ratio(ratio)
        # Not promised to be there: without it spans keep the resource of the earlier application.
        if update := getattr(self, "_update_resource", None):
            update(resource)
        self.processors.take, self.processors.lose, self.processors.hide = take, lose, hide

    def leave(self, take: Callable[[ReadableSpan], None]) -> bool:
        """Hands over nothing more, unless another application has taken the place; then False."""
        if self.processors.take != take:
            return False
        self.processors.take = self.processors.lose = None
        return True


class Quiet(logging.Filter):
    """Says in the server's words what OpenTelemetry warns of when a predictor sets a provider of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record goes on."""
        if not record.getMessage().startswith(_REFUSED):
            return True
        if not self._said:
            self._said = True
            _logger.info(
                "A tracer provider was set where the server's is in place: that one stays. Spans go to the "
                "server's collector, and to the processors that are added to trace.get_tracer_provider()"
            )
        return False


def install(provider: Provider) -> Provider:
    """Makes a provider the global one, unless there is one.

    Returns:
        the one in place, if it is the server's: one of an earlier application stays, since its tracers do.
    """
    current = trace.get_tracer_provider()
    if isinstance(current, Provider):
        return current
    if isinstance(current, ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    else:
        _logger.info(
            "A tracer provider was set before the server's: a predictor's spans go where that one sends them"
        )
    logger = logging.getLogger("opentelemetry.trace")
    if not any(isinstance(given, Quiet) for given in logger.filters):
        logger.addFilter(Quiet())
    return provider


def size_of(span: ReadableSpan) -> int:
    """About how many bytes of memory a span takes."""
    size = 2048 + sum(len(name) + _size(value) for name, value in (span.attributes or {}).items())
    for event in span.events:
        size += 512 + sum(len(name) + _size(value) for name, value in (event.attributes or {}).items())
    for link in span.links:
        size += 512 + sum(len(name) + _size(value) for name, value in (link.attributes or {}).items())
    return size + len(span.status.description or "")


def _size(value: object) -> int:
    if isinstance(value, str | bytes):
        return 64 + len(value)
    if isinstance(value, list | tuple):
        return 64 + sum(map(_size, value))
    if isinstance(value, dict):
        return 64 + sum(_size(name) + _size(part) for name, part in value.items())
    return 64


def _without(span: ReadableSpan, hide: Hide) -> ReadableSpan:
    """The same span with all its texts free of what must be hidden."""

    def shown(value: AttributeValue) -> AttributeValue:
        text = plain(value)
        found = without(text, hide)
        return value if found == text else found

    def all_shown(attributes: Attributes) -> Attributes:
        return {without(name, hide): shown(value) for name, value in (attributes or {}).items()}

    events = [
        Event(without(event.name, hide), all_shown(event.attributes), event.timestamp)
        for event in span.events
    ]
    description = span.status.description
    return ReadableSpan(
        name=without(span.name, hide),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=all_shown(span.attributes),
        events=events,
        links=[Link(link.context, all_shown(link.attributes)) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code, without(description, hide) if description else None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
