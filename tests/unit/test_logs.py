"""Log lines: their fields, their form, and how they reach a file or a pipe."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.errors import InvalidInput, PredictionFailed
from mlserver.lines import ATOMIC_BYTES, LineWriter, cut, cut_stack, render_json, render_text, timestamp
from mlserver.observers.logs import RequestLog
from mlserver.serving.call import Batch, Call, Response

SEED_FIELDS = [
    "timestamp", "level", "message", "request_id", "model", "version", "duration_ms", "input_shape", "output_shape",
    "status",
]  # fmt: skip


class Lines:
    def __init__(self):
        self.written = []

    def write(self, lines):
        self.written.append(list(lines))


def a_call(status=200, **fields):
    call = Call("POST", "/predict", 10.0, request_id="abc-123", operation="predict", **fields)
    call.finished, call.input_shape = 10.0451239, (1, 4)
    call.response = Response(status, b'{"predictions": [1]}')
    call.output_shape = (1,) if status == 200 else None
    return call


def logged(*calls, level=logging.INFO, render=render_json, **settings):
    lines = Lines()
    log = RequestLog(lines, render, model="iris", version="1.0.0", worker=1, level=level, **settings)
    log(calls, [])
    return [json.loads(line) for turn in lines.written for line in turn]


def test_a_line_begins_with_the_fields_of_the_specification_in_its_order():
    (record,) = logged(a_call())
    assert list(record)[: len(SEED_FIELDS)] == SEED_FIELDS
    assert record | {"timestamp": ""} == {
        "timestamp": "", "level": "INFO", "message": "Prediction completed", "request_id": "abc-123", "model": "iris",
        "version": "1.0.0", "duration_ms": 45.124, "input_shape": [1, 4], "output_shape": [1], "status": "success",
        "endpoint": "/predict", "method": "POST", "http_status": 200, "error_type": None, "worker": 1,
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])


@pytest.mark.parametrize(
    ("status", "level"), [(200, "INFO"), (404, "WARNING"), (499, "WARNING"), (503, "ERROR")]
)
def test_the_level_follows_the_status(status, level):
    assert [record["level"] for record in logged(a_call(status))] == [level]


def test_probes_and_scrapes_are_logged_at_debug_only():
    assert logged(a_call(503, quiet=True)) == []
    assert [record["level"] for record in logged(a_call(503, quiet=True), level=logging.DEBUG)] == ["DEBUG"]


def test_all_lines_of_a_turn_are_written_at_once():
    lines = Lines()
    log = RequestLog(lines, render_json, model="m", version="1", worker=0, level=logging.INFO)
    log([a_call(), a_call(), a_call()], [])
    assert [len(turn) for turn in lines.written] == [3]


def test_a_failed_prediction_names_the_exception_and_where_it_was_raised():
    call = a_call(500)
    call.error = PredictionFailed("The predictor failed.")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as cause:
        call.error.__cause__ = cause
    (record,) = logged(call)
    assert record["error_type"] == "ZeroDivisionError"
    assert record["error"] == "division by zero"
    assert "test_a_failed_prediction" in record["exception"]


def test_a_refused_request_says_what_the_client_was_told():
    call = a_call(422)
    call.error = InvalidInput("row 2 has 3 values, expected 4")
    (record,) = logged(call)
    assert (record["error_type"], record["error"]) == ("InvalidInput", "row 2 has 3 values, expected 4")
    assert "exception" not in record


def test_a_shared_run_is_named_and_a_run_alone_is_not():
    assert logged(a_call(batch=Batch([], "predict", 2, id="b-1")))[0]["batch_id"] == "b-1"
    assert "batch_id" not in logged(a_call(batch=Batch([], "predict", 1)))[0]


def test_payloads_are_in_the_line_only_when_asked_for():
    call = a_call(body=b'{"ndarray": [[1]]}')
    assert "request_body" not in logged(call)[0]
    record = logged(call, payloads=True)[0]
    assert (record["request_body"], record["response_body"]) == ('{"ndarray": [[1]]}', '{"predictions": [1]}')


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)
heads = {"timestamp": "2026-01-01T00:00:00.000Z", "level": "INFO"}


@given(message=st.text(st.characters()), fields=st.dictionaries(st.text(), json_like))
def test_whatever_is_logged_is_one_line_of_valid_json(message, fields):
    line = render_json(heads | {"message": message} | fields)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert isinstance(json.loads(line), dict)


def test_cycles_surrogates_and_values_without_repr_are_still_one_line_of_json():
    class Broken:
        def __repr__(self):
            raise ValueError

    cycle = []
    cycle.append(cycle)
    for value in (cycle, "\ud800", Broken(), {"x": "\udfff"}, 1 << 100, b"\xff"):
        assert json.loads(render_json(heads | {"message": "m", "value": value}))["message"] == "m"


@given(message=st.text(), value=st.text())
def test_a_terminal_line_cannot_be_forged(message, value):
    line = render_text(heads | {"message": message, "value": value})
    assert line.count(b"\n") == 1


@given(st.lists(st.text(st.sampled_from('"\\x00é\\\\a'), max_size=6000), max_size=4))
def test_a_line_fits_into_what_a_pipe_takes_whole(texts):
    fields = {f"field_{number}": text for number, text in enumerate(texts)}
    line = render_json(heads | {"message": "m", "http_status": 200, "ids": ["i" * 128] * 64} | fields)
    assert len(line) <= ATOMIC_BYTES
    assert json.loads(line)["http_status"] == 200


def test_long_texts_are_cut_with_a_mark_and_stacks_keep_their_end():
    assert cut("é" * 3000).endswith("é…(4976 bytes more)")
    assert cut_stack("x" * 5000 + "ValueError: no").endswith("ValueError: no")
    assert cut_stack("x" * 5000).startswith("(2952 bytes more)…")


def test_timestamps_have_milliseconds_and_are_utc():
    assert timestamp(1705314645.1239) == "2024-01-15T10:30:45.123Z"


def test_two_processes_on_one_pipe_never_tear_a_line():
    script = (
        "import sys\n"
        "from mlserver.lines import LineWriter\n"
        "writer = LineWriter(1)\n"
        "line = (sys.argv[1] * 1200).encode() + b'\\n'\n"
        "for _ in range(300): writer.write([line] * 5)\n"
    )
    read, write = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", script, name], stdout=write) for name in "ab"]
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = pipe.read().splitlines()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(lines) == 3000
    assert set(lines) == {b"a" * 1200, b"b" * 1200}


def test_threads_share_a_writer(tmp_path):
    writer = LineWriter.to_file(tmp_path / "server.log")
    threads = [
        threading.Thread(target=lambda: [writer.write([b"x" * 99 + b"\n"]) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    writer.close()
    assert (tmp_path / "server.log").read_bytes() == (b"x" * 99 + b"\n") * 800


def test_lines_that_cannot_be_written_are_counted_and_nothing_is_raised(capfd):
    dropped = []
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = LineWriter(os.dup(full.fileno()), on_drop=dropped.append)
        writer.write([b"one\n", b"two\n"])
        writer.write([b"three\n"])
        writer.close()
    assert dropped == [2, 1]
    said = capfd.readouterr().err.splitlines()
    assert said == ["mlserver: log lines cannot be written and are lost: No space left on device"]


class Disk:
    """Stands for ``os.write`` on a disk that has room for so many bytes."""

    def __init__(self, room):
        self.room, self.held = room, b""

    def write(self, descriptor, data):
        if descriptor == 2:
            return len(data)
        if not self.room:
            raise OSError(28, "No space left on device")
        part = bytes(data[: self.room])
        self.held += part
        self.room -= len(part)
        return len(part)


@given(
    rooms=st.lists(st.integers(0, 40), max_size=6),
    turns=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), max_size=6),
)
def test_what_a_full_disk_cuts_off_never_swallows_a_line_and_every_lost_line_is_counted(rooms, turns):
    with pytest.MonkeyPatch.context() as patch, Path(os.devnull).open("wb", buffering=0) as null:
        disk, dropped, sent = Disk(0), [], []
        patch.setattr(os, "write", disk.write)
        writer = LineWriter(os.dup(null.fileno()), on_drop=dropped.append)
        for number, sizes in enumerate(turns):
            disk.room = rooms[number % len(rooms)] if rooms else 0
            lines = [b"<" + b"x" * size + b">\n" for size in sizes]
            sent += lines
            writer.write(lines)
        writer.close()
    whole = [line for line in disk.held.split(b"\n") if line + b"\n" in sent]
    assert len(whole) + sum(dropped) == len(sent)


def test_chunks_for_a_pipe_hold_whole_lines_of_at_most_an_atomic_write(monkeypatch):
    read, write = os.pipe()
    writer, sizes = LineWriter(write), []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or real(fd, data))
    writer.write([b"x" * 999 + b"\n"] * 10)
    writer.close()
    os.close(read)
    assert sizes == [4000, 4000, 2000]
    assert max(sizes) <= ATOMIC_BYTES


LOGGING = """
import logging, os, warnings, structlog
from mlserver.lines import LineWriter, render_json
from mlserver.observers.logs import bind_ids, configure
from mlserver.serving.call import Batch, Call

configure(LineWriter(os.dup(1)), render_json, level=logging.INFO, worker=3)
bind_ids(Batch([Call("POST", "/predict", 0.0, request_id="abc")], "predict", 1))
structlog.get_logger().info("from structlog", rows=(1, 4))
logging.getLogger("library").warning("from %s", "logging", extra={"rows": 2})
structlog.get_logger().debug("too low")
warnings.warn("from warnings")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().error("failed", exc_info=True)
    logging.getLogger("library").exception("failed, too")
"""


def test_what_a_predictor_logs_by_any_means_has_one_form_and_the_ids_of_its_call():
    out = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, check=True).stdout
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["message"].split(":")[-1].strip() for record in records] == [
        "from structlog", "from logging", "from warnings", "failed", "failed, too",
    ]  # fmt: skip
    assert {(record["request_id"], record["worker"]) for record in records} == {("abc", 3)}
    assert [list(record)[:5] for record in records] == [
        ["timestamp", "level", "message", "logger", "worker"]
    ] * 5
    assert [record["level"] for record in records] == ["INFO", "WARNING", "WARNING", "ERROR", "ERROR"]
    assert (records[0]["rows"], records[1]["rows"]) == ([1, 4], 2)
    assert all("ZeroDivisionError" in record["exception"] for record in records[3:])
