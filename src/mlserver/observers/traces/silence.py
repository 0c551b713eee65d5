"""What an exporter and the libraries below it log, kept for one line a minute."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NOISY = ("opentelemetry.exporter", "opentelemetry.sdk", "urllib3", "requests", "grpc")


class Silence(logging.Filter):
    """Keeps one thread's log records of these libraries to itself.

    Args:
        on_trouble: called when one of them is a warning or worse.
    """

    def __init__(self, on_trouble: Callable[[], None]) -> None:
        super().__init__()
        self._on_trouble = on_trouble
        self._thread: int | None = None
        self._quieted: list[logging.Logger] = []
        self.said = ""
        """The last warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record goes on."""
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING and record.name.startswith("opentelemetry"):
            self.said = record.getMessage()
            self._on_trouble()
        return False

    def begin(self) -> None:
        """Silences this thread, in the loggers that there are by now."""
        self._thread = threading.get_ident()
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(NOISY):
                logger = logging.getLogger(name)
                if self not in logger.filters:
                    # The first: others may let a record pass once a minute only.
                    logger.filters.insert(0, self)
                    self._quieted.append(logger)

    def end(self) -> None:
        """Leaves all loggers as they were."""
        self._thread = None
        for logger in self._quieted:
            logger.removeFilter(self)
        self._quieted.clear()
