"""Ids: what a client sent is kept where it is fit, and what is made differs and sorts by time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.serving import ids
from mlserver.serving.call import Trace
from mlserver.serving.ids import accept_id, caller_trace, new_id


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set: seconds since 1970."""

    class Clock:
        def set(self, seconds):
            monkeypatch.setattr("time.time", lambda: seconds)
            monkeypatch.setattr("time.time_ns", lambda: int(seconds * 1e6) * 1000)

        def start(self, seconds):
            """As if this process had made no id before."""
            self.set(seconds)
            ids._begin()

    made = Clock()
    made.start(1_700_000_000)
    yield made
    monkeypatch.undo()
    ids._begin()


def time_in(made):
    """Microseconds."""
    return int(made.split("-")[0], 16)


def test_ids_made_in_a_row_differ_and_sort():
    made = [new_id() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)


def test_an_id_holds_the_time_it_was_made_at_to_the_millisecond():
    before = time.time_ns() // 1000
    made = new_id()
    after = time.time_ns() // 1000
    assert before - 1000 <= time_in(made) <= after


def test_an_id_is_one_that_is_kept_where_it_is_sent_on():
    made = new_id()
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", made)
    assert accept_id(made.encode()) == made


def test_ids_made_while_the_clock_stands_differ_and_sort(clock):
    made = [new_id() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)


@pytest.mark.parametrize("start", [0xFFFF_FFFF / 1e6, 0xFFF_FFFF_FFFF / 1e6, 1_700_000_000])
def test_ids_of_later_milliseconds_are_later_in_the_alphabet(clock, start):
    clock.start(start)
    made = []
    for step in range(3000):
        clock.set(start + step / 1000)
        made.append(new_id())
    assert made == sorted(made)
    assert time_in(made[-1]) - time_in(made[0]) == pytest.approx(2_999_000, abs=1001)


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=20), st.integers(1, 600))
def test_ids_differ_and_sort_however_the_clock_is_set(times, each):
    with pytest.MonkeyPatch.context() as patch:
        made = []
        for seconds in times:
            patch.setattr("time.time", lambda seconds=seconds: seconds)
            patch.setattr("time.time_ns", lambda seconds=seconds: int(seconds * 1e9))
            made += [new_id() for _ in range(each)]
    ids._begin()
    assert len(set(made)) == len(made)
    assert made == sorted(made)


def test_threads_never_make_the_same_id():
    made, begin = [], threading.Barrier(8)

    def work():
        begin.wait()
        made.extend([new_id() for _ in range(20_000)])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(set(made)) == 160_000


def test_a_process_that_was_forked_makes_others():
    reading, writing = os.pipe()
    code = (
        "import os, time; time.time = lambda: 1.7e9; time.time_ns = lambda: 1700000000000000000;"
        "from mlserver.serving.ids import new_id; new_id(); child = os.fork();"
        f"os.write({writing}, b''.join(new_id().encode() + b' ' for _ in range(300)));"
        "child and os.wait()"
    )
    subprocess.run([sys.executable, "-c", code], pass_fds=[writing], check=True)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        made = pipe.read().split()
    assert len(made) == len(set(made)) == 600


def test_other_processes_make_others_at_the_same_time():
    code = "import time; time.time_ns = lambda: 1700000000000000000; from mlserver.serving.ids import new_id; print(new_id())"
    made = [subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)]
    assert made[0] != made[1]
    assert made[0][:14] == made[1][:14]


@pytest.mark.parametrize("value", [b"a", b"abc-123", b"A.Z_a:z-09", b"x" * 128])
def test_a_fit_id_is_kept(value):
    assert accept_id(value) == value.decode()


@pytest.mark.parametrize(
    "value", [None, b"", b"x" * 129, b"a b", b"a\n", b"\na", b'a"', b"a,b", b"a\\", b"caf\xc3\xa9", b"a\x00"]
)
def test_an_id_that_is_missing_or_unfit_is_replaced(value):
    made = accept_id(value)
    assert made.encode() != value
    assert accept_id(made.encode()) == made


@given(st.binary(max_size=200) | st.from_regex(rb"[A-Za-z0-9._:-]{1,130}\n?", fullmatch=True))
def test_whatever_is_sent_the_id_can_stand_anywhere(value):
    accepted = accept_id(value)
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", accepted)
    assert (accepted.encode() == value) == bool(re.fullmatch(rb"[A-Za-z0-9._:-]{1,128}", value))


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("flags", ["01", "03", "ff"])
def test_a_trace_that_the_caller_records_is_known_by_its_ids(flags):
    headers = {b"traceparent": f"00-{TRACE}-{SPAN}-{flags}".encode()}
    assert caller_trace(headers) == Trace(TRACE, None, SPAN)


@pytest.mark.parametrize("value", [None, b"", b"x", f"00-{TRACE}-{SPAN}-00".encode(), b"\xff" * 55])
def test_without_a_recorded_trace_there_is_none(value):
    assert caller_trace({} if value is None else {b"traceparent": value}) is None


@given(st.binary(max_size=80) | st.from_regex(rb"[0-9a-g]{2}-[0-9a-g]{32}-[0-9a-g]{16}-[0-9a-g]{2}.{0,3}"))
def test_whatever_is_sent_a_trace_has_ids_of_hexadecimal_digits(value):
    trace = caller_trace({b"traceparent": value})
    if trace is not None:
        assert re.fullmatch("[0-9a-f]{32}", trace.trace_id)
        assert re.fullmatch("[0-9a-f]{16}", trace.parent_id)
        assert value[3:35].decode() == trace.trace_id
