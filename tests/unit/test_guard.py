"""Observers: what fails in them fails no request, and what clients send neither swells nor forges them."""

from __future__ import annotations

import json
import logging
import random
import string
from pathlib import Path

import pytest

from mlserver.config import make_config
from mlserver.errors import InternalError, PredictionTimeout
from mlserver.lines import ATOMIC_BYTES, render_json, take_over_logging
from mlserver.observers.logs import RequestLog
from mlserver.observers.metrics import Metrics
from mlserver.pace import EVERY_S
from mlserver.pages import Page
from mlserver.serving.call import Call, Response
from mlserver.serving.guard import Guard

CONFIG = make_config({"predictor": {"module": "m", "class_name": "Model"}}, Path())


def a_call(status=200, *, method="POST", error=None):
    call = Call(method, "/predict", 10.0, request_id="abc", finished=10.001, error=error)
    call.response = Response(status, b"{}")
    return call


def failing(*_):
    raise OSError("no space")


def test_what_a_guarded_observer_is_given_reaches_it():
    seen = []
    Guard(lambda *args, **kwargs: seen.append((args, kwargs)), name="logs")(1, two=2)
    assert seen == [((1,), {"two": 2})]


def test_each_fault_of_an_observer_is_told_with_its_name_and_raises_nothing():
    told = []
    guard = Guard(failing, name="metrics", on_fault=told.append)
    for _ in range(3):
        guard([], [])
    assert told == ["metrics"] * 3
    Guard(failing, name="metrics")([], [])


def test_a_fault_that_goes_on_is_logged_once_a_minute(monkeypatch, caplog):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    guard = Guard(failing, name="metrics")
    logged = []
    for step in (0.0, 1.0, EVERY_S - 1.5, 0.5, 1.0, EVERY_S - 1.0):
        now += step
        guard([], [])
        logged.append(len(caplog.records))
    assert logged == [1, 1, 1, 2, 2, 3]
    assert "metrics" in caplog.text
    assert "OSError: no space" in caplog.text


@pytest.mark.parametrize("error", [PredictionTimeout("late"), InternalError("x")])
def test_only_what_the_predictor_did_counts_as_its_error(error):
    page = Page.private()
    Metrics(page, CONFIG)([a_call(error.status, error=error)], [])
    values = {key: values for key, values in page.read() if key.name == "prediction_errors_total"}
    assert not any(sum(counts) for counts in values.values())


def test_methods_that_clients_make_up_do_not_fill_the_memory():
    page, chance = Page.private(), random.Random(1)
    metrics = Metrics(page, CONFIG)
    for _ in range(10_000):
        metrics([a_call(405, method="".join(chance.choices(string.ascii_uppercase, k=8)))], [])
    assert len(metrics._of_call) < 100
    assert len(list(page.read())) < 100


@pytest.mark.parametrize("method", ["M" * 10_000, "é" * 10_000])
def test_a_line_stays_whole_on_a_pipe_however_long_the_method_is(method):
    written = []
    writer = type("Lines", (), {"write": staticmethod(written.extend)})
    log = RequestLog(writer, render_json, model="iris", version="1", worker=0, level=logging.INFO)
    log([a_call(405, method=method)], [])
    (line,) = written
    assert len(line) < ATOMIC_BYTES
    assert json.loads(line)["http_status"] == 405


@pytest.fixture
def root(monkeypatch):
    """The root logger, which is as before after the test."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    yield root
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    "wrap", [lambda given: given, lambda given: {"fields": given}], ids=["extra", "structlog"]
)
def test_what_is_logged_beside_a_message_cannot_replace_the_fields_of_a_line(wrap):
    written = []
    writer = type("Lines", (), {"write": staticmethod(written.extend)})
    take_over_logging(writer, render_json, level=logging.INFO, worker=2)
    forged = {"level": "DEBUG", "timestamp": "never", "logger": "nobody", "worker": 9, "rows": 3}
    logging.getLogger("library").warning("careful", extra=wrap(forged))
    (record,) = map(json.loads, written)
    assert record["timestamp"][:2] == "20"
    assert record | {"timestamp": ""} == {
        "timestamp": "", "level": "WARNING", "message": "careful", "logger": "library", "worker": 2, "rows": 3,
    }  # fmt: skip
