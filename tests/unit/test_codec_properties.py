"""What holds for every body and every answer."""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import sys

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlserver.errors import PredictorError, RequestError
from mlserver.serving.codec import Decoder, Encoder, InputSchema, matrix, normalise
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


SPACE = st.sampled_from(["", "", "", " ", "\n\t", "\r"])
LITERALS = st.sampled_from(
    [
        "0",
        "-0",
        "-0.0",
        "1E5",
        "1e-400",
        "5e-324",
        "1.7976931348623157e308",
        "1.7976931348623159e308",
        "1e400",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "9007199254740993",
        "01",
        "1.",
        ".5",
        "+1",
        "NaN",
        "Infinity",
        "null",
        "true",
        "false",
        "{}",
        "[]",
        "[1]",
        "[[2]]",
        "[1,2]",
        '"x"',
    ]
)
NUMERALS = FINITE.map(repr) | st.integers(-(2**63), 2**64 - 1).map(str)


def listed(items, space):
    return f"[{space}" + f"{space},{space}".join(items) + f"{space}]"


@st.composite
def numeric_bodies(draw):
    """Bodies of numbers as clients write them; some with one place that is wrong, or only unusual."""
    space = draw(SPACE)
    width = draw(st.integers(1, 3))
    cells = [[draw(NUMERALS) for _ in range(width)] for _ in range(draw(st.integers(1, 4)))]
    if draw(st.booleans()):
        draw(st.sampled_from(cells))[-1:] = draw(st.lists(LITERALS | NUMERALS, max_size=2))
    rows = listed([listed(row, space) for row in cells], space)
    form = draw(st.sampled_from(["ndarray", "instances", "dataframe_split"]))
    if form == "dataframe_split":
        members = [
            f'"columns":{listed(draw(st.permutations(["a", "b", "c"][:width])), space)}',
            f'"data":{rows}',
        ]
        members[0] = members[0].replace("a", '"a"').replace("b", '"b"').replace('"c"olumns', "columns")
        members += draw(
            st.lists(
                st.sampled_from(
                    [
                        '"index":[0,"["]',
                        '"index":[[1]]',
                        '"index":7',
                        '"index":{"a":[1]}',
                        '"data":[[1]]',
                        '"x":1',
                    ]
                ),
                max_size=1,
            )
        )
        rows = "{" + ",".join(draw(st.permutations(members))) + "}"
    body = bytearray(f'{{{space}"{form}"{space}:{space}{rows}{space}}}{space}'.encode())
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place, byte = draw(st.integers(0, len(body))), draw(st.sampled_from(b'[]{},:"0.e- \x00\xef'))
        body[place : place + draw(st.integers(0, 1))] = bytes([byte])
    return bytes(body)


def outcome(decoder, body):
    try:
        rows = decoder(body, None)
    except RequestError as error:
        return type(error), str(error)
    assert rows.values.flags["C_CONTIGUOUS"]
    assert rows.values.flags["WRITEABLE"]
    return rows.values.dtype, rows.values.tobytes(), rows.shape, rows.names


@settings(max_examples=3000)
@given(st.sampled_from([schema for schema in SCHEMAS if not schema.dataframe]), numeric_bodies())
@example(SCHEMAS[0], b'{"ndarray": [[1, [2]], [3, 4]]}')  # four numbers in two lists of two
@example(SCHEMAS[0], b'{"ndarray": [[1, 2], [3], [4, 5, 6]]}')
@example(SCHEMAS[0], b'{"ndarray": [[], []]}')
@example(SCHEMAS[0], b'{"ndarray": [[1, {}], [1, 2]]}')
@example(SCHEMAS[0], b'{"ndarray": [[1, true], [1, 2]]}')
@example(SCHEMAS[0], b'{"ndarray": [[1], 2]}')
@example(SCHEMAS[0], b'{"ndarray": [[1]], "ndarray": [[2]]}')
@example(SCHEMAS[0], b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}, "x": 1}')
@example(SCHEMAS[0], b'{"dataframe_split": {"columns": ["a"], "data": [[1], [[1]]], "index": 7}}')
@example(SCHEMAS[0], b'\xef\xbb\xbf{"ndarray": [[1, 2]]}')
@example(
    SCHEMAS[0],
    b'{"dataframe_split": {"columns": ["a"], "data": [[1]], "index": ' + b"[" * 1022 + b"]" * 1022 + b"}}",
)
def test_both_ways_of_reading_numbers_give_the_same_rows_or_the_same_error(schema, body):
    quick, plain = Decoder(schema), Decoder(schema)
    plain._numbers = False
    large = body + b" " * matrix.MIN_BYTES
    assert outcome(quick, large) == outcome(plain, large)
    assert outcome(quick, body) == outcome(quick, large) or b"column" in outcome(quick, large)[1].encode()


@pytest.mark.parametrize(
    "body",
    [
        {"ndarray": [[1.5, 2], [-3, 4e300]]},
        {"instances": [[1.5, 2], [-3, 4e300]]},
        {"dataframe_split": {"columns": ["b", "a"], "data": [[2, 1.5], [4e300, -3]], "index": ["x", 1]}},
    ],
)
def test_a_large_body_of_numbers_takes_the_way_without_lists(body, monkeypatch):
    pytest.importorskip("simdjson")
    monkeypatch.setattr("mlserver.serving.codec.decode.loads", None)
    written = orjson.dumps(body) + b" " * matrix.MIN_BYTES
    rows = Decoder(InputSchema(("a", "b"), 2, dataframe=False, categorical=frozenset()))(written, None)
    assert rows.values.tolist() == [[1.5, 2], [-3, 4e300]]


def test_bodies_are_read_without_simdjson_too(monkeypatch):
    """There is no wheel of it for every Python."""
    monkeypatch.setitem(sys.modules, "simdjson", None)
    spec = importlib.util.find_spec(matrix.__name__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert not alone.AVAILABLE
    monkeypatch.setattr("mlserver.serving.codec.decode.matrix", alone)
    body = orjson.dumps({"ndarray": [[1.5]] * 1000})
    assert Decoder(SCHEMAS[0])(body, None).shape == (1000, 1)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("body", [{"ndarray": [[None]] * 1000}, {"ndarray": [["x"]] * 1000}])
def test_the_garbage_collector_is_left_as_it_was(enabled, body):
    try:
        (gc.enable if enabled else gc.disable)()
        decode_or_refuse(SCHEMAS[0], orjson.dumps(body))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_more_rows_than_simdjson_counts_are_not_lost():
    """It counts elements in 24 bits; rows stand in the way of none here, so the count shows at a glance."""
    pytest.importorskip("simdjson")
    count = 2**24 + 1
    body = b'{"ndarray":[[' + b"1," * (count - 1) + b"1]]}"
    assert matrix.unnamed(body, None) is None


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
