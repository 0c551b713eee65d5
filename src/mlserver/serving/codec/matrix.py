"""The numbers of a JSON body as an array, without a Python object for each of them.

simdjson flattens nested lists, so what it gives is taken only where the body can hold nothing but equal rows
of numbers. Whatever else it holds is left to the way that knows every form and says what is wrong.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from simdjson import Array, Parser
except (ImportError, RuntimeError):  # there is no wheel of it for every Python; it says so in its own way
    Array = Parser = None

if TYPE_CHECKING:
    from numpy.typing import NDArray

AVAILABLE = Parser is not None
MIN_BYTES = 512
"""Smaller bodies are read as fast by way of a list, as `benchmarks/codec.py` shows."""

_FAILURES = (IndexError, KeyError, MemoryError, RuntimeError, TypeError, ValueError)
_LISTS = re.compile(rb'\{[ \t\r\n]*"(?:(ndarray)|instances)"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*\[').match
_SPLIT = re.compile(rb'\{[ \t\r\n]*"dataframe_split"[ \t\r\n]*:[ \t\r\n]*\{').match
_VECTORISED = 4096  # bytes from which numpy counts faster than bytes.count of Python 3.11


def unnamed(body: bytes, width: int | None) -> NDArray[np.float64] | None:
    """The rows of ``ndarray``, or of ``instances`` that are lists.

    Args:
        body: of any kind.
        width: how many values a row must have; None: as many as the first.

    Returns:
        an array of shape (rows, values), or None: the body holds something else, or null.
    """
    head = _LISTS(body)
    # Without a further quote there is no further key; "u" is only in null and true.
    if head is None or body.find(b'"', head.end()) >= 0 or body.find(b"u", head.end()) >= 0:
        return None
    try:
        rows = Parser().parse(body)["ndarray" if head[1] else "instances"]
        return _matrix(rows, width, _opened(body) - 1)
    except _FAILURES:
        return None


def named(body: bytes) -> tuple[list[str], NDArray[np.float64]] | None:
    """The columns' names and the rows of ``dataframe_split``.

    Returns:
        the names, which may be equal, and an array of shape (rows, names), or None: the body holds something
        else, or null.
    """
    if _SPLIT(body) is None or body.find(b"u", body.rfind(b'"')) >= 0:
        return None
    try:
        document = Parser().parse(body)
        split = document["dataframe_split"]
        keys = sorted(split)
        if len(document) != 1 or keys not in (["columns", "data"], ["columns", "data", "index"]):
            return None
        names = list(split["columns"])
        if {*map(type, names)} != {str} or ("index" in keys and type(split["index"]) is not Array):
            return None
        # A further bracket, in a string or in the index, makes for a number that does not fit, and no more.
        values = _matrix(split["data"], len(names), _opened(body) - len(keys))
    except _FAILURES:
        return None
    return None if values is None else (names, values)


def _matrix(rows: Any, width: int | None, opened: int) -> NDArray[np.float64] | None:
    """Rows of numbers as an array, if each has as many.

    Args:
        rows: what stands in the list of rows.
        width: how many; None: as many as the first has.
        opened: how many lists begin in it. With as many as there are rows nothing is nested in a row, since
            what is no list has no length, and numbers are all that the buffer can hold.
    """
    count, first = len(rows), len(rows[0])
    if count != opened or first != (width or first) or {*map(len, rows)} != {first}:
        return None
    values = np.frombuffer(rows.as_buffer(of_type="d"), np.float64)
    # simdjson counts to 2 to the 24th only; a longer list shows here.
    return values.reshape(count, first) if 0 < count * first == values.size else None


def _opened(body: bytes) -> int:
    if len(body) < _VECTORISED:
        return body.count(b"[")
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")))
