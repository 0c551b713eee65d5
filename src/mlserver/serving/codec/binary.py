"""Binary bodies to rows.

An array in numpy's format is like ``ndarray``, a stream of Arrow record batches like ``dataframe_split``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserver.serving.codec import arrow, mistakes, npy
from mlserver.serving.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mlserver.serving.codec.schema import InputSchema

NPY = npy.MEDIA_TYPE.encode()
ARROW = arrow.MEDIA_TYPE.encode()
MEDIA_TYPES = (NPY, ARROW)
"""What a binary body is declared to be."""


def readers(schema: InputSchema) -> Mapping[bytes, Callable[[bytes], Rows]]:
    """What reads a body of each media type; each raises a `RequestError` for one that is not taken."""
    return {NPY: partial(_read_array, schema), ARROW: partial(_read_table, schema)}


def _read_array(schema: InputSchema, body: bytes) -> Rows:
    if not schema.takes_unnamed:
        raise mistakes.without_names("The .npy array", by_config=schema.adapter == "records")
    array, width = npy.read_array(body), schema.width
    if width is not None and array.shape[1:] != (width,):
        raise mistakes.in_shape(array.shape, width, schema.feature_names)
    return _numbers(schema, array, schema.feature_names)


def _read_table(schema: InputSchema, body: bytes) -> Rows:
    if not schema.takes_named:
        raise mistakes.with_names("The Arrow stream")
    table = arrow.read_table(body, texts=schema.dataframe)
    columns = tuple(table.column_names)
    schema.check_names("The Arrow schema", columns)
    names = schema.feature_names or columns
    if names != columns:
        table = table.select(names)
    if not schema.dataframe:
        return _numbers(schema, arrow.matrix(table), names)
    if schema.categorical:
        mistakes.check_texts(arrow.text_columns(table), schema.categorical)
    return Rows(arrow.rows(table, len(body)), names)


@np.errstate(invalid="ignore")  # a signalling NaN is a NaN
def _numbers(schema: InputSchema, array: NDArray[Any], names: tuple[str, ...] | None) -> Rows:
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise mistakes.not_finite(array, names)
    if schema.dataframe:
        return Rows(array.tolist(), names)
    # A predictor may write into what it is given, so it gets an array of its own in place of the body's.
    values = np.array(array, np.float64, order="C", copy=not array.flags.writeable or None)
    return Rows(values, names, values.shape)
