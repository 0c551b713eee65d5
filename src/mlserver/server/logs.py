"""Log lines of a process of the server's own that come from no request."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING

from mlserver.errors import ConfigError, Fault
from mlserver.lines import LineWriter, form_of, take_over

if TYPE_CHECKING:
    from mlserver.config import Config


def open_log(config: Config, descriptor: int) -> LineWriter:
    """Where log lines go: the file that the configuration names, else a copy of a descriptor.

    Raises:
        ConfigError: the log file cannot be written.
    """
    path = config.observability.log_file
    try:
        return LineWriter.to_file(path) if path else LineWriter(os.dup(descriptor))
    except OSError as error:
        reason = f"{path}: {error.strerror}; expected a file that this user may append to"
        raise ConfigError([Fault("observability.log_file", reason)]) from error


def log_to(writer: LineWriter, config: Config, *, worker: int | None = None) -> None:
    """Makes a line, as the configuration says, of all that this process logs and of what ends it.

    What a worker prints leaves it line by line: a buffer's end is no place to cut one.
    """
    settings = config.observability
    form = form_of(
        structured=settings.structured_logging,
        ecs=settings.log_format == "ecs",
        longest=writer.longest,
        colours=writer.colours,
    )
    hide = None
    if settings.payloads.redact_patterns:
        from mlserver.redaction import Redaction  # noqa: PLC0415  # few have any

        hide = Redaction((), settings.payloads.redact_patterns).text
    level = logging.getLevelNamesMapping()[settings.log_level]
    if worker is not None and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    take_over(writer, form, level=level, worker=worker, hide=hide)
