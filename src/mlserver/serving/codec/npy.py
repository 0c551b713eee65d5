"""A body in numpy's own format, ``.npy``, to an array.

The header is read here and not by numpy, which takes it for Python code and evaluates it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserver.errors import InvalidInput, MalformedRequest
from mlserver.serving.codec.mistakes import MAX_DIMENSIONS, quote

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEDIA_TYPE = "application/x-npy"
MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096
"""Bytes. That of an array of numbers takes 118, whatever wrote it."""

_LENGTHS = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # bytes of the header's length, by version
_ITEM = (
    rb"""(['"])(?:descr|fortran_order|shape)\%d\s*+:\s*+"""
    rb"""(?:(['"])[^'"\\]*+\%d|True|False|\([0-9L,\s]*+\))\s*+"""
)
_DICT = re.compile(
    rb"\s*+\{\s*+"
    + _ITEM % (1, 2)
    + rb",\s*+"
    + _ITEM % (3, 4)
    + rb",\s*+"
    + _ITEM % (5, 6)
    + rb"(?:,\s*+)?\}\s*+"
)
_DESCR = re.compile(rb"""['"]descr['"]\s*+:\s*+['"]([^'"]*+)""")
_ORDER = re.compile(rb"""['"]fortran_order['"]\s*+:\s*+(True|False)""")
_SHAPE = re.compile(rb"""['"]shape['"]\s*+:\s*+\(([^)]*+)\)""")
_LENGTH = re.compile(rb"\s*+([0-9]{1,19})L?\s*+")
_NUMBERS = re.compile(rb"[<>=|]?(?:b1|[iu][1248]|f[248])")


def read_array(body: bytes) -> NDArray[Any]:
    """The array of a ``.npy`` file.

    Returns:
        numbers or booleans, two dimensions at least and none of them 0. It may share the body's memory.

    Raises:
        MalformedRequest: it is no such file, or is shorter or longer than its header says.
        InvalidInput: it holds an array of something else.
    """
    header, start = _split(body)
    described, ordered, shaped = _DESCR.search(header), _ORDER.search(header), _SHAPE.search(header)
    if not (_DICT.fullmatch(header) and described and ordered and shaped):
        raise InvalidInput(
            f"The .npy header is {_shown(header)}: expected descr, fortran_order and shape of an array of "
            "numbers. Send booleans, integers or floats; not objects, and not records."
        )
    if not _NUMBERS.fullmatch(described[1]):
        raise InvalidInput(
            f"The .npy array's descr is {_shown(described[1])}: expected booleans, integers of 1 to 8 bytes "
            'or floats of 2 to 8. Send array.astype("f8").'
        )
    dtype, shape = np.dtype(described[1].decode()), _shape(shaped[1])
    if not 2 <= len(shape) <= MAX_DIMENSIONS or 0 in shape:
        raise InvalidInput(
            f"The .npy array has shape {_listed(shape)}: expected (rows, values), both at least 1. A single "
            "row is array.reshape(1, -1)."
        )
    size = math.prod(shape)
    if size * dtype.itemsize != len(body) - start:
        raise MalformedRequest(
            f"The .npy header says {size} values of {dtype.itemsize} bytes, but {len(body) - start} bytes "
            "follow it."
        )
    values: NDArray[Any] = np.frombuffer(body, np.uint8 if dtype.kind == "b" else dtype, size, start)
    if dtype.kind == "b":
        values = values != 0  # numpy leaves open what a boolean is that is neither 0 nor 1
    return values.reshape(shape, order="F" if ordered[1] == b"True" else "C")


def _split(body: bytes) -> tuple[bytes, int]:
    """The header, and where the values begin."""
    if not body.startswith(MAGIC):
        raise MalformedRequest(
            f"The body begins with {_shown(body[:6])}: expected {_shown(MAGIC)}, as numpy.save writes it."
        )
    width = _LENGTHS.get(body[6:8])
    if width is None:
        raise MalformedRequest(f"The .npy version is {[*body[6:8]]}: expected 1.0, 2.0 or 3.0.")
    start = 8 + width
    length = int.from_bytes(body[8:start], "little")
    if length > MAX_HEADER:
        raise MalformedRequest(f"The .npy header has {length} bytes: expected at most {MAX_HEADER}.")
    if len(body) < start + length:
        raise MalformedRequest(f"The body ends within the .npy header, which has {length} bytes.")
    return body[start : start + length], start + length


def _shape(text: bytes) -> tuple[int, ...]:
    parts = text.split(b",")
    if not parts[-1].strip():
        parts.pop()  # (3, 4,) and (3,) and ()
    lengths = [_LENGTH.fullmatch(part) for part in parts]
    if not all(lengths):
        raise MalformedRequest(f"The .npy shape is {_shown(text)}: expected lengths such as (2, 4).")
    return tuple(int(length[1]) for length in lengths if length)


def _listed(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 5 else f"of {len(shape)} dimensions"


def _shown(raw: bytes) -> str:
    return quote(raw.decode("latin-1"))
