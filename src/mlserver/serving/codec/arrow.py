"""A body that is a stream of Apache Arrow record batches, to a table.

Such a stream can say much with few bytes: buffers may be compressed, columns may share them, and a
dictionary is sent once for all batches. What would unfold so to more than the body's own size is refused,
most of it before anything is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlserver.errors import InvalidInput, MalformedRequest, UnsupportedMediaType
from mlserver.serving.codec.mistakes import brief, quote

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Table = Any  # pyarrow need not be installed

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

_ENDS = (b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")  # what a writer's close() adds, now and before Arrow 0.15
_EXTENSION = b"ARROW:extension:name"
_OLD_COMPRESSION = b"ARROW:experimental_compression"  # a key of the message in Arrow 0.17
_NUMBERS = frozenset(
    (
        "bool",
        "halffloat",
        "float",
        "double",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    )
)
_TEXTS = frozenset(("string", "large_string"))
_WORDS_PER_BYTE = 8  # of a dictionary, counted once for each batch: Arrow looks at them for each


def read_table(body: bytes, *, texts: bool) -> Table:
    """The table in an Arrow stream.

    Args:
        body: all of it.
        texts: columns of strings are taken, too.

    Returns:
        a ``pyarrow.Table`` of at least one row and column, all of them numbers, booleans or strings. It
        shares the body's memory.

    Raises:
        UnsupportedMediaType: pyarrow is not installed.
        MalformedRequest: it is no such stream, or not all of one.
        InvalidInput: it holds what is not taken.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # large, and the base install does without
    except ImportError:
        raise UnsupportedMediaType(
            f'{MEDIA_TYPE} needs pyarrow on the server: pip install "mlserver-observability[arrow]".'
        ) from None
    try:
        _check_messages(pa, body)
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_stream(pa.py_buffer(body), options=options) as reader:
            _check_schema(pa, reader.schema, texts=texts)
            table = reader.read_all()
        _check_size(table, len(body), texts=texts)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedRequest(f"The body is not a sound Arrow stream: {brief(error)}.") from None
    return table


def text_columns(table: Table) -> list[str]:
    """The names of the columns that hold strings."""
    return [field.name for field in table.schema if str(field.type) not in _NUMBERS]


@np.errstate(invalid="ignore")  # a signalling NaN is a NaN
def matrix(table: Table) -> NDArray[np.float64]:
    """The columns of a table of numbers side by side, null as NaN: shape (rows, columns)."""
    values = np.empty(table.shape)
    at, floats = 0, {*map(str, table.schema.types)} <= {"float", "double"}
    for batch in table.to_batches():
        part = values[at : at + len(batch)]
        if floats:
            np.copyto(part, batch.to_tensor(null_to_nan=True).to_numpy())
        else:
            for index, column in enumerate(batch.columns):
                np.copyto(part[:, index], _floats(column))
        at += len(batch)
    return values


def rows(table: Table, size: int) -> list[list[Any]]:
    """The rows of a table as lists of numbers, strings, booleans and None.

    Args:
        table: of numbers, booleans and strings.
        size: bytes of the body, which all strings of dictionaries together may not surpass.

    Raises:
        InvalidInput: they do.
    """
    words = _Words(size)
    columns = [
        [value for chunk in column.chunks for value in words.values(chunk)] for column in table.columns
    ]
    return list(map(list, zip(*columns, strict=True)))


class _Words:
    """The strings of dictionaries, each made once however often it stands in the rows."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._known: dict[tuple[Any, ...], dict[Any, str | None]] = {}

    def values(self, chunk: Any) -> list[Any]:
        """The values of a column's part."""
        if not hasattr(chunk, "dictionary"):
            values: list[Any] = chunk.to_pylist()
            return values
        dictionary, indices = chunk.dictionary, chunk.indices.to_pylist()
        place = tuple(None if buffer is None else buffer.address for buffer in dictionary.buffers())
        known = self._known.setdefault((place, dictionary.offset, len(dictionary)), {None: None})
        for index in {*indices} - known.keys():
            known[index] = word = dictionary[index].as_py()
            self._left -= len(word or "")
            if self._left < 0:
                raise InvalidInput(
                    "The Arrow stream's dictionaries share memory: expected one of its own for each column."
                )
        return [known[index] for index in indices]


def _floats(column: Any) -> NDArray[Any]:
    if str(column.type) == "bool":
        column = column.cast("uint8")
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)  # as floats with NaN where there are nulls
    return values


def _check_messages(pa: Any, body: bytes) -> None:
    """Looks at every message before any is decoded."""
    source = pa.BufferReader(body)
    reader = pa.ipc.MessageReader.open_stream(source)
    last = 0
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            break
        _check_message(message.metadata.to_pybytes())
        last = source.tell()
    end = source.tell()
    if body[last:end] not in _ENDS:
        raise MalformedRequest("The Arrow stream has no end: close its writer before you send it.")
    if end != len(body):
        raise MalformedRequest(f"{len(body) - end} bytes follow the end of the Arrow stream: expected none.")


def _check_schema(pa: Any, schema: Any, *, texts: bool) -> None:
    if not len(schema):
        raise InvalidInput("The Arrow stream has no columns: expected one for each feature.")
    expected = "booleans, integers, floats or strings" if texts else "booleans, integers or floats"
    for field in schema:
        kind = field.type
        extension = isinstance(kind, pa.BaseExtensionType) or _EXTENSION in (field.metadata or {})
        if isinstance(kind, pa.DictionaryType) and texts:
            kind = kind.value_type
        if extension or str(kind) not in (_NUMBERS | _TEXTS if texts else _NUMBERS):
            given = "an extension type" if extension else f"of type {brief(field.type)}"
            raise InvalidInput(f"The Arrow column {quote(field.name)} is {given}: expected {expected}.")
        if isinstance(field.type, pa.DictionaryType) and str(kind) not in _TEXTS:
            raise InvalidInput(
                f"The Arrow column {quote(field.name)} is a dictionary of numbers: send them plain."
            )


def _check_size(table: Table, size: int, *, texts: bool) -> None:
    """Refuses what is not sound, and what unfolds to more than its bytes could say otherwise.

    Nothing is looked at before it is known that the work for it is in proportion to the body.
    """
    if table.num_rows < 1:  # a batch may claim to have less than none, which only validate() sees
        raise InvalidInput("The Arrow stream has no rows: expected at least one.")
    values = table.num_rows * table.num_columns
    if values > size:
        raise InvalidInput(
            f"The Arrow stream holds {values} values in {size} bytes: expected a byte or more for each. Send "
            "booleans as uint8."
        )
    table.validate()
    words = held = 0
    kinds = zip(map(str, table.schema.types), table.columns, strict=True) if texts else ()
    for kind, column in kinds:
        if kind in _TEXTS:
            held += column.nbytes
        elif kind not in _NUMBERS:
            words += sum(len(chunk.dictionary) for chunk in column.chunks)
    if held > size:
        raise InvalidInput("The Arrow stream's columns share memory: expected buffers of its own for each.")
    if words > size * _WORDS_PER_BYTE:
        raise InvalidInput(
            "The Arrow stream has too many batches for its dictionaries: send all rows in one."
        )
    table.validate(full=True)


class _Fields(NamedTuple):
    """A table of flatbuffers in a message that Arrow has found to be well-formed; see its Message.fbs."""

    data: bytes
    at: int

    def place(self, field: int) -> int | None:
        """Where the field of that number is; None where it is left out."""
        entries = self.at - self._number(self.at, 4, signed=True)
        entry = 4 + 2 * field
        if entry >= self._number(entries, 2):
            return None
        offset = self._number(entries + entry, 2)
        return self.at + offset if offset else None

    def byte(self, field: int) -> int:
        """The value of a field of one byte."""
        place = self.place(field)
        return 0 if place is None else self.data[place]

    def table(self, field: int) -> _Fields | None:
        """The table that a field refers to."""
        place = self.place(field)
        return None if place is None else _Fields(self.data, place + self._number(place, 4))

    def _number(self, at: int, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.data[at : at + width], "little", signed=signed)


def _check_message(metadata: bytes) -> None:
    message = _Fields(metadata, int.from_bytes(metadata[:4], "little"))
    kind, batch = message.byte(1), message.table(2)  # 2: a dictionary, 3: a record batch
    if kind == 2 and batch is not None:
        if batch.byte(2):
            raise InvalidInput("The Arrow stream adds to a dictionary: expected whole ones.")
        batch = batch.table(1)
    compressed = kind in (2, 3) and batch is not None and batch.place(3) is not None
    if compressed or _OLD_COMPRESSION in metadata:
        raise InvalidInput(
            "The Arrow stream has compressed buffers: expected plain ones. Write it with "
            "pyarrow.ipc.IpcWriteOptions(compression=None)."
        )
