"""What holds for every body and every answer."""

from __future__ import annotations

import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlserver.errors import PredictorError, RequestError
from mlserver.serving.codec import Decoder, Encoder, InputSchema, normalise
from mlserver.serving.rows import Rows

NAMES = st.text(min_size=1, max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FINITE | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)
FORMS = ("ndarray", "records", "instances", "dataframe_split")
SCHEMAS = [
    InputSchema(names, width, dataframe=dataframe, categorical=frozenset(categorical), adapter=adapter)
    for names, width, categorical in [
        (None, None, ()),
        (None, 2, ()),
        (("a", "b"), 2, ()),
        (("a",), 1, ()),
        (("a", "b"), 2, ("b",)),
    ]
    for dataframe in (False, True)
    for adapter in ("auto", "records", "ndarray")
]


@st.composite
def tables(draw):
    """Names, and a matrix with that many columns."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    row = st.lists(FINITE, min_size=len(names), max_size=len(names))
    return names, draw(st.lists(row, min_size=1, max_size=6))


@given(tables(), st.randoms(use_true_random=False), st.booleans())
def test_every_form_carries_any_matrix_unchanged(table, random, known):
    names, matrix = table
    schema = InputSchema(tuple(names) if known else None, None, dataframe=False, categorical=frozenset())
    records = [dict(zip(names, row, strict=True)) for row in matrix]
    bodies = [
        {"ndarray": matrix},
        {"instances": matrix},
        {"records": records},
        {"instances": records},
        {"dataframe_split": {"columns": names, "data": matrix}},
    ]
    if known:
        order = random.sample(range(len(names)), len(names))
        shuffled = [{names[index]: row[index] for index in order} for row in matrix]
        data = [[row[index] for index in order] for row in matrix]
        split = {"columns": [names[index] for index in order], "data": data}
        bodies += [{"records": shuffled}, {"dataframe_split": split}]
    for body in bodies:
        rows = Decoder(schema)(orjson.dumps(body), None)
        assert rows.values.tobytes() == np.array(matrix).tobytes()


def decode_or_refuse(schema, body):
    try:
        rows = Decoder(schema)(body, None)
    except RequestError:
        return
    assert isinstance(rows, Rows)
    assert len(rows) > 0
    if isinstance(rows.values, np.ndarray):
        assert rows.values.dtype == np.float64
        assert not np.isinf(rows.values).any()
    else:
        assert {len(row) for row in rows.values} == {len(rows.names)}
    if schema.width is not None:
        assert rows.shape == (len(rows), schema.width)
    if schema.feature_names is not None:
        assert rows.names == schema.feature_names


@settings(max_examples=500)
@given(
    schema=st.sampled_from(SCHEMAS),
    body=JSON | st.dictionaries(st.sampled_from(FORMS), JSON, min_size=1, max_size=2),
)
@example(schema=SCHEMAS[0], body={"ndarray": [["1.5", "nan"]]})
@example(schema=SCHEMAS[0], body={"ndarray": [[[[]]]]})
def test_any_json_gives_rows_or_a_request_error(schema, body):
    decode_or_refuse(schema, orjson.dumps(body))


CELLS = SCALARS | st.just([]) | st.just({}) | st.just([1.0])
NEARLY = st.fixed_dictionaries(
    {
        "ndarray": st.lists(st.lists(CELLS, max_size=3), max_size=3),
        "records": st.lists(st.dictionaries(st.sampled_from("abc"), CELLS, max_size=3) | CELLS, max_size=3),
        "dataframe_split": st.fixed_dictionaries(
            {
                "columns": st.lists(st.sampled_from("abc") | CELLS, max_size=3),
                "data": st.lists(st.lists(CELLS, max_size=3) | CELLS, max_size=3),
            }
        ),
    }
)


@settings(max_examples=1000)
@given(schema=st.sampled_from(SCHEMAS), bodies=NEARLY)
def test_nearly_right_rows_give_rows_or_a_request_error(schema, bodies):
    for form, rows in bodies.items():
        decode_or_refuse(schema, orjson.dumps({form: rows}))


@given(st.binary() | st.binary().map(lambda body: b'{"ndarray": [[' + body + b"]]}"))
def test_any_bytes_give_rows_or_a_request_error(body):
    for schema in SCHEMAS[:2]:
        decode_or_refuse(schema, body)


@given(JSON)
def test_no_string_ever_becomes_a_number(value):
    body = orjson.dumps({"ndarray": [[value]]})
    try:
        rows = Decoder(SCHEMAS[0])(body, None)
    except RequestError:
        return
    assert b'"' not in body[len('{"ndarray":') :]
    assert rows.values.size >= 1


def plain(value):
    """What JSON makes of a value of Python's or numpy's."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


ARRAYS = arrays(
    st.sampled_from(["f8", ">f8", "i8", "u1", "i2", "?", "U3"]), array_shapes(max_dims=3, max_side=4)
)
NESTED = st.recursive(SCALARS | st.just(math.nan), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
LISTS = st.lists(NESTED, max_size=4)


@given(ARRAYS | ARRAYS.map(np.transpose) | ARRAYS.map(list) | LISTS | LISTS.map(tuple), st.data())
def test_whatever_is_accepted_has_one_element_a_row_and_every_slice_is_its_json(output, data):
    rows = data.draw(st.sampled_from([len(output)] * 3 + [len(output) + 1]))
    try:
        answer = normalise(output, rows)
    except PredictorError:
        assert rows != len(output) or isinstance(output, list)
        return
    assert len(answer) == rows == len(output)
    start = data.draw(st.integers(0, rows))
    end = data.draw(st.integers(start, rows))
    body = Encoder("m", "1")("predict", answer[start:end], None, 0.5)
    assert json.loads(body)["predictions"] == plain(output)[start:end]


@given(JSON)
def test_any_other_answer_is_refused_as_no_prediction(output):
    if not isinstance(output, list):
        with pytest.raises(PredictorError):
            normalise(output, 1)
