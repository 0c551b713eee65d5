"""A predictor's answer, or an error, to a body."""

from __future__ import annotations

import collections
import datetime as dt
import json
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import orjson
import pytest

from mlserver.errors import PredictorError, QueueFull
from mlserver.serving.codec import Encoder, normalise, output_shape, problem


def encode(output, rows):
    answer = normalise(output, rows)
    assert len(answer) == rows
    return json.loads(Encoder("m", "1")("predict", answer[:rows], "id", 0.0))["predictions"]


def test_the_answer_has_its_members_in_order_with_the_models_name():
    encoder = Encoder('a "model"', "1.0")
    body = encoder("predict", np.array([0.5, 1.0]), "abc-1", 1.23456)
    assert body == (
        b'{"predictions":[0.5,1.0],"model":"a \\"model\\"","version":"1.0",'
        b'"request_id":"abc-1","time_ms":1.235}'
    )
    probabilities = json.loads(encoder("predict_proba", np.array([[0.25, 0.75]]), None, 0.0))
    assert probabilities["probabilities"] == [[0.25, 0.75]]
    assert probabilities["request_id"] is None


def test_a_problem_has_the_members_of_rfc_9457():
    assert json.loads(problem(QueueFull("Full \ud800."), "abc")) == {
        "type": "/docs#errors-queue_full",
        "title": "Too many waiting requests",
        "status": 429,
        "detail": "Full ?.",
        "code": "queue_full",
        "request_id": "abc",
    }


class Pair(NamedTuple):
    low: float
    high: object


class Tensor:
    """Like torch's: on another device, and with a gradient."""

    def detach(self):
        return self

    def cpu(self):
        return np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (np.array([1.5, np.nan, np.inf]), [1.5, None, None]),
        (np.array([0.1, 0.2], np.float32), [0.1, 0.2]),
        (np.array([0.5, 0.25], np.float16), [0.5, 0.25]),
        (np.array([0.5], np.longdouble), [0.5]),
        (np.array([0.1], ">f8"), [0.1]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (np.array([True, False]), [True, False]),
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.asfortranarray(np.arange(6).reshape(2, 3)), [[0, 1, 2], [3, 4, 5]]),
        (np.arange(8)[::2], [0, 2, 4, 6]),
        (np.array(["a", "é"]), ["a", "é"]),
        (np.array([b"a"]), ["a"]),
        (
            np.array([1, None, "a", 2.5, Decimal("0.5"), np.float32(0.1)], object),
            [1, None, "a", 2.5, 0.5, 0.1],
        ),
        (np.array(["2020-01-02", "NaT"], "M8[ns]"), ["2020-01-02T00:00:00", None]),
        (np.array([1500, "NaT"], "m8[ms]"), [1.5, None]),
        (np.ma.array([1.0, 2.0], mask=[False, True]), [1.0, None]),
        ([1, 2.5, "a", None], [1, 2.5, "a", None]),
        ((1, 2), [1, 2]),
        ([np.float64(0.5), np.int8(2), np.bool_(True), np.str_("a")], [0.5, 2, True, "a"]),
        ([np.datetime64("NaT", "ns"), np.datetime64("2020-01-02", "ns")], [None, "2020-01-02T00:00:00"]),
        ([np.datetime64("NaT", "s")], [None]),
        ([np.array([1.0, 2.0]), np.array([3.0, 4.0])], [[1.0, 2.0], [3.0, 4.0]]),
        ([np.zeros((2, 1)), np.zeros((3, 1))], [[[0.0]] * 2, [[0.0]] * 3]),
        ([{"label": "a", "score": np.float32(0.1)}, {0: 1}], [{"label": "a", "score": 0.1}, {"0": 1}]),
        ([Pair(1, Decimal("0.5"))], [[1, 0.5]]),
        ([dt.date(2020, 1, 2), dt.timedelta(seconds=2)], ["2020-01-02", 2.0]),
        (Tensor(), [1.0, 2.0]),
        (collections.deque([1, 2]), [1, 2]),
        (range(2), [0, 1]),
    ],
)
def test_what_predictors_return_becomes_json(output, expected):
    assert encode(output, len(expected)) == expected


def test_pandas_objects_become_json():
    pd = pytest.importorskip("pandas")
    dates = pd.Series(pd.to_datetime(["2020-01-02", None]))
    for output, expected in [
        (pd.Series([1.5, None]), [1.5, None]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series(["a", None]), ["a", None]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pd.DataFrame({"x": [1, 2], "y": ["a", pd.NA]}), [[1, "a"], [2, None]]),
        (pd.DataFrame({"x": [1, 2], "y": [0.5, 1.5]}), [[1, 0.5], [2, 1.5]]),
        (dates, ["2020-01-02T00:00:00", None]),
        (dates.dt.tz_localize("UTC"), ["2020-01-02T00:00:00+00:00", None]),
        ([pd.Timestamp("2020-01-02"), pd.NaT, pd.NA], ["2020-01-02T00:00:00", None, None]),
    ]:
        assert encode(output, len(expected)) == expected


def test_sparse_matrices_become_json():
    sparse = pytest.importorskip("scipy.sparse")
    assert encode(sparse.csr_matrix([[1, 0], [0, 2]]), 2) == [[1, 0], [0, 2]]
    assert encode(sparse.coo_array([[1, 0], [0, 2]]), 2) == [[1, 0], [0, 2]]


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("on another device")


@pytest.mark.parametrize(
    ("output", "given"),
    [
        (None, "None: expected an array or a list with one element for each of the 2 rows"),
        (1.5, "an object of type float:"),
        (np.float64(1.5), "an object of type float64 and shape ():"),
        (np.array(1.5), "an object of type ndarray and shape ():"),
        (np.zeros((3, 2)), "an object of type ndarray and shape (3, 2):"),
        ([1, 2, 3], "an object of type list and length 3:"),
        ([], "an object of type list and length 0:"),
        ({"a": 1, "b": 2}, "an object of type dict:"),
        ({1, 2}, "an object of type set:"),
        ("ab", "an object of type str and length 2:"),
        (b"ab", "an object of type bytes and length 2:"),
        ((number for number in (1, 2)), "an object of type generator:"),
        (Broken(), "an object of type Broken, which cannot be sent: on another device"),
        (np.array(["99999-01-01"] * 2, "M8[D]"), "cannot be sent: dates outside of the years 1 to 9999"),
        (
            [np.zeros((2, 3)), np.zeros((2, 3))],
            "a list of 2 arrays of 2 rows: is the first dimension targets",
        ),
    ],
)
def test_what_is_no_prediction_is_refused_naming_what_was_returned(output, given):
    with pytest.raises(PredictorError) as caught:
        normalise(output, 2)
    assert str(caught.value).startswith("The predictor returned ")
    assert given in str(caught.value)


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value", ["\ud800", 2**70, 1j, object(), LOOP, {object(): 1}, np.array([1j]), b"\xff"]
)
def test_an_output_that_json_cannot_hold_is_a_predictor_error(value):
    def answer():
        return Encoder("m", "1")("predict", normalise([value], 1), None, 0.0)

    with pytest.raises(PredictorError, match=r"cannot be written as JSON: |nested too deeply for JSON"):
        answer()


def test_a_list_of_views_of_the_predictors_buffer_is_copied_too():
    buffer = np.array([[1.0], [2.0]])
    answer = normalise([{"row": buffer[0]}, [buffer[1]]], 2)
    buffer[:] = 9.0
    written = json.loads(Encoder("m", "1")("predict", answer, None, 0.0))["predictions"]
    assert written == [{"row": [1.0]}, [[2.0]]]


def test_the_answer_is_a_copy_of_the_predictors_buffer():
    for rows in (2, 2000):
        buffer = np.ones(rows)
        answer = normalise(buffer, rows)
        buffer[:] = 0
        assert list(answer) == [1.0] * rows


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("kind", ["?", "i1", "u2", "i8", "u8", "f2", "f4", "f8", ">f8", ">i4"])
def test_a_short_answer_is_written_to_the_byte_as_a_long_one(kind, rows):
    """The short one is a list by then, and a float32 must not get the digits of a float64."""
    for shape in ((rows,), (rows, 3), (rows, 2, 1)):
        output = (np.random.default_rng(0).normal(size=shape) * 100).astype(kind)
        answer = normalise(output, rows)
        assert output_shape(answer) == shape
        exact = orjson.dumps(output.astype(output.dtype.newbyteorder("=")), option=orjson.OPT_SERIALIZE_NUMPY)
        assert b'{"predictions":' + exact + b',"model"' in Encoder("m", "1")("predict", answer, None, 0.0)


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        (np.zeros(3), (3,)),
        (np.zeros((3, 2)), (3, 2)),
        ([1, 2], (2,)),
        ([[1, 2, 3], [1, 2, 3]], (2, 3)),
        ([np.zeros((5, 2))], (1, 5, 2)),
        ([{"a": 1}], (1,)),
        ([], (0,)),
    ],
)
def test_the_shape_of_an_output_is_known_for_the_log(output, shape):
    assert output_shape(output) == shape
