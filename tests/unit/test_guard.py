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
from mlserver.lines import ATOMIC_BYTES, form_of
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


class Lines(list):
    """Where lines go."""

    longest = ATOMIC_BYTES
    tell = None

    def write(self, lines):
        self.extend(lines)


FORM = form_of(structured=True, ecs=False, longest=ATOMIC_BYTES, colours=False)


@pytest.mark.parametrize("method", ["M" * 10_000, "é" * 10_000])
def test_a_line_stays_whole_on_a_pipe_however_long_the_method_is(method):
    written = Lines()
    log = RequestLog(
        written,
        FORM,
        structured=True,
        ecs=False,
        model="iris",
        version="1",
        worker=0,
        level=logging.INFO,
    )
    log([a_call(405, method=method)], [])
    (line,) = written
    assert len(line) < ATOMIC_BYTES
    assert json.loads(line)["http_status"] == 405
