"""What a process of its own is needed for: the global tracer provider, and what is read at import."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run_python(code, **environ):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr
    return done


BEGIN = """
import logging
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from mlserver.config import make_config
from mlserver.observers.traces import Traces
logging.basicConfig(level="INFO")
config = make_config({"predictor": {"module": "a", "class_name": "A"}}, Path())
traces = Traces(config, worker=0, on_drop=print)
"""


def test_a_provider_that_a_predictor_sets_is_refused_with_one_line():
    code = (
        BEGIN
        + """
traces.install()
ours = trace.get_tracer_provider()
trace.set_tracer_provider(TracerProvider())
trace.set_tracer_provider(TracerProvider())
assert trace.get_tracer_provider() is ours
"""
    )
    said = run_python(code).stderr
    assert said.count("that one stays") == 1
    assert "Overriding" not in said


def test_a_provider_that_was_there_before_stays():
    code = (
        BEGIN
        + """
before = TracerProvider()
trace.set_tracer_provider(before)
traces.install()
assert trace.get_tracer_provider() is before
"""
    )
    said = run_python(code).stderr
    assert "before the server's" in said
    assert "Overriding" not in said


def test_propagators_that_are_not_known_are_named():
    code = (
        BEGIN.replace("traces = ", "try: ")
        + """
except Exception as error: print(type(error).__name__, error)
"""
    )
    assert (
        "MLServerError OTEL_PROPAGATORS: Propagator no-such"
        in run_python(code, OTEL_PROPAGATORS="no-such").stdout
    )


@pytest.mark.parametrize(
    ("propagators", "sampled"), [("none", "False"), ("baggage", "False"), ("tracecontext", "True")]
)
def test_propagators_are_those_of_the_environment(propagators, sampled):
    code = (
        BEGIN
        + """
decided = traces.decide({b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
print(decided.parent_id == "00f067aa0ba902b7")
"""
    )
    assert run_python(code, OTEL_PROPAGATORS=propagators).stdout.split() == [sampled]
