"""The log level of a running server: all processes at once, until a reload."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

LOGGING = """
import logging, os, structlog

logging.getLogger("model").debug("imported by %d", os.getpid())


class Predictor:
    def predict(self, X):
        logging.getLogger("model").debug("by logging")
        structlog.get_logger("model").debug("by structlog")
        logging.getLogger("model").warning("a warning")
        return [f"1/{os.getpid()}"] * len(X)
"""
BEFORE_THE_MODEL = """
import logging, os
from wrapt import when_imported, wrap_function_wrapper

@when_imported("mlserver.server.listener")
def change(module):
    def make(wrapped, instance, args, kwargs):
        logging.getLogger("listener").debug("made by %d", os.getpid())
        return wrapped(*args, **kwargs)

    wrap_function_wrapper(module, "Listener.__init__", make)
"""
SAID = {"by logging", "by structlog"}


@pytest.fixture
def running(server):
    """Two workers, and a way to change their level."""

    def change(level):
        command = [MLSERVER, "log-level", level, server.folder / "mlserver.yaml"]
        return subprocess.run(command, env=os.environ | ports, capture_output=True, text=True, check=False)

    from tests.system.conftest import MLSERVER

    server.configure(predictor=LOGGING, workers=2)
    (server.folder / "sitecustomize.py").write_text(BEFORE_THE_MODEL)
    server.start(env=os.environ | {"PYTHONPATH": str(server.folder)})
    ports = {"MLSERVER_SERVER__MANAGEMENT__PORT": server.url("management").rpartition(":")[2]}
    server.change = change
    return server


def ask_both(server, eventually):
    """Lines since now that both workers have written for a prediction."""
    seen, before = set(), len(server.lines)

    def both():
        seen.add(server.who()[1])
        return len(seen) == 2

    eventually(both, "an answer of each worker")
    return server.lines[before:]


def said(lines):
    """Workers by what they said."""
    return {(line["worker"], line["message"]) for line in lines}


def everything(workers=(0, 1)):
    return {(worker, message) for worker in workers for message in SAID}


def test_a_level_holds_for_all_processes_at_once_until_a_reload(running, eventually):
    assert not everything() & said(ask_both(running, eventually))

    done = running.change("debug")
    assert (done.returncode, done.stdout, done.stderr) == (0, "DEBUG, was INFO\n", "")
    lines = ask_both(running, eventually)
    assert everything() <= said(lines)
    assert [
        line["level"] for line in running.lines if line["message"] == "Log level is now DEBUG, was INFO"
    ] == ["INFO"]
    running.get("/healthz")
    assert eventually(lambda: [line for line in running.lines if line.get("endpoint") == "/healthz"])

    done = running.change("ERROR")
    assert done.stdout == "ERROR, was DEBUG\n"
    assert [line["message"] for line in ask_both(running, eventually)] == []
    assert running.get("/log-level", at="management").json() == {"level": "ERROR"}

    assert running.reload().status_code == 200
    assert running.get("/log-level", at="management").json() == {"level": "INFO"}
    lines = ask_both(running, eventually)
    assert {(0, "a warning"), (1, "a warning")} <= said(lines)
    assert not everything() & said(lines)
    told = [line["message"] for line in running.lines if line["message"].startswith("Log level")]
    assert told == [
        f"Log level is now {now}, was {was}"
        for now, was in (("DEBUG", "INFO"), ("ERROR", "DEBUG"), ("INFO", "ERROR"))
    ]


def test_a_worker_that_is_started_later_has_the_level_from_its_first_line_on(running, eventually):
    running.change("DEBUG")
    _, pid = running.who()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(running.ready_lines) == 3, "the successor")
    (slot,) = {
        slot
        for slot, now in running.worker_pids.items()
        if f"(pid {now})" in running.ready_lines[-1]["message"]
    }
    messages = {line["message"] for line in running.lines}
    assert {f"made by {running.worker_pids[slot]}", f"imported by {running.worker_pids[slot]}"} <= messages
    assert everything() <= said(ask_both(running, eventually))


def test_a_reload_that_fails_leaves_the_level_as_it_is(running, eventually):
    running.change("DEBUG")
    good = (running.folder / "mlserver.yaml").read_text()
    (running.folder / "mlserver.yaml").write_text("nonsense: 1")
    assert running.reload().status_code == 422
    module = running.folder / "predictor_under_test.py"
    (running.folder / "mlserver.yaml").write_text(good)
    module.write_text("raise RuntimeError('no weights at hand')")
    assert running.reload().status_code == 502
    module.write_text(LOGGING)
    assert running.get("/log-level", at="management").json() == {"level": "DEBUG"}
    assert everything() <= said(ask_both(running, eventually))
