"""Log records of OpenTelemetry and of what it sends with that nobody should get as they are."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from mlserver.observers.traces.sampling import RUN
from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

SENDING = ("opentelemetry.exporter", "opentelemetry.sdk", "urllib3", "requests", "grpc")
READING = (
    "opentelemetry.baggage",
    "opentelemetry.propagat",
    "opentelemetry.trace.propagation",
    "opentelemetry.trace.span",
)


class Silence(logging.Filter):
    """Keeps to itself what these libraries log in a thread while it is in here, as a context manager.

    Args:
        libraries: how the names of their loggers begin.
        on_trouble: called when one of OpenTelemetry's own records is a warning or worse.
    """

    def __init__(self, libraries: tuple[str, ...], on_trouble: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._libraries = libraries
        self._on_trouble = on_trouble
        self._here = threading.local()
        self.said = ""
        """The last warning."""

    def __enter__(self) -> Self:
        self._here.silent = True
        return self

    def __exit__(self, *_: object) -> None:
        self._here.silent = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record goes on."""
        if not getattr(self._here, "silent", False):
            return True
        if (
            self._on_trouble is not None
            and record.levelno >= logging.WARNING
            and record.name.startswith("opentelemetry")
        ):
            self.said = record.getMessage()
            self._on_trouble()
        return False

    def begin(self) -> None:
        """Listens to the loggers that there are by now."""
        for logger in self._loggers():
            if self not in logger.filters:
                logger.filters.insert(0, self)  # others may let a record pass once a minute only

    def end(self) -> None:
        """Leaves all loggers as they were."""
        for logger in self._loggers():
            logger.removeFilter(self)

    def _loggers(self) -> list[logging.Logger]:
        names = list(logging.root.manager.loggerDict)
        return [logging.getLogger(name) for name in names if name.startswith(self._libraries)]


class Calm(Silence):
    """Of headers that clients make up, nothing; what is said of them elsewhere in a run, once a minute.

    A predictor's own libraries read and write them, too.
    """

    def __init__(self) -> None:
        super().__init__(READING)
        self._pace = Pace()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record goes on."""
        return super().filter(record) and (RUN.get() is None or self._pace.due())
