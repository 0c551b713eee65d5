"""Ids: what a client sent is kept where it is fit, and what is made differs and sorts by time."""

from __future__ import annotations

import time

import pytest

from mlserver.serving.ids import accept_id, new_id, sampled_trace


def test_ids_made_in_a_row_differ_and_sort_by_time():
    before = time.time_ns() // 1000
    ids = [new_id() for _ in range(10_000)]
    after = time.time_ns() // 1000
    assert len(set(ids)) == len(ids)
    times = [int(made.split("-")[0], 16) for made in ids]
    assert [before, *times, after] == sorted([before, *times, after])


def test_ids_made_at_the_same_time_differ(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    assert len({new_id() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "start_ms", [0x1_0000_0000 // 1000 - 9, 0x1000_0000_0000 // 1000 - 9, 1_700_000_000_000]
)
def test_ids_of_later_milliseconds_are_later_in_the_alphabet(monkeypatch, start_ms):
    ids = []
    for step in range(3000):
        monkeypatch.setattr("time.time_ns", lambda now=start_ms + step: now * 1_000_000)
        ids.append(new_id())
    assert ids == sorted(ids)


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


TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        b"00-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-03" % (TRACE, SPAN),
        b"cc-%b-%b-01" % (TRACE, SPAN),
        b"cc-%b-%b-01-what-the-future-brings" % (TRACE, SPAN),
    ],
)
def test_the_trace_that_a_client_records_is_known_by_its_traceparent(header):
    assert sampled_trace(header) == TRACE.decode()


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"00-%b-%b-00" % (TRACE, SPAN),
        b"00-%b-%b-02" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01 " % (TRACE, SPAN),
        b"00-%b-%b-01\n" % (TRACE, SPAN),
        b"00-%b-%b" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE[1:], SPAN),
        b"00-%b-%b-0g" % (TRACE, SPAN),
        b"cc-%b-%b-01x" % (TRACE, SPAN),
    ],
)
def test_a_traceparent_that_is_unfit_or_not_sampled_names_no_trace(header):
    assert sampled_trace(header) is None
