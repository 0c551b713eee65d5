"""A call's rows between the codec and the predictor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(slots=True, frozen=True, eq=False)
class Rows:
    """The rows of one call, or of several that run together."""

    values: NDArray[np.float64] | list[list[Any]]
    """A float64 array of shape (rows, features, …); for a predictor of data frames a list of rows, whose
    values are numbers, strings, booleans or None."""
    names: tuple[str, ...] | None = None
    """Names of the columns; always set where ``values`` is a list."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as logged: (rows, features, …)."""
        if isinstance(self.values, np.ndarray):
            return self.values.shape
        return (len(self.values), len(self.names or ()))

    @property
    def layout(self) -> tuple[object, ...]:
        """Rows of equal layout can be joined."""
        return (isinstance(self.values, list), self.shape[1:], self.names)


def join(parts: Sequence[Rows]) -> Rows:
    """One block of rows from several of equal layout, in order."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first.values, np.ndarray):
        return Rows(np.concatenate([part.values for part in parts]), first.names)
    return Rows([row for part in parts for row in part.values], first.names)
