"""Rows with strings as a model takes them: a data frame, or numbers in place of categories.

A value becomes the same whichever calls share its run: nothing here depends on the other rows of a column,
but for a column's dtype where a plain column mixes strings with numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserver.errors import InvalidInput
from mlserver.serving.predictors.trained import array

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from mlserver.serving.rows import Rows

Column = Callable[[Sequence[Any]], "NDArray[Any]"]
"""Makes a column of its values."""
NUMBERS = frozenset({int, float, bool, type(None)})


class Frame:
    """Makes a pandas DataFrame of the rows.

    Columns of numbers are float64 and others object; null is NaN in both.

    Args:
        columns: how columns are made that differ from that, by name.

    Raises:
        ImportError: pandas is not installed.
    """

    def __init__(self, columns: Mapping[str, Column] | None = None) -> None:
        import pandas as pd  # noqa: PLC0415  # the base install does without

        self._columns = dict(columns or {})
        self._frame, self._series = pd.DataFrame, pd.Series

    def __call__(self, rows: Rows) -> pd.DataFrame:
        """One frame of all rows, its columns named and ordered as the rows'."""
        table, names = array(rows), rows.names
        if isinstance(table, np.ndarray):
            return self._frame(table, columns=names)
        columns = zip(names or (), zip(*table, strict=True), strict=True)
        return self._frame({name: self._column(name, values) for name, values in columns})

    def _column(self, name: str, values: Sequence[Any]) -> Any:
        column = self._columns.get(name, plain)(values)
        # From pandas 3 on a frame would make a string dtype of an array of strings, but not of a Series.
        return self._series(column, dtype=object) if column.dtype == object else column


class Codes:
    """Makes a float64 array of the rows, with each category as the number that it had in training.

    Null and a category that was not in the training data are NaN: a missing value to the model.

    Args:
        categories: the categories in the order of their numbers, by position of the feature.
    """

    def __init__(self, categories: Mapping[int, Sequence[Any]]) -> None:
        self._codes = {
            position: {category: float(code) for code, category in enumerate(known)}
            for position, known in categories.items()
        }

    def __call__(self, rows: Rows) -> NDArray[np.float64]:
        """Shape (rows, features)."""
        columns = enumerate(zip(*array(rows), strict=True))
        return np.column_stack([self._column(position, values) for position, values in columns])

    def _column(self, position: int, values: Sequence[Any]) -> NDArray[np.float64]:
        codes = self._codes.get(position)
        if codes is None:
            return np.array(values, dtype=np.float64)
        return np.array([codes.get(value, np.nan) for value in values], dtype=np.float64)


def plain(values: Sequence[Any]) -> NDArray[Any]:
    """Numbers, booleans and null as float64; with strings among them as objects, numbers still as floats."""
    if NUMBERS.issuperset(map(type, values)):
        return np.array(values, dtype=np.float64)
    return objects([value if isinstance(value, str) else plain([value])[0] for value in values])


def as_given(values: Sequence[Any]) -> NDArray[np.object_]:
    """Categories as they came, null as NaN."""
    return objects([np.nan if value is None else value for value in values])


def objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """An array of just these objects."""
    return np.array(values, dtype=object)


def texts_or_integers(name: str) -> Column:
    """Categories as CatBoost takes them: strings and whole numbers, nothing else.

    A number without a fraction is an integer, however JSON spelt it.
    """

    def column(values: Sequence[Any]) -> NDArray[np.object_]:
        return objects([_text_or_integer(name, value) for value in values])

    return column


def _text_or_integer(name: str, value: Any) -> str | int:
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    given = "null" if value is None else value
    raise InvalidInput(f"Feature {name!r} is {given}: the model takes a string or an integer as category.")
