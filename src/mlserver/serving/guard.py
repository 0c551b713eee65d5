"""A fault in an observer or a hook never fails a request: it is logged, counted and over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, ParamSpec

from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
_logger = logging.getLogger("mlserver.observers")


class Guard(Generic[P]):
    """An observer or hook that cannot raise.

    Args:
        name: the signal it gives, for the log and the count.
        on_fault: told the name at every fault.
    """

    def __init__(
        self, inner: Callable[P, None], *, name: str, on_fault: Callable[[str], None] | None = None
    ) -> None:
        self._inner = inner
        self._name = name
        self._on_fault = on_fault
        self._pace = Pace()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            self._inner(*args, **kwargs)
        except Exception:  # whatever it is, the request goes on
            if self._on_fault is not None:
                self._on_fault(self._name)
            if self._pace.due():
                _logger.exception("The observer of %s raised: some of its signals are missing", self._name)
