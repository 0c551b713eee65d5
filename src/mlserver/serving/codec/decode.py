"""A request's body to rows."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from mlserver.errors import InvalidInput, UnsupportedMediaType
from mlserver.serving.codec import mistakes
from mlserver.serving.codec.mistakes import CELLS, MAX_DIMENSIONS, NUMBERS, Table
from mlserver.serving.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Reader = Callable[[str, Any, bytes], Rows]
    Names = tuple[str, ...]

JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class InputSchema:
    """What is known of a model's input."""

    feature_names: tuple[str, ...] | None
    """``api.feature_order``, else the names that a model file was trained with."""
    n_features: int | None
    dataframe: bool
    """The predictor takes data frames: strings and null are values."""
    categorical: frozenset[str]
    """Names of declared categorical features: where there are any, only these may hold strings."""
    adapter: Literal["auto", "records", "ndarray"] = "auto"
    """``records``: only rows with names are taken; ``ndarray``: only rows without."""

    @property
    def width(self) -> int | None:
        """How many values a row has."""
        return self.n_features if self.feature_names is None else len(self.feature_names)


class Decoder:
    """Reads the rows of a body in one of four forms.

    ``ndarray`` and ``instances`` hold rows as lists, ``records`` and ``instances`` rows as objects, and
    ``dataframe_split`` rows as lists together with the columns' names. A good body of numbers takes the
    short way, one call of numpy; only when that fails is the first mistake looked for.
    """

    def __init__(self, schema: InputSchema) -> None:
        self._schema = schema
        self._names = schema.feature_names
        self._pick = _picker(self._names) if self._names else None
        unnamed: Reader = self._read_lists
        named: Reader = self._read_objects
        split: Reader = self._read_split
        if schema.adapter == "records" or (schema.dataframe and self._names is None):
            unnamed = self._refuse_unnamed
        if schema.adapter == "ndarray":
            named = split = self._refuse_named
        self._unnamed, self._named = unnamed, named
        self._readers: dict[str, Reader] = {
            "ndarray": unnamed,
            "records": named,
            "instances": self._read_instances,
            "dataframe_split": split,
        }

    def __call__(self, body: bytes, content_type: bytes | None) -> Rows:
        """The rows of a body.

        Args:
            body: all of it, not compressed.
            content_type: the header's value; a body without one is taken for JSON.

        Raises:
            UnsupportedMediaType: the body is declared to be something else.
            MalformedRequest: it is not JSON.
            InvalidInput: the JSON does not hold rows that the model takes.
        """
        if content_type is not None and content_type != JSON:
            _check_media_type(content_type)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise mistakes.not_json(body, error) from None
        if type(document) is dict and len(document) == 1:
            for form, rows in document.items():
                if form in self._readers:
                    return self._readers[form](form, rows, body)
        raise mistakes.in_form(document, self._readers)

    def _read_instances(self, where: str, rows: Any, body: bytes) -> Rows:
        objects = type(rows) is list and rows and type(rows[0]) is dict
        return (self._named if objects else self._unnamed)(where, rows, body)

    def _read_lists(self, where: str, rows: Any, body: bytes) -> Rows:
        _check_list(where, rows)
        width = self._schema.width
        shape = None if width is None else (len(rows), width)
        if self._schema.dataframe:
            return self._table(Table(where, self._names, self._allowed(self._names or ())), rows)
        # numpy would read "1.5" as a number. The form's name is the only string in a body without strings,
        # and counting quotes is several times cheaper than asking every value for its type.
        array = _array(rows) if body.count(b'"') == 2 else None
        if array is None or (array.shape != shape if shape else not _is_tensor(array)):
            raise Table(where, self._names).mistake(rows, shape)
        return Rows(array, self._names)

    def _read_objects(self, where: str, records: Any, _body: bytes) -> Rows:
        _check_list(where, records)
        names = self._names or self._first_names(where, records[0])
        pick = self._pick or _picker(names)
        try:
            rows = list(map(pick, records))
        except (KeyError, TypeError):  # a name is missing; a record is no object
            rows = []
        if not rows or set(map(len, records)) != {len(names)}:
            raise self._wrong_record(where, records, names)
        return self._table(Table(where, names, self._allowed(names), keyed=True), rows)

    def _first_names(self, where: str, record: Any) -> Names:
        """The names that hold for all records where the model does not say which it takes."""
        if type(record) is not dict or not record:
            raise InvalidInput(
                f"{where}[0] is {mistakes.show(record)}: expected an object of names and values."
            )
        self._check_width(f"{where}[0]", record)
        return tuple(record)

    def _wrong_record(self, where: str, records: list[Any], names: Names) -> InvalidInput:
        expected = set(names)
        index, record = next(
            (index, record)
            for index, record in enumerate(records)
            if type(record) is not dict or record.keys() != expected
        )
        if type(record) is not dict:
            return InvalidInput(
                f"{where}[{index}] is {mistakes.show(record)}: expected an object of names and values."
            )
        owner = "the model takes" if self._names else f"{where}[0] has"
        return mistakes.in_names(f"{where}[{index}]", record, names, owner)

    def _read_split(self, where: str, split: Any, _body: bytes) -> Rows:
        if type(split) is not dict:
            raise InvalidInput(
                f'{where} is {mistakes.show(split)}: expected an object with "columns" and "data".'
            )
        if not {"columns", "data"} <= split.keys() <= {"columns", "data", "index"}:
            raise mistakes.in_keys(where, split, ("columns", "data"), "index")
        columns, data = split["columns"], split["data"]
        if type(columns) is not list or not columns or {*map(type, columns)} != {str} or _repeats(columns):
            raise mistakes.in_columns(f"{where}.columns", columns)
        self._check_width(f"{where}.columns", columns)
        if self._names and set(columns) != set(self._names):
            raise mistakes.in_names(f"{where}.columns", columns, self._names, "the model takes")
        _check_list(f"{where}.data", data)
        names = tuple(columns)
        rows = self._table(Table(f"{where}.data", names, self._allowed(names)), data)
        return rows if self._names in (None, names) else _reorder(rows, names, self._names or ())

    def _check_width(self, where: str, names: Sequence[str] | dict[str, Any]) -> None:
        width = self._schema.n_features
        if self._names is None and width is not None and len(names) != width:
            raise InvalidInput(f"{where} has {len(names)} names: the model takes {width} features.")

    def _allowed(self, names: Names) -> list[frozenset[type]] | None:
        """The types that each column may hold; None: numbers only."""
        if not self._schema.dataframe:
            return None
        categorical = self._schema.categorical or frozenset(names)
        return [CELLS if name in categorical else NUMBERS for name in names]

    def _table(self, table: Table, rows: list[Any]) -> Rows:
        """Rows whose columns have names, after a look at every value's type."""
        names = tuple(table.names or ())
        if not _is_sound(rows, table.allowed or [NUMBERS] * len(names)):
            raise table.mistake(rows, (len(rows), len(names)))
        if table.allowed is not None:
            return Rows(list(map(list, rows)), names)
        return Rows(np.array(rows, dtype=np.float64), names)

    def _refuse_unnamed(self, where: str, rows: Any, _body: bytes) -> Rows:
        _check_list(where, rows)
        by_config = self._schema.adapter == "records"
        reason = "api.adapter is records" if by_config else "the model takes features by name"
        raise InvalidInput(f"{where} holds rows without names, but {reason}: send records.")

    def _refuse_named(self, where: str, _rows: Any, _body: bytes) -> Rows:
        raise InvalidInput(f"{where} holds rows with names, but api.adapter is ndarray: send ndarray.")


def _check_media_type(content_type: bytes) -> None:
    media_type = content_type.split(b";", 1)[0].strip().lower()
    if media_type == JSON or (media_type.startswith(b"application/") and media_type.endswith(b"+json")):
        return
    given = mistakes.quote(content_type.decode("latin-1"))
    raise UnsupportedMediaType(f"Content-Type is {given}: expected application/json.")


def _check_list(where: str, rows: Any) -> None:
    if type(rows) is not list:
        raise InvalidInput(f"{where} is {mistakes.show(rows)}: expected a list of rows.")
    if not rows:
        raise InvalidInput(f"{where} is an empty list: expected at least one row.")


def _array(rows: list[Any]) -> NDArray[np.float64] | None:
    """Null becomes NaN and a boolean 0 or 1. None where the lists are ragged or hold an object."""
    try:
        return np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _is_tensor(array: NDArray[np.float64]) -> bool:
    return 2 <= array.ndim <= MAX_DIMENSIONS and array.size > 0


def _is_sound(rows: list[Any], allowed: Sequence[frozenset[type]]) -> bool:
    """Whether every row is a sequence of values of the allowed types, one for each."""
    if not {list, tuple}.issuperset(map(type, rows)) or {*map(len, rows)} != {len(allowed)}:
        return False
    # Column by column, because then the loop over the values is not one of Python's.
    columns = zip(*rows, strict=True)
    return all(types.issuperset(map(type, column)) for types, column in zip(allowed, columns, strict=True))


def _picker(names: Names) -> Callable[[Any], tuple[Any, ...]]:
    """Takes a record's values in the order of names."""
    if len(names) == 1:
        (name,) = names
        return lambda record: (record[name],)
    return itemgetter(*names)


def _reorder(rows: Rows, names: Names, wanted: Names) -> Rows:
    places = {name: index for index, name in enumerate(names)}
    order = [places[name] for name in wanted]
    if isinstance(rows.values, np.ndarray):
        return Rows(rows.values.take(order, axis=1), wanted)
    return Rows([[row[index] for index in order] for row in rows.values], wanted)


def _repeats(names: list[str]) -> bool:
    return len(set(names)) != len(names)
