"""A predictor's answer, or an error, to a body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import MAXYEAR, MINYEAR, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mlserver.errors import PredictorError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlserver.errors import RequestError

PREDICTION_KEYS = {"predict": "predictions", "predict_proba": "probabilities"}
"""What the list in an answer is called, by operation."""
PROBLEM_TYPE = "/docs#errors-"
"""What a problem's ``type`` begins with; its code follows."""

_SHORT = 128
"""Elements up to which an array becomes a list: a call's slice of one is made and written in half the
time."""
_EXACT = frozenset("?bhilqBHILQd")
"""Codes of the numpy types whose elements are the same numbers as Python's, and are written alike."""
_DIRECT = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_CAREFUL = orjson.OPT_NON_STR_KEYS
_FALSE_NAT = b"1677-09-21T00:12:43.145224"  # what orjson takes numpy's "not a time" for


class Encoder:
    """Writes the body of an answered prediction.

    NaN and infinity become null, since JSON has neither.
    """

    def __init__(self, model: str, version: str) -> None:
        self._heads = {operation: b'{"%b":' % key.encode() for operation, key in PREDICTION_KEYS.items()}
        self._tail = b',"model":%b,"version":%b,"request_id":' % (orjson.dumps(model), orjson.dumps(version))

    def __call__(self, operation: str, output: Any, request_id: str | None, time_ms: float) -> bytes:
        """The body for one call's slice of what `normalise` returned.

        Args:
            operation: ``predict`` or ``predict_proba``.
            output: one element for each of the call's rows.
            request_id: of letters, digits and ``._:-`` only.
            time_ms: milliseconds that the call has taken so far.

        Raises:
            PredictorError: the output holds something that JSON cannot.
        """
        try:
            written = orjson.dumps(output, option=_DIRECT)
        except orjson.JSONEncodeError:
            written = _careful_json(output)
        else:
            if written.find(b"T") >= 0 and _FALSE_NAT in written:  # one character is found in no time
                written = _careful_json(output)
        if request_id is None:
            end = f'null,"time_ms":{time_ms:.3f}}}'
        else:
            end = f'"{request_id}","time_ms":{time_ms:.3f}}}'
        return b"".join((self._heads[operation], written, self._tail, end.encode()))


def problem(error: RequestError, request_id: str | None) -> bytes:
    """An error as RFC 9457 has it, for ``application/problem+json``.

    ``type`` names the error's section on the docs page. It is an identifier: below a prefix that the
    application is mounted at, it stays the same.
    """
    members = {
        "type": PROBLEM_TYPE + error.code,
        "title": error.title,
        "status": error.status,
        "detail": str(error).encode(errors="replace").decode(),
        "code": error.code,
        "request_id": request_id,
    }
    return orjson.dumps(members)


def normalise(output: Any, rows: int) -> NDArray[Any] | list[Any]:
    """A predictor's answer as something that has one element for each row and can be sliced.

    Takes arrays, data frames and series, sparse matrices, tensors, lists and tuples. What comes back is a
    copy throughout: a predictor may use its own buffers again while the answer waits to be written.

    Raises:
        PredictorError: it is none of these, or its length differs.
    """
    if type(output) is np.ndarray and output.size <= _SHORT and _is_exact(output) and len(output) == rows:
        return output.tolist()  # type: ignore[no-any-return]
    answer = _array_answer(output)
    if answer is None and isinstance(output, Sequence) and not isinstance(output, str | bytes | bytearray):
        try:
            answer = [_own(item) for item in output]
        except RecursionError:
            raise PredictorError(
                "The predictor returned a list that is nested too deeply for JSON."
            ) from None
    if answer is None or len(answer) != rows:
        count = "one element for the one row" if rows == 1 else f"one element for each of the {rows} rows"
        raise PredictorError(
            f"The predictor returned {_describe(output)}: expected an array or a list with {count}."
        )
    if isinstance(answer, list):
        _check_orientation(answer)
    return answer


def output_shape(output: Any) -> tuple[int, ...]:
    """Shape of one call's slice as logged: (rows,) or (rows, classes)."""
    if type(output) is list:
        first: Any = output[0] if output else None
        kind = type(first)
        if kind is list or kind is tuple:
            return (len(output), len(first))
        return (len(output), *first.shape) if kind is np.ndarray else (len(output),)
    return tuple(output.shape)


def _is_exact(array: NDArray[Any]) -> bool:
    return array.dtype.char in _EXACT and array.dtype.isnative and 0 < array.ndim <= 2


def _own(value: Any) -> Any:
    """A value that shares nothing with the predictor."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        return [_own(item) for item in value]
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    return value


def _array_answer(output: Any) -> NDArray[Any] | list[Any] | None:
    """An array-like answer in the form that is written; None if it is not array-like or has no dimension."""
    try:
        array = _array_of(output)
        return _plain_array(array) if array is not None and array.ndim else None
    except Exception as error:
        raise PredictorError(
            f"The predictor returned {_describe(output)}, which cannot be sent: {error}."
        ) from error


def _array_of(output: Any) -> NDArray[Any] | None:
    if isinstance(output, np.ma.MaskedArray):
        return np.array(output.tolist(), dtype=object)  # None where masked
    if hasattr(output, "toarray"):  # a sparse matrix
        output = output.toarray()
    elif hasattr(output, "detach"):  # a tensor, perhaps on another device
        output = output.detach().cpu()
    return np.asarray(output) if hasattr(output, "__array__") else None


def _plain_array(array: NDArray[Any]) -> NDArray[Any] | list[Any]:
    """Numbers as an array that orjson takes, all else as nested lists."""
    kind = array.dtype.kind
    if kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if kind in "biuf":
        if array.dtype.isnative:
            return array.copy()
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if kind == "m":
        seconds = array / np.timedelta64(1, "s")
        return np.array(np.where(np.isnat(array), np.nan, seconds), order="C")
    return _dates(array) if kind == "M" else array.tolist()


def _dates(array: NDArray[np.datetime64]) -> list[Any]:
    """Dates as `datetime` or None; orjson itself reads "not a time" as a day in 1677."""
    years = array[~np.isnat(array)].astype("M8[Y]").astype(np.int64) + 1970
    if ((years < MINYEAR) | (years > MAXYEAR)).any():
        raise ValueError(f"dates outside of the years {MINYEAR} to {MAXYEAR}")
    dates: list[Any] = array.astype("M8[us]").tolist()
    return dates


def _check_orientation(output: list[Any]) -> None:
    """Refuses what may be one array per target, as scikit-learn has it, where the rows come second.

    Slicing that by rows would give a client the answer that belongs to another.
    """
    if len(output) > 1 and all(isinstance(item, np.ndarray) and item.ndim == 2 for item in output):
        if {len(item) for item in output} != {len(output)}:
            return
        raise PredictorError(
            f"The predictor returned a list of {len(output)} arrays of {len(output)} rows: is the first "
            "dimension targets or rows? Return np.stack(…, axis=1) if targets, np.stack(…) if rows."
        )


def _describe(output: Any) -> str:
    if output is None:
        return "None"
    kind = f"an object of type {type(output).__name__}"
    if isinstance(shape := getattr(output, "shape", None), tuple):
        return f"{kind} and shape {shape}"
    return f"{kind} and length {len(output)}" if isinstance(output, Sequence) else kind


def _careful_json(output: Any) -> bytes:
    try:
        return orjson.dumps(output, _plain, _CAREFUL)
    except Exception as error:
        raise PredictorError(
            f"The predictor's output cannot be written as JSON: {error.__cause__ or error}."
        ) from error


def _plain(value: Any) -> Any:
    """A value that orjson knows, in place of one that it does not."""
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which need not be installed
        return None
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    return _from_array(value)


def _from_array(value: Any) -> Any:
    array = _array_of(value)
    if array is None:
        raise TypeError(f"it holds {_describe(value)}")
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        # The shortest number that is the same float32, which is also how orjson writes one.
        array = array.astype(np.float32).astype(str).astype(np.float64)
    plain = _plain_array(array)
    return plain.tolist() if isinstance(plain, np.ndarray) else plain


_CONVERSIONS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (np.generic, _from_array),  # before float, of which numpy's float64 is one
    (float, float),
    (Decimal, float),
    (timedelta, timedelta.total_seconds),
    (datetime, datetime.isoformat),
    (bytes, bytes.decode),
    (tuple, list),
)
