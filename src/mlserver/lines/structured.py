"""``structlog`` for predictors: its events become lines like all others.

Imported by workers only: it costs a process 10 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from mlserver.lines.takeover import KEYWORDS

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_OPTIONS = ("exc_info", "stack_info")


class _Logger(structlog.stdlib.BoundLogger):
    """With the methods that a logger has where ``structlog`` is not configured at all."""

    msg = structlog.stdlib.BoundLogger.info
    amsg = structlog.stdlib.BoundLogger.ainfo
    awarn = structlog.stdlib.BoundLogger.awarning


def use_structlog() -> None:
    """Hands all events of ``structlog`` to ``logging``, those of loggers that were made before, too."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _to_logging,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=_Logger,
        cache_logger_on_first_use=False,
    )


def _to_logging(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Its message and arguments, formatted later, where a fault costs no request; the rest as key words."""
    options = {name: event.pop(name) for name in _OPTIONS if name in event}
    message, args = event.pop("event", ""), event.pop("positional_args", ())
    return (message, *args), {"extra": {KEYWORDS: dict(event)}, **options}
