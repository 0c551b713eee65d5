"""The level that all processes log from, and its change while they run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlserver import lines
from mlserver.config.checks import LEVELS, level
from mlserver.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

EXPECTED = f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}"
_logger = logging.getLogger("mlserver.supervisor")


class UnknownLevel(RequestError):
    status, code, title = 422, "unknown_log_level", "Unknown log level"


def known_level(given: object) -> str:
    """The name of a level, from any case of letters.

    Raises:
        UnknownLevel: there is none of that name.
    """
    name = level(given)
    if not isinstance(name, str) or name not in LEVELS:
        raise UnknownLevel(f"The log level is {repr(given)[:100]}; expected {EXPECTED}.")
    return name


class Verbosity:
    """The log level of the supervisor and all its workers.

    Args:
        level: the one that the configuration says.
        tell: has all workers take a level in place of the one in their configuration; None: that one again.
    """

    def __init__(self, level: str, *, tell: Callable[[str | None], None]) -> None:
        self.level = level
        self._tell = tell

    def change(self, level: str) -> None:
        """Has all processes log from a level, until a configuration is adopted."""
        lines.set_level(logging.getLevelNamesMapping()[level])
        self._tell(level)
        self._note(level)

    def adopt(self, level: str) -> None:
        """Has all processes log from the level that a new configuration says, as this one already does."""
        self._tell(None)
        self._note(level)

    def _note(self, level: str) -> None:
        before, self.level = self.level, level
        if level != before:
            # By hand, past the level of the log: whoever reads it has to know why lines are missing.
            told = f"Log level is now {level}, was {before}"
            _logger.handle(_logger.makeRecord(_logger.name, logging.INFO, __file__, 0, told, (), None))
