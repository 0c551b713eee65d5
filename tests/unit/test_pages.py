"""Metric pages: one writer, many readers, nothing lost."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.errors import MLServerError
from mlserver.pages import (
    EXEMPLAR_AGE_S,
    PAGE_BYTES,
    SPARE_BYTES,
    Exemplar,
    Key,
    Page,
    PageFull,
    create_memory,
)

SMALL = SPARE_BYTES + 64 * 1024
A_TRACE, ANOTHER = "0af7651916cd43dd8448eb211c80319c", "f" * 32

text = st.text(st.characters(codec="utf-8"), max_size=20)
keys = st.builds(
    Key,
    kind=st.sampled_from(["counter", "gauge", "histogram"]),
    name=text,
    labels=st.lists(text, max_size=3).map(tuple),
    bounds=st.lists(st.floats(0.001, 100), max_size=4).map(tuple),
)
words = st.integers(0, 2**64 - 1)


@pytest.fixture
def descriptor():
    memory = create_memory()
    yield memory
    os.close(memory)


def python(script, descriptor):
    """A process of its own that has a page's descriptor as ``page``."""
    start = (
        "import os, signal, sys\nfrom mlserver.pages import Key, Page\npage = Page.shared(int(sys.argv[1]))\n"
    )
    return subprocess.Popen([sys.executable, "-c", start + script, str(descriptor)], pass_fds=[descriptor])


def as_words(memory):
    return memoryview(memory).cast("Q")


@given(st.lists(st.tuples(keys, st.floats(allow_nan=False)), max_size=30))
def test_a_reader_sees_what_the_writer_wrote(steps):
    memory = bytearray(SMALL)
    writer, reader = Page(memory), Page(memory)
    expected = {}
    for key, value in steps:
        series = writer.series(key)
        series[0] = value
        expected[key] = value
        assert {found: values[0] for found, values in reader.read()} == expected
        assert all(len(values) == found.size for found, values in reader.read())
    for name in {key.name for key in expected}:
        assert Page(memory).keys(name) == {key.labels for key in expected if key.name == name}


def test_a_new_series_is_zero_and_an_old_one_is_found_again():
    page = Page.private()
    key = Key("histogram", "duration", ("/predict",), (0.1, 1.0))
    values = page.series(key)
    assert list(values) == [0.0, 0.0, 0.0, 0.0]
    values[1] += 1.0
    assert list(page.series(key)) == [0.0, 1.0, 0.0, 0.0]


def test_a_successor_goes_on_counting_where_its_killed_predecessor_stopped(descriptor):
    script = (
        "page.series(Key('counter', 'requests'))[0] += 3\n"
        "page.series(Key('gauge', 'active'))[0] = 7\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    reader = Page.shared(descriptor)
    for death in (1, 2):
        assert python(script, descriptor).wait() == -signal.SIGKILL
        assert dict(reader.read()) == {
            Key("counter", "requests"): (3.0 * death,),
            Key("gauge", "active"): (7.0,),
        }


def test_a_gauge_that_nobody_writes_any_more_has_no_value():
    page = Page.private()
    gauge, counter = Key("gauge", "loaded", ("1",)), Key("counter", "requests")
    page.series(gauge)[0] = 1.0
    page.series(counter)[0] = 2.0
    page.reset_gauges()
    found = dict(page.read())
    assert math.isnan(found[gauge][0])
    assert found[counter] == (2.0,)
    page.series(gauge)[0] = 0.0
    assert dict(page.read())[gauge] == (0.0,)


def test_nobody_can_shrink_a_page_under_its_readers(descriptor):
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL


def test_a_page_takes_memory_only_for_what_is_written(descriptor):
    page = Page.shared(descriptor)
    page.series(Key("counter", "requests"))[0] = 1.0
    page.reset_gauges()
    assert dict(Page.shared(descriptor).read())
    assert os.fstat(descriptor).st_blocks * 512 <= 4096 * 2


@pytest.mark.parametrize("layout", [99, 0x4D4C5347_00000001])
def test_a_page_of_another_layout_is_refused_with_what_to_do(layout):
    memory = bytearray(SMALL)
    memory[:8] = layout.to_bytes(8, sys.byteorder)
    with pytest.raises(MLServerError, match=rf"layout {layout:#x}.*restart"):
        Page(memory)


# Room.


def fill(page, name, **options):
    """Adds series until there is no room: those added, and the one that was refused."""
    added = []
    while True:
        key = Key("counter", name, (str(len(added)),))
        try:
            page.series(key, **options)[0] = len(added)
        except PageFull as error:
            assert f"no room for {key.name} {key.labels}" in str(error)  # noqa: PT017
            return added, key
        added.append(key)


def test_a_full_page_refuses_a_series_and_keeps_the_others():
    page = Page(bytearray(SMALL))
    added, refused = fill(page, "errors")
    assert dict(page.read()) == {key: (float(key.labels[0]),) for key in added}
    assert page.series(added[7])[0] == 7.0
    assert (SMALL - SPARE_BYTES) / 80 < len(added) < (SMALL - SPARE_BYTES) / 40
    assert refused not in dict(page.read())


def test_spare_room_is_for_those_who_may_have_it_and_ends_too():
    page = Page(bytearray(SMALL))
    _, refused = fill(page, "errors")
    page.series(refused, spare=True)[0] = 1.0
    added, _ = fill(page, "spare", spare=True)
    assert SPARE_BYTES / 80 < len(added) < SPARE_BYTES / 40
    assert dict(page.read())[refused] == (1.0,)


@pytest.mark.parametrize(
    "key",
    [
        Key("counter", "long", ("x" * 8 * 2**16,)),
        Key("histogram", "wide", (), tuple(map(float, range(2**16)))),
    ],
)
def test_a_series_that_is_larger_than_its_head_can_say_is_refused(key):
    page = Page.private()
    with pytest.raises(PageFull):
        page.series(key)
    page.series(Key("counter", "next"))[0] = 1.0
    assert dict(page.read()) == {Key("counter", "next"): (1.0,)}


# What a reader can meet.


@given(st.lists(keys, min_size=1, max_size=6, unique=True), st.data())
def test_whatever_is_not_yet_to_be_seen_of_the_last_series_a_reader_stops_before_it(series, data):
    memory = bytearray(SMALL)
    writer = Page(memory)
    for key in series[:-1]:
        writer.series(key)
    before = as_words(memory)[1]
    writer.series(series[-1])
    whole = bytes(memory)
    key_end = before + 1 + (as_words(memory)[before] & 0xFFFF)
    late = data.draw(st.sets(st.integers(before, key_end - 1), min_size=1))
    for word in late:
        as_words(memory)[word] = 0
    reader = Page(memory)
    assert [key for key, _ in reader.read()] == series[:-1]
    memory[:] = whole
    assert [key for key, _ in reader.read()] == series


@given(
    st.lists(keys, min_size=1, max_size=4, unique=True),
    st.dictionaries(st.integers(0, 200), words, min_size=1),
)
def test_any_words_at_all_are_read_as_a_beginning_of_the_series_and_no_error(series, broken):
    memory = bytearray(SMALL)
    writer = Page(memory)
    places = []
    for key in series:
        start = as_words(memory)[1]
        writer.series(key)
        places.append(range(start, as_words(memory)[1] - key.size))
    for place, word in broken.items():
        as_words(memory)[2 + place] ^= word
    changed = {2 + place for place, word in broken.items() if word}
    whole = next((n for n, place in enumerate(places) if changed & set(place)), len(series))
    assert [key for key, _ in Page(memory).read()] == series[:whole]


@given(st.lists(keys, min_size=1, max_size=4, unique=True), st.data())
def test_of_series_beyond_the_words_in_use_nothing_is_read(series, data):
    memory = bytearray(SMALL)
    writer = Page(memory)
    ends = []
    for key in series:
        writer.series(key)
        ends.append(as_words(memory)[1])
    used = data.draw(st.integers(0, ends[-1]))
    as_words(memory)[1] = used
    assert [key for key, _ in Page(memory).read()] == series[: sum(end <= used for end in ends)]


@pytest.mark.parametrize("used", [2**20, 2**64 - 1])
def test_no_words_beyond_the_page_are_read(used):
    memory = bytearray(SMALL)
    Page(memory).series(Key("counter", "requests"))
    memory = bytearray(memory[: as_words(memory)[1] * 8])
    as_words(memory)[1] = used
    assert dict(Page(memory).read()) == {Key("counter", "requests"): (0.0,)}


@given(st.lists(words, max_size=40), words)
def test_no_page_is_so_broken_that_reading_it_fails(content, used):
    memory = bytearray(SMALL)
    page = Page(memory)
    as_words(memory)[1] = used
    as_words(memory)[2 : 2 + len(content)] = memoryview(
        b"".join(w.to_bytes(8, "little") for w in content)
    ).cast("Q")
    assert list(page.read()) == []
    assert list(page.read_exemplars()) == []
    assert page.keys("") == set()


@pytest.mark.parametrize("body", [b'["counter","x",[],[]]', b'["histogram","x",[],[1]]'])
def test_a_series_that_is_said_to_end_elsewhere_than_it_does_is_not_read(body):
    memory = bytearray(SMALL)
    page = Page(memory)
    body += b" " * (-len(body) % 8)
    size = len(body) // 8
    memory[24 : 24 + len(body)] = body
    as_words(memory)[2] = size | 2 << 16 | crc32(body) << 32
    for used in (size + 3, size + 4, size + 5, 2**63):
        as_words(memory)[1] = used
        assert list(page.read()) == []


@given(st.lists(keys, max_size=3, unique=True), keys, keys, st.data())
def test_the_successor_of_a_writer_that_died_within_a_series_goes_on(series, lost, new, data):
    memory = bytearray(SMALL)
    writer = Page(memory)
    for key in series:
        writer.series(key)
    end = as_words(memory)[1]
    if lost not in series:
        writer.series(lost)
        tail = (as_words(memory)[1] - end) * 8
        done = data.draw(st.integers(0, tail))  # bytes of it that were written
        memory[end * 8 + done : end * 8 + tail] = bytes(tail - done)
        if data.draw(st.booleans()):
            as_words(memory)[end] = 0
        as_words(memory)[1] = end
    successor = Page(memory)
    if data.draw(st.booleans()):
        successor.reset_gauges()
        assert not any(memory[end * 8 : end * 8 + 800])
    values = list(successor.series(new))
    if new not in series:
        assert values == [0.0] * new.size
        series = [*series, new]
    assert [key for key, _ in Page(memory).read()] == series


def test_a_writer_killed_at_any_moment_leaves_a_page_that_its_successor_goes_on_with(descriptor):
    script = (
        "start = max((int(key.labels[0]) for key, _ in page.read()), default=0)\n"
        "for number in range(start + 1, start + 5000):\n"
        "    page.series(Key('counter', 'errors', (str(number),)))[0] += 1\n"
        "    page.series(Key('counter', 'errors', (str(start),)))[0] += 1\n"
        "while True:\n"
        "    page.series(Key('counter', 'errors', (str(start),)))[0] += 1\n"
    )
    reader, before = Page.shared(descriptor), {}
    for death in range(1, 4):
        writer = python(script, descriptor)
        while len(before) < 300 * death:
            now = {key: value for key, (value,) in reader.read()}
            assert before.keys() <= now.keys()
            assert all(value <= now[key] for key, value in before.items())
            before = now
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    numbers = sorted(int(key.labels[0]) for key in before)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


def test_a_reader_beside_a_busy_writer_sees_numbers_that_only_rise():
    memory = bytearray(PAGE_BYTES)
    done = threading.Event()

    def write():
        page = Page(memory)
        for number in range(3000):
            total = page.series(Key("histogram", "duration", (), (1.0,)))
            total[number % 2] += 1.0
            total[-1] += 0.25
            page.series(Key("counter", "errors", (str(number),)))[0] = 1.0
            page.put_exemplar(Key("histogram", "duration", (), (1.0,)), 0, f"{number:032x}", number, number)
        done.set()

    writer = threading.Thread(target=write)
    reader, before, exemplar = Page(memory), {}, 0
    writer.start()
    while not done.is_set():
        now = dict(reader.read())
        for key, values in before.items():
            assert all(old <= new for old, new in zip(values, now[key], strict=True))
        before = now
        for _, (found, _) in reader.read_exemplars():
            if found is not None:
                assert int(found.trace_id, 16) == found.value == found.at >= exemplar
                exemplar = found.value
    writer.join()
    now = dict(reader.read())
    assert now[Key("histogram", "duration", (), (1.0,))] == (1500.0, 1500.0, 750.0)
    assert len(now) == 3001


# Exemplars.

DURATION = Key("histogram", "duration", ("/predict",), (0.1, 1.0))


@pytest.fixture
def page():
    page = Page.private()
    page.series(DURATION)
    return page


def test_an_exemplar_is_read_beside_its_bucket_and_is_no_series_of_its_own(page):
    page.put_exemplar(DURATION, 2, A_TRACE, 7.5, 1000.25)
    page.put_exemplar(DURATION, 0, ANOTHER, 0.05, 1001.0)
    assert list(page.read_exemplars()) == [
        (DURATION, [Exemplar(ANOTHER, 0.05, 1001.0), None, Exemplar(A_TRACE, 7.5, 1000.25)])
    ]
    assert dict(page.read()) == {DURATION: (0.0,) * 4}
    assert page.keys("duration") == {("/predict",)}


@given(st.integers(0, 2**128 - 1), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_any_exemplar_comes_back_as_it_was(number, value, at):
    page = Page(bytearray(SMALL))
    given = Exemplar(f"{number:032x}", value, at)
    page.put_exemplar(DURATION, 1, *given)
    assert list(page.read_exemplars()) == [(DURATION, [None, given, None])]


@pytest.mark.parametrize(
    ("value", "later", "kept"),
    [
        (0.5, 1.0, False),
        (0.6, 1.0, True),
        (0.7, 1.0, True),
        (0.5, EXEMPLAR_AGE_S - 0.5, False),
        (0.5, EXEMPLAR_AGE_S + 0.5, True),
        (0.5, -EXEMPLAR_AGE_S - 0.5, True),  # the clock was set back
    ],
)
def test_the_worst_recent_observation_is_the_exemplar(page, value, later, kept):
    first, second = Exemplar(A_TRACE, 0.6, 1000.0), Exemplar(ANOTHER, value, 1000.0 + later)
    page.put_exemplar(DURATION, 1, *first)
    page.put_exemplar(DURATION, 1, *second)
    assert list(page.read_exemplars()) == [(DURATION, [None, second if kept else first, None])]


@given(st.integers(0, 4), words.filter(bool))
def test_an_exemplar_that_is_half_written_is_none_and_the_next_one_is_whole(word, change):
    memory = bytearray(SMALL)
    page = Page(memory)
    page.put_exemplar(DURATION, 2, A_TRACE, 7.5, 1000.25)
    end = as_words(memory)[1]
    as_words(memory)[end - 5 + word] ^= change
    assert list(Page(memory).read_exemplars()) == [(DURATION, [None, None, None])]
    page.put_exemplar(DURATION, 2, ANOTHER, 1.5, 1.0)
    assert list(page.read_exemplars()) == [(DURATION, [None, None, Exemplar(ANOTHER, 1.5, 1.0)])]


def test_a_full_page_has_no_exemplars_more():
    page = Page(bytearray(SPARE_BYTES + 256))
    page.series(Key("histogram", "x", (), (1.0,)))
    with pytest.raises(PageFull):
        page.put_exemplar(Key("histogram", "x" * 300, (), (1.0,)), 0, A_TRACE, 1.0, 1.0)


def test_the_layout_is_what_it_is_said_to_be():
    memory = bytearray(SMALL)
    page = Page(memory)
    page.series(Key("counter", "requests", ("a",)))[0] = 2.5
    found = as_words(memory)
    size = found[2] & 0xFFFF
    body = bytes(memory[24 : 24 + size * 8])
    assert found[0] == 0x4D4C5347_00000002
    assert found[1] == 2 + 1 + size + 1
    assert found[2] == size | 1 << 16 | crc32(body) << 32
    assert json.loads(body) == ["counter", "requests", ["a"], []]
    assert memoryview(memory).cast("d")[3 + size] == 2.5


FORKED = """
import os
from mlserver.pages import Key, Page

page = Page.private()
counter = page.series(Key("counter", "c"))
counter[0] = 1.0
if os.fork() == 0:
    counter[0] = 100.0
    os._exit(0)
os.wait()
print(counter[0])
"""


def test_a_page_of_one_process_is_not_written_by_those_it_forks():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"


def test_a_page_s_memory_is_inherited_by_nobody_who_was_not_given_it():
    descriptor = create_memory()
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
