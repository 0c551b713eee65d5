"""A call's rows between the codec and the predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Rows:
    """The rows of one call, or of several that run together.

    Args:
        values: a float64 array of shape (rows, features, …); for a predictor of data frames a list of rows,
            whose values are numbers, strings, booleans or None.
        names: of the columns; always set where ``values`` is a list.
        shape: as logged, (rows, features, …), where it is at hand.
    """

    __slots__ = ("names", "shape", "values")

    def __init__(
        self,
        values: NDArray[np.float64] | list[list[Any]],
        names: tuple[str, ...] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.values = values
        self.names = names
        self.shape = _shape(values, names) if shape is None else shape

    def __len__(self) -> int:
        return self.shape[0]

    def joins(self, other: Rows) -> bool:
        """Whether the two can be one block: they have the same columns."""
        return (
            type(self.values) is type(other.values)
            and self.shape[1:] == other.shape[1:]
            and self.names == other.names
        )


def _shape(values: NDArray[np.float64] | list[list[Any]], names: tuple[str, ...] | None) -> tuple[int, ...]:
    return values.shape if isinstance(values, np.ndarray) else (len(values), len(names or ()))


def join(parts: Sequence[Rows]) -> Rows:
    """One block of rows from several of equal layout, in order."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first.values, np.ndarray):
        return Rows(np.concatenate([part.values for part in parts]), first.names)
    return Rows([row for part in parts for row in part.values], first.names)
