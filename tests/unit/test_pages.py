"""Metric pages: one writer, many readers, nothing lost."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.errors import MLServerError
from mlserver.pages import PAGE_BYTES, Key, Page, PageFull, create_memory

text = st.text(st.characters(codec="utf-8"), max_size=20)
keys = st.builds(
    Key,
    kind=st.sampled_from(["counter", "gauge", "histogram"]),
    name=text,
    labels=st.lists(text, max_size=3).map(tuple),
    bounds=st.lists(st.floats(0.001, 100), max_size=4).map(tuple),
)


@pytest.fixture
def descriptor():
    memory = create_memory()
    yield memory
    os.close(memory)


@given(st.lists(st.tuples(keys, st.floats(allow_nan=False)), max_size=30))
def test_a_reader_sees_what_the_writer_wrote(steps):
    memory = bytearray(PAGE_BYTES)
    writer, reader = Page(memory), Page(memory)
    expected = {}
    for key, value in steps:
        series = writer.series(key)
        series[0] = value
        expected[key] = value
        assert {found: values[0] for found, values in reader.read()} == expected
        assert all(len(values) == found.size for found, values in reader.read())


def test_a_new_series_is_zero_and_an_old_one_is_found_again():
    page = Page.private()
    key = Key("histogram", "duration", ("/predict",), (0.1, 1.0))
    values = page.series(key)
    assert list(values) == [0.0, 0.0, 0.0, 0.0]
    values[1] += 1.0
    assert list(page.series(key)) == [0.0, 1.0, 0.0, 0.0]


def test_a_successor_goes_on_counting_where_its_killed_predecessor_stopped(descriptor):
    script = (
        "import os, signal, sys\n"
        "from mlserver.pages import Key, Page\n"
        "page = Page.shared(int(sys.argv[1]))\n"
        "page.series(Key('counter', 'requests'))[0] += 3\n"
        "page.series(Key('gauge', 'active'))[0] = 7\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    reader = Page.shared(descriptor)
    for death in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", script, str(descriptor)], pass_fds=[descriptor], check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert dict(reader.read()) == {
            Key("counter", "requests"): (3.0 * death,),
            Key("gauge", "active"): (7.0,),
        }
    reader.reset_gauges()
    assert dict(reader.read())[Key("gauge", "active")] == (0.0,)
    assert dict(reader.read())[Key("counter", "requests")] == (6.0,)


def test_nobody_can_shrink_a_page_under_its_readers(descriptor):
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL


def test_a_page_of_another_layout_is_refused_with_what_to_do():
    memory = bytearray(PAGE_BYTES)
    memory[:8] = (99).to_bytes(8, sys.byteorder)
    with pytest.raises(MLServerError, match=r"layout 0x63.*restart"):
        Page(memory)


def test_a_full_page_refuses_a_series_and_keeps_the_others():
    page = Page(bytearray(256))
    page.series(Key("counter", "first"))[0] = 1.0
    with pytest.raises(PageFull, match="no room for second"):
        page.series(Key("counter", "second", ("x" * 300,)))
    assert dict(page.read()) == {Key("counter", "first"): (1.0,)}
