"""A request's body to rows."""

from __future__ import annotations

import gc
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from orjson import loads

from mlserver.errors import InvalidInput
from mlserver.serving.codec import binary, matrix, mistakes
from mlserver.serving.codec.mistakes import CELLS, MAX_DIMENSIONS, NUMBERS, Table
from mlserver.serving.codec.schema import InputSchema
from mlserver.serving.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Reader = Callable[[str, Any, bytes], Rows]
    Names = tuple[str, ...]

__all__ = ["Decoder", "InputSchema"]

JSON = b"application/json"
MIN_BYTES = matrix.MIN_BYTES
FLOAT64 = np.dtype(np.float64)  # looked up by numpy for each array if it were given as a class


class Decoder:
    """Reads the rows of a body in one of four forms of JSON, or in one of two binary ones.

    ``ndarray`` and ``instances`` hold rows as lists, ``records`` and ``instances`` rows as objects, and
    ``dataframe_split`` rows as lists together with the columns' names. A good body of numbers takes the
    short way, one call of numpy, or of simdjson where it is large; only when that fails is the first mistake
    looked for. An array in numpy's format is like ``ndarray``, a stream of Arrow like ``dataframe_split``.
    """

    def __init__(self, schema: InputSchema) -> None:
        self._schema = schema
        self._names = schema.feature_names
        self._width = schema.width
        self._pick = _picker(self._names) if self._names else None
        unnamed: Reader = self._read_cells if schema.dataframe else self._read_lists
        named: Reader = self._read_objects
        split: Reader = self._read_split
        if not schema.takes_unnamed:
            unnamed = self._refuse_unnamed
        if not schema.takes_named:
            named = split = self._refuse_named
        self._unnamed, self._named = unnamed, named
        self._readers: dict[str, Reader] = {
            "ndarray": unnamed,
            "records": named,
            "instances": self._read_instances,
            "dataframe_split": split,
        }
        self._binary = binary.readers(schema)
        self._numbers = not schema.dataframe and matrix.AVAILABLE
        plain = unnamed == self._read_lists and self._width is not None
        self._quotes = 2 if plain else -1

    def __call__(self, body: bytes, content_type: bytes | None) -> Rows:
        """The rows of a body.

        Args:
            body: all of it, not compressed.
            content_type: the header's value; a body without one is taken for JSON.

        Raises:
            UnsupportedMediaType: the body is declared to be something else.
            MalformedRequest: it is not what it is declared to be.
            InvalidInput: it does not hold rows that the model takes.
        """
        if content_type != JSON and content_type is not None:
            read_binary = self._binary.get(_media_type(content_type))
            if read_binary is not None:
                return read_binary(body)
        if len(body) >= MIN_BYTES:
            return self._read_large(body)
        try:
            document = loads(body)
        except orjson.JSONDecodeError as error:
            raise mistakes.not_json(body, error) from None
        # numpy would read "1.5" as a number. With two quotes there is one key and no string, and to count
        # them is several times cheaper than to ask every value for its type.
        if body.count(b'"') == self._quotes:
            try:
                array = np.array(document["ndarray"], FLOAT64)
                shape = array.shape
                _, width = shape
            except (KeyError, TypeError, ValueError):  # another form; ragged; an object; more dimensions
                width = None
            if width == self._width:
                return Rows(array, self._names, shape)
        return self._read(document, body)

    def _read_large(self, body: bytes) -> Rows:
        if self._numbers and (rows := self._read_numbers(body)) is not None:
            return rows
        if not gc.isenabled():
            return self._read(_parsed(body), body)
        gc.disable()  # for many rows it takes most of the time, looking at what is only being made
        try:
            return self._read(_parsed(body), body)
        finally:
            gc.enable()

    def _read(self, document: Any, body: bytes) -> Rows:
        if type(document) is dict and len(document) == 1:
            (form,) = document
            if (read := self._readers.get(form)) is not None:
                return read(form, document[form], body)
        raise mistakes.in_form(document, self._readers)

    def _read_numbers(self, body: bytes) -> Rows | None:
        """The rows of a large body of numbers; None if it is not plainly a good one, or has null in it."""
        array = matrix.unnamed(body, self._width) if self._schema.takes_unnamed else None
        if array is not None:
            return Rows(array, self._names, array.shape)
        found = matrix.named(body) if self._schema.takes_named else None
        if found is None:
            return None
        columns, array = found
        try:
            self._schema.check_names("", columns)
        except InvalidInput:
            return None
        names = tuple(columns)
        rows = Rows(array, names, array.shape)
        return rows if self._names in (None, names) else _reorder(rows, names, self._names or ())

    def _read_instances(self, where: str, rows: Any, body: bytes) -> Rows:
        objects = type(rows) is list and rows and type(rows[0]) is dict
        return (self._named if objects else self._unnamed)(where, rows, body)

    def _read_lists(self, where: str, rows: Any, body: bytes) -> Rows:
        _check_list(where, rows)
        # A first row that does not fit is refused before an array is made of all the others.
        fits = self._width is None or (type(rows[0]) is list and len(rows[0]) == self._width)
        if fits and body.count(b'"') == 2 and (array := _array(rows)) is not None:
            shape = array.shape
            if shape[1:] == (self._width,) or (self._width is None and _is_tensor(array)):
                return Rows(array, self._names, shape)
        expected = None if self._width is None else (len(rows), self._width)
        raise Table(where, self._names).mistake(rows, expected)

    def _read_cells(self, where: str, rows: Any, _body: bytes) -> Rows:
        _check_list(where, rows)
        return self._table(Table(where, self._names, self._allowed(self._names or ())), rows)

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
        self._schema.check_names(f"{where}[0]", tuple(record))
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
        if type(columns) is not list or {*map(type, columns)} != {str}:
            raise mistakes.in_columns(f"{where}.columns", columns)
        self._schema.check_names(f"{where}.columns", columns)
        _check_list(f"{where}.data", data)
        names = tuple(columns)
        rows = self._table(Table(f"{where}.data", names, self._allowed(names)), data)
        return rows if self._names in (None, names) else _reorder(rows, names, self._names or ())

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
        return Rows(np.array(rows, FLOAT64), names)

    def _refuse_unnamed(self, where: str, rows: Any, _body: bytes) -> Rows:
        _check_list(where, rows)
        raise mistakes.without_names(where, by_config=self._schema.adapter == "records")

    def _refuse_named(self, where: str, _rows: Any, _body: bytes) -> Rows:
        raise mistakes.with_names(where)


def _media_type(content_type: bytes) -> bytes:
    """The one of the media types that are taken which a header's value names."""
    media_type = content_type.split(b";", 1)[0].strip().lower()
    if media_type == JSON or media_type in binary.MEDIA_TYPES:
        return media_type
    if media_type.startswith(b"application/") and media_type.endswith(b"+json"):
        return JSON
    raise mistakes.in_media_type(content_type, (JSON, *binary.MEDIA_TYPES))


def _check_list(where: str, rows: Any) -> None:
    if type(rows) is not list:
        raise InvalidInput(f"{where} is {mistakes.show(rows)}: expected a list of rows.")
    if not rows:
        raise InvalidInput(f"{where} is an empty list: expected at least one row.")


def _parsed(body: bytes) -> Any:
    try:
        return loads(body)
    except orjson.JSONDecodeError as error:
        raise mistakes.not_json(body, error) from None


def _array(rows: Any) -> NDArray[np.float64] | None:
    """Null becomes NaN and a boolean 0 or 1. None where the lists are ragged or hold an object."""
    try:
        return np.array(rows, FLOAT64)
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
