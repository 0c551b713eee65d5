"""A request's body to rows, and what is wrong with it."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from mlserver.errors import InvalidInput, MalformedRequest, UnsupportedMediaType
from mlserver.serving.codec import Decoder, InputSchema

IRIS = InputSchema(("a", "b", "c", "d"), 4, dataframe=False, categorical=frozenset())
UNKNOWN = InputSchema(None, None, dataframe=False, categorical=frozenset())
WIDTH = InputSchema(None, 4, dataframe=False, categorical=frozenset())
PEOPLE = InputSchema(("age", "sex"), 2, dataframe=True, categorical=frozenset({"sex"}))
FRAMES = InputSchema(None, None, dataframe=True, categorical=frozenset())


def decode(schema, body, content_type=b"application/json"):
    return Decoder(schema)(body if isinstance(body, bytes) else orjson.dumps(body), content_type)


def refusal(schema, body):
    with pytest.raises(InvalidInput) as caught:
        decode(schema, body)
    return str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"ndarray": [[1, 2, 3, 4], [5.5, 6, 7, 8]]},
        {"instances": [[1, 2, 3, 4], [5.5, 6, 7, 8]]},
        {"records": [{"a": 1, "b": 2, "c": 3, "d": 4}, {"d": 8, "c": 7, "b": 6, "a": 5.5}]},
        {"instances": [{"a": 1, "b": 2, "c": 3, "d": 4}, {"d": 8, "c": 7, "b": 6, "a": 5.5}]},
        {"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": [[1, 2, 3, 4], [5.5, 6, 7, 8]]}},
        {
            "dataframe_split": {
                "columns": ["d", "a", "c", "b"],
                "data": [[4, 1, 3, 2], [8, 5.5, 7, 6]],
                "index": ["x", "y"],
            }
        },
    ],
)
def test_every_form_gives_float64_rows_in_the_models_order(body):
    rows = decode(IRIS, body)
    assert rows.values.dtype == np.float64
    assert rows.values.tolist() == [[1, 2, 3, 4], [5.5, 6, 7, 8]]
    assert rows.values.flags["C_CONTIGUOUS"]
    assert rows.names == ("a", "b", "c", "d")
    assert rows.shape == (2, 4)


def test_null_is_nan_and_booleans_count_as_numbers():
    values = decode(IRIS, {"ndarray": [[None, True, False, -0.0]]}).values
    assert np.isnan(values[0, 0])
    assert values[0, 1:3].tolist() == [1.0, 0.0]
    assert np.signbit(values[0, 3])


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 - 1, -(2**63), 1e308, 5e-324])
def test_large_integers_become_the_nearest_float(number):
    assert decode(UNKNOWN, {"ndarray": [[number, -1]]}).values[0, 0] == float(number)


def test_records_follow_the_first_one_where_the_model_has_no_names():
    rows = decode(UNKNOWN, {"records": [{"y": 1, "x": 2}, {"x": 4, "y": 3}]})
    assert rows.names == ("y", "x")
    assert rows.values.tolist() == [[1, 2], [3, 4]]


def test_lists_may_be_nested_deeper_only_where_the_width_is_unknown():
    assert decode(UNKNOWN, {"ndarray": [[[1, 2], [3, 4], [5, 6]]]}).shape == (1, 3, 2)
    assert "is a list of 2: expected a number" in refusal(WIDTH, {"ndarray": [[[1, 2]] * 4]})


def test_a_predictor_of_data_frames_gets_values_as_they_came():
    rows = decode(FRAMES, {"records": [{"n": 2**60, "t": "x", "f": True, "z": None}]})
    assert rows.values == [[2**60, "x", True, None]]
    assert rows.names == ("n", "t", "f", "z")
    assert decode(PEOPLE, {"ndarray": [[1.5, "f"], [None, None]]}).values == [[1.5, "f"], [None, None]]
    split = {"dataframe_split": {"columns": ["sex", "age"], "data": [["f", 3]]}}
    assert decode(PEOPLE, split).values == [[3, "f"]]


def test_a_single_feature_is_no_special_case():
    schema = InputSchema(("only",), 1, dataframe=False, categorical=frozenset())
    assert decode(schema, {"records": [{"only": 1}, {"only": 2}]}).values.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", 'The body is empty: expected JSON such as {"ndarray": [[1.5, 2.0]]}.'),
        (b'{"ndarray": ', "The body is not valid JSON: unexpected end of data at line 1 column 13."),
        (b'{\n"ndarray": [[1e400]]}', "number is infinity when parsed as double at line 2 column 14."),
        (b'{"ndarray": [[NaN]]}', "a missing value is written null."),
        (b'{"ndarray": [[-Infinity]]}', "a missing value is written null."),
        (b'{"ndarray": [["\xff"]]}', "The body is not valid UTF-8: byte 15 begins no character."),
        (b"\xef\xbb\xbf{}", "UTF-8 byte order mark (BOM) is not supported at line 1 column 1."),
        (b'["\\ud800"]', "no low surrogate in string at line 1 column 3."),
        (b"[" * 1_000_000, "The body is not valid JSON: depth limit exceeded at line 1 column 1026."),
    ],
)
def test_what_is_not_json_is_refused_with_its_position(body, detail):
    with pytest.raises(MalformedRequest) as caught:
        decode(IRIS, body)
    assert str(caught.value).endswith(detail)


@pytest.mark.parametrize(
    "content_type",
    [None, b"application/json", b"Application/JSON ; charset=utf-8", b"application/vnd.api+json"],
)
def test_json_may_be_declared_in_several_ways_or_not_at_all(content_type):
    assert decode(IRIS, {"ndarray": [[1, 2, 3, 4]]}, content_type).shape == (1, 4)


@pytest.mark.parametrize(
    "content_type", [b"", b"text/plain", b"application/x-www-form-urlencoded", b"text/x+json", b"\xff"]
)
def test_another_media_type_is_refused_naming_what_is_taken(content_type):
    taken = "expected application/json, application/x-npy or application/vnd.apache.arrow.stream"
    with pytest.raises(UnsupportedMediaType, match=taken):
        decode(IRIS, b"not even looked at", content_type)


FORMS = 'expected an object with one of "ndarray", "records", "instances", "dataframe_split".'
MODEL = 'the model takes "a", "b", "c", "d".'
KEYS = '"columns", "data", "index"'
ONLY_SEX = 'expected a number or null; only "sex" may hold strings.'
SINGLE = "A single row is written [[…]]."


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ([1, 2], f"The body is a list of 2: {FORMS}"),
        (None, f"The body is null: {FORMS}"),
        ({}, f"The body is an empty object: {FORMS}"),
        ({"ndary": []}, f'The body has the unknown key "ndary" (did you mean "ndarray"?): {FORMS}'),
        ({"ndarray": [], "x": 1, "y": 2}, f'The body has the unknown keys "x", "y": {FORMS}'),
        ({"ndarray": [], "records": []}, f'The body has "ndarray", "records" together: {FORMS}'),
        ({"ndarray": 7}, "ndarray is 7: expected a list of rows."),
        ({"records": {}}, "records is an empty object: expected a list of rows."),
        ({"instances": []}, "instances is an empty list: expected at least one row."),
        ({"ndarray": [1, 2, 3, 4]}, f"ndarray[0] is 1: expected a list of 4 values. {SINGLE}"),
        (
            {"ndarray": [[1, 2, 3, 4], [1, 2, 3]]},
            'ndarray[1] has 3 values: expected 4, one for each of "a", "b", "c", "d".',
        ),
        ({"ndarray": [[]]}, 'ndarray[0] has 0 values: expected 4, one for each of "a", "b", "c", "d".'),
        (
            {"ndarray": [[1, "1.5", 3, 4]]},
            'ndarray[0][1] (feature "b") is the string "1.5": expected a number or null.',
        ),
        (
            {"ndarray": [[1, 2, 3, {}]]},
            'ndarray[0][3] (feature "d") is an empty object: expected a number or null.',
        ),
        (
            {"instances": [[1, 2, 3, 4], {"a": 1}]},
            f"instances[1] is an object: expected a list of 4 values. {SINGLE}",
        ),
        (
            {"instances": [{"a": 1, "b": 2, "c": 3, "d": 4}, [1]]},
            "instances[1] is a list of 1: expected an object of names and values.",
        ),
        ({"records": [[1, 2, 3, 4]]}, "records[0] is a list of 4: expected an object of names and values."),
        ({"records": [{"a": 1, "b": 2}]}, f'records[0] lacks features "c", "d": {MODEL}'),
        (
            {"records": [{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}]},
            f'records[0] has the unknown feature "e": {MODEL}',
        ),
        (
            {"records": [{"a": 1, "b": 2, "c": 3, "dd": 4}]},
            f'records[0] lacks feature "d" and has the unknown feature "dd" (did you mean "d"?): {MODEL}',
        ),
        (
            {"records": [{"a": 1, "b": 2, "c": 3, "d": "4"}]},
            'records[0]["d"] is the string "4": expected a number or null.',
        ),
        (
            {"records": [{"a": [1], "b": [1], "c": [1], "d": [1]}]},
            'records[0]["a"] is a list of 1: expected a number or null.',
        ),
        (
            {"dataframe_split": []},
            'dataframe_split is an empty list: expected an object with "columns" and "data".',
        ),
        (
            {"dataframe_split": {"columns": ["a"], "dat": []}},
            f'dataframe_split has the unknown key "dat" (did you mean "data"?): expected {KEYS}.',
        ),
        (
            {"dataframe_split": {"columns": ["a"]}},
            'dataframe_split lacks "data": expected "columns", "data".',
        ),
        (
            {"dataframe_split": {"columns": [0, 1], "data": [[1, 2]]}},
            "dataframe_split.columns[0] is 0: expected a name; rows without names go into ndarray.",
        ),
        (
            {"dataframe_split": {"columns": ["a", "b", "a"], "data": [[1, 2, 3]]}},
            'dataframe_split.columns[2] is "a" again: every name may stand only once.',
        ),
        (
            {"dataframe_split": {"columns": ["a", "b", "c", "x"], "data": [[1, 2, 3, 4]]}},
            f'dataframe_split.columns lacks feature "d" and has the unknown feature "x": {MODEL}',
        ),
        (
            {"dataframe_split": {"columns": ["d", "c", "b", "a"], "data": [[1, 2, 3, "x"]]}},
            'dataframe_split.data[0][3] (feature "a") is the string "x": expected a number or null.',
        ),
        (
            {"dataframe_split": {"columns": ["d", "c", "b", "a"], "data": [[1, 2, 3]]}},
            'dataframe_split.data[0] has 3 values: expected 4, one for each of "d", "c", "b", "a".',
        ),
    ],
)
def test_wrong_rows_are_refused_naming_the_place_what_stands_there_and_what_was_expected(body, detail):
    assert refusal(IRIS, body) == detail


@pytest.mark.parametrize(
    ("schema", "body", "detail"),
    [
        (UNKNOWN, {"ndarray": [[1, 2], [3]]}, "ndarray[1] has 1 value: expected 2, as ndarray[0] has."),
        (
            UNKNOWN,
            {"ndarray": [[[1, 2]], [[3]]]},
            "ndarray[1][0] has 1 value: expected 2, as ndarray[0][0] has.",
        ),
        (
            UNKNOWN,
            {"ndarray": [1.5, 2]},
            f"ndarray[0] is 1.5: expected a row, which is a list of values. {SINGLE}",
        ),
        (UNKNOWN, {"ndarray": [[], []]}, "ndarray[0] is an empty list: expected values."),
        (UNKNOWN, {"ndarray": [["1"]]}, 'ndarray[0][0] is the string "1": expected a number or null.'),
        (
            UNKNOWN,
            {"records": [{}]},
            "records[0] is an empty object: expected an object of names and values.",
        ),
        (
            UNKNOWN,
            {"records": [{"x": 1}, {"y": 1}]},
            'records[1] lacks feature "x" and has the unknown feature "y": records[0] has "x".',
        ),
        (UNKNOWN, b'{"ndarray": [[1]], "ndarray": [[1]]}', "The body has ndarray more than once."),
        (WIDTH, {"ndarray": [[1, 2]]}, "ndarray[0] has 2 values: expected 4, as the model takes."),
        (WIDTH, {"records": [{"x": 1}]}, "records[0] has 1 names: the model takes 4 features."),
        (
            FRAMES,
            {"ndarray": [[1]]},
            "ndarray holds rows without names, but the model takes features by name: send records.",
        ),
        (
            PEOPLE,
            {"records": [{"age": "3", "sex": "f"}]},
            f'records[0]["age"] is the string "3": {ONLY_SEX}',
        ),
        (
            PEOPLE,
            {"ndarray": [[3, "f"], ["x", "f"]]},
            f'ndarray[1][0] (feature "age") is the string "x": {ONLY_SEX}',
        ),
        (
            PEOPLE,
            {"records": [{"age": 3, "sex": ["f"]}]},
            'records[0]["sex"] is a list of 1: expected a number, a string, true, false or null.',
        ),
    ],
)
def test_the_message_knows_what_the_schema_knows(schema, body, detail):
    assert refusal(schema, body) == detail


@pytest.mark.parametrize("depth", [33, 70, 900])
def test_more_dimensions_than_numpy_can_hold_are_refused(depth):
    body = b'{"ndarray":' + b"[" * depth + b"1" + b"]" * depth + b"}"
    assert refusal(UNKNOWN, body) == "ndarray has more than 32 dimensions."


def test_values_and_names_are_shortened_in_messages():
    names = [f"feature {index}" for index in range(100)]
    detail = refusal(IRIS, {"records": [{**dict.fromkeys(names, 1), "x" * 1000: 1}]})
    assert '"feature 0", "feature 1"' in detail
    assert "and 96 more" in detail
    detail = refusal(IRIS, {"ndarray": [[1, 2, 3, "é" * 10_000]]})
    assert f'is the string "{"é" * 39}…": expected' in detail


def test_a_long_string_costs_no_memory_beyond_itself():
    """numpy would make every cell as wide as the longest string: 40 TB here."""
    body = b'{"ndarray": [["' + b"x" * 10_000_000 + b'"' + b", 1" * 1_000_000 + b"]]}"
    assert "is the string" in refusal(UNKNOWN, body)


@pytest.mark.parametrize(
    ("adapter", "taken", "refused", "hint"),
    [
        ("records", {"records": [{"a": 1}]}, {"ndarray": [[1]]}, "api.adapter is records: send records"),
        ("records", {"instances": [{"a": 1}]}, {"instances": [[1]]}, "api.adapter is records: send records"),
        ("ndarray", {"ndarray": [[1]]}, {"records": [{"a": 1}]}, "api.adapter is ndarray: send ndarray"),
        ("ndarray", {"instances": [[1]]}, {"instances": [{"a": 1}]}, "api.adapter is ndarray: send ndarray"),
        ("ndarray", {"ndarray": [[1]]}, {"dataframe_split": {}}, "api.adapter is ndarray: send ndarray"),
    ],
)
def test_an_adapter_takes_only_its_forms(adapter, taken, refused, hint):
    schema = InputSchema(("a",), 1, dataframe=False, categorical=frozenset(), adapter=adapter)
    assert decode(schema, taken).values.tolist() == [[1]]
    assert hint in refusal(schema, refused)
