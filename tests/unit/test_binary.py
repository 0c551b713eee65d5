"""Binary bodies: an array in numpy's format and a stream of Arrow record batches, good, bad and hostile."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlserver.errors import InvalidInput, MalformedRequest, RequestError, UnsupportedMediaType
from mlserver.serving.codec import Decoder, InputSchema, arrow
from mlserver.serving.codec.npy import MAX_HEADER

NPY = b"application/x-npy"
ARROW = b"application/vnd.apache.arrow.stream"

UNKNOWN = InputSchema(None, None, dataframe=False, categorical=frozenset())
AB = InputSchema(("a", "b"), 2, dataframe=False, categorical=frozenset())
WIDTH = InputSchema(None, 2, dataframe=False, categorical=frozenset())
PEOPLE = InputSchema(("age", "sex"), 2, dataframe=True, categorical=frozenset({"sex"}))
FRAMES = InputSchema(None, None, dataframe=True, categorical=frozenset())


def refusal(schema, body, content_type, error=InvalidInput):
    with pytest.raises(error) as caught:
        Decoder(schema)(body, content_type)
    return str(caught.value)


# numpy's format


def saved(array, **kwargs):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), **kwargs)
    return file.getvalue()


def with_header(header, values=b"", version=b"\x01\x00"):
    text = header.encode("latin-1")
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + text + values


NUMBERS = st.sampled_from(
    [f"{order}{kind}" for order in "<>" for kind in ["u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]]
)


@given(
    arrays(
        NUMBERS | st.sampled_from(["?", "i1", "u1"]),
        array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements={"allow_infinity": False},
    ),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    st.booleans(),
)
def test_every_array_of_numbers_arrives_as_float64(array, version, fortran):
    array = np.asfortranarray(array) if fortran else array
    rows = Decoder(UNKNOWN)(saved(array, version=version), NPY)
    np.testing.assert_array_equal(rows.values, array.astype(np.float64))
    assert rows.values.dtype == np.float64
    assert rows.values.flags["C_CONTIGUOUS"]
    assert rows.shape == array.shape


def test_the_array_is_the_predictors_own():
    body = saved(np.array([[1.0, 2.0]]))
    before = bytes(bytearray(body))
    rows = Decoder(AB)(body, b"Application/X-NPY; version=1")
    rows.values[:] = 9.0
    assert body == before
    assert rows.names == ("a", "b")


def test_a_data_frame_gets_the_arrays_own_types():
    assert Decoder(PEOPLE)(saved([[1, 2]]), NPY).values == [[1, 2]]
    assert type(Decoder(PEOPLE)(saved([[1, 2]]), NPY).values[0][0]) is int


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2)}",
        '{"shape": (1L, 2L), "fortran_order": True, "descr": "=f8",}',
    ],
)
def test_headers_of_other_writers_are_read(header):
    assert Decoder(AB)(with_header(header, struct.pack("<2d", 1.5, 2)), NPY).values.tolist() == [[1.5, 2]]


def test_a_boolean_that_is_neither_0_nor_1_is_true():
    body = with_header("{'descr': '|b1', 'fortran_order': False, 'shape': (1, 2), }", b"\x02\x00")
    assert Decoder(AB)(body, NPY).values.tolist() == [[1, 0]]


F8 = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", 'The body begins with "": expected "\x93NUMPY", as numpy.save writes it.'),
        (
            b'{"ndarray": [[1]]}',
            'The body begins with "{\\"ndar": expected "\x93NUMPY", as numpy.save writes it.',
        ),
        (b"\x93NUMPY\x04\x00", "The .npy version is [4, 0]: expected 1.0, 2.0 or 3.0."),
        (b"\x93NUMPY", "The .npy version is []: expected 1.0, 2.0 or 3.0."),
        (b"\x93NUMPY\x01\x00\x76\x00{", "The body ends within the .npy header, which has 118 bytes."),
        (
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
            f"The .npy header has 4294967295 bytes: expected at most {MAX_HEADER}.",
        ),
        (
            with_header(F8 % "(2, 2)", bytes(31)),
            "The .npy header says 4 values of 8 bytes, but 31 bytes follow it.",
        ),
        (
            with_header(F8 % "(2, 2)", bytes(33)),
            "The .npy header says 4 values of 8 bytes, but 33 bytes follow it.",
        ),
        (
            with_header(F8 % "(4611686018427387904, 2)"),
            "The .npy header says 9223372036854775808 values of 8 bytes, but 0 bytes follow it.",
        ),
        (with_header(F8 % "(1,,2)"), 'The .npy shape is "1,,2": expected lengths such as (2, 4).'),
    ],
)
def test_what_is_no_npy_file_is_refused(body, detail):
    assert refusal(AB, body, NPY, MalformedRequest) == detail


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (saved(np.array([[{}]]), allow_pickle=True), 'The .npy array\'s descr is "|O": expected booleans,'),
        (saved(np.zeros((1, 2), "c16")), 'The .npy array\'s descr is "<c16"'),
        (saved(np.zeros((1, 2), "M8[s]")), 'The .npy array\'s descr is "<M8[s]"'),
        (saved(np.array([["a", "b"]])), 'The .npy array\'s descr is "<U1"'),
        (saved(np.zeros((1, 2), np.longdouble)), 'The .npy array\'s descr is "<f16"'),
        (saved(np.zeros((1, 2), [("x", "f8")])), "The .npy header is "),
        (
            with_header("__import__('os').abort()"),
            "The .npy header is \"__import__('os').abort()\": expected descr",
        ),
        (with_header("{'descr': '<f8', 'descr': '<f8', 'shape': (1, 2), }"), "The .npy header is "),
        (saved(np.zeros(2)), "The .npy array has shape (2,): expected (rows, values), both at least 1."),
        (saved(np.zeros(())), "The .npy array has shape (): expected (rows, values)"),
        (saved(np.zeros((0, 2))), "The .npy array has shape (0, 2): expected (rows, values)"),
        (with_header(F8 % f"({'1,' * 40})", bytes(8)), "The .npy array has shape of 40 dimensions"),
        (
            saved(np.zeros((2, 3))),
            'The array has shape (2, 3): expected (2, 2), one value for each of "a", "b".',
        ),
        (saved(np.zeros((2, 2, 1))), "The array has shape (2, 2, 1): expected (2, 2)"),
        (
            saved([[1, np.nan], [2, -np.inf]]),
            'The array[1][1] (feature "b") is infinite: expected numbers, and NaN for a missing value.',
        ),
    ],
)
def test_an_array_that_the_model_does_not_take_is_refused(body, detail):
    assert refusal(AB, body, NPY).startswith(detail)


def test_the_width_is_checked_without_names_too():
    assert refusal(WIDTH, saved(np.zeros((1, 3))), NPY).endswith("expected (1, 2), as the model takes.")


def test_a_header_of_many_spaces_takes_no_time_to_refuse():
    """A pattern that goes back over what it has read would need as long as the server lives."""
    for header in ("{" + " " * 4000, "{'shape': (" + "1 , " * 900, "{'descr': '<f8'" + " , " * 1300):
        refusal(AB, with_header(header), NPY)


def test_an_array_needs_no_names_where_the_model_takes_none():
    records = InputSchema(("a", "b"), 2, dataframe=False, categorical=frozenset(), adapter="records")
    assert refusal(records, saved([[1, 2]]), NPY).endswith("api.adapter is records: send records.")
    assert refusal(FRAMES, saved([[1, 2]]), NPY).endswith("the model takes features by name: send records.")


# Arrow


def test_without_pyarrow_the_answer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    detail = refusal(AB, b"", ARROW, UnsupportedMediaType)
    assert detail == (
        'application/vnd.apache.arrow.stream needs pyarrow on the server: pip install "mlserver-observability[arrow]".'
    )


@pytest.fixture(scope="module")
def pa():
    return pytest.importorskip("pyarrow")


def stream(pa, columns, *, batches=1, end=True, schema=None, **options):
    table = columns if isinstance(columns, pa.Table) else pa.table(columns, schema=schema)
    sink = pa.BufferOutputStream()
    writer = pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options))
    writer.write_table(table, max_chunksize=max(1, -(-len(table) // batches)))
    if end:
        writer.close()
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_columns_are_put_into_the_models_order(pa, batches):
    rows = Decoder(AB)(stream(pa, {"b": [2.5, None, 6], "a": [1.5, 3, 5]}, batches=batches), ARROW)
    np.testing.assert_array_equal(rows.values, [[1.5, 2.5], [3, np.nan], [5, 6]])
    assert (rows.names, rows.shape) == (("a", "b"), (3, 2))
    assert rows.values.flags["C_CONTIGUOUS"]
    rows.values[:] = 0  # it is the predictor's own


@pytest.mark.parametrize(
    "kind",
    ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bool_"],
)
def test_every_type_of_number_is_taken_and_null_is_nan(pa, kind):
    column = pa.array([True, None, False] if kind == "bool_" else [1, None, 0], getattr(pa, kind)())
    values = Decoder(AB)(stream(pa, {"a": column, "b": [0.1, 0.2, 0.3]}), ARROW).values
    np.testing.assert_array_equal(values, [[1, 0.1], [np.nan, 0.2], [0, 0.3]])


def test_halves_are_taken(pa):
    values = Decoder(UNKNOWN)(stream(pa, {"a": np.array([0.5, 2], np.float16)}), ARROW).values
    assert values.tolist() == [[0.5], [2]]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
@example([2**53 + 1])
def test_integers_become_the_nearest_float(values):
    pa = pytest.importorskip("pyarrow")
    got = Decoder(UNKNOWN)(stream(pa, {"a": pa.array(values, pa.int64())}), ARROW).values
    assert got.tolist() == [[float(value)] for value in values]


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_a_data_frame_gets_strings_and_null(pa, kind, batches):
    texts = pa.array(["f", None, "é"])
    texts = texts.dictionary_encode() if kind == "dictionary" else texts.cast(kind)
    rows = Decoder(PEOPLE)(stream(pa, {"sex": texts, "age": [1, None, 3]}, batches=batches), ARROW)
    assert rows.values == [[1, "f"], [None, None], [3, "é"]]
    assert rows.names == ("age", "sex")
    free = Decoder(FRAMES)(stream(pa, {"n": [1.5, 2], "t": ["x", "y"], "f": [True, None]}, batches=2), ARROW)
    assert free.values == [[1.5, "x", True], [2.0, "y", None]]


class Case:
    """A stream that is made once pyarrow is there, and what is said of it."""

    def __init__(self, name, make, detail, schema=AB, error=InvalidInput):
        self.name, self.make, self.detail, self.schema, self.error = name, make, detail, schema, error


AB_COLUMNS = {"a": [1.5, 2.5], "b": [1.5, 2.5]}
TWO_FLOATS = "expected booleans, integers or floats."
CASES = [
    Case(
        "lz4", lambda pa: stream(pa, AB_COLUMNS, compression="lz4"), "The Arrow stream has compressed buffers"
    ),
    Case(
        "zstd",
        lambda pa: stream(pa, AB_COLUMNS, compression="zstd"),
        "The Arrow stream has compressed buffers",
    ),
    Case(
        "a compressed dictionary",
        lambda pa: stream(pa, {"a": pa.array(["x" * 999]).dictionary_encode()}, compression="zstd"),
        "The Arrow stream has compressed buffers",
        FRAMES,
    ),
    Case(
        "no end",
        lambda pa: stream(pa, AB_COLUMNS, end=False),
        "The Arrow stream has no end: close its writer before you send it.",
        error=MalformedRequest,
    ),
    Case(
        "more behind the end",
        lambda pa: stream(pa, AB_COLUMNS) + b"xyz",
        "3 bytes follow the end of the Arrow stream: expected none.",
        error=MalformedRequest,
    ),
    Case("nothing", lambda pa: b"", "The Arrow stream has no end", error=MalformedRequest),
    Case(
        "a file",
        lambda pa: b"ARROW1\0\0" + stream(pa, AB_COLUMNS),
        "The body is not a sound Arrow stream: ",
        error=MalformedRequest,
    ),
    Case("JSON", lambda pa: b'{"ndarray": [[1, 2]]}', "The body is not a sound", error=MalformedRequest),
    Case(
        "no columns",
        lambda pa: stream(pa, {}),
        "The Arrow stream has no columns: expected one for each feature.",
    ),
    Case(
        "no rows",
        lambda pa: stream(pa, {"a": pa.array([], "f8"), "b": pa.array([], "f8")}),
        "The Arrow stream has no rows: expected at least one.",
    ),
    Case(
        "strings for numbers",
        lambda pa: stream(pa, {"a": ["1"], "b": ["2"]}),
        f'The Arrow column "a" is of type string: {TWO_FLOATS}',
    ),
    Case("nested", lambda pa: stream(pa, {"a": [[1.0]], "b": [1]}), 'The Arrow column "a" is of type list<'),
    Case("nulls", lambda pa: stream(pa, {"a": [None], "b": [1]}), 'The Arrow column "a" is of type null'),
    Case(
        "run ends",
        lambda pa: stream(pa, {"a": pa.RunEndEncodedArray.from_arrays([5], [1.5]), "b": [1.0] * 5}),
        'The Arrow column "a" is of type run_end_encoded',
    ),
    Case(
        "views of strings",
        lambda pa: stream(pa, {"t": pa.array(["x"], pa.string_view())}),
        'The Arrow column "t" is of type string_view: expected booleans, integers, floats or strings.',
        FRAMES,
    ),
    Case(
        "an extension",
        lambda pa: stream(
            pa, {"a": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], "i1")), "b": [1]}
        ),
        'The Arrow column "a" is an extension type',
    ),
    Case(
        "an unknown extension",
        lambda pa: stream(
            pa,
            {"a": [1.0], "b": [1.0]},
            schema=pa.schema(
                [pa.field("a", "f8", metadata={"ARROW:extension:name": "x.y"}), pa.field("b", "f8")]
            ),
        ),
        'The Arrow column "a" is an extension type',
    ),
    Case(
        "a dictionary of numbers",
        lambda pa: stream(pa, {"a": pa.array([1, 2]).dictionary_encode()}),
        'The Arrow column "a" is a dictionary of numbers: send them plain.',
        FRAMES,
    ),
    Case(
        "a growing dictionary",
        lambda pa: stream(
            pa,
            pa.table({"a": pa.chunked_array([pa.array(list(t)).dictionary_encode() for t in ("x", "xy")])}),
            emit_dictionary_deltas=True,
        ),
        "The Arrow stream adds to a dictionary: expected whole ones.",
        FRAMES,
    ),
    Case(
        "names missing",
        lambda pa: stream(pa, {"a": [1], "c": [1]}),
        'The Arrow schema lacks feature "b" and has the unknown feature "c": the model takes "a", "b".',
    ),
    Case(
        "a name twice",
        lambda pa: stream(pa, pa.table([[1.0], [2.0]], names=["a", "a"])),
        'The Arrow schema[1] is "a" again: every name may stand only once.',
    ),
    Case(
        "the width",
        lambda pa: stream(pa, {"x": [1.0]}),
        "The Arrow schema has 1 names: the model takes 2 features.",
        WIDTH,
    ),
    Case(
        "strings elsewhere",
        lambda pa: stream(pa, {"age": ["x"], "sex": ["f"]}),
        '"age" is a column of strings: only "sex" may hold strings.',
        PEOPLE,
    ),
    Case(
        "infinity",
        lambda pa: stream(pa, {"a": [1.0], "b": [np.inf]}),
        'The array[0][1] (feature "b") is infinite: expected numbers, and NaN for a missing value.',
    ),
    Case(
        "packed booleans",
        lambda pa: stream(pa, {"a": [True] * 9000, "b": [True] * 9000}),
        "The Arrow stream holds 18000 values in ",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stream_that_is_not_taken_is_refused_saying_why(pa, case):
    assert refusal(case.schema, case.make(pa), ARROW, case.error).startswith(case.detail)


def test_a_stream_has_names_so_an_adapter_for_rows_without_refuses_it(pa):
    schema = InputSchema(("a", "b"), 2, dataframe=False, categorical=frozenset(), adapter="ndarray")
    detail = "The Arrow stream holds rows with names, but api.adapter is ndarray: send ndarray."
    assert refusal(schema, stream(pa, AB_COLUMNS), ARROW) == detail


def test_columns_that_share_memory_do_not_unfold(pa):
    """A client can say that a hundred columns are the same megabyte of text."""
    text = pa.array(["x" * 1_000_000])
    table = pa.table({f"c{index}": text for index in range(100)})
    with pytest.raises(InvalidInput, match="columns share memory"):
        arrow._check_size(table, len(stream(pa, {"c": text})) + 10_000, texts=True)


def test_dictionaries_that_share_memory_do_not_unfold(pa):
    words = pa.array(["x" * 1000, "y"])
    columns = [
        pa.DictionaryArray.from_arrays(pa.array([0], "i1"), part) for part in (words, words.slice(0, 1))
    ]
    table = pa.table(columns, names=["a", "b"])
    assert arrow.rows(table, 2000) == [["x" * 1000] * 2]
    with pytest.raises(InvalidInput, match="dictionaries share memory"):
        arrow.rows(table, 1999)


def test_the_words_of_a_dictionary_are_made_once_for_all_batches(pa):
    body = stream(pa, {"t": pa.array(["x" * 1000, "y"] * 50).dictionary_encode()}, batches=10)
    rows = Decoder(FRAMES)(body, ARROW).values
    assert rows == [["x" * 1000], ["y"]] * 50
    assert len({id(row[0]) for row in rows}) == 2


def test_a_large_dictionary_for_each_of_many_batches_is_refused(pa):
    """Arrow looks at all of it for each batch."""
    words = pa.array([""] * 10_000)
    chunks = [pa.DictionaryArray.from_arrays(pa.array([0]), words) for _ in range(200)]
    body = stream(pa, pa.table({"t": pa.chunked_array(chunks)}))
    assert refusal(FRAMES, body, ARROW).startswith(
        "The Arrow stream has too many batches for its dictionaries"
    )


@pytest.fixture(scope="module")
def good(pa):
    """Streams and arrays to be broken."""
    texts = pa.array(["f", None, "é"])
    return [
        (ARROW, stream(pa, {"a": [1.5, None, 3], "b": [1, 2, 3]}, batches=2)),
        (ARROW, stream(pa, {"age": [1.5, None, 3], "sex": texts.dictionary_encode()}, batches=2)),
        (ARROW, stream(pa, {"age": [True, None, False], "sex": texts})),
        (NPY, saved(np.arange(6, dtype=">f4").reshape(3, 2))),
    ]


@pytest.mark.parametrize("which", range(3))
def test_counts_that_are_not_so_are_refused_or_change_nothing(good, which):
    """Lengths, offsets and numbers of rows, each in turn; some readers of Arrow take a negative one for sound."""
    content_type, body = good[which]
    for place in range(0, len(body) - 8, 4):
        for form, value in [
            ("<q", -1),
            ("<q", -(2**63)),
            ("<q", 2**40),
            ("<i", -1),
            ("<i", 2**31 - 1),
            ("<i", 0),
        ]:
            broken = bytearray(body)
            struct.pack_into(form, broken, place, value)
            try:
                rows = Decoder(FRAMES)(bytes(broken), content_type)
            except RequestError:
                continue
            assert 0 < len(rows) <= 3
            assert {len(row) for row in rows.values} == {len(rows.names)}


def test_fewer_rows_than_none_are_refused(pa):
    body = stream(pa, {"a": [1.5] * 77}).replace(struct.pack("<q", 77), struct.pack("<q", -77))
    assert refusal(UNKNOWN, body, ARROW) == "The Arrow stream has no rows: expected at least one."


@pytest.mark.parametrize("kind", ["f2", "f4"])
def test_a_signalling_nan_is_a_nan_and_no_warning(pa, kind):
    array = np.array([[0x7D00, 0x3C00]], "u2").view("f2")
    if kind == "f4":
        array = np.array([[0x7FA00000, 0x3F800000]], "u4").view("f4")
    for body, content_type in [
        (saved(array), NPY),
        (stream(pa, {"a": array[:, 0], "b": array[:, 1]}), ARROW),
    ]:
        np.testing.assert_array_equal(Decoder(AB)(body, content_type).values, [[np.nan, 1.0]])


@settings(max_examples=1500)
@given(st.integers(0, 3), st.data())
def test_a_broken_body_gives_rows_or_a_request_error(good, which, data):
    content_type, body = good[which]
    broken = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    for schema in (AB, PEOPLE, FRAMES):
        try:
            rows = Decoder(schema)(bytes(broken), content_type)
        except RequestError:
            continue
        assert len(rows) > 0
        if schema is AB:
            assert rows.shape == (len(rows), 2) == rows.values.shape
            assert not np.isinf(rows.values).any()
        else:
            assert {len(row) for row in rows.values} == {len(rows.names)}


@pytest.mark.parametrize("which", range(4))
def test_no_part_of_a_body_is_taken_for_the_whole(good, which):
    content_type, body = good[which]
    for length in range(len(body)):
        with pytest.raises(RequestError):
            Decoder(FRAMES if which in (1, 2) else AB)(body[:length], content_type)
