"""How a record becomes a line: valid, bounded and not to be forged, whatever is in it."""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import decimal
import enum
import json
import re
import uuid
from collections import OrderedDict, UserList, deque
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.lines import ATOMIC_BYTES, cut, cut_stack, form_of, timestamp
from mlserver.lines.file import MAX_LINE
from mlserver.lines.texts import MAX_WORK, UNHIDDEN, without
from mlserver.lines.values import MAX_ITEMS, MORE, simple
from mlserver.signals.lines import EVENT_FIELDS, REQUEST_FIELDS

HEAD = {"timestamp": "2026-01-01T00:00:00.000Z", "level": "INFO", "message": "done"}
JSON, ECS, TEXT = (
    {"structured": True, "ecs": False},
    {"structured": True, "ecs": True},
    {"structured": False, "ecs": False},
)
FORMS = pytest.mark.parametrize("form", [JSON, ECS, TEXT], ids=["json", "ecs", "text"])


def line_of(record, *, longest=ATOMIC_BYTES, colours=False, **form):
    return form_of(longest=longest, colours=colours, **form)(record)


def parsed(record, **options):
    line = line_of(record, **(JSON | options))
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    return json.loads(line, object_pairs_hook=unique)


def unique(pairs):
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), names
    return dict(pairs)


def shown(value, **options):
    return parsed(HEAD | {"value": value}, **options)["value"]


class Broken:
    def __repr__(self):
        raise ValueError


class Huge:
    def __repr__(self):
        return "y" * 1_000_000


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Person:
    name: str
    age: int
    secret: str = dataclasses.field(default="s3cret", repr=False)


@dataclasses.dataclass
class Masked:
    password: str

    def __repr__(self):
        return "Masked(***)"


class Point(NamedTuple):
    x: int
    y: int


SPECIAL = {
    "broken": Broken(),
    "huge": Huge(),
    "object": object(),
    "enum": Colour.RED,
    "exception": ValueError("no\nway"),
    "path": Path("/a\nb"),
    "range": range(3),
    "class": int,
    "float32": np.float32(1.5),
    "int64": np.int64(3),
    "str_": np.str_("x\n"),
    "bytes_": np.bytes_(b"\xff"),
    "datetime64": np.datetime64("2026-01-01", "ns"),
    "array": np.arange(4.0),
    "large array": np.zeros((1000, 4)),
    "array of objects": np.array([Broken()]),
    "longdouble": np.longdouble(1),
    "nan": np.float64("nan"),
    "tuple": (1, "a"),
}


def special(name):
    return SPECIAL[name]


def cycle():
    made = [1]
    made.append({"again": made})
    return made


texts = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from('\n\r\t"\\\x00\x1b[31m\u2028é{}=, ')
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.binary()
    | st.decimals()
    | st.datetimes()
    | st.complex_numbers()
    | st.sampled_from(sorted(SPECIAL)).map(special)
    | st.builds(cycle)
)
keys = (
    texts
    | st.integers()
    | st.none()
    | st.binary()
    | st.floats()
    | st.sampled_from(["broken", "huge", "tuple"]).map(special)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=3)
        | st.builds(deque, st.lists(inner, max_size=2))
    ),
    max_leaves=8,
)


@FORMS
@given(
    message=texts,
    fields=st.dictionaries(keys, values, max_size=3),
    longest=st.sampled_from([1024, ATOMIC_BYTES, MAX_LINE]),
)
def test_whatever_is_logged_is_one_line_that_is_not_too_long(form, message, fields, longest):
    record = HEAD | {"message": message, "http_status": 200}
    line = line_of(
        {**record, **{key: value for key, value in fields.items() if key not in record}},
        longest=longest,
        **form,
    )
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= longest
    if form["structured"]:
        made = json.loads(line, object_pairs_hook=unique)
        ours = {"timestamp": "@timestamp", "level": "log.level", "http_status": "http.response.status_code"}
        names = ours if form["ecs"] else dict(zip(ours, ours, strict=True))
        assert made[names["timestamp"]] == HEAD["timestamp"]
        assert made[names["level"]].upper() == "INFO"
        assert made[names["http_status"]] == 200
    else:
        assert line[:-1].decode().isprintable()
        assert line.startswith(b"2026-01-01T00:00:00.000Z INFO ")


@FORMS
@given(st.lists(texts.map(lambda text: text * 20), max_size=8), st.integers(0, 400))
def test_a_line_is_never_too_long_however_many_fields_there_are(form, given_texts, count):
    fields = {f"text_{number}": text for number, text in enumerate(given_texts)}
    fields |= {f"field_{number}": number for number in range(count)}
    line = line_of(HEAD | {"http_status": 200, "ids": ["i" * 128] * 64} | fields, **form)
    assert len(line) <= ATOMIC_BYTES
    assert line.count(b"\n") == 1


def test_a_line_that_is_too_long_loses_text_before_lists_and_lists_before_fields():
    texts_only = parsed(HEAD | {"a": "x" * 5000, "b": list(range(200)), "c": "short"})
    assert re.fullmatch(r"x{1024,}…\(\d+ bytes more\)", texts_only["a"])
    assert (len(texts_only["b"]), texts_only["c"]) == (200, "short")
    lists = parsed(HEAD | {"b": list(range(1000, 2000)), "c": {"x": 1}})
    assert lists["b"] == [*range(1000, 1000 + len(lists["b"]) - 1), MORE]
    assert (lists["c"], "truncated" in lists) == ({"x": 1}, False)
    many = parsed(HEAD | {f"field_{number:03}": "value" for number in range(1000)})
    assert list(many)[:4] == ["timestamp", "level", "message", "field_000"]
    assert list(many)[-1] == "truncated"
    assert 100 < len(many) < 256


def test_a_traceback_that_is_too_long_keeps_its_end():
    record = parsed(HEAD | {"exception": "x" * 9000 + "ValueError: no", "text": "y" * 9000})
    assert record["exception"].endswith("ValueError: no")
    assert record["exception"].startswith("(")
    assert record["text"].startswith("yyy")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(1.5), 1.5),
        (np.float64(0.1), 0.1),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.complex128(1j), "1j"),
        (np.longdouble(1.5), "1.5"),
        (np.datetime64("2026-01-01T00:00:00", "ns"), "2026-01-01T00:00:00.000000000"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(5), 5),
        (np.array([Broken()], dtype=object), ["<Broken without text: ValueError>"]),
        (np.zeros((1000, 4), np.float32), "ndarray(shape=(1000, 4), dtype=float32)"),
        (b"caf\xc3\xa9 \xff", "café �"),
        (bytearray(b"a"), "a"),
        (memoryview(b"abc"), "abc"),
        ("\ud800", "\\ud800"),
        ({"x": "\udfff"}, {"x": "\\udfff"}),
        (float("nan"), None),
        (float("inf"), None),
        ([float("-inf"), 1], [None, 1]),
        (2**63, 2**63),
        (1 << 100, str(1 << 100)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (1 << 20_000, "<int of 20001 bits>"),
        (decimal.Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("/a/b"), "/a/b"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.timedelta(seconds=1.5), "0:00:01.500000"),
        (ValueError("no"), "ValueError('no')"),
        (Colour.RED, "red"),
        (Person("a", 3), {"name": "a", "age": 3}),
        (Masked("s3cret"), "Masked(***)"),
        (Point(1, 2), [1, 2]),
        ({3}, [3]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({"a": 1}.keys(), ["a"]),
        (deque([1]), [1]),
        (UserList([1]), [1]),
        (array.array("d", [1.0]), [1.0]),
        (range(3), "range(0, 3)"),
        ({1: "a", None: "b", b"c": "d", "": "e"}, {"1": "a", "None": "b", "c": "d", "_": "e"}),
        (Broken(), "<Broken without text: ValueError>"),
        ([Broken(), 1], ["<Broken without text: ValueError>", 1]),
        (cycle(), [1, {"again": MORE}]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_as_json(value, expected):
    assert shown(value) == expected


def test_what_lies_deep_or_is_much_is_shown_in_part():
    deep = "bottom"
    for _ in range(100):
        deep = [deep]
    assert json.dumps(shown(deep)).count("[") == 8
    assert len(shown([0] * 100_000, longest=MAX_LINE)) == MAX_ITEMS + 1
    twice = ["x"]
    for _ in range(100):
        twice = [twice, twice]
    assert len(json.dumps(shown(twice, longest=MAX_LINE))) < 20_000
    assert re.fullmatch(r"y+…\(\d+ bytes more\)", shown(Huge()))
    assert re.fullmatch(r"z+…\(\d+ bytes more\)", shown("z" * 1_000_000))


class Counting(list):
    asked = 0

    def __iter__(self):
        for item in super().__iter__():
            self.asked += 1
            yield item


def test_a_huge_list_is_not_gone_through():
    values = Counting(range(1_000_000))
    simple(values, limit=100)
    assert values.asked <= MAX_ITEMS + 1


def test_keys_that_are_the_same_as_text_are_told_apart():
    assert simple({1: "a", "1": "b", b"1": "c", "2": "d"}, limit=100) == {
        "1": "a",
        "1_1": "b",
        "1_2": "c",
        "2": "d",
    }
    assert simple({"1": 1, "1_2": 2, 1: 3}, limit=100) == {"1": 1, "1_2": 2, "1_2_2": 3}
    people = simple({"Ada": 1, "Bob": 2}, limit=100, hide=lambda text: re.sub("Ada|Bob", "?", text))
    assert people == {"?": 1, "?_1": 2}


def test_a_key_cannot_take_the_place_of_another_by_another_spelling():
    class Sly(str):
        __slots__ = ()

        def __hash__(self):
            return 1

        def __eq__(self, other):
            return self is other

    record = parsed({**HEAD, b"level": "FORGED", Sly("level"): "FORGED", "\ud800": 1, "\\ud800": 2})
    assert record["level"] == "INFO"
    assert record["level_"] == "FORGED"


def test_the_names_of_the_elastic_common_schema():
    record = dict.fromkeys([field.name for field in REQUEST_FIELDS], "x") | {
        "timestamp": "2026-01-01T00:00:00.000Z", "level": "WARNING", "duration_ms": 45.1239, "status": "error",
        "http_status": 404, "worker": 0, "input_shape": (1, 4), "output_shape": None,
    }  # fmt: skip
    made = parsed(record, ecs=True)
    assert list(made)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    assert made["log.level"] == "warning"
    assert made["event.duration"] == 45_123_900
    assert made["event.outcome"] == "failure"
    assert made["mlserver.input_shape"] == [1, 4]
    assert "mlserver.output_shape" not in made
    assert set(made) == {field.ecs for field in REQUEST_FIELDS} - {"mlserver.output_shape"} | {"ecs.version"}


def test_events_have_the_names_of_the_schema_too_and_users_fields_their_own():
    record = dict.fromkeys([field.name for field in EVENT_FIELDS], "x") | {"lost": 3, "worker": 1, "rows": 3}
    made = parsed(record, ecs=True)
    assert set(made) == {field.ecs for field in EVENT_FIELDS} | {"ecs.version", "rows"}


@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        ({"model": "iris"}, {"service.name": "iris"}),
        ({"error": "no"}, {"error.message": "no"}),
        ({"error": {"code": 1}}, {"error_": {"code": 1}}),
        ({"error": {"code": 1}, "error_": 2}, {"error_": {"code": 1}, "error__": 2}),
        ({"duration_ms": np.float64(1.5)}, {"event.duration": 1_500_000}),
        ({"duration_ms": "long"}, {"duration_ms": "long"}),
        ({"duration_ms": float("nan")}, {"duration_ms": None}),
        ({"status": "success"}, {"event.outcome": "success"}),
        ({"status": "queued"}, {"status": "queued"}),
        ({"http": {"response": {"status_code": 200}}}, {"http_": {"response": {"status_code": 200}}}),
        ({"http.response.status_code": 200}, {"http_.response.status_code": 200}),
        ({"@timestamp": "never"}, {"@timestamp_": "never"}),
        ({"log.level": "debug", "log": 1}, {"log_.level": "debug", "log_": 1}),
        ({"event": "x", "span.id": "y"}, {"event_": "x", "span_.id": "y"}),
        ({"event.duration": 1, "duration_ms": 2}, {"event_.duration": 1, "event.duration": 2_000_000}),
        ({"nothing": None, "rows": 3}, {"rows": 3}),
    ],
)
def test_users_fields_under_the_schema_neither_forge_nor_clash_with_its_own(given_fields, expected):
    made = parsed(HEAD | given_fields, ecs=True)
    ours = {"@timestamp": HEAD["timestamp"], "log.level": "info", "message": "done"}
    assert {name: value for name, value in made.items() if name != "ecs.version"} == ours | expected


def test_a_line_for_people_is_aligned_and_keeps_tracebacks_on_lines_of_their_own():
    record = HEAD | {
        "logger": "shop", "worker": None, "path": "/a b", "by": "it's", "empty": "", "n": 3, "ok": True, "x": [1, "é"],
        "exception": "Traceback:\n  File x\nValueError: forged\r\x1b[2J2026-01-01T00:00:00.000Z INFO fine\n",
    }  # fmt: skip
    assert line_of(record, **TEXT).decode().splitlines() == [
        '2026-01-01T00:00:00.000Z INFO     done                     logger=shop path="/a b" by="it\'s" empty="" n=3 ok=true x=[1,"é"]',
        "    Traceback:",
        "      File x",
        "    ValueError: forged",
        "    \\x1b[2J2026-01-01T00:00:00.000Z INFO fine",
    ]
    one, two = (line_of(HEAD | {"level": level, "k": 1}, **TEXT) for level in ("INFO", "WARNING"))
    assert one.index(b"k=1") == two.index(b"k=1")


def test_colours_only_where_they_are_wanted():
    plain, coloured = (line_of(HEAD | {"rows": 3}, colours=colours, **TEXT) for colours in (False, True))
    assert b"\x1b" not in plain
    assert b"\x1b[32mINFO" in coloured
    assert re.sub(rb"\x1b\[[0-9;]*m", b"", coloured) == plain


@given(message=texts, key=keys, value=values)
def test_no_escape_sequence_but_our_own_reaches_a_terminal(message, key, value):
    line = line_of(
        HEAD | {"message": message, key: value, "exception": f"a\n{message}"}, colours=True, **TEXT
    )
    rest = re.sub(rb"\x1b\[(0|1|2|3\d|1;31)m", b"", line)
    first, *others = rest.decode().removesuffix("\n").split("\n")
    assert first.isprintable()
    assert all(other.startswith("    ") and other.isprintable() for other in others)


def test_long_texts_are_cut_with_a_mark_and_stacks_keep_their_end():
    assert cut("é" * 3000).endswith("é…(4976 bytes more)")
    assert cut_stack("x" * 5000 + "ValueError: no").endswith("ValueError: no")
    assert cut_stack("x" * 5000).startswith("(2952 bytes more)…")
    assert cut("x" * 2_000_000).endswith("…(1998976 bytes more)")
    assert cut_stack("x" * 2_000_000).startswith("(1997952 bytes more)…")


def hide(text):
    return text.replace("s3cret", "[REDACTED]").replace("1234567", "[REDACTED]")


@pytest.mark.parametrize(
    "value",
    [
        "is s3cret",
        "x" * 1010 + " s3cret",
        ["s3cret"],
        {"s3cret": {"deep": ["s3cret"]}},
        {b"s3cret": b"s3cret"},
        1234567,
        [1234567.0, np.int64(1234567)],
        np.array([1234567.0]),
        np.array(["s3cret"], dtype=object),
        ValueError("s3cret"),
        Path("/s3cret"),
        Person("s3cret", 1234567),
        decimal.Decimal(1234567),
        "s3cret" * 300_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_hidden_is_in_no_text_and_in_no_part_of_one(value):
    made = str(simple(value, limit=1024, hide=hide))
    assert "[REDACTED]" in made or made == UNHIDDEN
    assert not re.search("s3c|1234567", made)


def test_a_text_is_not_shown_if_what_must_be_hidden_cannot_be_found():
    def broken(text):
        raise ValueError(text)

    assert simple("s3cret", limit=100, hide=broken) == UNHIDDEN
    assert without("x" * (MAX_WORK - 3) + "s3cret", lambda text: text.replace("x", "")) == UNHIDDEN
    half = "y" * (MAX_WORK // 2)
    assert without("x" * MAX_WORK + "z", lambda text: half) == half
    assert without("x" * MAX_WORK, lambda text: "") == ""


def test_timestamps_have_milliseconds_and_are_utc():
    assert timestamp(1705314645.1239) == "2024-01-15T10:30:45.123Z"
